"""CLIP (Radford et al. 2021, arXiv:2103.00020), as published in openai/clip-vit-base-patch32."""

from typing import Any, Unpack

from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from diptych.backends.jax import layers, ops
from diptych.backends.jax.pretrained import Build, PreTrainedModel
from diptych.backends.jax.stacks import AttentionOutput, LayerInputs, LayerOutput, run_layers, self_attention
from diptych.core import caching, check
from diptych.core.calls import Switches
from diptych.core.inputs import INTERPOLATE_POS_ENCODING, PIXEL_VALUES, ModelInput
from diptych.core.models.clip import (
    CLIPConfig,
    CLIPOutput,
    CLIPTextConfig,
    CLIPTextModelOutput,
    CLIPVisionConfig,
    CLIPVisionModelOutput,
)
from diptych.core.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    with_head,
)
from diptych.core.semantics import losses, masks, positions, resize


class CLIPAttention(nnx.Module):
    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig, **init: Unpack[ops.Init]) -> None:
        self.heads = config.num_attention_heads
        self.k_proj = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.v_proj = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.q_proj = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.out_proj = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.dropout = layers.Dropout(config.attention_dropout)

    def __call__(self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs) -> AttentionOutput:
        query, key, value = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        query, key, value = (ops.split_heads(states, self.heads) for states in (query, key, value))
        attended = self_attention(query, key, value, inputs, None, dropout=self.dropout)
        return attended._replace(states=self.out_proj(attended.states))


class CLIPMLP(nnx.Module):
    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig, **init: Unpack[ops.Init]) -> None:
        self.activation = ops.ACTIVATIONS[config.hidden_act]
        self.fc1 = layers.Linear(config.hidden_size, config.intermediate_size, **init)
        self.fc2 = layers.Linear(config.intermediate_size, config.hidden_size, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class CLIPEncoderLayer(nnx.Module):
    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig, **init: Unpack[ops.Init]) -> None:
        self.self_attn = CLIPAttention(config, **init)
        self.layer_norm1 = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.mlp = CLIPMLP(config, **init)
        self.layer_norm2 = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)

    def __call__(self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs, past: None = None) -> LayerOutput:
        states, attention, _ = self.self_attn(self.layer_norm1(hidden_states), inputs)
        hidden_states = hidden_states + states
        return LayerOutput(hidden_states + self.mlp(self.layer_norm2(hidden_states)), attention)


class CLIPEncoder(nnx.Module):
    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig, **init: Unpack[ops.Init]) -> None:
        self.layers = layers.ModuleList([CLIPEncoderLayer(config, **init) for _ in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False

    def __call__(
        self, hidden_states: Float[Array, "B T D"], inputs: LayerInputs, *, output_hidden_states: bool
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        return run_layers(
            self.layers,
            hidden_states,
            inputs,
            output_hidden_states=output_hidden_states,
            gradient_checkpointing=self.gradient_checkpointing,
        )


class CLIPTextEmbeddings(nnx.Module):
    def __init__(self, config: CLIPTextConfig, **init: Unpack[ops.Init]) -> None:
        self.token_embedding = layers.Embedding(config.vocab_size, config.hidden_size, **init)
        self.position_embedding = layers.Embedding(config.max_position_embeddings, config.hidden_size, **init)

    def __call__(self, input_ids: Int[Array, "B T"], position_ids: Int[Array, "#B T"]) -> Float[Array, "B T D"]:
        return self.token_embedding(input_ids) + self.position_embedding(position_ids)


class CLIPVisionEmbeddings(nnx.Module):
    def __init__(self, config: CLIPVisionConfig, **init: Unpack[ops.Init]) -> None:
        width, patch = config.hidden_size, config.patch_shape
        self.grid, self.num_positions = config.patch_grid, config.num_positions
        self.class_embedding = layers.parameter((width,), **init)
        self.patch_embedding = layers.Conv2d(config.num_channels, width, patch, stride=patch, bias=False, **init)
        self.position_embedding = layers.Embedding(config.num_positions, width, **init)

    def __call__(self, pixel_values: Float[Array, "B C Y X"], grid: tuple[int, int]) -> Float[Array, "B P D"]:
        """The class token and the patches, of which there are `grid` (rows, columns)."""
        patches = layers.patches(self.patch_embedding, pixel_values)
        first = ops.xp.broadcast_to(
            layers.value(self.class_embedding, patches), (patches.shape[0], 1, patches.shape[2])
        )
        table = layers.embedding_rows(self.position_embedding, self.num_positions, patches)
        table = self.resize_positions(table, grid, (pixel_values.shape[2], pixel_values.shape[3]))
        return ops.xp.concat([first, patches], axis=1) + table[None]

    def resize_positions(
        self, table: Float[Array, "P D"], grid: tuple[int, int], size: tuple[int, int]
    ) -> Float[Array, "Q D"]:
        """The positions of a `grid` of (rows, columns) of patches, of images of this height and width."""
        return resize.position_table(ops, table, self.grid, grid, special=1)


class CLIPTextTransformer(nnx.Module):
    def __init__(self, config: CLIPTextConfig, **init: Unpack[ops.Init]) -> None:
        self.embeddings = CLIPTextEmbeddings(config, **init)
        self.encoder = CLIPEncoder(config, **init)
        self.final_layer_norm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)

    def __call__(
        self,
        input_ids: Int[Array, "B T"],
        position_ids: Int[Array, "#B T"],
        end: Int[Array, "B"],
        inputs: LayerInputs,
        *,
        output_hidden_states: bool,
    ) -> BaseModelOutputWithPooling:
        """Encodes texts; the pooled output is the state at `end`."""
        states = self.embeddings(input_ids, position_ids)
        outputs = self.encoder(states, inputs, output_hidden_states=output_hidden_states)
        states = self.final_layer_norm(outputs.last_hidden_state)
        pooled = ops.gather_rows(states, end)
        return with_head(BaseModelOutputWithPooling, outputs, last_hidden_state=states, pooler_output=pooled)


class CLIPVisionTransformer(nnx.Module):
    def __init__(self, config: CLIPVisionConfig, **init: Unpack[ops.Init]) -> None:
        self.embeddings = CLIPVisionEmbeddings(config, **init)
        self.pre_layrnorm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)  # published spelling
        self.encoder = CLIPEncoder(config, **init)
        self.post_layernorm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)

    def __call__(
        self,
        pixel_values: Float[Array, "B C Y X"],
        grid: tuple[int, int],
        inputs: LayerInputs,
        *,
        output_hidden_states: bool,
    ) -> BaseModelOutputWithPooling:
        """Encodes images, of which each has a `grid` of (rows, columns) of patches."""
        states = self.pre_layrnorm(self.embeddings(pixel_values, grid))
        outputs = self.encoder(states, inputs, output_hidden_states=output_hidden_states)
        pooled = self.post_layernorm(outputs.last_hidden_state[:, 0])
        return with_head(BaseModelOutputWithPooling, outputs, pooler_output=pooled)


class CLIPPreTrainedModel(PreTrainedModel):
    """The base of all CLIP models: checks a call's arguments and passes them to the towers."""

    text_model: CLIPTextTransformer
    vision_model: CLIPVisionTransformer

    def _text(
        self, config: CLIPTextConfig, input_ids: Any, attention_mask: Any, position_ids: Any, switches: Switches
    ) -> BaseModelOutputWithPooling:
        """Checks a batch of texts and runs the text tower on it."""
        resolved, boundary = self._resolve_switches(switches), self._boundary()
        if input_ids is None:
            raise check.missing_argument(boundary.caller, "input_ids")
        ids = boundary.ids("input_ids", input_ids, size=config.vocab_size, table="vocab_size")
        size = (ids.shape[0], ids.shape[1])
        check.has_tokens(boundary.caller, size[1])
        position_ids = caching.position_ids(boundary, position_ids, 0, size, limit=config.max_position_embeddings)
        mask = None
        if attention_mask is not None:
            attention_mask = boundary.mask("attention_mask", attention_mask, size)
            mask = masks.causal_padding(ops.xp, ops.steps(size[1], ids), attention_mask)
        end = positions.end_of_text(ops.xp, ids, config.eos_token_id)
        boundary.rngs(resolved["rngs"])
        weights, switch = resolved["output_attentions"], resolved["output_hidden_states"]
        inputs = LayerInputs(mask=mask, causal=True, output_attentions=weights, rngs=resolved["rngs"])
        return self.text_model(ids, position_ids, end, inputs, output_hidden_states=switch)

    def _vision(
        self, config: CLIPVisionConfig, pixel_values: Any, interpolate_pos_encoding: bool, switches: Switches
    ) -> BaseModelOutputWithPooling:
        """Checks a batch of images and runs the vision tower on it."""
        resolved, boundary = self._resolve_switches(switches), self._boundary()
        size = None if boundary.switch("interpolate_pos_encoding", interpolate_pos_encoding) else config.image_shape
        pixels = boundary.images(pixel_values, channels=config.num_channels, size=size, least=config.patch_shape)
        grid = config.patch_grid_of(*pixels.shape[2:])
        boundary.rngs(resolved["rngs"])
        weights, switch = resolved["output_attentions"], resolved["output_hidden_states"]
        inputs = LayerInputs(output_attentions=weights, rngs=resolved["rngs"])
        return self.vision_model(pixels, grid, inputs, output_hidden_states=switch)


class CLIPTextModel(CLIPPreTrainedModel):
    """The text tower."""

    def __init__(self, config: CLIPTextConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.text_model = CLIPTextTransformer(config, **init)
        self._finish(build)

    def __call__(
        self, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None, **switches: Unpack[Switches]
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Encodes a batch of texts.

        Args:
            input_ids: (B, T) integers.
            attention_mask: (B, T), 1 = attend; by default all are attended to. Attention is always causal.
            position_ids: (B, T) or (1, T); by default counted from 0.
            switches: see `Switches`.

        Raises:
            InputError: an argument has the wrong dtype or shape, or an id is out of range.
        """
        output = self._text(self.config, input_ids, attention_mask, position_ids, switches)
        return self._format_output(output, switches.get("return_dict"))


class CLIPTextModelWithProjection(CLIPPreTrainedModel):
    """The text tower and its projection into the space that texts and images share."""

    def __init__(self, config: CLIPTextConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.text_model = CLIPTextTransformer(config, **init)
        self.text_projection = layers.Linear(config.hidden_size, config.projection_dim, bias=False, **init)
        self._finish(build)

    def __call__(
        self, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None, **switches: Unpack[Switches]
    ) -> CLIPTextModelOutput | tuple[Any, ...]:
        """As `CLIPTextModel`."""
        outputs = self._text(self.config, input_ids, attention_mask, position_ids, switches)
        output = with_head(CLIPTextModelOutput, outputs, text_embeds=self.text_projection(outputs.pooler_output))
        return self._format_output(output, switches.get("return_dict"))


class CLIPVisionModel(CLIPPreTrainedModel):
    """The vision tower."""

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The keyword inputs of the model as an encoder: images, whose states have no mask."""
        return (PIXEL_VALUES, INTERPOLATE_POS_ENCODING)

    def __init__(self, config: CLIPVisionConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.vision_model = CLIPVisionTransformer(config, **init)
        self._finish(build)

    def __call__(
        self, pixel_values: Any = None, interpolate_pos_encoding: bool = False, **switches: Unpack[Switches]
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Encodes a batch of images.

        Args:
            pixel_values: (B, C, Y, X) floats.
            interpolate_pos_encoding: whether images may have another size than the config's; positions are resampled.
            switches: see `Switches`.

        Raises:
            InputError: an argument has the wrong dtype or shape.
        """
        output = self._vision(self.config, pixel_values, interpolate_pos_encoding, switches)
        return self._format_output(output, switches.get("return_dict"))


class CLIPVisionModelWithProjection(CLIPPreTrainedModel):
    """The vision tower and its projection into the space that texts and images share."""

    def __init__(self, config: CLIPVisionConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.vision_model = CLIPVisionTransformer(config, **init)
        self.visual_projection = layers.Linear(config.hidden_size, config.projection_dim, bias=False, **init)
        self._finish(build)

    def __call__(
        self, pixel_values: Any = None, interpolate_pos_encoding: bool = False, **switches: Unpack[Switches]
    ) -> CLIPVisionModelOutput | tuple[Any, ...]:
        """As `CLIPVisionModel`."""
        outputs = self._vision(self.config, pixel_values, interpolate_pos_encoding, switches)
        output = with_head(CLIPVisionModelOutput, outputs, image_embeds=self.visual_projection(outputs.pooler_output))
        return self._format_output(output, switches.get("return_dict"))


class CLIPModel(CLIPPreTrainedModel):
    """Both towers, their projections, and the learned scale of their similarities."""

    def __init__(self, config: CLIPConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        text, vision = config.text_config, config.vision_config
        self.text_model = CLIPTextTransformer(text, **init)
        self.vision_model = CLIPVisionTransformer(vision, **init)
        self.visual_projection = layers.Linear(vision.hidden_size, config.projection_dim, bias=False, **init)
        self.text_projection = layers.Linear(text.hidden_size, config.projection_dim, bias=False, **init)
        self.logit_scale = layers.parameter((), **init)
        self._finish(build)

    def get_text_features(
        self, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None, *, rngs: Any = None
    ) -> Float[Array, "B E"]:
        """The projected text vectors, not normalized; arguments as `CLIPTextModel`."""
        text = self.config.text_config
        outputs = self._text(text, input_ids, attention_mask, position_ids, {"rngs": rngs})
        return self.text_projection(outputs.pooler_output)

    def get_image_features(
        self, pixel_values: Any = None, interpolate_pos_encoding: bool = False, *, rngs: Any = None
    ) -> Float[Array, "B E"]:
        """The projected image vectors, not normalized; arguments as `CLIPVisionModel`."""
        vision = self.config.vision_config
        outputs = self._vision(vision, pixel_values, interpolate_pos_encoding, {"rngs": rngs})
        return self.visual_projection(outputs.pooler_output)

    def __call__(
        self,
        input_ids: Any = None,
        pixel_values: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        return_loss: bool = False,
        interpolate_pos_encoding: bool = False,
        **switches: Unpack[Switches],
    ) -> CLIPOutput | tuple[Any, ...]:
        """Compares every text with every image; arguments as `CLIPTextModel` and `CLIPVisionModel`, and:

        Args:
            return_loss: whether to compute the contrastive loss, in which the k-th text belongs to the k-th image.

        Raises:
            InputError: an argument has the wrong dtype or shape, an id is out of range, or a loss is asked for and the
                numbers of texts and images differ.
        """
        config, return_loss = self.config, self._boundary().switch("return_loss", return_loss)
        vision = self._vision(config.vision_config, pixel_values, interpolate_pos_encoding, switches)
        text = self._text(config.text_config, input_ids, attention_mask, position_ids, switches)
        vision = vision.replace(pooler_output=self.visual_projection(vision.pooler_output))
        text = text.replace(pooler_output=self.text_projection(text.pooler_output))
        image_embeds = vision.pooler_output / ops.vector_norm(vision.pooler_output)
        text_embeds = text.pooler_output / ops.vector_norm(text.pooler_output)
        similarities = ops.xp.matmul(text_embeds, ops.xp.matrix_transpose(image_embeds))
        logits_per_text = similarities * ops.xp.exp(layers.value(self.logit_scale, text_embeds))
        loss = None
        if return_loss:
            texts, images = logits_per_text.shape
            check.shape(type(self).__name__, "input_ids' batch", (texts,), (images,), ": one text for each image")
            loss = losses.contrastive(ops.xp, logits_per_text, ops.steps(texts, logits_per_text))
        output = CLIPOutput(
            loss=loss,
            logits_per_image=ops.xp.matrix_transpose(logits_per_text),
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text,
            vision_model_output=vision,
        )
        return self._format_output(output, switches.get("return_dict"))


class CLIPForImageClassification(CLIPPreTrainedModel):
    """The vision tower with a linear layer over the mean of its patches, before the final layer norm."""

    def __init__(self, config: CLIPConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        width = config.vision_config.hidden_size
        self.vision_model = CLIPVisionTransformer(config.vision_config, **init)
        self.classifier = layers.Linear(width, config.num_labels, **init) if config.num_labels > 0 else None
        self._finish(build)

    def __call__(
        self,
        pixel_values: Any = None,
        interpolate_pos_encoding: bool = False,
        *,
        labels: Any = None,
        **switches: Unpack[Switches],
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """As `CLIPVisionModel`, and:

        Args:
            labels: (B,) class ids; (B, num_labels) floats for multi-label; (B,) or (B, num_labels) for regression.
        """
        outputs = self._vision(self.config.vision_config, pixel_values, interpolate_pos_encoding, switches)
        pooled = ops.xp.mean(outputs.last_hidden_state[:, 1:], axis=1)
        logits = pooled if self.classifier is None else self.classifier(pooled)
        return self._with_head(ImageClassifierOutput, outputs, logits, labels, self._class_loss, switches)
