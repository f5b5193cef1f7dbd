"""Wav2Vec2's models."""

import functools
from typing import Any, ClassVar, Unpack

from jax import Array
from jaxtyping import Bool, Float

from diptych.backends.jax import layers, ops
from diptych.backends.jax.models.wav2vec2.encoder import Wav2Vec2Encoder
from diptych.backends.jax.models.wav2vec2.features import (
    Wav2Vec2Adapter,
    Wav2Vec2FeatureEncoder,
    Wav2Vec2FeatureProjection,
    without_padding,
)
from diptych.backends.jax.pretrained import Build, PreTrainedModel
from diptych.core.calls import Switches, ctc_loss, passes_through
from diptych.core.inputs import SOUND_INPUTS, ModelInput
from diptych.core.language_adapters import LanguageAdapterMixin
from diptych.core.models.wav2vec2 import Wav2Vec2BaseModelOutput
from diptych.core.outputs import CausalLMOutput, ModelOutput, SequenceClassifierOutput, with_head
from diptych.core.semantics import losses
from diptych.core.sound_config import AdaptedSoundEncoderConfig, SoundEncoderConfig


class Wav2Vec2Model(PreTrainedModel):
    """The encoder: convolutions over the samples, transformer layers over their frames, and an adapter if there is one.

    A padded row equals the row alone only with feat_extract_norm="layer" and without an adapter: group norm counts the
    padding, and an adapter sees the frames beyond the end, unless `ignore_padding` is asked for.
    """

    encoder_class: ClassVar[type[Wav2Vec2Encoder]] = Wav2Vec2Encoder

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The keyword inputs of the model as an encoder: audio samples and their mask."""
        return SOUND_INPUTS

    def states_mask(self, attention_mask: Any, length: int) -> Any:
        """The mask (B, S) of the states, from the mask over samples: as many at the start as the samples give.

        Raises:
            InputError: the mask's length is not that of samples that give `length` states, or a row gives none.
        """
        if attention_mask is None:
            return None
        return self._boundary().frame_mask("attention_mask", attention_mask, length, self.config.feature_lengths)

    def __init__(self, config: SoundEncoderConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.feature_extractor = Wav2Vec2FeatureEncoder(config, **init)
        self.feature_projection = Wav2Vec2FeatureProjection(config, **init)
        masks = config.has_mask_embedding
        self.masked_spec_embed = layers.parameter((config.hidden_size,), **init) if masks else None
        self.time_mask = layers.SpanMask("time", **config.spans("time"))
        self.feature_mask = layers.SpanMask("feature", **config.spans("feature"))
        self.encoder = self.encoder_class(config, **init)
        adapted = isinstance(config, AdaptedSoundEncoderConfig)
        self.adapter = Wav2Vec2Adapter(config, **init) if adapted and config.add_adapter else None
        self._finish(build)

    def freeze_feature_encoder(self) -> None:
        """Excludes the convolutions over the samples from training; the same as `freeze` with their path."""
        self.freeze("feature_extractor")

    def __call__(
        self,
        input_values: Any = None,
        attention_mask: Any = None,
        mask_time_indices: Any = None,
        mask_feature_indices: Any = None,
        freeze_feature_encoder: bool = False,
        ignore_padding: bool = False,
        **switches: Unpack[Switches],
    ) -> ModelOutput | tuple[Any, ...]:
        """Encodes a batch of recordings.

        Args:
            input_values: (B, samples) floats, at least as many as one frame needs.
            attention_mask: (B, samples), 1 = attend; how many are nonzero counts, not which, since padding comes last.
            mask_time_indices: (B, T), nonzero for the frames that the mask embedding stands in for, in eval mode too;
                in train mode drawn at random by default, as the config says.
            mask_feature_indices: (B, hidden_size), nonzero for the features that are zeroed, likewise.
            freeze_feature_encoder: whether the convolutions over the samples get no gradient.
            ignore_padding: whether a padded row equals the row alone, unlike in the published models: group norm
                doesn't count what attention_mask says is padding, which must come last, and adapters read zeros there.
            switches: see `Switches`.

        Raises:
            InputError: an argument has the wrong dtype or shape, samples are not finite or too few for a frame, or
                there are masked frames, but no mask embedding.
        """
        resolved, boundary, config = self._resolve_switches(switches), self._boundary(), self.config
        samples = boundary.sound("input_values", input_values, least=config.least_samples)
        boundary.rngs(resolved["rngs"])
        frames, mask = config.feature_lengths(samples.shape[1], adapter=False), None
        if attention_mask is not None:
            lengths = functools.partial(config.feature_lengths, adapter=False)
            mask = boundary.frame_mask("attention_mask", attention_mask, frames, lengths, samples=samples.shape)
        given: dict[str, Any] = {}
        if mask_time_indices is not None:
            size = (samples.shape[0], frames)
            given["time"] = boundary.masked_frames(mask_time_indices, size, self.masked_spec_embed)
        if mask_feature_indices is not None:
            size = (samples.shape[0], config.hidden_size)
            given["feature"] = boundary.selection("mask_feature_indices", mask_feature_indices, size, "feature")
        frozen = boundary.switch("freeze_feature_encoder", freeze_feature_encoder)
        ignores = boundary.switch("ignore_padding", ignore_padding) and mask is not None
        lengths = boundary.leading_lengths("attention_mask", attention_mask) if ignores else None
        states = self.feature_extractor(samples, lengths)
        states = ops.stop_gradient(states) if frozen else states
        states, features = self.feature_projection(states, resolved["rngs"])
        states = self._mask_features(states, mask, given, resolved["rngs"])
        outputs = self.encoder(states, mask, resolved, ignores)
        states = outputs.last_hidden_state
        states = states if self.adapter is None else self.adapter(states, mask if ignores else None)
        return self._format_output(self._record(outputs, states, features), switches.get("return_dict"))

    def _record(self, outputs: ModelOutput, states: Any, features: Any) -> ModelOutput:
        """The output, from that of the layers, the last states and the features after the convolutions."""
        return with_head(Wav2Vec2BaseModelOutput, outputs, last_hidden_state=states, extract_features=features)

    def _mask_features(
        self, states: Float[Array, "B T D"], mask: Bool[Array, "B T"] | None, given: dict[str, Any], rngs: Any
    ) -> Float[Array, "B T D"]:
        """SpecAugment: the states with the given or drawn frames and features masked."""
        xp = ops.xp
        if not self.config.apply_spec_augment:
            return states
        time, feature = given.get("time"), given.get("feature")
        _, frames, width = states.shape
        if time is None:
            lengths = None if mask is None else xp.sum(xp.astype(mask, xp.int32), axis=1)
            time = self.time_mask(states, frames, lengths, rngs)
        if feature is None:
            feature = self.feature_mask(states, width, None, rngs)
        if time is not None:
            states = xp.where(time[..., None], layers.value(self.masked_spec_embed, states), states)
        return states if feature is None else xp.where(feature[:, None, :], xp.zeros_like(states), states)


class Wav2Vec2ForCTC(LanguageAdapterMixin, PreTrainedModel):
    """The encoder with a linear layer over each frame, which tells a token of the text or the blank, pad_token_id."""

    def __init__(self, config: SoundEncoderConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.wav2vec2 = Wav2Vec2Model(config, seed=None, **init)
        self._make_head(config, init)
        self._finish(build)

    def _make_head(self, config: SoundEncoderConfig, init: ops.Init) -> None:
        self.dropout = layers.Dropout(config.final_dropout)
        self.lm_head = layers.Linear(config.states_width, config.vocab_size, **init)

    def _base(self) -> Wav2Vec2Model:
        return self.wav2vec2

    def freeze_feature_encoder(self) -> None:
        """Excludes the convolutions over the samples from training."""
        self._base().freeze_feature_encoder()

    @passes_through(Wav2Vec2Model)
    def __call__(self, *inputs: Any, labels: Any = None, **keywords: Any) -> CausalLMOutput | tuple[Any, ...]:
        """As `Wav2Vec2Model`, and:

        Args:
            labels: (B, L) ids below vocab_size; -100 and the blank are left out.

        Raises:
            InputError: as in `Wav2Vec2Model`; or the config has no pad_token_id; or a row has more labels than its
                frames can tell, and the config's ctc_zero_infinity is False.
        """
        given = self._base_keywords(inputs, keywords)
        outputs: Any = self._base()(**given)
        logits = self.lm_head(self.dropout(outputs.last_hidden_state, given["rngs"]))
        frames = self._base().states_mask(given.get("attention_mask"), logits.shape[1])
        loss = functools.partial(ctc_loss, self.config, frames)
        return self._with_head(CausalLMOutput, outputs, logits, labels, loss, keywords)


class Wav2Vec2ForSequenceClassification(PreTrainedModel):
    """The encoder with two linear layers, between which the mean over the frames is taken."""

    def __init__(self, config: SoundEncoderConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.wav2vec2 = Wav2Vec2Model(config, seed=None, **init)
        self._make_head(config, init)
        self._finish(build)

    def _make_head(self, config: SoundEncoderConfig, init: ops.Init) -> None:
        weighted, count = config.use_weighted_layer_sum, config.num_hidden_layers + 1
        self.layer_weights = layers.parameter((count,), **init) if weighted else None
        width = config.hidden_size if weighted else config.states_width
        self.projector = layers.Linear(width, config.classifier_proj_size, **init)
        self.classifier = layers.Linear(config.classifier_proj_size, config.num_labels, **init)

    def _base(self) -> Wav2Vec2Model:
        return self.wav2vec2

    def freeze_feature_encoder(self) -> None:
        """Excludes the convolutions over the samples from training."""
        self._base().freeze_feature_encoder()

    @passes_through(Wav2Vec2Model)
    def __call__(self, *inputs: Any, labels: Any = None, **keywords: Any) -> SequenceClassifierOutput | tuple[Any, ...]:
        """As `Wav2Vec2Model`, and:

        Args:
            labels: (B,) class ids; (B, num_labels) floats for multi-label; (B,) or (B, num_labels) for regression.
        """
        given = self._base_keywords(inputs, keywords)
        asked, weighted = given["output_hidden_states"], self.layer_weights is not None
        outputs: Any = self._base()(**{**given, "output_hidden_states": asked or weighted})
        states = self.projector(self._weighted_states(outputs))
        mask = given.get("attention_mask")
        if mask is not None:
            lengths = functools.partial(self.config.feature_lengths, adapter=not weighted)
            mask = self._boundary().frame_mask("attention_mask", mask, states.shape[1], lengths)
        logits = self.classifier(mean_over_frames(states, mask))
        outputs = outputs if asked else outputs.replace(hidden_states=None)
        return self._with_head(SequenceClassifierOutput, outputs, logits, labels, self._class_loss, keywords)

    def _weighted_states(self, outputs: Any) -> Float[Array, "B T D"]:
        """The states after the adapter, if any; or the mean of those of all layers, with learned weights."""
        if self.layer_weights is None:
            return outputs.last_hidden_state
        weights = layers.value(self.layer_weights, outputs.last_hidden_state)
        weights = ops.xp.exp(losses.log_softmax(ops.xp, weights))
        weighted: Any = sum(weights[index] * states for index, states in enumerate(outputs.hidden_states))
        return weighted


def mean_over_frames(states: Float[Array, "B T D"], mask: Bool[Array, "B T"] | None) -> Float[Array, "B D"]:
    """The mean over the frames that are not padding."""
    if mask is None:
        return ops.xp.mean(states, axis=1)
    frames = ops.xp.sum(ops.xp.astype(mask, states.dtype), axis=1)
    return ops.xp.sum(without_padding(states, mask), axis=1) / frames[:, None]
