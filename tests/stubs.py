"""Stub families of the kinds that text families do not have, for tests of what carries them.

An encoder of images, one of sound whose states are fewer than its samples, a decoder that attends to images in some of
its layers (with rotary positions and shared key heads), and the composites of the two encoders. They are registered
for the length of a test; the models are written once and made for each backend.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from flax import nnx
from torch import nn

import diptych.backends.jax
import diptych.backends.torch
from diptych.backends.jax import composite as jax_composite
from diptych.backends.jax import generation as jax_generation
from diptych.backends.jax import layers as jax_layers
from diptych.backends.jax import ops as jax_ops
from diptych.backends.jax import pretrained as jax_pretrained
from diptych.backends.jax import stacks as jax_stacks
from diptych.backends.torch import composite as torch_composite
from diptych.backends.torch import generation as torch_generation
from diptych.backends.torch import layers as torch_layers
from diptych.backends.torch import ops as torch_ops
from diptych.backends.torch import pretrained as torch_pretrained
from diptych.backends.torch import stacks as torch_stacks
from diptych.core import caching, composite_config, inputs, registry
from diptych.core.calls import next_token_loss
from diptych.core.checkpoint.slots import Slot
from diptych.core.composite_config import CompositeConfig
from diptych.core.config import CacheShape, DecoderConfig, ModelConfig, config_class
from diptych.core.outputs import BaseModelOutput, CausalLMOutputWithCrossAttentions, encoder_output
from diptych.core.random import Constant, Distribution, Normal
from diptych.core.registry import Family, InputKind, WordEmbeddings
from diptych.core.semantics import positions

KERNEL, STRIDE = 5, 3
"""Samples of a frame, and from one frame to the next."""


@config_class
class StubImageConfig(ModelConfig):
    model_type: ClassVar[str] = "stub-image"
    width: int = 12
    patch_size: int = 2
    image_size: int = 6

    @property
    def states_width(self) -> int:
        return self.width


@config_class
class StubSoundConfig(ModelConfig):
    model_type: ClassVar[str] = "stub-sound"
    hidden_size: int = 10


@config_class
class StubDecoderConfig(DecoderConfig):
    model_type: ClassVar[str] = "stub-decoder"
    always_decodes: ClassVar[bool] = True
    vocab_size: int = 19
    hidden_size: int = 24
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    num_hidden_layers: int = 3
    rotary_positions: int = 37
    image_size: int = 3

    @property
    def cache_shape(self) -> CacheShape:
        width = self.hidden_size // self.num_attention_heads
        return CacheShape(self.num_hidden_layers, self.num_key_value_heads, width, self.rotary_positions)


@config_class
class StubImageToTextConfig(CompositeConfig):
    model_type: ClassVar[str] = "stub-image-to-text"
    encodes: ClassVar[InputKind] = "image"


@config_class
class StubSoundToTextConfig(CompositeConfig):
    model_type: ClassVar[str] = "stub-sound-to-text"
    encodes: ClassVar[InputKind] = "sound"


def frames(samples: Any) -> Any:
    """The number of frames that so many samples make."""
    return (samples - KERNEL) // STRIDE + 1


def _initial(config: ModelConfig, slot: Slot) -> Distribution:
    return Constant(1.0) if slot.kind == "norm" else Normal(0.4)


def _image_example(config: Any, name: str, random: np.random.Generator) -> dict[str, Any]:
    return {"pixel_values": random.standard_normal((2, 3, config.image_size, config.image_size))}


def _sound_example(config: Any, name: str, random: np.random.Generator) -> dict[str, Any]:
    mask = np.array([[1] * 23, [1] * 15 + [0] * 8])
    return {"input_values": random.standard_normal((2, 23)), "attention_mask": mask}


def _decoder_example(config: Any, name: str, random: np.random.Generator) -> dict[str, Any]:
    ids = random.integers(0, config.vocab_size, (2, 7))
    images = random.standard_normal((2, 4, 1, config.image_size, config.image_size))
    return {"input_ids": ids, "labels": ids, "pixel_values": images}


def _composite(name: str, config: type[CompositeConfig]) -> Family:
    return Family(
        classes={name: config},
        initial=composite_config.initial,
        example=composite_config.example,
        parts=composite_config.parts,
    )


FAMILIES = {
    "stub_image": Family(
        classes={"StubImageModel": StubImageConfig},
        initial=_initial,
        example=_image_example,
        prefixes=("image.",),
        encoders={"image": ("StubImageModel",)},
    ),
    "stub_sound": Family(
        classes={"StubSoundModel": StubSoundConfig},
        initial=_initial,
        example=_sound_example,
        encoders={"sound": ("StubSoundModel",)},
    ),
    "stub_decoder": Family(
        classes={"StubDecoder": StubDecoderConfig},
        initial=_initial,
        example=_decoder_example,
        embeddings={"StubDecoder": WordEmbeddings(inputs=("embed_tokens",), output="embed_tokens")},
    ),
    "stub_image_to_text": _composite("StubImageToText", StubImageToTextConfig),
    "stub_sound_to_text": _composite("StubSoundToText", StubSoundToTextConfig),
}

_ROOMS = {
    "jax": (jax_layers, jax_ops, jax_stacks, jax_pretrained, jax_generation, jax_composite),
    "torch": (torch_layers, torch_ops, torch_stacks, torch_pretrained, torch_generation, torch_composite),
}


def _models(backend: str) -> dict[str, type]:
    layers, ops, stacks, pretrained, generation, composite = _ROOMS[backend]
    module: Any = nn.Module if backend == "torch" else nnx.Module
    call = "forward" if backend == "torch" else "__call__"

    class Layer(module):
        def __init__(self, width: int, heads: int, shared: int, *, crosses: int = 0, **init: Any) -> None:
            if backend == "torch":
                super().__init__()
            self.heads, self.shared, self.crosses = heads, shared, bool(crosses)
            size = width // heads
            self.norm = layers.RMSNorm(width, 1e-6, **init)
            self.query = layers.Linear(width, width, **init)
            self.keys = layers.Linear(width, 2 * shared * size, **init)
            self.cross = layers.Linear(crosses, 2 * width, **init) if crosses else None
            self.out = layers.Linear(width, width, **init)
            self.dropout = layers.Dropout(0.0)

        def cross_keys(self, states: Any) -> Any:
            heads = ops.split_heads(self.cross(states), 2 * self.heads)
            return heads[:, : self.heads], heads[:, self.heads :]

        def run(self, hidden_states: Any, inputs: Any, past: Any = None, rotation: Any = None) -> Any:
            normed = self.norm(hidden_states)
            query, keys = (
                ops.split_heads(self.query(normed), self.heads),
                ops.split_heads(self.keys(normed), 2 * self.shared),
            )
            key, value = keys[:, : self.shared], keys[:, self.shared :]
            if rotation is not None:
                query, key = ops.rotate(query, *rotation), ops.rotate(key, *rotation)
            states, attention, past = stacks.self_attention(query, key, value, inputs, past, dropout=self.dropout)
            hidden_states, cross = hidden_states + self.out(states), None
            if self.crosses and stacks.sees_encoder(inputs, past):
                query = ops.split_heads(self.query(self.norm(hidden_states)), self.heads)
                attended = stacks.cross_attention(query, self.cross_keys, inputs, past, dropout=self.dropout)
                states, cross, past = attended
                hidden_states = hidden_states + self.out(states)
            return stacks.LayerOutput(hidden_states, attention, cross, past)

    setattr(Layer, call, Layer.run)

    class Encoder(pretrained.PreTrainedModel):
        def make_layers(self, width: int, heads: int, init: Any) -> None:
            self.layers = layers.ModuleList([Layer(width, heads, heads, **init) for _ in range(2)])
            self.gradient_checkpointing = False

        def run_layers(self, states: Any, resolved: Any, **given: Any) -> Any:
            inputs = stacks.LayerInputs(output_attentions=resolved["output_attentions"], rngs=resolved["rngs"], **given)
            switches = {"output_hidden_states": resolved["output_hidden_states"]}
            checkpointing = self.gradient_checkpointing
            return stacks.run_layers(self.layers, states, inputs, gradient_checkpointing=checkpointing, **switches)

    class StubImageModel(Encoder):
        """Patches, whose distance is a bias on attention."""

        def __init__(self, config: StubImageConfig, **build: Any) -> None:
            init = self._begin(config, build)
            size = config.patch_size
            self.patches = layers.Conv2d(3, config.width, size, stride=size, **init)
            self.make_layers(config.width, 3, init)
            self._finish(build)

        @property
        def inputs(self) -> Any:
            return (inputs.PIXEL_VALUES, inputs.INTERPOLATE_POS_ENCODING)

        def states_mask(self, attention_mask: Any, length: int) -> None:
            assert attention_mask is None

        def run(self, pixel_values: Any = None, interpolate_pos_encoding: bool = False, **switches: Any) -> Any:
            resolved, boundary, config = self._resolve_switches(switches), self._boundary(), self.config
            size = None if interpolate_pos_encoding else (config.image_size, config.image_size)
            least = (config.patch_size, config.patch_size)
            pixels = boundary.images(pixel_values, channels=3, size=size, least=least)
            states = layers.patches(self.patches, pixels)
            steps = ops.steps(states.shape[1], states)
            distance = ops.xp.astype(ops.xp.abs(steps[:, None] - steps[None, :]), states.dtype)
            outputs = self.run_layers(states, resolved, bias=-0.3 * distance[None, None])
            output = BaseModelOutput(**{k: v for k, v in outputs.items() if k in BaseModelOutput.__dataclass_fields__})
            return self._format_output(output, switches.get("return_dict"))

    class StubSoundModel(Encoder):
        """Frames of samples; a padded frame is seen by none."""

        def __init__(self, config: StubSoundConfig, **build: Any) -> None:
            init = self._begin(config, build)
            self.conv = layers.Conv1d(1, config.hidden_size, KERNEL, stride=STRIDE, **init)
            self.make_layers(config.hidden_size, 2, init)
            self._finish(build)

        @property
        def inputs(self) -> Any:
            return inputs.SOUND_INPUTS

        def states_mask(self, attention_mask: Any, length: int) -> Any:
            if attention_mask is None:
                return None
            xp = ops.xp
            mask = attention_mask if ops.is_array(attention_mask) else xp.asarray(np.asarray(attention_mask))
            count = frames(xp.sum(xp.astype(mask != 0, xp.int32), axis=1))
            return ops.steps(length, mask)[None, :] < count[:, None]

        def run(self, input_values: Any = None, attention_mask: Any = None, **switches: Any) -> Any:
            resolved, boundary = self._resolve_switches(switches), self._boundary()
            samples = boundary.sound("input_values", input_values, least=KERNEL)
            mask = None
            states = self.conv(samples[..., None])
            if attention_mask is not None:
                attention_mask = boundary.mask("attention_mask", attention_mask, samples.shape)
                mask = self.states_mask(attention_mask, states.shape[1])[:, None, None, :]
            return self._format_output(
                encoder_output(self.run_layers(states, resolved, mask=mask)), switches.get("return_dict")
            )

    class StubDecoder(generation.GenerationMixin, pretrained.PreTrainedModel):
        """Every second layer attends to the images, which a cache keeps."""

        def __init__(self, config: StubDecoderConfig, **build: Any) -> None:
            init = self._begin(config, build)
            self.embed_tokens = layers.Embedding(config.vocab_size, config.hidden_size, **init)
            made = range(config.num_hidden_layers)
            size = config.image_size**2
            heads = (config.num_attention_heads, config.num_key_value_heads)
            self.layers = layers.ModuleList(
                [Layer(config.hidden_size, *heads, crosses=size * (index % 2), **init) for index in made]
            )
            self.norm = layers.RMSNorm(config.hidden_size, 1e-6, **init)
            self._finish(build)

        @property
        def prompt_inputs(self) -> Any:
            return (inputs.INPUT_IDS, inputs.ATTENTION_MASK, inputs.IMAGE_SEQUENCES)

        def run(
            self,
            input_ids: Any = None,
            attention_mask: Any = None,
            pixel_values: Any = None,
            past_key_values: Any = None,
            *,
            labels: Any = None,
            use_cache: bool | None = None,
            logits_to_keep: Any = 0,
            **switches: Any,
        ) -> Any:
            resolved, boundary, config = self._resolve_switches(switches), self._boundary(), self.config
            size = {"size": config.vocab_size, "width": config.hidden_size}
            _, states = boundary.words(input_ids, None, self.embed_tokens, **size)
            length = (states.shape[0], states.shape[1])
            context = caching.begin(boundary, config.cache_shape, past_key_values, use_cache, attention_mask, length)
            images = None
            if not caching.has_encoder_keys(past_key_values):
                side = config.image_size
                images = boundary.image_sequences(pixel_values, channels=1, size=(side, side))
                images = ops.xp.reshape(images, (*images.shape[:2], -1))
            ids = caching.position_ids(
                boundary, None, context.start, length, limit=config.rotary_positions, field="rotary_positions"
            )
            head = config.hidden_size // config.num_attention_heads
            tables = positions.rotary(config.rotary_positions, head)
            rotation = tuple(ops.constant(table, states)[ids] for table in tables)
            layer_inputs = stacks.LayerInputs(
                mask=context.mask,
                encoder_hidden_states=images,
                causal=context.causal,
                output_attentions=resolved["output_attentions"],
                rngs=resolved["rngs"],
            )
            run = [
                lambda states, inputs, past, layer=layer: layer(states, inputs, past, rotation) for layer in self.layers
            ]
            switch = resolved["output_hidden_states"]
            outputs = stacks.run_layers(
                run,
                states,
                layer_inputs,
                context.cache,
                output_hidden_states=switch,
                gradient_checkpointing=False,
                final=self.norm,
            )
            outputs = outputs.replace(past_key_values=caching.finish(outputs.past_key_values, length[1], use_cache))
            kept = self._tokens_to_keep(outputs.last_hidden_state, logits_to_keep)
            logits = layers.tied_logits(kept, self.embed_tokens, config.vocab_size)
            record = CausalLMOutputWithCrossAttentions
            return self._with_head(record, outputs, logits, labels, next_token_loss, switches)

    class Composite(composite.CompositeModel):
        def read(self, given: Mapping[str, Any], mask: Any, ids: Any, own: dict[str, Any], keywords: Any) -> Any:
            decoder = {"input_ids": ids, "attention_mask": keywords.pop("decoder_attention_mask", None)}
            own |= {name: keywords.pop(name, None) for name in ("encoder_outputs", "past_key_values")}
            return self._call(given, attention_mask=mask, decoder_inputs=decoder, keywords=keywords, **own)

    class StubImageToText(Composite):
        def run(
            self,
            pixel_values: Any = None,
            decoder_input_ids: Any = None,
            *,
            labels: Any = None,
            use_cache: bool | None = None,
            logits_to_keep: Any = 0,
            **keywords: Any,
        ) -> Any:
            own = {"labels": labels, "use_cache": use_cache, "logits_to_keep": logits_to_keep}
            return self.read({"pixel_values": pixel_values}, None, decoder_input_ids, own, keywords)

        def encode(self, pixel_values: Any = None, **keywords: Any) -> Any:
            for_encoder, _, switches = self._split_keywords(keywords)
            return self._encode({"pixel_values": pixel_values, **for_encoder}, self._resolve_switches(switches))

    class StubSoundToText(Composite):
        def run(
            self,
            input_values: Any = None,
            attention_mask: Any = None,
            decoder_input_ids: Any = None,
            *,
            labels: Any = None,
            use_cache: bool | None = None,
            logits_to_keep: Any = 0,
            **keywords: Any,
        ) -> Any:
            own = {"labels": labels, "use_cache": use_cache, "logits_to_keep": logits_to_keep}
            return self.read({"input_values": input_values}, attention_mask, decoder_input_ids, own, keywords)

        def encode(self, input_values: Any = None, attention_mask: Any = None, **switches: Any) -> Any:
            given = {"input_values": input_values, "attention_mask": attention_mask}
            return self._encode(given, self._resolve_switches(switches))

    found = {}
    for cls in (StubImageModel, StubSoundModel, StubDecoder, StubImageToText, StubSoundToText):
        found[cls.__name__] = type(cls.__name__, (cls,), {"__module__": __name__, call: cls.run})
    return found


MODELS = {backend: _models(backend) for backend in ("jax", "torch")}
BACKENDS = {"jax": diptych.backends.jax, "torch": diptych.backends.torch}
TABLES = (registry.architectures, registry.config_classes, registry.config_names)


@contextmanager
def registered() -> Iterator[None]:
    """Makes the stub families known while the block runs."""
    families: Any = registry.families()
    with pytest.MonkeyPatch.context() as patch:
        for backend, module in BACKENDS.items():
            for name, model in MODELS[backend].items():
                patch.setattr(module, name, model, raising=False)
        for name, family in FAMILIES.items():
            patch.setitem(families, name, family)
        for table in TABLES:
            table.cache_clear()
        try:
            yield
        finally:
            patch.undo()
            for table in TABLES:
                table.cache_clear()


def changed(config: ModelConfig, **fields: Any) -> ModelConfig:
    """A config with other fields, whichever they are."""
    return replace(config, **fields)
