"""Swin (Liu et al. 2021, arXiv:2103.14030), as published in microsoft/swin-tiny-patch4-window7-224."""

import functools
import math
from typing import Any, Unpack

from jaxtyping import Bool, Float
from torch import Tensor, nn

from diptych.backends.torch import layers, ops
from diptych.backends.torch.pretrained import Build, PreTrainedModel
from diptych.backends.torch.stacks import AttentionOutput, LayerInputs, LayerOutput, run_layers
from diptych.core.calls import Switches, passes_through, reconstruction_loss
from diptych.core.inputs import INTERPOLATE_POS_ENCODING, PIXEL_VALUES, ModelInput
from diptych.core.models.swin import (
    SwinConfig,
    SwinImageClassifierOutput,
    SwinLikeConfig,
    SwinMaskedImageModelingOutput,
    SwinModelOutput,
)
from diptych.core.outputs import BaseModelOutputWithPastAndCrossAttentions, with_head
from diptych.core.semantics import patches, resize, windows
from diptych.core.semantics.windows import Grid, Windows

_NORM_EPS = 1e-5
"""The epsilon of the norms of patches, whatever the config's is."""


class SwinSelfAttention(nn.Module):
    """Attention among the patches of each window, with a learned bias for their relative positions."""

    def __init__(self, config: SwinLikeConfig, width: int, heads: int, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = layers.parameter(((2 * config.window_size - 1) ** 2, heads), **init)
        self.query = layers.Linear(width, width, bias=config.qkv_bias, **init)
        self.key = layers.Linear(width, width, bias=config.qkv_bias, **init)
        self.value = layers.Linear(width, width, bias=config.qkv_bias, **init)
        self.dropout = layers.Dropout(config.attention_probs_dropout_prob)

    def forward(
        self, hidden_states: Float[Tensor, "B T D"], shift_bias: Float[Tensor, "W 1 T T"] | None, inputs: LayerInputs
    ) -> AttentionOutput:
        """Attends within B windows of T patches, W of each image, whose scores get the bias of shifted windows."""
        query, key, value = self.query(hidden_states), self.key(hidden_states), self.value(hidden_states)
        query, key, value = (ops.split_heads(states, self.heads) for states in (query, key, value))
        table = layers.value(self.relative_position_bias_table, query)
        bias = windows.relative_bias(ops, table, math.isqrt(hidden_states.shape[1]))
        if shift_bias is not None:
            images = hidden_states.shape[0] // shift_bias.shape[0]
            bias = ops.xp.tile(bias + shift_bias, (images, 1, 1, 1))
        options: dict[str, Any] = {"dropout": self.dropout, "rngs": inputs.rngs, "weights": inputs.output_attentions}
        return AttentionOutput(*ops.attention(query, key, value, bias=bias, **options), None)


class SwinSelfOutput(nn.Module):
    def __init__(self, config: SwinLikeConfig, width: int, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.dense = layers.Linear(width, width, **init)
        self.dropout = layers.Dropout(config.attention_output_dropout_prob)

    def forward(self, hidden_states: Float[Tensor, "B T D"], rngs: Any) -> Float[Tensor, "B T D"]:
        return self.dropout(self.dense(hidden_states), rngs)


class SwinAttention(nn.Module):
    def __init__(self, config: SwinLikeConfig, width: int, heads: int, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.self = SwinSelfAttention(config, width, heads, **init)
        self.output = SwinSelfOutput(config, width, **init)

    def forward(
        self, hidden_states: Float[Tensor, "B T D"], shift_bias: Float[Tensor, "W 1 T T"] | None, inputs: LayerInputs
    ) -> AttentionOutput:
        attended = self.self(hidden_states, shift_bias, inputs)
        return attended._replace(states=self.output(attended.states, inputs.rngs))


class SwinIntermediate(nn.Module):
    def __init__(self, config: SwinLikeConfig, width: int, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.activation = ops.ACTIVATIONS[config.hidden_act]
        self.dense = layers.Linear(width, config.intermediate_size(width), **init)

    def forward(self, hidden_states: Float[Tensor, "B T D"]) -> Float[Tensor, "B T F"]:
        return self.activation(self.dense(hidden_states))


class SwinOutput(nn.Module):
    def __init__(self, config: SwinLikeConfig, width: int, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.dense = layers.Linear(config.intermediate_size(width), width, **init)
        self.dropout = layers.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Float[Tensor, "B T F"], rngs: Any) -> Float[Tensor, "B T D"]:
        return self.dropout(self.dense(hidden_states), rngs)


class SwinLayer(nn.Module):
    def __init__(
        self, config: SwinLikeConfig, width: int, heads: int, drop_path_rate: float, **init: Unpack[ops.Init]
    ) -> None:
        super().__init__()
        self.layernorm_before = layers.LayerNorm(width, config.layer_norm_eps, **init)
        self.attention = SwinAttention(config, width, heads, **init)
        self.drop_path = layers.StochasticDepth(drop_path_rate)
        self.layernorm_after = layers.LayerNorm(width, config.layer_norm_eps, **init)
        self.intermediate = SwinIntermediate(config, width, **init)
        self.output = SwinOutput(config, width, **init)

    def forward(
        self,
        hidden_states: Float[Tensor, "B T D"],
        inputs: LayerInputs,
        past: None,
        tiling: Windows,
        shift_bias: Float[Tensor, "W 1 S S"] | None,
    ) -> LayerOutput:
        """Attends within the windows of a tiling, which are shifted if there is a bias for that."""
        shift = 0 if shift_bias is None else tiling.shift
        states = windows.partition(ops, self.layernorm_before(hidden_states), tiling, shift)
        states, attention, _ = self.attention(states, shift_bias, inputs)
        states = windows.merge(ops, states, tiling, shift)
        hidden_states = hidden_states + self.drop_path(states, inputs.rngs)
        states = self.output(self.intermediate(self.layernorm_after(hidden_states)), inputs.rngs)
        return LayerOutput(hidden_states + states, attention)


class SwinPatchMerging(nn.Module):
    """Halves the rows and columns of the grid and doubles the width."""

    def __init__(self, width: int, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.reduction = layers.Linear(4 * width, 2 * width, bias=False, **init)
        self.norm = layers.LayerNorm(4 * width, _NORM_EPS, **init)

    def forward(self, hidden_states: Float[Tensor, "B T D"], grid: Grid) -> Float[Tensor, "B P E"]:
        return self.reduction(self.norm(windows.merge_patches(ops, hidden_states, grid)))


class SwinStage(nn.Module):
    """Layers over a grid of patches, every second one with shifted windows, and what merges the patches after them."""

    def __init__(self, config: SwinLikeConfig, stage: int, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        width, heads = config.stage_widths[stage], config.num_heads[stage]
        self.window_size = config.window_size
        self.blocks = layers.ModuleList(
            [SwinLayer(config, width, heads, rate, **init) for rate in config.drop_path_rates[stage]]
        )
        is_last = stage == len(config.depths) - 1
        self.downsample = None if is_last else SwinPatchMerging(width, **init)
        self.gradient_checkpointing = False

    def forward(
        self, hidden_states: Float[Tensor, "B T D"], inputs: LayerInputs, past: None, grid: Grid
    ) -> LayerOutput:
        """Runs the layers; the attention probabilities are those of the last one."""
        tiling = Windows.over(grid, self.window_size)
        moved = windows.shift_bias(ops, tiling, hidden_states) if tiling.shift and len(self.blocks) > 1 else None
        outputs = run_layers(
            [
                functools.partial(block, tiling=tiling, shift_bias=moved if index % 2 else None)
                for index, block in enumerate(self.blocks)
            ],
            hidden_states,
            inputs,
            output_hidden_states=False,
            gradient_checkpointing=self.gradient_checkpointing,
        )
        states = outputs.last_hidden_state
        states = states if self.downsample is None else self.downsample(states, grid)
        return LayerOutput(states, None if outputs.attentions is None else outputs.attentions[-1])


class SwinEncoder(nn.Module):
    def __init__(self, config: SwinLikeConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        self.layers = layers.ModuleList([SwinStage(config, stage, **init) for stage in range(len(config.depths))])

    def forward(
        self,
        hidden_states: Float[Tensor, "B T D"],
        grids: list[Grid],
        inputs: LayerInputs,
        *,
        output_hidden_states: bool,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """Runs the stages, each over its grid; each of them recomputes its own layers if gradients need it."""
        return run_layers(
            [functools.partial(stage, grid=grid) for stage, grid in zip(self.layers, grids, strict=True)],
            hidden_states,
            inputs,
            output_hidden_states=output_hidden_states,
            gradient_checkpointing=False,
        )


class SwinPatchEmbeddings(nn.Module):
    def __init__(self, config: SwinLikeConfig, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        patch = config.patch_shape
        self.patch = patch
        self.projection = layers.Conv2d(config.num_channels, config.embed_dim, patch, stride=patch, **init)

    def forward(self, pixel_values: Float[Tensor, "B C Y X"], grid: Grid) -> Float[Tensor, "B P D"]:
        """The patches of a grid, with zeros where it reaches beyond the images."""
        height, width = (count * size for count, size in zip(grid, self.patch, strict=True))
        return layers.patches(self.projection, ops.pad_end(pixel_values, (*pixel_values.shape[:2], height, width)))


class SwinEmbeddings(nn.Module):
    def __init__(self, config: SwinLikeConfig, use_mask_token: bool, **init: Unpack[ops.Init]) -> None:
        super().__init__()
        positions, width = config.num_positions, config.embed_dim
        self.grid, self.special = config.patch_grid, config.special_positions
        self.mask_token = layers.parameter((1, 1, width), **init) if use_mask_token else None
        self.patch_embeddings = SwinPatchEmbeddings(config, **init)
        self.position_embeddings = (
            layers.parameter((1, positions, width), **init) if config.use_absolute_embeddings else None
        )
        self.norm = layers.LayerNorm(width, _NORM_EPS, **init)
        self.dropout = layers.Dropout(config.hidden_dropout_prob)

    def forward(
        self, pixel_values: Float[Tensor, "B C Y X"], grid: Grid, masked: Bool[Tensor, "B P"] | None, rngs: Any
    ) -> Float[Tensor, "B P D"]:
        """The patches of a grid; the mask token replaces the masked ones."""
        states = self.norm(self.patch_embeddings(pixel_values, grid))
        if masked is not None:
            states = ops.xp.where(masked[:, :, None], layers.value(self.mask_token, states), states)
        if self.position_embeddings is not None:
            table = layers.value(self.position_embeddings, states)[0]
            table = resize.position_table(ops, table, self.grid, grid, special=self.special)
            states = states + table[None, self.special :]
        return self.dropout(states, rngs)


class SwinModel(PreTrainedModel):
    """The encoder, without a head.

    Args:
        config: its sizes.
        add_pooling_layer: whether it returns the mean over the patches as `pooler_output`.
        use_mask_token: whether it has a token that replaces masked patches.
    """

    def __init__(
        self,
        config: SwinLikeConfig,
        *,
        add_pooling_layer: bool = True,
        use_mask_token: bool = False,
        **build: Unpack[Build],
    ) -> None:
        init = self._begin(config, build)
        self.add_pooling_layer = add_pooling_layer
        self.embeddings = SwinEmbeddings(config, use_mask_token, **init)
        self.encoder = SwinEncoder(config, **init)
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layernorm = layers.LayerNorm(width, eps, **init) if config.final_norm else None
        self._finish(build)

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The keyword inputs of the model as an encoder: images, whose states have no mask."""
        return (PIXEL_VALUES, INTERPOLATE_POS_ENCODING)

    def forward(
        self,
        pixel_values: Any = None,
        bool_masked_pos: Any = None,
        interpolate_pos_encoding: bool = False,
        **switches: Unpack[Switches],
    ) -> SwinModelOutput | tuple[Any, ...]:
        """Encodes a batch of images.

        Args:
            pixel_values: (B, C, Y, X) floats, of any size unless the model has absolute positions.
            bool_masked_pos: (B, P), 1 for the patches that the mask token replaces.
            interpolate_pos_encoding: whether absolute positions are resampled for images of another size.
            switches: see `Switches`.

        Raises:
            InputError: an argument has the wrong dtype or shape, or the model has no mask token.
        """
        resolved, boundary, config = self._resolve_switches(switches), self._boundary(), self.config
        resampled = boundary.switch("interpolate_pos_encoding", interpolate_pos_encoding)
        size = None if resampled or not config.use_absolute_embeddings else config.image_shape
        pixels = boundary.images(pixel_values, channels=config.num_channels, size=size)
        grids = windows.stage_grids(config.padded_grid_of(*pixels.shape[2:]), len(config.depths))
        masked = bool_masked_pos
        if masked is not None:
            size = (pixels.shape[0], math.prod(grids[0]))
            masked = boundary.masked_patches(bool_masked_pos, size, self.embeddings.mask_token)
        boundary.rngs(resolved["rngs"])
        inputs = LayerInputs(output_attentions=resolved["output_attentions"], rngs=resolved["rngs"])
        states = self.embeddings(pixels, grids[0], masked, inputs.rngs)
        outputs = self.encoder(states, grids, inputs, output_hidden_states=resolved["output_hidden_states"])
        states = outputs.last_hidden_state
        states = states if self.layernorm is None else self.layernorm(states)
        images = None
        if outputs.hidden_states is not None:
            pairs = zip(outputs.hidden_states, (*grids, grids[-1]), strict=True)
            images = tuple(patches.as_image(ops.xp, hidden, grid) for hidden, grid in pairs)
        pooled = ops.xp.mean(states, axis=1) if self.add_pooling_layer else None
        head = {"last_hidden_state": states, "pooler_output": pooled, "reshaped_hidden_states": images}
        return self._format_output(with_head(SwinModelOutput, outputs, **head), switches.get("return_dict"))


class SwinForMaskedImageModeling(PreTrainedModel):
    """The encoder with a linear layer that reconstructs pixels (SimMIM, Xie et al. 2021, arXiv:2111.09886)."""

    def __init__(self, config: SwinConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.swin = SwinModel(config, add_pooling_layer=False, use_mask_token=True, seed=None, **init)
        pixels = config.encoder_stride**2 * config.num_channels
        self.decoder = layers.ModuleList([layers.Conv2d(config.hidden_size, pixels, 1, **init)])
        self._finish(build)

    @passes_through(SwinModel)
    def forward(self, *inputs: Any, **keywords: Any) -> SwinMaskedImageModelingOutput | tuple[Any, ...]:
        """As `SwinModel`; with `bool_masked_pos`, the loss of the masked patches is computed.

        Raises:
            InputError: as in `SwinModel`, or there are masked patches and the reconstruction has another size.
        """
        given = self._base_keywords(inputs, keywords)
        outputs: Any = self.swin(**given)
        boundary, config, loss = self._boundary(), self.config, None
        decoder: Any = self.decoder[0]
        pixels = boundary.images(given["pixel_values"], channels=config.num_channels, size=None)
        grids = windows.stage_grids(config.padded_grid_of(*pixels.shape[2:]), len(config.depths))
        states = patches.as_image(ops.xp, outputs.last_hidden_state, grids[-1])
        made = patches.join_pixels(ops.xp, layers.patches(decoder, states), grids[-1], config.encoder_stride)
        if (masked := given.get("bool_masked_pos")) is not None:
            wanted = (pixels.shape[0], math.prod(grids[0]))
            masked = boundary.masked_patches(masked, wanted, self.swin.embeddings.mask_token)
            (rows, height), (columns, width) = zip(grids[0], config.patch_shape, strict=True)
            covered = made
            if height == width and config.encoder_stride == height * 2 ** (len(config.depths) - 1):
                covered = made[:, :, : rows * height, : columns * width]  # without what merging filled up
            masked = ops.xp.reshape(masked, (-1, rows, columns))
            loss = reconstruction_loss(boundary, pixels, covered, masked, config.patch_shape)
        output = with_head(SwinMaskedImageModelingOutput, outputs, loss=loss, reconstruction=made)
        return self._format_output(output, keywords.get("return_dict"))


class SwinForImageClassification(PreTrainedModel):
    """The encoder with a linear layer over the mean of its patches."""

    def __init__(self, config: SwinConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.swin = SwinModel(config, seed=None, **init)
        self.classifier = layers.Linear(config.hidden_size, config.num_labels, **init) if config.num_labels else None
        self._finish(build)

    def _base(self) -> SwinModel:
        return self.swin

    @passes_through(SwinModel, without=("bool_masked_pos",))
    def forward(self, *inputs: Any, labels: Any = None, **keywords: Any) -> SwinImageClassifierOutput | tuple[Any, ...]:
        """As `SwinModel`, and:

        Args:
            labels: (B,) class ids; (B, num_labels) floats for multi-label; (B,) or (B, num_labels) for regression.
        """
        outputs: Any = self._base()(**self._base_keywords(inputs, keywords))
        logits = outputs.pooler_output if self.classifier is None else self.classifier(outputs.pooler_output)
        return self._with_head(SwinImageClassifierOutput, outputs, logits, labels, self._class_loss, keywords)
