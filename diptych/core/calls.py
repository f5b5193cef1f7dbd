"""What all models' calls share: switches, checks, heads over a base model, losses and output records."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypedDict, TypeVar, cast

from diptych.core import check
from diptych.core.boundary import Boundary
from diptych.core.errors import InputError
from diptych.core.inputs import ModelInput, text_inputs
from diptych.core.live_config import ConfigMixin
from diptych.core.outputs import ModelOutput, with_head
from diptych.core.semantics import ctc, losses

Output = TypeVar("Output", bound=ModelOutput)
Method = TypeVar("Method", bound=Callable[..., Any])
Loss = Callable[[Boundary, Any, Any], Any]
"""Computes a loss from logits and the caller's labels, which it checks."""


class Switches(TypedDict, total=False):
    """The keywords that every model's call takes.

    output_attentions, output_hidden_states: whether these are returned; by default as in the config.
    return_dict: False returns the record's `to_tuple()`.
    rngs: in JAX a key, required in train mode; in torch None.
    """

    output_attentions: bool | None
    output_hidden_states: bool | None
    return_dict: bool | None
    rngs: Any


class ResolvedSwitches(TypedDict):
    """Switches after those that a call leaves unset are filled in from the config."""

    output_attentions: bool
    output_hidden_states: bool
    return_dict: bool
    rngs: Any


def call_of(model_class: type) -> Callable[..., Any]:
    """The function behind a model's call: `forward` in torch, where `__call__` has no keywords, else `__call__`."""
    if (forward := getattr(model_class, "forward", None)) is not None:
        return forward
    return next((vars(base)["__call__"] for base in model_class.__mro__ if "__call__" in vars(base)), _no_call)


def _no_call(model: Any) -> None:
    """Stands in for the call of an abstract class."""


def passes_through(base: type, *, without: tuple[str, ...] = ()) -> Callable[[Method], Method]:
    """Decorates a head's call, which takes its base model's arguments and its own keywords.

    Its signature, as `help` and `inspect.signature` show it, combines both.

    Args:
        base: the class of the base model.
        without: the base model's keywords that the head does not take.
    """

    def decorate(method: Method) -> Method:
        inner = [p for p in inspect.signature(call_of(base)).parameters.values() if p.name not in without]
        own = inspect.signature(method)
        extra = [p for p in own.parameters.values() if p.kind is p.KEYWORD_ONLY]
        named = {p.name for p in extra}
        positional = [p for p in inner if p.kind is p.POSITIONAL_OR_KEYWORD]
        keywords = [p for p in inner if p.kind is p.KEYWORD_ONLY and p.name not in named]
        rest = [p for p in inner if p.kind is p.VAR_KEYWORD]
        cast(Any, method).__signature__ = own.replace(parameters=[*positional, *extra, *keywords, *rest])
        return method

    return decorate


class CallMixin(ConfigMixin):
    """A model's methods that all its calls use."""

    call_keywords: ClassVar[tuple[str, ...]] = ()
    """The keywords that the class's call takes, without the switches."""
    call_positionals: ClassVar[tuple[str, ...]] = ()
    """The keywords that may be passed by position, in order."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        parameters = list(inspect.signature(call_of(cls)).parameters.values())[1:]
        cls.call_positionals = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
        cls.call_keywords = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))

    @staticmethod
    @abstractmethod
    def _ops() -> Any:
        """The backend's functions."""

    @staticmethod
    @abstractmethod
    def _cache_class() -> Any:
        """The backend's cache."""

    def _boundary(self, caller: str | None = None) -> Boundary:
        """The checks of a call's arguments; errors name the caller, by default the class."""
        return Boundary(self._ops(), self._cache_class(), caller or type(self).__name__, self._like())

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The keyword inputs of the model as an encoder; by default token ids, their mask, and related inputs."""
        return text_inputs(self.call_keywords, self.config)

    def states_mask(self, attention_mask: Any, length: int) -> Any:
        """The mask (B, S) of the states that the model returns as an encoder, from the mask of its inputs.

        Encoders whose states are fewer than their inputs, or have no mask, override it.

        Args:
            attention_mask: the caller's, or None.
            length: S.
        """
        return attention_mask

    def _resolve_switch(self, name: str, given: bool | None) -> bool:
        """A switch of a call; the config's if it is None.

        Raises:
            InputError: it is neither True nor False.
        """
        check.switch(type(self).__name__, name, given)
        return bool(getattr(self.config, name) if given is None else given)

    def _resolve_switches(self, switches: Mapping[str, Any]) -> ResolvedSwitches:
        """The switches of a call, filled in from the config, as keywords for the models inside this one.

        Raises:
            TypeError: a keyword is not a switch.
        """
        self._refuse_unknown(name for name in switches if name not in Switches.__annotations__)
        return {
            "rngs": self._ops().forward_key(switches.get("rngs")),
            "output_attentions": self._resolve_switch("output_attentions", switches.get("output_attentions")),
            "output_hidden_states": self._resolve_switch("output_hidden_states", switches.get("output_hidden_states")),
            "return_dict": True,
        }

    def _base_keywords(self, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of the base model's call: the inputs of this one's, and the resolved switches.

        Raises:
            TypeError: a keyword is neither an input nor a switch, or the inputs by position don't fit.
        """
        keywords = self._bind_arguments(inputs, keywords)
        passed = {name: value for name, value in keywords.items() if name in self.call_keywords}
        switches = {name: value for name, value in keywords.items() if name not in passed}
        return {**passed, **self._resolve_switches(switches)}

    def _bind_arguments(self, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments of a call by name, also those passed by position.

        Raises:
            TypeError: there are too many, or one is passed twice.
        """
        names = self.call_positionals[: len(inputs)]
        twice = [name for name in names if name in keywords]
        if len(inputs) > len(names) or twice:
            found = f"{', '.join(twice)} twice" if twice else f"{len(inputs)} arguments by position"
            raise TypeError(f"{type(self).__name__}'s call gets {found}; it takes {', '.join(self.call_positionals)}")
        return {**dict(zip(names, inputs, strict=True)), **keywords}

    def _refuse_unknown(self, names: Any) -> None:
        unknown = sorted(names)
        if unknown:
            listed = ", ".join((*(name for name in self.call_keywords if name != "switches"), *_SWITCHES))
            raise TypeError(f"{type(self).__name__}'s call has no keyword {', '.join(unknown)}; it takes {listed}")

    def _format_output(self, output: Output, return_dict: bool | None) -> Output | tuple[Any, ...]:
        """The record, or its tuple if return_dict is False."""
        return output if self._resolve_switch("return_dict", return_dict) else output.to_tuple()

    def _with_head(
        self,
        record: type[Output],
        outputs: Any,
        logits: Any,
        labels: Any,
        loss: Loss,
        switches: Mapping[str, Any],
    ) -> Output | tuple[Any, ...]:
        """The output of a model with a head.

        Args:
            record: the class of the output.
            outputs: the base model's record, whose fields the head's record repeats.
            logits: of the head.
            labels: the caller's, or None for no loss.
            loss: of the logits.
            switches: of the call; only `return_dict` is used here.
        """
        value = None if labels is None else loss(self._boundary(), logits, labels)
        return self._format_output(with_head(record, outputs, loss=value, logits=logits), switches.get("return_dict"))

    def _tokens_to_keep(self, hidden_states: Any, logits_to_keep: Any) -> Any:
        """The states (B, K, D) of the tokens that get logits, out of (B, T, D)."""
        which = self._boundary().tokens_to_keep(logits_to_keep, hidden_states.shape[1])
        return self._ops().select_tokens(hidden_states, which)

    def _class_loss(self, boundary: Boundary, logits: Any, labels: Any) -> Any:
        """The loss of a classification or regression, depending on the config's problem type."""
        problem_type = self.config.problem_type
        targets = boundary.targets("labels", labels, logits, problem_type)
        return losses.classification(boundary.xp, logits, targets, problem_type)


_SWITCHES = tuple(Switches.__annotations__)


def token_loss(boundary: Boundary, logits: Any, labels: Any) -> Any:
    """The mean cross-entropy over all labels but -100."""
    return losses.cross_entropy(boundary.xp, logits, boundary.labels("labels", labels, logits))


def reconstruction_loss(
    boundary: Boundary, pixels: Any, reconstruction: Any, masked: Any, patch: tuple[int, int]
) -> Any:
    """The mean absolute error of the pixels of masked patches; arguments as for `losses.masked_reconstruction`.

    Raises:
        InputError: the reconstruction has another size than the patches together.
    """
    size = masked.shape[1] * patch[0], masked.shape[2] * patch[1]
    if tuple(reconstruction.shape[2:]) != size:
        raise InputError(
            f"{boundary.caller}: the patches of bool_masked_pos cover {size} pixels, but with the config's "
            f"encoder_stride {tuple(reconstruction.shape[2:])} are reconstructed"
        )
    return losses.masked_reconstruction(boundary.xp, pixels, reconstruction, masked, patch)


def next_token_loss(boundary: Boundary, logits: Any, labels: Any) -> Any:
    """The mean cross-entropy of predicting each label from the tokens before it."""
    return losses.causal(boundary.xp, logits, boundary.labels("labels", labels, logits))


def ctc_loss(config: Any, frame_mask: Any, boundary: Boundary, logits: Any, labels: Any) -> Any:
    """The negative log-probability of the labels, over all their alignments with the frames.

    Args:
        config: has `pad_token_id`, which is the blank's, and the reduction.
        frame_mask: Bool (B, T), over the frames of each row; None for all.
        boundary: of the call.
        logits: (B, T, V).
        labels: the caller's, (B, L).

    Raises:
        InputError: the labels are invalid, there is no blank, or a row has too few frames for its labels.
    """
    xp, ops, blank, size = boundary.xp, boundary.ops, config.pad_token_id, logits.shape[-1]
    if blank is None or not 0 <= blank < size:
        raise InputError(
            f"{boundary.caller}: labels need the blank's id, pad_token_id, but the config has pad_token_id={blank} "
            f"and vocab_size={size}"
        )
    labels = boundary.ctc_labels("labels", labels, logits)
    labels, counts = ctc.pack_labels(xp, labels, xp.logical_and(labels >= 0, labels != blank))
    frames = xp.zeros_like(counts) + logits.shape[1]
    if frame_mask is not None:
        frames = xp.sum(xp.astype(frame_mask, counts.dtype), axis=1)
    if not config.ctc_zero_infinity:
        needed = ctc.needed_frames(ops, labels, counts)
        bounds = ops.min_max(frames - needed)
        if bounds is not None and bounds[0] < 0:
            row = int(xp.argmin(frames - needed))
            raise InputError(
                f"{boundary.caller}: labels has {int(counts[row])} in row {row}, which need {int(needed[row])} frames "
                f"(equal neighbours have a blank between them), but the row has {int(frames[row])}; shorten them, or "
                "set the config's ctc_zero_infinity=True"
            )
    options: dict[str, Any] = {"reduction": config.ctc_loss_reduction, "zero_infinity": config.ctc_zero_infinity}
    return ctc.loss(ops, losses.log_softmax(xp, logits), labels, frames, counts, blank=blank, **options)
