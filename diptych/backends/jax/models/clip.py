"""CLIP (Radford et al. 2021, arXiv:2103.00020), as published in openai/clip-vit-base-patch32."""

from typing import Any, Unpack

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from diptych.backends.jax import layers, ops
from diptych.backends.jax.pretrained import Build, PreTrainedModel
from diptych.core import check
from diptych.core.models.clip import (
    CLIPConfig,
    CLIPOutput,
    CLIPTextConfig,
    CLIPTextModelOutput,
    CLIPVisionConfig,
    CLIPVisionModelOutput,
)
from diptych.core.outputs import BaseModelOutput, BaseModelOutputWithPooling, ImageClassifierOutput
from diptych.core.pretrained import Switches
from diptych.core.semantics import losses, masks, positions, resize


class CLIPAttention(nnx.Module):
    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig, **init: Unpack[ops.Init]) -> None:
        self.heads = config.num_attention_heads
        self.k_proj = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.v_proj = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.q_proj = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.out_proj = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.dropout = layers.Dropout(config.attention_dropout)

    def __call__(
        self,
        hidden_states: Float[Array, "B T D"],
        mask: Bool[Array, "#B 1 T T"] | None,
        *,
        causal: bool = False,
        weights: bool = False,
        rngs: Any = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N T T"] | None]:
        query, key, value = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        query, key, value = (ops.split(states, self.heads) for states in (query, key, value))
        attended, probabilities = ops.attention(
            query, key, value, mask, causal=causal, dropout=self.dropout, rngs=rngs, weights=weights
        )
        return self.out_proj(attended), probabilities


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

    def __call__(
        self,
        hidden_states: Float[Array, "B T D"],
        mask: Bool[Array, "#B 1 T T"] | None,
        *,
        causal: bool = False,
        weights: bool = False,
        rngs: Any = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B N T T"] | None]:
        normed = self.layer_norm1(hidden_states)
        attended, probabilities = self.self_attn(normed, mask, causal=causal, weights=weights, rngs=rngs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.layer_norm2(hidden_states)), probabilities


class CLIPEncoder(nnx.Module):
    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig, **init: Unpack[ops.Init]) -> None:
        self.layers = layers.ModuleList([CLIPEncoderLayer(config, **init) for _ in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False

    def __call__(
        self,
        hidden_states: Float[Array, "B T D"],
        mask: Bool[Array, "#B 1 T T"] | None,
        *,
        causal: bool = False,
        weights: bool = False,
        rngs: Any = None,
    ) -> BaseModelOutput:
        """The last layer's output, all of them after the embeddings, and the probabilities if weights are asked for."""
        states, attentions = [hidden_states], []
        for layer in self.layers:
            run = ops.checkpointed(layer, self.gradient_checkpointing)
            hidden_states, probabilities = run(hidden_states, mask, causal=causal, weights=weights, rngs=rngs)
            states.append(hidden_states)
            attentions.append(probabilities)
        return BaseModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(states),
            attentions=tuple(attentions) if weights else None,
        )


class CLIPTextEmbeddings(nnx.Module):
    def __init__(self, config: CLIPTextConfig, **init: Unpack[ops.Init]) -> None:
        self.token_embedding = layers.Embedding(config.vocab_size, config.hidden_size, **init)
        self.position_embedding = layers.Embedding(config.max_position_embeddings, config.hidden_size, **init)

    def __call__(self, input_ids: Int[Array, "B T"], position_ids: Int[Array, "#B T"]) -> Float[Array, "B T D"]:
        return self.token_embedding(input_ids) + self.position_embedding(position_ids)


class CLIPVisionEmbeddings(nnx.Module):
    def __init__(self, config: CLIPVisionConfig, **init: Unpack[ops.Init]) -> None:
        width, size = config.hidden_size, config.patch_size
        self.patch_size = size
        self.class_embedding = layers.parameter((width,), **init)
        self.patch_embedding = layers.Conv2d(config.num_channels, width, size, stride=size, bias=False, **init)
        self.position_embedding = layers.Embedding(config.num_positions, width, **init)

    def __call__(
        self, pixel_values: Float[Array, "B C Y X"], grid: tuple[int, int] | None = None
    ) -> Float[Array, "B P D"]:
        """The class token and the patches; `grid` is the (rows, columns) of patches to resample the positions for."""
        patches = self.patch_embedding.patches(pixel_values)
        first = ops.xp.broadcast_to(
            layers.value(self.class_embedding, patches), (patches.shape[0], 1, patches.shape[2])
        )
        table = self.position_embedding.rows(patches)
        if grid is not None:
            side = round((table.shape[0] - 1) ** 0.5)
            resampled = ops.resized(table[1:], resize.bicubic(side, grid[0]), resize.bicubic(side, grid[1]))
            table = ops.xp.concat([table[:1], resampled], axis=0)
        return ops.xp.concat([first, patches], axis=1) + table[None]


class CLIPTextTransformer(nnx.Module):
    def __init__(self, config: CLIPTextConfig, **init: Unpack[ops.Init]) -> None:
        self.embeddings = CLIPTextEmbeddings(config, **init)
        self.encoder = CLIPEncoder(config, **init)
        self.final_layer_norm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)

    def __call__(
        self,
        input_ids: Int[Array, "B T"],
        attention_mask: Array | None,
        position_ids: Int[Array, "#B T"],
        eos_token_id: int | None,
        *,
        weights: bool = False,
        rngs: Any = None,
    ) -> BaseModelOutputWithPooling:
        mask = None
        if attention_mask is not None:
            steps = ops.steps(input_ids.shape[1], input_ids)
            mask = masks.causal_padding(ops.xp, steps, attention_mask)
        hidden_states = self.embeddings(input_ids, position_ids)
        encoded = self.encoder(hidden_states, mask, causal=mask is None, weights=weights, rngs=rngs)
        last_hidden_state = self.final_layer_norm(encoded.last_hidden_state)
        end = positions.end_of_text(ops.xp, input_ids, eos_token_id)
        return BaseModelOutputWithPooling(
            last_hidden_state=last_hidden_state,
            pooler_output=ops.at_row(last_hidden_state, end),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class CLIPVisionTransformer(nnx.Module):
    def __init__(self, config: CLIPVisionConfig, **init: Unpack[ops.Init]) -> None:
        self.embeddings = CLIPVisionEmbeddings(config, **init)
        self.pre_layrnorm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)  # published spelling
        self.encoder = CLIPEncoder(config, **init)
        self.post_layernorm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)

    def __call__(
        self,
        pixel_values: Float[Array, "B C Y X"],
        grid: tuple[int, int] | None = None,
        *,
        weights: bool = False,
        rngs: Any = None,
    ) -> BaseModelOutputWithPooling:
        hidden_states = self.pre_layrnorm(self.embeddings(pixel_values, grid))
        encoded = self.encoder(hidden_states, None, weights=weights, rngs=rngs)
        return BaseModelOutputWithPooling(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=self.post_layernorm(encoded.last_hidden_state[:, 0]),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class CLIPPreTrainedModel(PreTrainedModel):
    """What CLIP's models share: how their towers are called."""

    text_model: CLIPTextTransformer
    vision_model: CLIPVisionTransformer

    def _text(
        self, input_ids: Any, attention_mask: Any, position_ids: Any, config: CLIPTextConfig, switches: Switches
    ) -> BaseModelOutputWithPooling:
        """Checks a batch of texts and runs the text tower on it."""
        where, like = type(self).__name__, self._like()
        if input_ids is None:
            raise check.needed(where, "input_ids")
        size, limit = config.vocab_size, config.max_position_embeddings
        ids = ops.boundary_ids(where, "input_ids", input_ids, "batch, tokens", like, size=size, table="vocab_size")
        batch, length = ids.shape
        check.has_tokens(where, length)
        if position_ids is None:
            check.at_most(where, "the number of tokens", length, limit, "max_position_embeddings")
            position_ids = positions.sequential(ops.xp, ops.steps(length, like))
        else:
            table = "max_position_embeddings"
            position_ids = ops.boundary_ids(
                where, "position_ids", position_ids, "batch, tokens", like, size=limit, table=table
            )
            rows = 1 if position_ids.shape[0] == 1 else batch
            check.shape(where, "position_ids", position_ids.shape, (rows, length), ", as many as there are tokens")
        if attention_mask is not None:
            attention_mask = ops.boundary_mask(where, "attention_mask", attention_mask, (batch, length), like)
        return self._tower(self.text_model, (ids, attention_mask, position_ids, config.eos_token_id), switches)

    def _vision(
        self, pixel_values: Any, interpolate_pos_encoding: bool, config: CLIPVisionConfig, switches: Switches
    ) -> BaseModelOutputWithPooling:
        """Checks a batch of images and runs the vision tower on it."""
        where, like, axes = type(self).__name__, self._like(), "batch, channels, height, width"
        if pixel_values is None:
            raise check.needed(where, "pixel_values")
        pixels = ops.boundary_floats(where, "pixel_values", pixel_values, axes, like)
        batch, _, height, width = pixels.shape
        size, patch, grid = config.image_size, config.patch_size, None
        if interpolate_pos_encoding:
            check.shape(where, "pixel_values", pixels.shape, (batch, config.num_channels, height, width))
            check.at_least(where, "pixel_values' smaller side", min(height, width), patch, "patch_size")
            grid = (height // patch, width // patch) if (height, width) != (size, size) else None
        else:
            why = ", or interpolate_pos_encoding=True"
            check.shape(where, "pixel_values", pixels.shape, (batch, config.num_channels, size, size), why)
        return self._tower(self.vision_model, (pixels, grid), switches)

    def _tower(self, tower: Any, inputs: tuple[Any, ...], switches: Switches) -> BaseModelOutputWithPooling:
        """Runs a tower; hidden states only if they are asked for."""
        settled = self._inner(switches)
        ops.boundary_rngs(type(self).__name__, settled["rngs"])
        output = tower(*inputs, weights=settled["output_attentions"], rngs=settled["rngs"])
        return output if settled["output_hidden_states"] else output.replace(hidden_states=None)


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
            attention_mask: (B, T), 1 = attend; all are attended to without it. Attention is causal in any case.
            position_ids: (B, T) or (1, T), counted from 0 without it.
            switches: see `Switches`.

        Raises:
            InputError: an argument has another dtype or shape, or an id is out of range.
        """
        output = self._text(input_ids, attention_mask, position_ids, self.config, switches)
        return self._returned(output, switches.get("return_dict"))


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
        outputs = self._text(input_ids, attention_mask, position_ids, self.config, switches)
        output = CLIPTextModelOutput(
            text_embeds=self.text_projection(outputs.pooler_output),
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return self._returned(output, switches.get("return_dict"))


class CLIPVisionModel(CLIPPreTrainedModel):
    """The vision tower."""

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
            interpolate_pos_encoding: takes images of another size than the config's and resamples the positions.
            switches: see `Switches`.

        Raises:
            InputError: an argument has another dtype or shape.
        """
        output = self._vision(pixel_values, interpolate_pos_encoding, self.config, switches)
        return self._returned(output, switches.get("return_dict"))


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
        outputs = self._vision(pixel_values, interpolate_pos_encoding, self.config, switches)
        output = CLIPVisionModelOutput(
            image_embeds=self.visual_projection(outputs.pooler_output),
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return self._returned(output, switches.get("return_dict"))


class CLIPModel(CLIPPreTrainedModel):
    """Both towers, their projections, and the scale of their similarities."""

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
        """The projected text vectors, not normalised; arguments as `CLIPTextModel`."""
        text = self.config.text_config
        outputs = self._text(input_ids, attention_mask, position_ids, text, {"rngs": rngs})
        return self.text_projection(outputs.pooler_output)

    def get_image_features(
        self, pixel_values: Any = None, interpolate_pos_encoding: bool = False, *, rngs: Any = None
    ) -> Float[Array, "B E"]:
        """The projected image vectors, not normalised; arguments as `CLIPVisionModel`."""
        outputs = self._vision(pixel_values, interpolate_pos_encoding, self.config.vision_config, {"rngs": rngs})
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
            return_loss: the contrastive loss too, for as many texts as images, the k-th text with the k-th image.

        Raises:
            InputError: an argument has another dtype or shape, an id is out of range, or a loss is asked for and the
                numbers of texts and images differ.
        """
        config = self.config
        vision = self._vision(pixel_values, interpolate_pos_encoding, config.vision_config, switches)
        text = self._text(input_ids, attention_mask, position_ids, config.text_config, switches)
        vision = vision.replace(pooler_output=self.visual_projection(vision.pooler_output))
        text = text.replace(pooler_output=self.text_projection(text.pooler_output))
        image_embeds = vision.pooler_output / ops.norm(vision.pooler_output)
        text_embeds = text.pooler_output / ops.norm(text.pooler_output)
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
        return self._returned(output, switches.get("return_dict"))


class CLIPForImageClassification(CLIPPreTrainedModel):
    """The vision tower with a linear layer over the mean of its patches, which no layer norm has passed."""

    def __init__(self, config: CLIPConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        width = config.vision_config.hidden_size
        self.vision_model = CLIPVisionTransformer(config.vision_config, **init)
        self.classifier = layers.Linear(width, config.num_labels, **init) if config.num_labels > 0 else None
        self._finish(build)

    def __call__(
        self,
        pixel_values: Any = None,
        labels: Any = None,
        interpolate_pos_encoding: bool = False,
        **switches: Unpack[Switches],
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """As `CLIPVisionModel`, and:

        Args:
            labels: (B,) class ids; (B, num_labels) floats for several labels; (B,) or (B, num_labels) to regress.
        """
        outputs = self._vision(pixel_values, interpolate_pos_encoding, self.config.vision_config, switches)
        pooled = ops.xp.mean(outputs.last_hidden_state[:, 1:], axis=1)
        logits = pooled if self.classifier is None else self.classifier(pooled)
        loss = None
        if labels is not None:
            kind = self.config.problem_type
            labels = ops.boundary_targets(type(self).__name__, "labels", labels, logits, kind)
            loss = losses.classification(ops.xp, logits, labels, kind)
        output = ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        return self._returned(output, switches.get("return_dict"))
