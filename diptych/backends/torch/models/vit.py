"""ViT (Dosovitskiy et al. 2020, arXiv:2010.11929), as published in google/vit-base-patch16-224."""

from typing import Any, Unpack

from jaxtyping import Bool, Float
from torch import Tensor, nn

from diptych.backends.torch import layers, ops
from diptych.backends.torch.pretrained import Build, PreTrainedModel
from diptych.backends.torch.stacks import AttentionOutput, LayerInputs, LayerOutput, run_layers, self_attention
from diptych.core.calls import Switches, passes_through, reconstruction_loss
from diptych.core.inputs import INTERPOLATE_POS_ENCODING, PIXEL_VALUES, ModelInput
from diptych.core.models.vit import ViTConfig, ViTStackConfig
from diptych.core.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
    with_head,
)
from diptych.core.semantics import patches, resize


class ViTSelfAttention(nn.Module):
    def __init__(self, config: ViTConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = layers.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias, **init)
        self.key = layers.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias, **init)
        self.value = layers.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias, **init)
        self.dropout = layers.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden_states: Float[Tensor, "B T D"], inputs: LayerInputs) -> AttentionOutput:
        query, key, value = self.query(hidden_states), self.key(hidden_states), self.value(hidden_states)
        query, key, value = (ops.split_heads(states, self.heads) for states in (query, key, value))
        return self_attention(query, key, value, inputs, None, dropout=self.dropout)


class ViTOutput(nn.Module):
    """The output of attention or an MLP, before the residual: a linear layer and dropout."""

    def __init__(self, config: ViTStackConfig, features: int, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.dense = layers.Linear(features, config.hidden_size, **init)
        self.dropout = layers.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Float[Tensor, "B T F"], rngs: Any = None) -> Float[Tensor, "B T D"]:
        return self.dropout(self.dense(hidden_states), rngs)


class ViTAttention(nn.Module):
    def __init__(self, config: ViTConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.attention = ViTSelfAttention(config, **init)
        self.output = ViTOutput(config, config.hidden_size, **init)

    def forward(self, hidden_states: Float[Tensor, "B T D"], inputs: LayerInputs) -> AttentionOutput:
        attended = self.attention(hidden_states, inputs)
        return attended._replace(states=self.output(attended.states, inputs.rngs))


class ViTIntermediate(nn.Module):
    def __init__(self, config: ViTStackConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.activation = ops.ACTIVATIONS[config.hidden_act]
        self.dense = layers.Linear(config.hidden_size, config.intermediate_size, **init)

    def forward(self, hidden_states: Float[Tensor, "B T D"]) -> Float[Tensor, "B T F"]:
        return self.activation(self.dense(hidden_states))


class ViTLayer(nn.Module):
    def __init__(self, config: ViTConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.attention = ViTAttention(config, **init)
        self.intermediate = ViTIntermediate(config, **init)
        self.output = ViTOutput(config, config.intermediate_size, **init)
        self.layernorm_before = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.layernorm_after = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)

    def forward(self, hidden_states: Float[Tensor, "B T D"], inputs: LayerInputs, past: None = None) -> LayerOutput:
        states, attention, _ = self.attention(self.layernorm_before(hidden_states), inputs)
        hidden_states = hidden_states + states
        states = self.output(self.intermediate(self.layernorm_after(hidden_states)), inputs.rngs)
        return LayerOutput(hidden_states + states, attention)


class ViTEncoder(nn.Module):
    def __init__(self, config: ViTConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.layer = layers.ModuleList([ViTLayer(config, **init) for _ in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False

    def forward(
        self, hidden_states: Float[Tensor, "B T D"], inputs: LayerInputs, *, output_hidden_states: bool
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        return run_layers(
            self.layer,
            hidden_states,
            inputs,
            output_hidden_states=output_hidden_states,
            gradient_checkpointing=self.gradient_checkpointing,
        )


class ViTPatchEmbeddings(nn.Module):
    def __init__(self, config: ViTStackConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        patch = config.patch_shape
        self.projection = layers.Conv2d(config.num_channels, config.hidden_size, patch, stride=patch, **init)

    def forward(self, pixel_values: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B P D"]:
        return layers.patches(self.projection, pixel_values)


class ViTEmbeddings(nn.Module):
    def __init__(self, config: ViTConfig, *, use_mask_token: bool = False, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.grid, width = config.patch_grid, config.hidden_size
        self.cls_token = layers.parameter((1, 1, width), **init)
        self.distillation_token = layers.parameter((1, 1, width), **init) if config.special_tokens == 2 else None
        self.mask_token = layers.parameter((1, 1, width), **init) if use_mask_token else None
        self.patch_embeddings = ViTPatchEmbeddings(config, **init)
        self.position_embeddings = layers.parameter((1, config.num_positions, width), **init)
        self.dropout = layers.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        pixel_values: Float[Tensor, "B C Y X"],
        masked: Bool[Tensor, "B P"] | None,
        grid: tuple[int, int],
        rngs: Any = None,
    ) -> Float[Tensor, "B T D"]:
        """The special tokens and the patches, of which there are `grid` (rows, columns), some of them masked."""
        states = self.patch_embeddings(pixel_values)
        if masked is not None:
            states = ops.xp.where(masked[..., None], layers.value(self.mask_token, states), states)
        special = [layers.value(self.cls_token, states)]
        if self.distillation_token is not None:
            special.append(layers.value(self.distillation_token, states))
        table = layers.value(self.position_embeddings, states)[0]
        table = resize.position_table(ops, table, self.grid, grid, special=len(special))
        rows = [ops.xp.broadcast_to(token, (states.shape[0], 1, states.shape[2])) for token in special]
        return self.dropout(ops.xp.concat([*rows, states], axis=1) + table[None], rngs)


class ViTPooler(nn.Module):
    def __init__(self, config: ViTConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.activation = ops.ACTIVATIONS[config.pooler_act]
        self.dense = layers.Linear(config.hidden_size, config.pooled_width, **init)

    def forward(self, hidden_states: Float[Tensor, "B T D"]) -> Float[Tensor, "B F"]:
        return self.activation(self.dense(hidden_states[:, 0]))


class ViTModel(PreTrainedModel):
    """The encoder, with an optional pooler over the class token."""

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The keyword inputs of the model as an encoder: images, whose states have no mask."""
        return (PIXEL_VALUES, INTERPOLATE_POS_ENCODING)

    def __init__(
        self,
        config: ViTConfig,
        *,
        add_pooling_layer: bool = True,
        use_mask_token: bool = False,
        **build: Unpack[Build],
    ) -> None:
        init = self._begin(config, build)
        self.embeddings = ViTEmbeddings(config, use_mask_token=use_mask_token, **init)
        self.encoder = ViTEncoder(config, **init)
        self.layernorm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.pooler = ViTPooler(config, **init) if add_pooling_layer else None
        self._finish(build)

    def forward(
        self,
        pixel_values: Any = None,
        bool_masked_pos: Any = None,
        interpolate_pos_encoding: bool = False,
        **switches: Unpack[Switches],
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Encodes a batch of images.

        Args:
            pixel_values: (B, C, Y, X) floats.
            bool_masked_pos: (B, P), nonzero for the patches that the mask token replaces, row by row.
            interpolate_pos_encoding: whether images may have another size than the config's; positions are resampled.
            switches: see `Switches`.

        Raises:
            InputError: an argument has the wrong dtype or shape, or the model has no mask token.
        """
        resolved, boundary, config = self._resolve_switches(switches), self._boundary(), self.config
        size = None if boundary.switch("interpolate_pos_encoding", interpolate_pos_encoding) else config.image_shape
        pixels = boundary.images(pixel_values, channels=config.num_channels, size=size, least=config.patch_shape)
        grid, masked = config.patch_grid_of(*pixels.shape[2:]), None
        if bool_masked_pos is not None:
            wanted = (pixels.shape[0], grid[0] * grid[1])
            masked = boundary.masked_patches(bool_masked_pos, wanted, self.embeddings.mask_token)
        boundary.rngs(resolved["rngs"])
        inputs = LayerInputs(output_attentions=resolved["output_attentions"], rngs=resolved["rngs"])
        states = self.embeddings(pixels, masked, grid, inputs.rngs)
        outputs = self.encoder(states, inputs, output_hidden_states=resolved["output_hidden_states"])
        states = self.layernorm(outputs.last_hidden_state)
        pooled = None if self.pooler is None else self.pooler(states)
        output = with_head(BaseModelOutputWithPooling, outputs, last_hidden_state=states, pooler_output=pooled)
        return self._format_output(output, switches.get("return_dict"))


class ViTForMaskedImageModeling(PreTrainedModel):
    """The encoder with a linear layer that reconstructs the pixels of every patch."""

    def __init__(self, config: ViTConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.vit = ViTModel(config, add_pooling_layer=False, use_mask_token=True, seed=None, **init)
        pixels = config.encoder_stride**2 * config.num_channels
        self.decoder = layers.ModuleList([layers.Conv2d(config.hidden_size, pixels, 1, **init)])
        self._finish(build)

    def _base(self) -> ViTModel:
        return self.vit

    @passes_through(ViTModel)
    def forward(self, *inputs: Any, **keywords: Any) -> MaskedImageModelingOutput | tuple[Any, ...]:
        """As `ViTModel`; with `bool_masked_pos`, the loss of the masked patches is computed.

        Raises:
            InputError: as in `ViTModel`, or there are masked patches and their size is not the config's encoder_stride.
        """
        given = self._base_keywords(inputs, keywords)
        outputs: Any = self._base()(**given)
        boundary, config, loss = self._boundary(), self.config, None
        pixels = boundary.images(given["pixel_values"], channels=config.num_channels, size=None)
        grid = config.patch_grid_of(*pixels.shape[2:])
        states = patches.as_image(ops.xp, outputs.last_hidden_state[:, config.special_tokens :], grid)
        head: Any = self.decoder[0]
        made = patches.join_pixels(ops.xp, layers.patches(head, states), grid, config.encoder_stride)
        if (masked := given.get("bool_masked_pos")) is not None:
            wanted = (pixels.shape[0], grid[0] * grid[1])
            masked = boundary.masked_patches(masked, wanted, self._base().embeddings.mask_token)
            masked = ops.xp.reshape(masked, (-1, *grid))
            loss = reconstruction_loss(boundary, pixels, made, masked, config.patch_shape)
        output = with_head(MaskedImageModelingOutput, outputs, loss=loss, reconstruction=made)
        return self._format_output(output, keywords.get("return_dict"))


class ViTForImageClassification(PreTrainedModel):
    """The encoder with a linear layer over its class token."""

    def __init__(self, config: ViTConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.vit = ViTModel(config, add_pooling_layer=False, seed=None, **init)
        self.classifier = layers.Linear(config.hidden_size, config.num_labels, **init) if config.num_labels else None
        self._finish(build)

    def _base(self) -> ViTModel:
        return self.vit

    @passes_through(ViTModel, without=("bool_masked_pos",))
    def forward(self, *inputs: Any, labels: Any = None, **keywords: Any) -> ImageClassifierOutput | tuple[Any, ...]:
        """As `ViTModel`, and:

        Args:
            labels: (B,) class ids; (B, num_labels) floats for multi-label; (B,) or (B, num_labels) for regression.
        """
        outputs: Any = self._base()(**self._base_keywords(inputs, keywords))
        first = outputs.last_hidden_state[:, 0]
        logits = first if self.classifier is None else self.classifier(first)
        return self._with_head(ImageClassifierOutput, outputs, logits, labels, self._class_loss, keywords)
