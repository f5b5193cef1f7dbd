"""DeiT (Touvron et al. 2020, arXiv:2012.12877), as published in facebook/deit-base-distilled-patch16-224."""

from typing import Any, Unpack

from diptych.backends.torch import layers
from diptych.backends.torch.models.vit import ViTForImageClassification, ViTForMaskedImageModeling, ViTModel
from diptych.backends.torch.pretrained import Build, PreTrainedModel
from diptych.core.calls import passes_through
from diptych.core.models.deit import DeiTConfig, DeiTForImageClassificationWithTeacherOutput
from diptych.core.outputs import with_head


class DeiTModel(ViTModel):
    """ViT's encoder, with a distillation token after the class token."""


class DeiTForMaskedImageModeling(ViTForMaskedImageModeling):
    """The encoder with a linear layer that reconstructs the pixels of every patch."""

    def __init__(self, config: DeiTConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.deit = DeiTModel(config, add_pooling_layer=False, use_mask_token=True, seed=None, **init)
        pixels = config.encoder_stride**2 * config.num_channels
        self.decoder = layers.ModuleList([layers.Conv2d(config.hidden_size, pixels, 1, **init)])
        self._finish(build)

    def _base(self) -> ViTModel:
        return self.deit


class DeiTForImageClassification(ViTForImageClassification):
    """The encoder with a linear layer over its class token."""

    def __init__(self, config: DeiTConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        self.deit = DeiTModel(config, add_pooling_layer=False, seed=None, **init)
        self.classifier = layers.Linear(config.hidden_size, config.num_labels, **init) if config.num_labels else None
        self._finish(build)

    def _base(self) -> ViTModel:
        return self.deit


class DeiTForImageClassificationWithTeacher(PreTrainedModel):
    """The encoder with a linear layer over its class token and one over its distillation token, for inference."""

    def __init__(self, config: DeiTConfig, **build: Unpack[Build]) -> None:
        init = self._begin(config, build)
        width, labels = config.hidden_size, config.num_labels
        self.deit = DeiTModel(config, add_pooling_layer=False, seed=None, **init)
        self.cls_classifier = layers.Linear(width, labels, **init) if labels else None
        self.distillation_classifier = layers.Linear(width, labels, **init) if labels else None
        self._finish(build)

    @passes_through(ViTModel, without=("bool_masked_pos",))
    def forward(self, *inputs: Any, **keywords: Any) -> DeiTForImageClassificationWithTeacherOutput | tuple[Any, ...]:
        """As `DeiTModel`."""
        outputs: Any = self.deit(**self._base_keywords(inputs, keywords))
        of_class, of_teacher = outputs.last_hidden_state[:, 0], outputs.last_hidden_state[:, 1]
        if self.cls_classifier is not None and self.distillation_classifier is not None:
            of_class, of_teacher = self.cls_classifier(of_class), self.distillation_classifier(of_teacher)
        logits = {"logits": (of_class + of_teacher) / 2, "cls_logits": of_class, "distillation_logits": of_teacher}
        output = with_head(DeiTForImageClassificationWithTeacherOutput, outputs, **logits)
        return self._format_output(output, keywords.get("return_dict"))
