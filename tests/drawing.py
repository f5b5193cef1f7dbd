"""Draws of models and inputs to compare: tiny, no two sizes of a model alike.

Where all sizes differ, an axis that is swapped or a width that is taken for another cannot go unseen.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import transformers
from hypothesis import reject
from hypothesis import strategies as st

from diptych.core.config import Activation
from tests.family import PADDINGS, PROBLEMS, Inputs


class Drawn:
    """Draws sizes, none twice, and choices that the test may have made already."""

    def __init__(self, draw: Callable[..., Any], made: Mapping[str, Any]) -> None:
        self.draw = draw
        self.made = made
        self.taken: set[int] = set()

    def choice(self, name: str, options: Sequence[Any]) -> Any:
        """One of the options."""
        return self.made[name] if name in self.made else self.draw(st.sampled_from(options))

    def activation(self, name: str) -> str:
        """One of the activations that are known; the choice has the name of the config's field."""
        return self.choice(name, get_args(Activation))

    def config(self, model_type: str, **fields: Any) -> Any:
        """A config of transformers."""
        return transformers.AutoConfig.for_model(model_type, **fields)

    def labelled(self, name: str) -> dict[str, Any]:
        """Fields for the kind of problem and the number of classes, if the class is a classifier's."""
        if not name.endswith("ForSequenceClassification"):
            return {}
        problem_type = self.choice("problem_type", PROBLEMS)
        single = problem_type == "single_label_classification"  # which needs two labels or more
        count = self.choice("num_labels", [self.size(2, 12), *([] if single else [1])])
        return {"problem_type": problem_type, "num_labels": count}

    def part(self, *taken: int) -> "Drawn":
        """Draws of a model's other part, whose sizes differ from each other and from those that are taken."""
        other = Drawn(self.draw, self.made)
        other.taken = set(taken)
        return other

    def often(self) -> bool:
        return self.draw(st.sampled_from([True, True, True, False]))

    def high(self, low: int, high: int) -> int:
        """A number from low to high; the simplest is the highest, which shows most."""
        return high - self.draw(st.integers(0, high - low))

    def size(self, low: int, high: int) -> int:
        """A size from low to high."""
        free = [size for size in range(low, high + 1) if size not in self.taken]
        size = self.one_of(free)
        self.taken.add(size)
        return size

    def one_of(self, free: Sequence[Any]) -> Any:
        """One of what is left; another example, if nothing is."""
        return self.draw(st.sampled_from(free)) if free else reject()

    def heads(self) -> tuple[int, int]:
        """A number of heads and a width that they divide."""
        pairs = [(heads, heads * width) for heads in range(1, 7) for width in range(2, 7) if heads != width]
        # a layer norm over two entries gives 1 and -1 whatever they are: its gradient is what cancellation leaves over
        pairs = [(heads, width) for heads, width in pairs if width >= 4]
        free = [(heads, width) for heads, width in pairs if not self.taken & {heads, width, width // heads}]
        heads, width = self.one_of(free)
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
