"""IDEFICS (Laurençon et al. 2023, arXiv:2306.16527), as published in HuggingFaceM4/idefics-9b."""

from collections.abc import Callable
from functools import partial
from typing import Any, Unpack

from flax import nnx
from jax import Array
from jaxtyping import Float

from diptych.backends.jax import layers, ops
from diptych.backends.jax.cache import LayerCache
from diptych.backends.jax.generation import GenerationMixin
from diptych.backends.jax.models.clip import CLIPVisionEmbeddings, CLIPVisionTransformer
from diptych.backends.jax.pretrained import Build, PreTrainedModel
from diptych.backends.jax.stacks import (
    AttentionOutput,
    LayerInputs,
    LayerOutput,
    cross_attention,
    layer_inputs,
    run_layers,
    self_attention,
)
from diptych.core import caching, check, inputs
from diptych.core.boundary import Boundary
from diptych.core.calls import ResolvedSwitches, Switches, next_token_loss, passes_through
from diptych.core.errors import InputError
from diptych.core.generation.request import Prompt
from diptych.core.inputs import ModelInput
from diptych.core.models.clip import CLIPVisionConfig
from diptych.core.models.idefics import (
    IdeficsBaseModelOutputWithPast,
    IdeficsCausalLMOutputWithPast,
    IdeficsConfig,
)
from diptych.core.outputs import with_head
from diptych.core.semantics import positions, resize
from diptych.core.semantics.decoding import Plan, TracedOptions


class IdeficsVisionEmbeddings(CLIPVisionEmbeddings):
    """CLIP's, with other positions for images of another size."""

    def __init__(self, config: CLIPVisionConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__(config, **init)
        self.image_shape = config.image_shape

    def resize_positions(
        self, table: Float[Array, "P D"], grid: tuple[int, int], size: tuple[int, int]
    ) -> Float[Array, "Q D"]:
        """The positions of a `grid` of (rows, columns) of patches, of images of this height and width."""
        same_shape = size[0] * self.image_shape[1] == size[1] * self.image_shape[0]
        if grid == self.grid and same_shape:
            return table
        return resize.scaled_position_table(ops, table, self.grid, grid, special=1)


class IdeficsVisionTransformer(CLIPVisionTransformer):
    """CLIP's encoder of images."""

    def __init__(self, config: CLIPVisionConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__(config, **init)
        self.embeddings = IdeficsVisionEmbeddings(config, **init)


class IdeficsPerceiverAttention(nnx.Module):
    """Attention of the latents to an image's states and to one another."""

    def __init__(self, config: IdeficsConfig, **init: Unpack[ops.Init]) -> None:
        perceiver, width = config.perceiver_config, config.vision_config.embed_dim
        head, self.heads = perceiver.resampler_head_dim, perceiver.resampler_n_heads
        self.context_layer_norm = layers.LayerNorm(width, 1e-5, **init)
        self.latents_layer_norm = layers.LayerNorm(width, 1e-5, **init)
        norms = perceiver.qk_layer_norms_perceiver
        self.q_layer_norm = layers.LayerNorm(head, 1e-5, **init) if norms else None
        self.k_layer_norm = layers.LayerNorm(head, 1e-5, **init) if norms else None
        self.q_proj = layers.Linear(width, self.heads * head, bias=False, **init)
        self.k_proj = layers.Linear(width, self.heads * head, bias=False, **init)
        self.v_proj = layers.Linear(width, self.heads * head, bias=False, **init)
        self.output_proj = layers.Linear(self.heads * head, width, bias=False, **init)
        self.dropout = layers.Dropout(0.0)

    def __call__(
        self, context: Float[Array, "B S D"], latents: Float[Array, "B T D"], rngs: Any = None
    ) -> Float[Array, "B T D"]:
        latents = self.latents_layer_norm(latents)
        seen = ops.xp.concat([self.context_layer_norm(context), latents], axis=1)
        projected = self.q_proj(latents), self.k_proj(seen), self.v_proj(seen)
        query, key, value = (ops.split_heads(states, self.heads) for states in projected)
        if self.q_layer_norm is not None and self.k_layer_norm is not None:
            query, key = self.q_layer_norm(query), self.k_layer_norm(key)
        return self.output_proj(ops.attention(query, key, value, dropout=self.dropout, rngs=rngs)[0])


class IdeficsPerceiverMLP(nnx.Module):
    def __init__(self, config: IdeficsConfig, **init: Unpack[ops.Init]) -> None:
        width = config.vision_config.embed_dim
        self.ln = layers.LayerNorm(width, 1e-5, **init)
        self.fc = layers.Linear(width, 4 * width, bias=False, **init)
        self.c_proj = layers.Linear(4 * width, width, bias=False, **init)

    def __call__(self, latents: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.c_proj(ops.ACTIVATIONS["relu"](self.fc(self.ln(latents))))


def resample(
    attention: Callable[..., Float[Array, "B T D"]],
    mlp: Callable[..., Float[Array, "B T D"]],
    latents: Float[Array, "B T D"],
    inputs: LayerInputs,
    past: None = None,
) -> LayerOutput:
    """A block of the resampler as a layer, which reads an image's states as those of an encoder."""
    latents = latents + attention(inputs.encoder_hidden_states, latents, inputs.rngs)
    return LayerOutput(latents + mlp(latents))


class IdeficsPerceiverResampler(nnx.Module):
    """Turns the states of an image into a fixed number of them (Alayrac et al. 2022, arXiv:2204.14198)."""

    def __init__(self, config: IdeficsConfig, **init: Unpack[ops.Init]) -> None:
        perceiver, width = config.perceiver_config, config.vision_config.embed_dim
        self.latents = layers.parameter((perceiver.resampler_n_latents, width), **init)
        self.blocks = layers.ModuleList(
            [
                layers.ModuleList([IdeficsPerceiverAttention(config, **init), IdeficsPerceiverMLP(config, **init)])
                for _ in range(perceiver.resampler_depth)
            ]
        )
        self.layer_norm = layers.LayerNorm(width, 1e-5, **init)
        self.gradient_checkpointing = False

    def __call__(self, context: Float[Array, "B S D"], rngs: Any = None) -> Float[Array, "B L D"]:
        latents = layers.value(self.latents, context)
        latents = ops.xp.broadcast_to(latents, (context.shape[0], *latents.shape))
        blocks: Any = self.blocks
        return run_layers(
            [partial(resample, attention, mlp) for attention, mlp in blocks],
            latents,
            LayerInputs(encoder_hidden_states=context, rngs=rngs),
            output_hidden_states=False,
            gradient_checkpointing=self.gradient_checkpointing,
            final=self.layer_norm,
        ).last_hidden_state


class IdeficsAttention(nnx.Module):
    """Causal attention with rotary positions, or attention to the states of images."""

    def __init__(self, config: IdeficsConfig, *, crosses: bool = False, **init: Unpack[ops.Init]) -> None:
        width, seen = config.hidden_size, config.vision_config.embed_dim if crosses else config.hidden_size
        self.heads, self.crosses = config.num_attention_heads, crosses
        self.q_proj = layers.Linear(width, width, bias=False, **init)
        self.k_proj = layers.Linear(seen, width, bias=False, **init)
        self.v_proj = layers.Linear(seen, width, bias=False, **init)
        self.o_proj = layers.Linear(width, width, bias=False, **init)
        norms, head, eps = crosses and config.qk_layer_norms, config.head_width, config.rms_norm_eps
        self.q_layer_norm = layers.RMSNorm(head, eps, **init) if norms else None
        self.k_layer_norm = layers.RMSNorm(head, eps, **init) if norms else None
        self.dropout = layers.Dropout(config.dropout)

    def image_keys(self, states: Float[Array, "B S D"]) -> tuple[Float[Array, "B N S H"], Float[Array, "B N S H"]]:
        """The keys and values of the states of images."""
        key, value = (ops.split_heads(projection(states), self.heads) for projection in (self.k_proj, self.v_proj))
        return (key if self.k_layer_norm is None else self.k_layer_norm(key)), value

    def __call__(
        self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs, past: LayerCache | None = None
    ) -> AttentionOutput:
        query = ops.split_heads(self.q_proj(hidden_states), self.heads)
        if self.crosses:
            query = query if self.q_layer_norm is None else self.q_layer_norm(query)
            attended = cross_attention(query, self.image_keys, inputs, past, dropout=self.dropout)
        else:
            key, value = self.k_proj(hidden_states), self.v_proj(hidden_states)
            key, value = ops.split_heads(key, self.heads), ops.split_heads(value, self.heads)
            if inputs.rotation is not None:
                query, key = ops.rotate(query, *inputs.rotation), ops.rotate(key, *inputs.rotation)
            attended = self_attention(query, key, value, inputs, past, dropout=self.dropout)
        return attended._replace(states=self.o_proj(attended.states))


class IdeficsMLP(nnx.Module):
    def __init__(self, config: IdeficsConfig, **init: Unpack[ops.Init]) -> None:
        width, inner = config.hidden_size, config.intermediate_size
        self.activation = ops.ACTIVATIONS[config.hidden_act]
        self.gate_proj = layers.Linear(width, inner, bias=False, **init)
        self.down_proj = layers.Linear(inner, width, bias=False, **init)
        self.up_proj = layers.Linear(width, inner, bias=False, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down_proj(self.activation(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class IdeficsDecoderLayer(nnx.Module):
    def __init__(self, config: IdeficsConfig, **init: Unpack[ops.Init]) -> None:
        self.self_attn = IdeficsAttention(config, **init)
        self.mlp = IdeficsMLP(config, **init)
        self.input_layernorm = layers.RMSNorm(config.hidden_size, config.rms_norm_eps, **init)
        self.post_attention_layernorm = layers.RMSNorm(config.hidden_size, config.rms_norm_eps, **init)
        self.attention_dropout = layers.Dropout(config.dropout)
        self.mlp_dropout = layers.Dropout(config.dropout)

    def __call__(
        self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs, past: LayerCache | None = None
    ) -> LayerOutput:
        states, attention, past = self.self_attn(self.input_layernorm(hidden_states), inputs, past)
        hidden_states = hidden_states + self.attention_dropout(states, inputs.rngs)
        states = self.mlp(self.post_attention_layernorm(hidden_states))
        return LayerOutput(hidden_states + self.mlp_dropout(states, inputs.rngs), attention, None, past)


def gate(alpha: Any, states: Float[Array, "B T D"]) -> Float[Array, "1 1 #D"]:
    """The factor of a branch: the tanh of one number, or of one for each entry of a state."""
    return ops.xp.tanh(ops.xp.reshape(layers.value(alpha, states), (1, 1, -1)))


class IdeficsGatedCrossAttentionLayer(nnx.Module):
    """Attention to images and an MLP, whose outputs are scaled by the tanh of learned numbers.

    The published gate of tokens that see no image is what attention gives them: zeros, which have no bias added.
    """

    def __init__(self, config: IdeficsConfig, **init: Unpack[ops.Init]) -> None:
        self.cross_attn = IdeficsAttention(config, crosses=True, **init)
        self.mlp = IdeficsMLP(config, **init)
        self.input_layernorm = layers.RMSNorm(config.hidden_size, config.rms_norm_eps, **init)
        self.post_attention_layernorm = layers.RMSNorm(config.hidden_size, config.rms_norm_eps, **init)
        shape = (1, 1, config.hidden_size) if config.alpha_type == "vector" else (1,)
        self.alpha_cross_attn = layers.parameter(shape, **init)
        self.alpha_dense = layers.parameter(shape, **init)
        self.attention_dropout = layers.Dropout(config.dropout)
        self.mlp_dropout = layers.Dropout(config.dropout)

    def __call__(
        self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs, past: LayerCache | None = None
    ) -> LayerOutput:
        states, attention, past = self.cross_attn(self.input_layernorm(hidden_states), inputs, past)
        states = self.attention_dropout(states, inputs.rngs)
        hidden_states = hidden_states + gate(self.alpha_cross_attn, states) * states
        states = self.mlp_dropout(self.mlp(self.post_attention_layernorm(hidden_states)), inputs.rngs)
        hidden_states = hidden_states + gate(self.alpha_dense, states) * states
        return LayerOutput(hidden_states, None, attention, past)


def look_and_decode(
    gated: Callable[..., LayerOutput] | None,
    layer: Callable[..., LayerOutput],
    hidden_states: Float[Array, "B T D"],
    inputs: LayerInputs,
    past: LayerCache | None = None,
) -> LayerOutput:
    """A layer of the decoder with the attention to images that precedes it, if any, as one layer with one cache."""
    cross = None
    if gated is not None:
        hidden_states, _, cross, past = gated(hidden_states, inputs, past)
    return layer(hidden_states, inputs, past)._replace(cross_attention=cross)


def word_embeddings(config: IdeficsConfig, **init: Unpack[ops.Init]) -> nnx.Module:
    """The table of token ids; if there are additional ids, two tables."""
    words, additional, width = config.vocab_size, config.additional_vocab_size, config.hidden_size
    if additional:
        return layers.DecoupledEmbedding(words, additional, width, **init)
    return layers.Embedding(words, width, **init)


def output_layer(config: IdeficsConfig, **init: Unpack[ops.Init]) -> nnx.Module | None:
    """The layer that computes the logits of all token ids; None if it is tied to the table."""
    words, additional, width = config.vocab_size, config.additional_vocab_size, config.hidden_size
    if config.tie_word_embeddings:
        return None
    if additional:
        return layers.DecoupledLinear(width, words, additional, **init)
    return layers.Linear(width, words, bias=False, **init)


class IdeficsModel(PreTrainedModel):
    """The decoder of texts and images without a head."""

    def __init__(self, config: IdeficsConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.embed_tokens = word_embeddings(config, **init)
        self.vision_model = IdeficsVisionTransformer(config.vision_config.as_clip, **init)
        self.perceiver_resampler = IdeficsPerceiverResampler(config, **init) if config.use_resampler else None
        count, interval = config.num_hidden_layers, config.cross_layer_interval
        self.layers = layers.ModuleList([IdeficsDecoderLayer(config, **init) for _ in range(count)])
        self.gated_cross_attn_layers = layers.ModuleList(
            [IdeficsGatedCrossAttentionLayer(config, **init) for _ in range(count // interval)]
        )
        self.norm = layers.RMSNorm(config.hidden_size, config.rms_norm_eps, **init)
        self.gradient_checkpointing = False
        self._finish(build)

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Any = None,
        pixel_values: Any = None,
        image_encoder_embeddings: Any = None,
        perceiver_embeddings: Any = None,
        image_attention_mask: Any = None,
        interpolate_pos_encoding: bool = False,
        *,
        use_cache: bool | None = None,
        **switches: Unpack[Switches],
    ) -> IdeficsBaseModelOutputWithPast | tuple[Any, ...]:
        """Decodes a batch of token sequences with images.

        Args:
            input_ids: (B, T) integers, or else:
            inputs_embeds: (B, T, D) floats in their place.
            attention_mask: (B, T), 1 = attend, or with a cache over all tokens so far; by default all are attended to.
            position_ids: (B, T) or (1, T); by default counted without padding.
            past_key_values: a cache of the earlier tokens; `init_cache` makes one. It keeps the keys of the images, so
                that later calls need none, and read no others.
            pixel_values: (B, I, C, Y, X) floats, I images for each text; or else:
            image_encoder_embeddings: (B, I, P, embed_dim), their states after the encoder of images; or else:
            perceiver_embeddings: (B, I, L, embed_dim), their states after the resampler.
            image_attention_mask: (B, T, I), 1 = the token sees the image; by default each token sees all.
            interpolate_pos_encoding: whether images may have another size than the config's; positions are resampled.
            use_cache: whether the cache is returned; by default if one is given. True creates one if none is given.
            switches: see `Switches`.

        Raises:
            InputError: an argument has the wrong dtype or shape, an id is out of range, there are no images, or the
                cache is full.
        """
        resolved, boundary, config = self._resolve_switches(switches), self._boundary(), self.config
        boundary.rngs(resolved["rngs"])
        table = "vocab_size + additional_vocab_size" if config.additional_vocab_size else "vocab_size"
        width, words = config.hidden_size, config.total_vocab_size
        _, hidden_states = boundary.words(
            input_ids, inputs_embeds, self.embed_tokens, size=words, width=width, table=table
        )
        size = (hidden_states.shape[0], hidden_states.shape[1])
        context = caching.begin(boundary, config.cache_shape, past_key_values, use_cache, attention_mask, size)
        limit = config.max_position_embeddings
        position_ids = caching.attended_position_ids(boundary, context, position_ids, size, limit=limit)
        rows = ops.constant_rows(positions.rotary_table(max(2, limit), config.head_width), position_ids, hidden_states)
        rotation = (rows[..., : config.head_width], rows[..., config.head_width :])

        images, seen = None, None if context.cache is None else context.cache.encoder_size
        if seen is None:
            given = (pixel_values, image_encoder_embeddings, perceiver_embeddings)
            images = self._encode_images(boundary, *given, interpolate_pos_encoding, resolved)
            check.shape(boundary.caller, "the images' batch", (images.shape[0],), (size[0],), ", one row for each text")
            states = ops.xp.reshape(images, (size[0], -1, images.shape[3]))
            context = context._replace(encoder_hidden_states=states)
            seen = (states.shape[0], states.shape[1])
        if image_attention_mask is not None:
            name, count = "image_attention_mask", None if images is None else images.shape[1]
            mask = boundary.image_mask(name, image_attention_mask, (seen[0], size[1]), count, seen[1])
            context = context._replace(encoder_mask=mask)

        interval = config.cross_layer_interval
        gated = {interval * index: layer for index, layer in enumerate(self.gated_cross_attn_layers)}
        output = run_layers(
            [partial(look_and_decode, gated.get(index), layer) for index, layer in enumerate(self.layers)],
            hidden_states,
            layer_inputs(context, resolved, rotation=rotation),
            context.cache,
            output_hidden_states=resolved["output_hidden_states"],
            gradient_checkpointing=self.gradient_checkpointing,
            final=self.norm,
        )
        cache = caching.finish(output.past_key_values, size[1], use_cache)
        record = with_head(IdeficsBaseModelOutputWithPast, output, past_key_values=cache, image_hidden_states=images)
        return self._format_output(record, switches.get("return_dict"))

    def _encode_images(
        self,
        boundary: Boundary,
        pixel_values: Any,
        image_encoder_embeddings: Any,
        perceiver_embeddings: Any,
        interpolate_pos_encoding: bool,
        resolved: ResolvedSwitches,
    ) -> Float[Array, "B I L D"]:
        """The states of images that attention sees, from the argument that is given."""
        encoded, resampled = "image_encoder_embeddings", "perceiver_embeddings"
        given = {"pixel_values": pixel_values, encoded: image_encoder_embeddings, resampled: perceiver_embeddings}
        check.exactly_one(boundary.caller, **given)
        vision, rngs = self.config.vision_config, resolved["rngs"]
        if perceiver_embeddings is not None:
            if self.perceiver_resampler is None:
                raise InputError(f"{boundary.caller}: {resampled} are given, but the config has use_resampler=False")
            return boundary.image_states(resampled, perceiver_embeddings, width=vision.embed_dim)
        if image_encoder_embeddings is not None:
            states = boundary.image_states(encoded, image_encoder_embeddings, width=vision.embed_dim)
            batch, images = states.shape[:2]
            states = ops.xp.reshape(states, (batch * images, *states.shape[2:]))
        else:
            any_size = boundary.switch("interpolate_pos_encoding", interpolate_pos_encoding)
            size = None if any_size else vision.image_shape
            least, channels = vision.patch_shape, vision.num_channels
            pixels = boundary.image_sequences(pixel_values, channels=channels, size=size, least=least)
            batch, images = pixels.shape[:2]
            pixels = ops.xp.reshape(pixels, (batch * images, *pixels.shape[2:]))
            grid = vision.patch_grid_of(*pixels.shape[2:])
            options = LayerInputs(output_attentions=resolved["output_attentions"], rngs=rngs)
            states = self.vision_model(pixels, grid, options, output_hidden_states=False).last_hidden_state
        if self.perceiver_resampler is not None:
            states = self.perceiver_resampler(states, rngs)
        return ops.xp.reshape(states, (batch, images, *states.shape[1:]))


class IdeficsForVisionText2Text(GenerationMixin, PreTrainedModel):
    """The decoder with a head that predicts the next token."""

    def __init__(self, config: IdeficsConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.model = IdeficsModel(config, seed=None, **init)
        self.lm_head = output_layer(config, **init)
        self._finish(build)

    @property
    def prompt_inputs(self) -> tuple[ModelInput, ...]:
        """The keyword inputs of `generate`: prompts, and their images as pixels or as states."""
        return (
            inputs.INPUT_IDS,
            inputs.ATTENTION_MASK,
            inputs.INPUTS_EMBEDS,
            inputs.IMAGE_SEQUENCES,
            inputs.IMAGE_ENCODER_EMBEDDINGS,
            inputs.PERCEIVER_EMBEDDINGS,
            inputs.IMAGE_ATTENTION_MASK,
            inputs.INTERPOLATE_POS_ENCODING,
        )

    @passes_through(IdeficsModel)
    def __call__(
        self, *inputs: Any, labels: Any = None, logits_to_keep: Any = 0, **keywords: Any
    ) -> IdeficsCausalLMOutputWithPast | tuple[Any, ...]:
        """As `IdeficsModel`, and:

        Args:
            labels: (B, T) token ids, -100 = ignored; each token predicts the next one.
            logits_to_keep: compute logits for this many last tokens only, 0 for all; or an array of positions.
        """
        outputs: Any = self.model(**self._base_keywords(inputs, keywords))
        states = self._tokens_to_keep(outputs.last_hidden_state, logits_to_keep)
        words, size = self.model.embed_tokens, self.config.total_vocab_size
        logits = layers.tied_logits(states, words, size) if self.lm_head is None else self.lm_head(states)
        return self._with_head(IdeficsCausalLMOutputWithPast, outputs, logits, labels, next_token_loss, keywords)

    def _first_step_inputs(
        self, plan: Plan, traced: TracedOptions, prompt: Prompt
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        first, later = super()._first_step_inputs(plan, traced, prompt)
        mask = (prompt.extras or {}).get("image_attention_mask")
        if mask is not None:  # new tokens see what the last one of their prompt sees
            later = {**later, "image_attention_mask": self._last_prompt_row(traced, mask)}
        return first, later
