"""What describes a family to the tests, and what the descriptions have in common: one file of `tests/families` each.

`tests/conversion/record_flax.py` reads the descriptions in an environment that has neither hypothesis nor our own
package, so that only numpy may be imported here and there.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tests.drawing import Drawn

Config = dict[str, Any]
"""Fields of a config.json."""
Shapes = dict[str, tuple[int, ...]]
"""Tensors by published name."""
Sizes = dict[str, int]
Inputs = dict[str, Any]
"""Keywords of a call: arrays and switches."""
Choices = dict[str, Any]
"""What a test chooses before the rest of a case is drawn."""


@dataclass(frozen=True, kw_only=True)
class Half:
    """A family as the encoder or the decoder of a composite.

    Attributes:
        encodes: whether it can be the encoder. Every half can be the decoder.
        draw: a config of transformers (draws, heads, width, positions at least, more fields).
    """

    encodes: bool
    draw: Callable[[Drawn, int, int, int, Config], Any]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family, as the tests need it.

    Attributes:
        model_type: as published.
        classes: the names of its classes.
        twin: whether its classes are another family's under other names, so that they are tested less.
        encoder_decoder: whether its classes read one text and write another, but for those named ForCausalLM.
        checkpoints: the classes of its tiny checkpoints.
        config: the config.json of such a checkpoint, without what all have.
        shapes: the names and shapes of its tensors, written down by hand from published files.
        constants: a checkpoint -> the tables of integers that published files have besides the parameters.
        configs: config class -> the checkpoint that its tiny config comes from.
        in_flax: whether transformers 4.57 had Flax classes of these checkpoints.
        choices: a class -> the choices that a test of its own makes, one after the other.
        draw: a model of a class and one call of it.
        spell: neutral sizes (see TINY) in the family's field names, with further fields; None for composites.
        half: the family as a part of composites of texts, or as the decoder of others.
        looks: the family as the encoder of images: a config of transformers (draws, heads, width).
        tiny: class -> fields of a small config with dropout everywhere, each rate another.
        inputs: a call of a tiny model (class, config, source of numbers).
        labels: what gives a tiny model a loss (class, source of numbers).
        whole: the classes that have every layer between them, for tests that take long.
        rates: class -> a step of gradient descent that lowers the loss of a new model.
        decoders: class -> changes of its tiny config, for the tests of caches.
        trained: class -> changes of its tiny config, for the tests of training.
        generates: class -> fields of a config whose model writes, besides sizes.
        large: class -> fields of a config in which the deviation of a tensor tells which formula it came from.
    """

    model_type: str
    classes: tuple[str, ...]
    twin: bool = False
    encoder_decoder: bool = False
    checkpoints: tuple[str, ...]
    config: Callable[[str], Config]
    shapes: Callable[[str], Shapes]
    constants: Callable[[str], dict[str, np.ndarray]] = lambda name: {}
    configs: Mapping[str, str]
    in_flax: bool = True
    choices: Callable[[str], Sequence[Choices]]
    draw: Callable[[Drawn, str], Case]
    spell: Callable[..., Config] | None = None
    half: Half | None = None
    looks: Callable[[Drawn, int, int], Any] | None = None
    tiny: Mapping[str, Config]
    inputs: Callable[[str, Any, np.random.Generator], Inputs]
    labels: Callable[[str, np.random.Generator], Inputs]
    whole: tuple[str, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    decoders: Mapping[str, Config] = field(default_factory=dict)
    trained: Mapping[str, Config] = field(default_factory=dict)
    generates: Mapping[str, Config] = field(default_factory=dict)
    large: Callable[[str], Config]

    def encodes_and_decodes(self, name: str) -> bool:
        """Whether a class reads one text and writes another."""
        return self.encoder_decoder and not name.endswith("ForCausalLM")


@functools.cache
def families() -> dict[str, Family]:
    """Every family that has a file, by the name of the file."""
    files = sorted(Path(__file__).with_name("families").glob("*.py"))
    return {file.stem: importlib.import_module(f"tests.families.{file.stem}").FAMILY for file in files}


@functools.cache
def family_of(name: str) -> Family:
    """The family of a class."""
    return next(family for family in families().values() if name in family.classes)


# Tiny checkpoints

LABELS = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
CLASSIFIER: Config = {
    "id2label": {str(index): label for index, label in enumerate(LABELS)},
    "label2id": {label: index for index, label in enumerate(LABELS)},
}
"""The fields of a classifier."""
CROSSES: Config = {"add_cross_attention": True, "is_decoder": True}
"""The fields of the decoder of a composite."""


def affine(path: str, *shape: int) -> Shapes:
    """A linear layer (out, in), or a norm (width,)."""
    return {f"{path}.weight": shape, f"{path}.bias": shape[:1]}


# Tiny models. JAX compiles an operation once for each shape, so that the families share their sizes where they can.

TINY: Sizes = {"vocabulary": 23, "width": 12, "layers": 2, "heads": 3, "inner": 17, "positions": 9}
"""Sizes by neutral names; `spell` gives them those of a family."""
LARGE: Sizes = {"vocabulary": 211, "width": 96, "layers": 2, "heads": 4, "inner": 160, "positions": 120}


def text_inputs(name: str, config: Any, random: np.random.Generator) -> Inputs:
    """A batch of two texts, the second padded, and the states of an encoder where the class attends to some."""
    ids = random.integers(2, TINY["vocabulary"], (2, 6))
    ids[1, 4:] = config.pad_token_id or 0
    inputs: Inputs = {"input_ids": ids, "attention_mask": np.array([[1] * 6, [1] * 4 + [0] * 2])}
    if getattr(config, "has_cross_attention", False):
        inputs["encoder_hidden_states"] = random.standard_normal((2, 5, TINY["width"])).astype(np.float32)
        inputs["encoder_attention_mask"] = np.array([[1] * 5, [1] * 3 + [0] * 2])
    return inputs


def sequence_inputs(name: str, config: Any, random: np.random.Generator) -> Inputs:
    """Two texts to read and two to write."""
    ids = random.integers(2, TINY["vocabulary"], (2, 6))
    if classifies := name.endswith("ForSequenceClassification"):
        ids[ids == config.eos_token_id] = 3
        ids[:, 3] = config.eos_token_id
    ids[1, 4:] = config.pad_token_id or 0
    inputs: Inputs = {"input_ids": ids, "attention_mask": np.array([[1] * 6, [1] * 4 + [0] * 2])}
    if not classifies:
        inputs["decoder_input_ids"] = random.integers(2, TINY["vocabulary"], (2, 4))
        inputs["decoder_attention_mask"] = np.array([[1] * 3 + [0], [1] * 4])
    return inputs


def text_labels(name: str, random: np.random.Generator, *, length: int = 6) -> Inputs:
    """The labels of a head over words or of a classifier; none where a class has no head."""
    words = ("LM", "LMHeadModel", "Decoder", "ForPreTraining", "ForConditionalGeneration", "DecoderModel")
    if name.endswith(words):
        extra = {"next_sentence_label": np.array([1, 0])} if name.endswith("ForPreTraining") else {}
        return {"labels": random.integers(0, TINY["vocabulary"], (2, length)), **extra}
    return {"labels": np.array([2, 5])} if name.endswith("Classification") else {}


# Cases

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
        if self.unseen is None or path.startswith(("vision_model_output", "encoder_", "image_")) or not shape:
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


def unseen(mask: np.ndarray | None, *, causal: bool) -> np.ndarray | None:
    """Where a query sees no key under an attention mask, (B, T); None if there is no such place."""
    if mask is None:
        return None
    seen = np.logical_or.accumulate(mask != 0, axis=1) if causal else np.any(mask != 0, axis=1, keepdims=True)
    return None if seen.all() else np.broadcast_to(~seen, mask.shape)
