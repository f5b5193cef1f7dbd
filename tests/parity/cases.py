"""Models and inputs to compare, drawn by hypothesis: tiny, no two sizes of a model alike.

Where all sizes differ, an axis that is swapped or a width that is taken for another cannot go unseen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import transformers
from hypothesis import reject
from hypothesis import strategies as st

from diptych.core.config import Activation

Inputs = dict[str, Any]

PADDINGS = ("none", "right", "left", "holes", "a row of padding")
PROBLEMS = (None, "regression", "single_label_classification", "multi_label_classification")
# So large that one in the wrong place shows, and those of published files.
EPSILONS = (0.3, 0.02, 1e-5, 1e-12)

CLASSES = (
    "BertModel",
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "CLIPTextModel",
    "CLIPVisionModel",
    "CLIPTextModelWithProjection",
    "CLIPVisionModelWithProjection",
    "CLIPModel",
    "CLIPForImageClassification",
)


@dataclass(frozen=True, repr=False)
class Case:
    """A model and one call of it.

    Attributes:
        name: of the model's class.
        config: of transformers.
        inputs: the call's keywords, arrays or switches.
        unseen: (B, T), True where a query may see no key. There the oracle's attention is not defined (its sdpa path
            gives zeros, its eager path the mean of the values), so that nothing is compared with it there.
        keywords: more for the constructor.
    """

    name: str
    config: Any
    inputs: Inputs
    unseen: np.ndarray | None = None
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
        if self.unseen is None or path.startswith("vision_model_output") or not shape:
            return defined
        batch, length = self.unseen.shape
        if len(shape) == 4:  # attentions
            assert shape[::2] == (batch, length)
            defined[np.broadcast_to(self.unseen[:, None, :, None], shape)] = False
        elif shape[:2] == (batch, length):
            defined[self.unseen] = False
        elif self.name != "CLIPModel":  # whose texts all have a token to see where they are pooled
            assert shape[0] == batch
            defined[self.unseen[np.arange(batch), self._pooled()]] = False
        return defined

    def _pooled(self) -> np.ndarray:
        """The token that stands for each text."""
        if self.name.startswith("Bert"):
            return np.zeros(len(self.unseen), int)
        ids, end = self.inputs["input_ids"], self.config.eos_token_id
        return (ids if end == 2 else ids == end).argmax(-1)


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

    def mask(self, batch: int, length: int, paddings: Sequence[str]) -> np.ndarray | None:
        """An attention mask in which one row has no padding."""
        kind = self.choice("padding", paddings)
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


def _unseen(mask: np.ndarray | None, *, causal: bool) -> np.ndarray | None:
    if mask is None:
        return None
    seen = np.logical_or.accumulate(mask != 0, axis=1) if causal else np.any(mask != 0, axis=1, keepdims=True)
    return None if seen.all() else np.broadcast_to(~seen, mask.shape)


def _bert(drawn: Drawn, name: str) -> Case:
    layers = drawn.size(1, 3)
    heads, width = drawn.heads()
    batch, length, positions = drawn.size(2, 5), drawn.size(4, 9), drawn.size(10, 16)
    vocabulary, types = drawn.size(15, 30), drawn.size(1, 11)
    keywords: dict[str, Any] = {}
    options: dict[str, Any] = {}
    if name == "BertModel":
        keywords["add_pooling_layer"] = drawn.choice("add_pooling_layer", [True, False])
    if name in ("BertForPreTraining", "BertForMaskedLM"):
        options["tie_word_embeddings"] = drawn.choice("tied", [True, False])
    if name == "BertForSequenceClassification":
        options["problem_type"] = drawn.choice("problem_type", PROBLEMS)
        single = options["problem_type"] == "single_label_classification"  # which needs two labels or more
        options["num_labels"] = drawn.choice("num_labels", [drawn.size(2, 12), *([] if single else [1])])
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=drawn.size(5, 30),
        hidden_act=drawn.choice("hidden_act", get_args(Activation)),
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=drawn.choice("layer_norm_eps", EPSILONS),
        pad_token_id=drawn.choice("pad_token_id", [0, vocabulary - 1, None]),
        **options,
    )
    mask = drawn.mask(batch, length, PADDINGS)
    unseen = _unseen(mask, causal=False)
    inputs: Inputs = {} if mask is None else {"attention_mask": mask}
    if drawn.often():
        ids = drawn.ids(batch, length, vocabulary)
        if config.pad_token_id is not None:
            ids[np.zeros_like(ids, bool) if mask is None else mask == 0] = config.pad_token_id
            ids[0, 1] = config.pad_token_id  # a pad that is attended to still gets no gradient
        inputs["input_ids"] = ids
    else:
        inputs["inputs_embeds"] = drawn.random().standard_normal((batch, length, width))
    inputs |= drawn.ids_or_not("token_type_ids", batch, length, types)
    inputs |= drawn.ids_or_not("position_ids", batch, length, positions)
    if name in ("BertForPreTraining", "BertForMaskedLM") and drawn.often():
        labels = drawn.ids(batch, length, vocabulary).astype(np.int64)
        labels[drawn.random().random(labels.shape) < 0.5] = -100
        labels[0, 0] = 3  # if all were -100, the loss would be NaN
        inputs["labels"] = labels if unseen is None else np.where(unseen, -100, labels)
        if name == "BertForPreTraining" and unseen is None and drawn.often():
            inputs["next_sentence_label"] = drawn.targets(batch, 2, "single_label_classification")
    if name == "BertForSequenceClassification" and unseen is None:
        inputs["labels"] = drawn.targets(batch, config.num_labels, config.problem_type)
    return Case(name, config, inputs, unseen, keywords)


def _text_config(drawn: Drawn, projection: int) -> transformers.CLIPTextConfig:
    layers = drawn.size(1, 4)
    heads, width = drawn.heads()
    vocabulary = drawn.size(20, 40)
    return transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=drawn.size(5, 40),
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=drawn.size(11, 17),
        hidden_act=drawn.choice("hidden_act", get_args(Activation)),
        layer_norm_eps=drawn.choice("layer_norm_eps", EPSILONS),
        attention_dropout=0.1,  # eval mode leaves it out
        eos_token_id=drawn.choice("eos_token_id", [2, 7, vocabulary - 1]),
        bos_token_id=0,
        pad_token_id=1,
    )


def _vision_config(drawn: Drawn, projection: int) -> transformers.CLIPVisionConfig:
    layers = drawn.size(1, 3)
    heads, width = drawn.heads()
    patch = drawn.high(1, 4)
    return transformers.CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=drawn.size(5, 40),
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_channels=drawn.size(1, 8),
        image_size=drawn.high(patch, 4 * patch + 1),  # some are no multiple of the patch
        patch_size=patch,
        hidden_act=drawn.choice("hidden_act", get_args(Activation)),
        layer_norm_eps=drawn.choice("layer_norm_eps", EPSILONS),
        attention_dropout=0.1,
    )


def _texts(drawn: Drawn, config: Any, batch: int, paddings: Sequence[str]) -> tuple[Inputs, np.ndarray | None]:
    length, end = drawn.size(4, 10), config.eos_token_id
    ids = drawn.ids(batch, length, config.vocab_size)
    ids[np.arange(batch), drawn.random().integers(0, length, batch)] = end
    mask = drawn.mask(batch, length, paddings)
    inputs: Inputs = {"input_ids": ids}
    if mask is not None:
        inputs["attention_mask"] = mask
        ids[mask == 0] = config.pad_token_id
        ids[:, -1] = config.vocab_size - 1 if end == 2 else end  # the last token sees whatever is not padding
    return inputs | drawn.ids_or_not("position_ids", batch, length, config.max_position_embeddings), _unseen(
        mask, causal=True
    )


def _images(drawn: Drawn, config: Any, batch: int) -> Inputs:
    size, patch = config.image_size, config.patch_size
    shape: tuple[int, ...] = (size, size)
    switches: Inputs = {}
    if drawn.choice("interpolate_pos_encoding", [True, False]):
        switches["interpolate_pos_encoding"] = True
        shape = (drawn.high(patch, size + 2 * patch), drawn.high(patch, size + patch))
    return {"pixel_values": drawn.random().standard_normal((batch, config.num_channels, *shape)), **switches}


def _clip(drawn: Drawn, name: str) -> Case:
    batch, projection = drawn.size(2, 5), drawn.size(3, 12)
    if name.startswith("CLIPText"):
        text = _text_config(drawn, projection)
        return Case(name, text, *_texts(drawn, text, batch, PADDINGS))
    vision = _vision_config(drawn, projection)
    images = _images(drawn, vision, batch)
    if name.startswith("CLIPVision"):
        return Case(name, vision, images)
    if name == "CLIPForImageClassification":
        classes = drawn.choice("num_labels", [drawn.size(3, 12), 1, 0])
        problem_type = drawn.choice("problem_type", PROBLEMS if classes > 1 else PROBLEMS[:2]) if classes else None
        config = transformers.CLIPConfig(vision_config=vision.to_dict(), num_labels=classes, problem_type=problem_type)
        labels = {"labels": drawn.targets(batch, classes, problem_type)} if classes else {}
        return Case(name, config, {**images, **labels})
    side = Drawn(drawn.draw, drawn.made)  # the text tower's sizes differ from each other and from these
    side.taken = {batch, projection, vision.num_hidden_layers, vision.hidden_size}
    text = _text_config(side, projection)
    config = transformers.CLIPConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=projection,
        logit_scale_init_value=2.6592,
    )
    loss = drawn.choice("return_loss", [True, False])
    texts, unseen = _texts(side, text, batch if loss else side.size(1, 8), PADDINGS[:-1])
    return Case(name, config, {**texts, **images, **({"return_loss": True} if loss else {})}, unseen)


@st.composite
def cases(draw: Callable[..., Any], name: str, **made: Any) -> Case:
    """Models of the named class with inputs; `made` are choices that are not left to chance."""
    return (_bert if name.startswith("Bert") else _clip)(Drawn(draw, made), name)
