"""BEiT (Bao et al. 2021, arXiv:2106.08254), as published in microsoft/beit-base-patch16-224."""

from typing import Any, Unpack

from jaxtyping import Bool, Float
from torch import Tensor, nn

from diptych.backends.torch import layers, ops
from diptych.backends.torch.models.vit import ViTIntermediate, ViTOutput, ViTPatchEmbeddings
from diptych.backends.torch.pretrained import Build, PreTrainedModel
from diptych.backends.torch.stacks import AttentionOutput, LayerInputs, LayerOutput, run_layers, self_attention
from diptych.core import check
from diptych.core.boundary import Boundary
from diptych.core.calls import ResolvedSwitches, Switches, passes_through
from diptych.core.inputs import INTERPOLATE_POS_ENCODING, PIXEL_VALUES, ModelInput
from diptych.core.models.beit import BeitConfig, BeitModelOutputWithPooling
from diptych.core.outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    ImageClassifierOutput,
    MaskedLMOutput,
    with_head,
)
from diptych.core.semantics import losses, positions, resize

Grid = tuple[int, int]
"""Rows and columns of patches."""


class BeitRelativePositionBias(nn.Module):
    """A bias of the attention scores for each distance in rows and columns between two patches."""

    def __init__(self, config: BeitConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.grid = config.patch_grid
        count = positions.distance_count(*self.grid) + positions.CLASS_TOKEN_DISTANCES
        self.relative_position_bias_table = layers.parameter((count, config.num_attention_heads), **init)

    def forward(self, grid: Grid, like: Float[Tensor, "*B"]) -> Float[Tensor, "1 N T T"]:
        """The bias of images with a `grid` of patches; the table is resampled if it is for another one."""
        table = layers.value(self.relative_position_bias_table, like)
        table = resize.distance_table(ops, table, self.grid, grid, special=positions.CLASS_TOKEN_DISTANCES)
        index = ops.indices(positions.patch_distances_with_class_token(*grid), like)
        bias = ops.xp.take(ops.xp.matrix_transpose(table), ops.xp.reshape(index, (-1,)), axis=1)
        return ops.xp.reshape(bias, (1, -1, *index.shape))


class BeitSelfAttention(nn.Module):
    def __init__(self, config: BeitConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.key = layers.Linear(config.hidden_size, config.hidden_size, bias=False, **init)
        self.value = layers.Linear(config.hidden_size, config.hidden_size, **init)
        self.dropout = layers.Dropout(config.attention_probs_dropout_prob)
        has_bias = config.use_relative_position_bias
        self.relative_position_bias = BeitRelativePositionBias(config, **init) if has_bias else None

    def forward(self, hidden_states: Float[Tensor, "B T D"], inputs: LayerInputs) -> AttentionOutput:
        query, key, value = self.query(hidden_states), self.key(hidden_states), self.value(hidden_states)
        query, key, value = (ops.split_heads(states, self.heads) for states in (query, key, value))
        bias = self.relative_position_bias
        bias = None if bias is None else bias(inputs.grid, hidden_states)
        return self_attention(query, key, value, inputs, None, bias=bias, dropout=self.dropout)


class BeitAttention(nn.Module):
    def __init__(self, config: BeitConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.attention = BeitSelfAttention(config, **init)
        self.output = ViTOutput(config, config.hidden_size, **init)

    def forward(self, hidden_states: Float[Tensor, "B T D"], inputs: LayerInputs) -> AttentionOutput:
        attended = self.attention(hidden_states, inputs)
        return attended._replace(states=self.output(attended.states, inputs.rngs))


class BeitLayer(nn.Module):
    def __init__(self, config: BeitConfig, index: int, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.attention = BeitAttention(config, **init)
        self.intermediate = ViTIntermediate(config, **init)
        self.output = ViTOutput(config, config.intermediate_size, **init)
        self.layernorm_before = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.layernorm_after = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.drop_path = layers.StochasticDepth(config.drop_path_of(index))
        self.lambda_1 = layers.parameter((config.hidden_size,), **init) if config.has_layer_scale else None
        self.lambda_2 = layers.parameter((config.hidden_size,), **init) if config.has_layer_scale else None

    def forward(self, hidden_states: Float[Tensor, "B T D"], inputs: LayerInputs, past: None = None) -> LayerOutput:
        branch, attention, _ = self.attention(self.layernorm_before(hidden_states), inputs)
        hidden_states = hidden_states + self._residual(branch, self.lambda_1, inputs.rngs)
        branch = self.output(self.intermediate(self.layernorm_after(hidden_states)), inputs.rngs)
        return LayerOutput(hidden_states + self._residual(branch, self.lambda_2, inputs.rngs), attention)

    def _residual(self, branch: Float[Tensor, "B T D"], scale: Any, rngs: Any) -> Float[Tensor, "B T D"]:
        """A branch's contribution to the hidden states, scaled by the layer's `scale`, if it has one."""
        if scale is not None:
            branch = branch * layers.value(scale, branch)[None, None]
        return self.drop_path(branch, rngs)


class BeitEncoder(nn.Module):
    def __init__(self, config: BeitConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        has_bias = config.use_shared_relative_position_bias
        self.relative_position_bias = BeitRelativePositionBias(config, **init) if has_bias else None
        self.layer = layers.ModuleList([BeitLayer(config, index, **init) for index in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False

    def forward(
        self, hidden_states: Float[Tensor, "B T D"], grid: Grid, switches: ResolvedSwitches
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        bias = self.relative_position_bias
        inputs = LayerInputs(
            bias=None if bias is None else bias(grid, hidden_states),
            grid=grid,
            output_attentions=switches["output_attentions"],
            rngs=switches["rngs"],
        )
        return run_layers(
            self.layer,
            hidden_states,
            inputs,
            output_hidden_states=switches["output_hidden_states"],
            gradient_checkpointing=self.gradient_checkpointing,
        )


class BeitEmbeddings(nn.Module):
    def __init__(self, config: BeitConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.grid, width = config.patch_grid, config.hidden_size
        rows, columns = self.grid
        self.cls_token = layers.parameter((1, 1, width), **init)
        self.mask_token = layers.parameter((1, 1, width), **init) if config.use_mask_token else None
        self.patch_embeddings = ViTPatchEmbeddings(config, **init)
        has_positions = config.use_absolute_position_embeddings
        self.position_embeddings = layers.parameter((1, rows * columns + 1, width), **init) if has_positions else None
        self.dropout = layers.Dropout(config.hidden_dropout_prob)

    def forward(
        self, pixel_values: Float[Tensor, "B C Y X"], masked: Bool[Tensor, "B P"] | None, grid: Grid, rngs: Any = None
    ) -> Float[Tensor, "B T D"]:
        """The class token and a `grid` of patches, some of them masked."""
        states = self.patch_embeddings(pixel_values)
        if masked is not None:
            states = ops.xp.where(masked[..., None], layers.value(self.mask_token, states), states)
        first = layers.value(self.cls_token, states)
        first = ops.xp.broadcast_to(first, (states.shape[0], 1, states.shape[2]))
        states = ops.xp.concat([first, states], axis=1)
        if self.position_embeddings is not None:
            table = layers.value(self.position_embeddings, states)[0]
            states = states + resize.position_table(ops, table, self.grid, grid, special=1)[None]
        return self.dropout(states, rngs)


class BeitPooler(nn.Module):
    def __init__(self, config: BeitConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        mean = config.use_mean_pooling
        self.layernorm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init) if mean else None

    def forward(self, hidden_states: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """The normalized mean of the patches, or the class token."""
        if self.layernorm is None:
            return hidden_states[:, 0]
        return self.layernorm(ops.xp.mean(hidden_states[:, 1:], axis=1))


class BeitModel(PreTrainedModel):
    """The encoder of images, with an optional pooler."""

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The keyword inputs of the model as an encoder: images, whose states have no mask."""
        return (PIXEL_VALUES, INTERPOLATE_POS_ENCODING)

    def __init__(self, config: BeitConfig, *, add_pooling_layer: bool = True, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        mean = config.use_mean_pooling
        self.embeddings = BeitEmbeddings(config, **init)
        self.encoder = BeitEncoder(config, **init)
        self.layernorm = None if mean else layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.pooler = BeitPooler(config, **init) if add_pooling_layer else None
        self._finish(build)

    def forward(
        self,
        pixel_values: Any = None,
        bool_masked_pos: Any = None,
        interpolate_pos_encoding: bool = False,
        **switches: Unpack[Switches],
    ) -> BeitModelOutputWithPooling | tuple[Any, ...]:
        """Encodes a batch of images of any size.

        Args:
            pixel_values: (B, C, Y, X) floats.
            bool_masked_pos: (B, P), nonzero for the patches that the mask token replaces, row by row.
            interpolate_pos_encoding: has no effect; positions are always resampled for images of another size.
            switches: see `Switches`.

        Raises:
            InputError: an argument has the wrong dtype or shape, or the model has no mask token.
        """
        resolved, boundary, config = self._resolve_switches(switches), self._boundary(), self.config
        boundary.switch("interpolate_pos_encoding", interpolate_pos_encoding)
        pixels = boundary.images(pixel_values, channels=config.num_channels, size=None, least=config.patch_shape)
        rows, columns = grid = config.patch_grid_of(*pixels.shape[2:])
        masked = None
        if bool_masked_pos is not None:
            size = (pixels.shape[0], rows * columns)
            masked = boundary.masked_patches(bool_masked_pos, size, self.embeddings.mask_token)
        boundary.rngs(resolved["rngs"])
        states = self.embeddings(pixels, masked, grid, resolved["rngs"])
        outputs = self.encoder(states, grid, resolved)
        states = outputs.last_hidden_state
        states = states if self.layernorm is None else self.layernorm(states)
        pooled = None if self.pooler is None else self.pooler(states)
        output = with_head(BeitModelOutputWithPooling, outputs, last_hidden_state=states, pooler_output=pooled)
        return self._format_output(output, switches.get("return_dict"))


class BeitForMaskedImageModeling(PreTrainedModel):
    """The encoder with a linear layer that predicts the visual token of every patch."""

    def __init__(self, config: BeitConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.beit = BeitModel(config, add_pooling_layer=False, seed=None, **init)
        self.layernorm = layers.LayerNorm(config.hidden_size, config.layer_norm_eps, **init)
        self.lm_head = layers.Linear(config.hidden_size, config.vocab_size, **init)
        self._finish(build)

    @passes_through(BeitModel)
    def forward(self, *inputs: Any, labels: Any = None, **keywords: Any) -> MaskedLMOutput | tuple[Any, ...]:
        """As `BeitModel`, and:

        Args:
            labels: (M,) visual tokens of the M masked patches, row by row, -100 = ignored; needs `bool_masked_pos`.
        """
        given = self._base_keywords(inputs, keywords)
        outputs: Any = self.beit(**given)
        logits = self.lm_head(self.layernorm(outputs.last_hidden_state)[:, 1:])
        masked = given.get("bool_masked_pos")

        def loss(boundary: Boundary, logits: Any, labels: Any) -> Any:
            if masked is None:
                raise check.missing_argument(boundary.caller, "bool_masked_pos")
            size, token = (logits.shape[0], logits.shape[1]), self.beit.embeddings.mask_token
            patches = boundary.masked_patches(masked, size, token)
            return losses.cross_entropy(ops.xp, logits, boundary.patch_labels("labels", labels, logits, patches))

        return self._with_head(MaskedLMOutput, outputs, logits, labels, loss, keywords)


class BeitForImageClassification(PreTrainedModel):
    """The encoder with a linear layer over its pooled state."""

    def __init__(self, config: BeitConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        width = config.hidden_size
        self.beit = BeitModel(config, seed=None, **init)
        self.classifier = layers.Linear(width, config.num_labels, **init) if config.num_labels > 0 else None
        self._finish(build)

    @passes_through(BeitModel, without=("bool_masked_pos",))
    def forward(self, *inputs: Any, labels: Any = None, **keywords: Any) -> ImageClassifierOutput | tuple[Any, ...]:
        """As `BeitModel`, and:

        Args:
            labels: (B,) class ids; (B, num_labels) floats for multi-label; (B,) or (B, num_labels) for regression.
        """
        outputs: Any = self.beit(**self._base_keywords(inputs, keywords))
        pooled = outputs.pooler_output
        logits = pooled if self.classifier is None else self.classifier(pooled)
        return self._with_head(ImageClassifierOutput, outputs, logits, labels, self._class_loss, keywords)
