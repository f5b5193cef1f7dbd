"""The base class of composites: building one, and loading it from the checkpoints of its parts."""

import os
from collections.abc import Iterable
from typing import Any, Self, Unpack

import torch

from diptych.backends.torch import layers
from diptych.backends.torch.generation import GenerationMixin
from diptych.backends.torch.pretrained import Build, PreTrainedModel
from diptych.core.composite import Composite
from diptych.core.errors import ConfigError


class CompositeModel(Composite, GenerationMixin, PreTrainedModel):
    """An encoder, and a decoder that attends to its states and predicts the next token."""

    def __init__(self, config: Any, *, encoder_add_pooling_layer: bool = True, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        if getattr(config, "tie_encoder_decoder", False):
            raise ConfigError(
                f"{type(self).__name__}: tie_encoder_decoder=True says how a file is read; a model is built without it"
            )
        self._make_parts(config, init, {"add_pooling_layer": encoder_add_pooling_layer})
        wide, narrow = config.encoder_width, config.decoder_width
        self.enc_to_dec_proj = layers.Linear(wide, narrow, **init) if wide != narrow else None
        self._finish(build)

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder: str | os.PathLike[str] | None = None,
        decoder: str | os.PathLike[str] | None = None,
        *,
        dtype: Any = None,
        device: torch.device | str | None = None,
        gradient_checkpointing: bool = False,
        ignore_config: Iterable[str] = (),
        **config_changes: Any,
    ) -> Self:
        """A model with the weights of two checkpoints; parameters that neither has are newly initialized.

        These are the decoder's cross-attention and head, the encoder's pooler, and the projection between two widths;
        `fresh_parameters` and a log line list them.

        Args:
            encoder, decoder: directories, or names on the Hugging Face hub; also under the names
                encoder_pretrained_model_name_or_path and decoder_pretrained_model_name_or_path. Live models may be
                given in their place, as encoder_model and decoder_model.
            dtype: of the parameters; by default the files'.
            device: of the parameters.
            gradient_checkpointing: whether activations are recomputed in the backward pass, which saves their memory.
            ignore_config: unknown fields of either config.json to skip.
            config_changes: fields of the composite's config, or of a part's after "encoder_" or "decoder_"; or
                encoder_add_pooling_layer=False for an encoder without its pooler; or `HubOptions`, of a part with its
                prefix (encoder_revision …), token, cache_dir and local_files_only of both without.

        Raises:
            CheckpointError: the files cannot be read, do not fit their part, or have several dtypes.
            ConfigError: a config.json is missing, asks for an unsupported feature, or cannot serve as the part.
        """
        return cls._load_parts(
            {"encoder": encoder, "decoder": decoder},
            dtype=dtype,
            placement=device,
            build={"gradient_checkpointing": gradient_checkpointing},
            ignore_config=ignore_config,
            changes=config_changes,
        )
