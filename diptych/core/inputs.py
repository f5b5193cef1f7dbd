"""Descriptions of models' keyword inputs, so that nothing needs to be guessed from their names."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

PAD_TOKEN_ID = "pad_token_id"
"""The padding of ids: the config's field of that name."""


@dataclass(frozen=True)
class ModelInput:
    """One keyword input of a model.

    Attributes:
        name: the keyword.
        kind: ids, floats, a mask (1 = attend), hidden states (an encoder's output or its states), or a switch, a
            boolean on which a compiled program depends.
        axes: the names of the axes, such as "batch, tokens"; "" for a switch.
        main: whether it can be the only input; others accompany such an input.
        size: for ids, the config's field with their number.
        limit: the config's field that limits the number of tokens, in configs that have it.
        padding: the value that may pad the second axis at the end, or `PAD_TOKEN_ID`; None if its length must not
            change, such as that of audio. A mask hides the padding.
    """

    name: str
    kind: Literal["ids", "floats", "mask", "states", "switch"]
    axes: str
    main: bool = False
    size: str | None = None
    limit: str | None = None
    padding: int | str | None = None

    @property
    def axis_names(self) -> tuple[str, ...]:
        """The names of the axes, one by one."""
        return tuple(self.axes.split(", ")) if self.axes else ()

    @property
    def counts_tokens(self) -> bool:
        """Whether the second axis counts tokens."""
        return self.axis_names[1:2] == ("tokens",)

    def padding_value(self, pad_token_id: int) -> int | None:
        """The value that pads the second axis, given the id of padding."""
        return pad_token_id if self.padding == PAD_TOKEN_ID else self.padding  # pyright: ignore[reportReturnType]


_TOKENS = "batch, tokens"

INPUT_IDS = ModelInput(
    "input_ids", "ids", _TOKENS, main=True, size="vocab_size", limit="max_position_embeddings", padding=PAD_TOKEN_ID
)
ATTENTION_MASK = ModelInput("attention_mask", "mask", _TOKENS, padding=0)
TOKEN_TYPE_IDS = ModelInput("token_type_ids", "ids", _TOKENS, size="type_vocab_size", padding=0)
POSITION_IDS = ModelInput("position_ids", "ids", _TOKENS, size="max_position_embeddings", padding=0)
INPUTS_EMBEDS = ModelInput(
    "inputs_embeds", "floats", "batch, tokens, hidden_size", main=True, limit="max_position_embeddings", padding=0
)
PIXEL_VALUES = ModelInput("pixel_values", "floats", "batch, channels, height, width", main=True)
INTERPOLATE_POS_ENCODING = ModelInput("interpolate_pos_encoding", "switch", "")
IMAGE_SEQUENCES = ModelInput("pixel_values", "floats", "batch, images, channels, height, width", main=True)
IMAGE_ENCODER_EMBEDDINGS = ModelInput("image_encoder_embeddings", "floats", "batch, images, states, width", main=True)
PERCEIVER_EMBEDDINGS = ModelInput("perceiver_embeddings", "floats", "batch, images, states, width", main=True)
IMAGE_ATTENTION_MASK = ModelInput("image_attention_mask", "mask", "batch, tokens, images", padding=0)
INPUT_VALUES = ModelInput("input_values", "floats", "batch, samples", main=True)
SAMPLE_MASK = ModelInput("attention_mask", "mask", "batch, samples")
IGNORE_PADDING = ModelInput("ignore_padding", "switch", "")
ENCODER_OUTPUTS = ModelInput("encoder_outputs", "states", "batch, tokens, hidden_size", main=True)
DECODER_INPUT_IDS = replace(INPUT_IDS, name="decoder_input_ids", main=False)
DECODER_ATTENTION_MASK = replace(ATTENTION_MASK, name="decoder_attention_mask")

TEXT_INPUTS = (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS, POSITION_IDS, INPUTS_EMBEDS)
"""The possible inputs of a text encoder."""
IMAGE_INPUTS = (PIXEL_VALUES,)
"""The inputs of an image encoder; it has no mask."""
SOUND_INPUTS = (INPUT_VALUES, SAMPLE_MASK, IGNORE_PADDING)
"""The inputs of an audio encoder."""

STANDARD_NAMES = frozenset(
    one.name
    for one in (
        *TEXT_INPUTS,
        *IMAGE_INPUTS,
        *SOUND_INPUTS,
        ENCODER_OUTPUTS,
        DECODER_INPUT_IDS,
        DECODER_ATTENTION_MASK,
    )
)
"""Keywords that are inputs of some model, even if not of the one that is called."""


def text_inputs(keywords: Container[str], config: Any) -> tuple[ModelInput, ...]:
    """The inputs of a text encoder with these keywords and this config."""
    known = (one for one in TEXT_INPUTS if one.name in keywords)
    return tuple(one for one in known if one.size is None or hasattr(config, one.size))


def refuse_unknown(caller: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises a TypeError if a model does not take a keyword; the message lists those that it takes.

    Args:
        caller: the prefix of the error.
        given: keywords of a call.
        known: the model's.
    """
    known = tuple(dict.fromkeys(known))
    unknown = [name for name in given if name not in known]
    if unknown:
        raise TypeError(f"{caller}: the model does not take {', '.join(unknown)}; it takes {', '.join(known)}")


def by_name(inputs: Iterable[ModelInput]) -> Mapping[str, Any]:
    """The inputs by keyword."""
    return {one.name: one for one in inputs}
