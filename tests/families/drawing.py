"""What the families share that draw models and inputs to compare: tiny, no two sizes of a model alike.

Where all sizes differ, an axis that is swapped or a width that is taken for another cannot go unseen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st

Inputs = dict[str, Any]

PADDINGS = ("none", "right", "left", "holes", "a row of padding")
PROBLEMS = (None, "regression", "single_label_classification", "multi_label_classification")
# So large that one in the wrong place shows, and those of published files.
EPSILONS = (0.3, 0.02, 1e-5, 1e-12)


@dataclass(frozen=True, repr=False)
class Case:
    """A model and one call of it.

    Attributes:
        name: of the model's class.
        config: of transformers.
        inputs: the call's keywords, arrays or switches.
        unseen: (B, T), True where a query may see no key. There the oracle's attention is not defined (its sdpa path
            gives zeros, its eager path the mean of the values), so that nothing is compared with it there.
        pooled: (B,), the token that stands for each text in outputs without an axis of tokens; None if there are none
            such outputs, or if no text's token is unseen.
        keywords: more for the constructor.
    """

    name: str
    config: Any
    inputs: Inputs
    unseen: np.ndarray | None = None
    pooled: np.ndarray | None = None
    keywords: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        inputs = {
            name: f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else value
            for name, value in self.inputs.items()
        }
        unseen = 0 if self.unseen is None else int(self.unseen.sum())
        return f"{self.name}{self.keywords or ''}({inputs}, unseen={unseen}) of {self.config.to_diff_dict()}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # which hypothesis would spell out, transformers' config and all

    def defined(self, path: str, shape: tuple[int, ...]) -> np.ndarray:
        """Which entries of an output the oracle defines; all sizes differ, so the shape tells the axes."""
        defined = np.ones(shape, bool)
        if self.unseen is None or path.startswith(("vision_model_output", "encoder_")) or not shape:
            return defined
        batch, length = self.unseen.shape
        if len(shape) == 4:  # attentions
            assert shape[::2] == (batch, length)
            defined[np.broadcast_to(self.unseen[:, None, :, None], shape)] = False
        elif shape[:2] == (batch, length):
            defined[self.unseen] = False
        elif self.pooled is not None:
            assert shape[0] == batch
            defined[self.unseen[np.arange(batch), self.pooled]] = False
        return defined


class Drawn:
    """Draws sizes, none twice, and choices that the test may have made already."""

    def __init__(self, draw: Callable[..., Any], made: Mapping[str, Any]) -> None:
        self.draw = draw
        self.made = made
        self.taken: set[int] = set()

    def choice(self, name: str, options: Sequence[Any]) -> Any:
        """One of the options."""
        return self.made[name] if name in self.made else self.draw(st.sampled_from(options))

    def often(self) -> bool:
        return self.draw(st.sampled_from([True, True, True, False]))

    def high(self, low: int, high: int) -> int:
        """A number from low to high; the simplest is the highest, which shows most."""
        return high - self.draw(st.integers(0, high - low))

    def size(self, low: int, high: int) -> int:
        """A size from low to high."""
        free = [size for size in range(low, high + 1) if size not in self.taken]
        size = self.draw(st.sampled_from(free)) if free else reject()
        self.taken.add(size)
        return size

    def heads(self) -> tuple[int, int]:
        """A number of heads and a width that they divide."""
        pairs = [(heads, heads * width) for heads in range(1, 7) for width in range(2, 7) if heads != width]
        # a layer norm over two entries gives 1 and -1 whatever they are: its gradient is what cancellation leaves over
        pairs = [(heads, width) for heads, width in pairs if width >= 4]
        free = [(heads, width) for heads, width in pairs if not self.taken & {heads, width, width // heads}]
        heads, width = self.draw(st.sampled_from(free)) if free else reject()
        self.taken |= {heads, width, width // heads}
        return heads, width

    def random(self) -> np.random.Generator:
        """A source of the values of arrays."""
        return np.random.default_rng(self.draw(st.integers(0, 2**32 - 1)))

    def ids(self, rows: int, length: int, size: int) -> np.ndarray:
        """Ids below a size."""
        return self.random().integers(0, size, (rows, length)).astype(self.draw(st.sampled_from(["int64", "int32"])))

    def ids_or_not(self, name: str, batch: int, length: int, size: int) -> Inputs:
        """Ids for every row, for all rows alike, or none."""
        rows = self.draw(st.sampled_from([batch, 1, None]))
        return {} if rows is None else {name: self.ids(rows, length, size)}

    def mask(self, batch: int, length: int, paddings: Sequence[str], *, name: str = "padding") -> np.ndarray | None:
        """An attention mask in which one row has no padding; the choice of a kind has a name."""
        kind = self.choice(name, paddings)
        if kind == "none":
            return None
        random = self.random()
        lengths = random.integers(1, length, batch)
        lengths[0] = length
        steps = np.arange(length)[None]
        mask = steps >= length - lengths[:, None] if kind == "left" else steps < lengths[:, None]
        if kind == "holes":
            mask = random.random((batch, length)) < 0.6
            mask[:, random.integers(length)] = True
        if kind == "a row of padding":
            mask[-1] = False
        return mask.astype(self.draw(st.sampled_from(["int64", "int32", "bool", "float32"])))

    def text(self, config: Any, batch: int, length: int, mask: np.ndarray | None) -> Inputs:
        """Ids or embeddings in their place, and the mask if there is one. Pads are masked, some stand in the text."""
        inputs: Inputs = {} if mask is None else {"attention_mask": mask}
        if not self.often():
            return {**inputs, "inputs_embeds": self.states(batch, length, config.hidden_size)}
        ids, pad = self.ids(batch, length, config.vocab_size), config.pad_token_id
        if pad is not None:
            if mask is not None and self.often():
                ids[mask == 0] = pad
            ids[0, 1] = pad  # one that is attended to
        return {**inputs, "input_ids": ids}

    def states(self, batch: int, length: int, width: int) -> np.ndarray:
        """Floats in place of a text's tokens."""
        return self.random().standard_normal((batch, length, width))

    def memory(self, batch: int, length: int, width: int) -> Inputs:
        """What an encoder gives a decoder; every text has a token to see."""
        mask = self.mask(batch, length, PADDINGS[:-1], name="encoder_padding")
        return {"encoder_hidden_states": self.states(batch, length, width)} | (
            {} if mask is None else {"encoder_attention_mask": mask}
        )

    def words(self, batch: int, length: int, size: int, unseen: np.ndarray | None) -> Inputs:
        """Labels of masked words, none of a token that is not defined; often."""
        labels = self.ids(batch, length, size).astype(np.int64)
        labels[self.random().random(labels.shape) < 0.5] = -100
        labels[0, 0] = 3
        if unseen is not None:
            labels[unseen] = -100
        # if all were -100, the loss would be NaN
        return {"labels": labels} if self.often() and np.any(labels != -100) else {}

    def next_words(self, batch: int, length: int, size: int, unseen: np.ndarray | None) -> Inputs:
        """Labels that the token before predicts, none of a token that is not defined; often."""
        before = None if unseen is None else np.pad(unseen[:, :-1], ((0, 0), (1, 0)))
        inputs = self.words(batch, length, size, before)
        return inputs if inputs and np.any(inputs["labels"][:, 1:] != -100) else {}

    def targets(self, batch: int, classes: int, problem_type: str | None) -> np.ndarray:
        """Labels of a classifier, of the kind that its config says, or of one that it can tell by their dtype."""
        random = self.random()
        if problem_type is None and classes > 1:
            problem_type = self.draw(st.sampled_from(["single_label_classification", "multi_label_classification"]))
        if problem_type == "single_label_classification":
            labels = random.integers(0, classes, batch)
            labels[self.draw(st.integers(1, batch)) :] = -100
            return labels
        if problem_type == "multi_label_classification":
            return random.integers(0, 2, (batch, classes)).astype(np.float64)
        shape = (batch,) if classes == 1 and self.draw(st.booleans()) else (batch, classes)
        return random.standard_normal(shape)


def unseen(mask: np.ndarray | None, *, causal: bool) -> np.ndarray | None:
    """Where a query sees no key under an attention mask, (B, T); None if there is no such place."""
    if mask is None:
        return None
    seen = np.logical_or.accumulate(mask != 0, axis=1) if causal else np.any(mask != 0, axis=1, keepdims=True)
    return None if seen.all() else np.broadcast_to(~seen, mask.shape)
