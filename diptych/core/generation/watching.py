"""What a caller's own Python does between the steps of `generate`: it ends sequences, and says what may come next.

Letters of the shapes: R rows (all copies, beams or candidates of every prompt), T tokens, V vocabulary.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from diptych.core.errors import InputError
from diptych.core.generation.options import GenerationConfig
from diptych.core.interfaces import Tokenizer
from diptych.core.semantics import logits
from diptych.core.semantics.decoding import Plan, Proposal, State, TracedOptions, proposed_ids

StoppingCriterion = Callable[[Any, Any], Any]
"""`f(input_ids (R, T), scores) -> (R,)` booleans, whether each row ends; one boolean is for all rows.

`scores` are those of all steps, each (R, V), if output_scores asks for them, or else None.
"""
AllowedTokens = Callable[[int, Any], Any]
"""`f(number of the prompt, input_ids (T,)) -> the ids that may come next`."""


@dataclass(frozen=True)
class Watch:
    """A caller's functions, which look at each step; ids are tensors in torch and numpy arrays in JAX.

    Attributes:
        caller: the prefix of errors.
        stops: the functions that end rows.
        allowed: the function that gives the tokens allowed next; None if all are.
        ops: the backend's functions.
        vocabulary: the number of token ids.
    """

    caller: str
    stops: tuple[StoppingCriterion, ...]
    allowed: AllowedTokens | None
    ops: Any
    vocabulary: int

    def constrain_first(self, plan: Plan, traced: TracedOptions, ids: Any) -> TracedOptions:
        """The options of the first step, with the tokens that are allowed in it, after prompts (B, L)."""
        return self._constrain(plan, traced, ids, traced.prompt_length, plan.copies)

    def constrain_next(self, plan: Plan, traced: TracedOptions, state: State) -> TracedOptions:
        """The options of a later step, with the tokens that are allowed in it."""
        return self._constrain(plan, traced, state.ids, state.length, 1)

    def stopped_sequences(self, proposal: Proposal, scores: Any) -> np.ndarray:
        """(R,) whether the caller ends each proposed sequence, given the scores of all steps so far or None."""
        ids = self._ids_to_show(*proposed_ids(proposal))
        stopped = np.zeros(len(ids), np.bool_)
        for index, stop in enumerate(self.stops):
            found = np.asarray(self.ops.to_numpy(stop(ids, scores)))
            if found.dtype != np.bool_ or found.shape not in ((), (len(ids),)):
                raise InputError(
                    f"{self.caller}: stopping_criteria[{index}] returns {found.dtype} of shape {found.shape}, but a "
                    f"boolean for each of the {len(ids)} rows is needed"
                )
            stopped |= found
        return stopped

    def _ids_to_show(self, ids: Any, length: Any) -> Any:
        """(…, L) ids and the number of their tokens -> (R, T) ids for the caller's functions."""
        if self.ops.is_traced(ids):
            raise InputError(
                f"{self.caller}: stopping_criteria, stop_strings, max_time and prefix_allowed_tokens_fn look at "
                "tokens, which are not known inside of jax.jit; call generate outside of it"
            )
        ids = self.ops.host_array(ids)
        return ids.reshape((-1, ids.shape[-1]))[:, : int(length)]

    def _constrain(self, plan: Plan, traced: TracedOptions, ids: Any, length: Any, copies: int) -> TracedOptions:
        if self.allowed is None:
            return traced
        ids = self._ids_to_show(ids, length)
        ids = ids[[row // copies for row in range(len(ids) * copies)]]
        mask = np.zeros((len(ids), self.vocabulary), np.bool_)
        for row in range(len(ids)):
            mask[row, self._allowed_after(row // plan.num_beams, ids[row])] = True
        return traced._replace(
            before=tuple(
                {"allowed": mask} if processor.name == logits.ALLOWED_TOKENS else values
                for processor, values in zip(plan.processors_before, traced.before, strict=True)
            )
        )

    def _allowed_after(self, number: int, ids: Any) -> Any:
        found = np.asarray(self.ops.to_numpy(cast(AllowedTokens, self.allowed)(number, ids)))
        if found.ndim != 1 or not found.size or found.dtype.kind not in "iu":
            raise InputError(
                f"{self.caller}: prefix_allowed_tokens_fn({number}, …) returns {found.tolist()!r}, but a list of at "
                "least one id is needed"
            )
        if not 0 <= found.min() <= found.max() < self.vocabulary:
            wrong = found[(found < 0) | (found >= self.vocabulary)].tolist()
            raise InputError(
                f"{self.caller}: prefix_allowed_tokens_fn({number}, …) returns {wrong}, but ids are from 0 to "
                f"{self.vocabulary - 1}"
            )
        return found


def make_watch(
    caller: str,
    options: GenerationConfig,
    ops: Any,
    vocabulary: int,
    *,
    criteria: Any,
    allowed: Any,
    tokenizer: Any,
) -> Watch | None:
    """The watch of a call; None if nothing has to look between its steps.

    Args:
        caller: the prefix of errors.
        options: of the call; `max_time` and `stop_strings` are read.
        ops: the backend's functions.
        vocabulary: the number of token ids.
        criteria: the caller's functions that end rows, or None.
        allowed: the caller's function that gives the tokens allowed next, or None.
        tokenizer: needed for stop strings.

    Raises:
        InputError: an argument has the wrong type, or there is no tokenizer for stop strings.
    """
    given: Any = () if criteria is None else criteria
    if not isinstance(given, list | tuple) or not all(map(callable, cast(Sequence[Any], given))):
        raise InputError(f"{caller}: stopping_criteria={criteria!r} must be a list of functions")
    if allowed is not None and not callable(allowed):
        raise InputError(f"{caller}: prefix_allowed_tokens_fn={allowed!r} must be a function")
    own: list[StoppingCriterion] = []
    if options.max_time is not None:
        own.append(_time_limit(options.max_time))
    if options.stop_strings is not None:
        if tokenizer is None:
            raise InputError(f"{caller}: stop_strings={options.stop_strings!r} needs the model's tokenizer=…")
        if not isinstance(tokenizer, Tokenizer):
            raise InputError(
                f"{caller}: tokenizer is a {type(tokenizer).__name__}, but a Tokenizer of the tokenizers library is "
                "needed, such as diptych.text.load_tokenizer returns"
            )
        own.append(_StopStrings(tokenizer, options.stop_strings, ops))
    stops = (*own, *cast(Sequence[StoppingCriterion], given))
    return Watch(caller, stops, allowed, ops, vocabulary) if stops or allowed is not None else None


def _time_limit(seconds: float) -> StoppingCriterion:
    """Ends all rows once this much time has passed from now on."""
    start = time.monotonic()
    return lambda ids, scores: np.bool_(time.monotonic() - start > seconds)


class _StopStrings:
    """Ends rows whose newest token completes a string, as in transformers.

    The text of a row is the text of its tokens, each in the middle of a word's text.

    Args:
        tokenizer: the model's.
        strings: one or more strings.
        ops: the backend's functions.
    """

    def __init__(self, tokenizer: Tokenizer, strings: str | tuple[str, ...], ops: Any) -> None:
        self.tokenizer, self.ops = tokenizer, ops
        self.strings = (strings,) if isinstance(strings, str) else strings
        self.longest = max(map(len, self.strings))
        self.before = list(tokenizer.encode_batch(["abcdef"], add_special_tokens=False)[0].ids)
        self.texts: dict[int, str] = {}

    def __call__(self, ids: Any, scores: Any) -> np.ndarray:
        rows: list[list[int]] = self.ops.to_numpy(ids).tolist()
        return np.array([self._completes(row) for row in rows], np.bool_)

    def _completes(self, row: Sequence[int]) -> bool:
        """Whether a string ends within the last token, or begins in it."""
        last = self._text_of(row[-1])
        text = last
        for token in reversed(row[:-1]):
            if len(text) - len(last) >= self.longest:
                break
            text = self._text_of(token) + text
        return any(text.find(one, max(0, len(text) - len(last) - len(one) + 1)) >= 0 for one in self.strings)

    def _text_of(self, token: int) -> str:
        """The text that a token adds to the text before it."""
        if token not in self.texts:
            with_token = [self.before, [*self.before, token]]
            short, long = self.tokenizer.decode_batch(with_token, skip_special_tokens=False)
            self.texts[token] = long[len(short) :]
        return self.texts[token]
