"""Wav2Vec2's pretraining: masked frames are told from others by their quantized features."""

from typing import Any, Unpack

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float

from diptych.backends.jax import layers, ops
from diptych.backends.jax.models.wav2vec2.models import Wav2Vec2Model
from diptych.backends.jax.pretrained import Build, PreTrainedModel
from diptych.core import check
from diptych.core.calls import passes_through
from diptych.core.errors import InputError
from diptych.core.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2ForPreTrainingOutput
from diptych.core.outputs import with_head
from diptych.core.semantics import quantization


class Wav2Vec2GumbelVectorQuantizer(nnx.Module):
    """Replaces features by code vectors, one of each group; random in train mode (Jang et al., arXiv:1611.01144)."""

    def __init__(self, config: Wav2Vec2Config, **init: Unpack[ops.Init]) -> None:
        self.groups, self.size = config.num_codevector_groups, config.num_codevectors_per_group
        count, width = self.groups * self.size, config.codevector_dim // self.groups
        self.codevectors = layers.parameter((1, count, width), **init)
        self.weight_proj = layers.Linear(config.conv_dim[-1], count, **init)
        self.noise = layers.GumbelNoise()

    def __call__(
        self,
        features: Float[Array, "B T C"],
        masked: Bool[Array, "B T"] | None,
        noise: Float[Array, "B T G V"] | None,
        temperature: Any,
        rngs: Any = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, ""]]:
        """The code vectors, and how many are in use."""
        xp, (batch, frames, _) = ops.xp, features.shape
        logits = xp.reshape(self.weight_proj(features), (batch, frames, self.groups, self.size))
        noise = self.noise(logits, noise, rngs)
        if noise is None:
            chosen = counted = quantization.one_hot_of_largest(ops, logits)
        else:
            soft = quantization.softmax(xp, (logits + noise) / temperature)
            chosen = ops.straight_through(quantization.one_hot_of_largest(ops, soft), soft)
            counted = quantization.softmax(xp, logits)
        codes = layers.value(self.codevectors, features)
        codes = xp.reshape(codes, (self.groups, self.size, codes.shape[-1]))
        chosen = xp.permute_dims(xp.astype(chosen, features.dtype), (0, 2, 1, 3))
        vectors = xp.permute_dims(chosen @ codes, (0, 2, 1, 3))
        return xp.reshape(vectors, (batch, frames, -1)), quantization.perplexity(xp, counted, masked)


class Wav2Vec2ForPreTraining(PreTrainedModel):
    """The encoder, and a quantizer of the features from which the encoder's states are compared."""

    def __init__(self, config: Wav2Vec2Config, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.wav2vec2 = Wav2Vec2Model(config, seed=None, **init)
        self.dropout_features = layers.Dropout(config.feat_quantizer_dropout)
        self.quantizer = Wav2Vec2GumbelVectorQuantizer(config, **init)
        self.project_hid = layers.Linear(config.hidden_size, config.proj_codevector_dim, **init)
        self.project_q = layers.Linear(config.codevector_dim, config.proj_codevector_dim, **init)
        self._finish(build)

    def _base(self) -> Wav2Vec2Model:
        return self.wav2vec2

    def freeze_feature_encoder(self) -> None:
        """Excludes the convolutions over the samples from training."""
        self._base().freeze_feature_encoder()

    @passes_through(Wav2Vec2Model)
    def __call__(
        self,
        *inputs: Any,
        sampled_negative_indices: Any = None,
        gumbel_noise: Any = None,
        gumbel_temperature: Any = 2.0,
        **keywords: Any,
    ) -> Wav2Vec2ForPreTrainingOutput | tuple[Any, ...]:
        """As `Wav2Vec2Model`, and:

        Args:
            sampled_negative_indices: (B, T, K) ids of frames, counted over all rows, from which each masked frame is
                told; with them the losses are computed. `core.semantics.quantization.draw_negatives` draws them.
            gumbel_noise: (B, T, groups, code vectors), added to the quantizer's logits in train mode; drawn by default.
            gumbel_temperature: of the quantizer in train mode; it is lowered while training goes on.

        Raises:
            InputError: as in `Wav2Vec2Model`; or there are negatives but no `mask_time_indices`; or the model has an
                adapter, whose states are not those of the frames.
        """
        given, boundary, config = self._base_keywords(inputs, keywords), self._boundary(), self.config
        if self.wav2vec2.adapter is not None:
            raise InputError(f"{boundary.caller}: the config has add_adapter=True, whose states are not one per frame")
        outputs: Any = self._base()(**given)
        states, rngs = self.project_hid(outputs.last_hidden_state), given["rngs"]
        size, masked = (states.shape[0], states.shape[1]), given.get("mask_time_indices")
        if masked is not None:
            masked = boundary.selection("mask_time_indices", masked, size, "frame")
        if gumbel_noise is not None:
            gumbel_noise = boundary.floats("gumbel_noise", gumbel_noise, "batch, frames, groups, code vectors")
            wanted = (*size, config.num_codevector_groups, config.num_codevectors_per_group)
            check.shape(boundary.caller, "gumbel_noise", gumbel_noise.shape, wanted)
        features = self.dropout_features(outputs.extract_features, rngs)
        codes, perplexity = self.quantizer(features, masked, gumbel_noise, gumbel_temperature, rngs)
        codes, losses = self.project_q(codes), {}
        if sampled_negative_indices is not None:
            negatives = boundary.negatives(sampled_negative_indices, size, masked)
            losses = self._losses(states, codes, negatives, masked, perplexity)
        output = with_head(
            Wav2Vec2ForPreTrainingOutput,
            outputs,
            projected_states=states,
            projected_quantized_states=codes,
            codevector_perplexity=perplexity,
            **losses,
        )
        return self._format_output(output, keywords.get("return_dict"))

    def _losses(self, states: Any, codes: Any, negatives: Any, masked: Any, perplexity: Any) -> dict[str, Any]:
        """The contrastive loss, the diversity loss and their weighted sum."""
        xp, config = ops.xp, self.config
        temperature, count = config.contrastive_logits_temperature, config.num_codevectors_per_group
        count *= config.num_codevector_groups
        contrastive = quantization.contrastive_loss(ops, states, codes, negatives, masked, temperature)
        diversity = (count - perplexity) / count * xp.sum(xp.astype(masked, perplexity.dtype))
        total = contrastive + config.diversity_loss_weight * diversity
        return {"loss": total, "contrastive_loss": contrastive, "diversity_loss": diversity}
