"""Makes speech models of transformers compute their losses in the dtype of their parameters instead of float32."""

import functools
from collections.abc import Callable
from typing import Any

from diptych.core.semantics.losses import IGNORED


def exact_speech(model: Any) -> Any:
    """The model of transformers, changed in place if it is one of speech."""
    if model.loss_type == "ForCTC":
        model.loss_function = _ctc_loss
    if type(model).__name__ == "Wav2Vec2ForPreTraining":
        model.forward = _without_rounding(model.forward)
    return model


def attention_of(model_class: Any) -> str:
    """The attention of a class of transformers that doesn't round inside: its eager one mostly rounds to float32."""
    return "sdpa" if model_class._supports_sdpa else "eager"


def _ctc_loss(
    *, logits: Any, labels: Any, logit_lengths: Any, blank_token_id: int, reduction: str, zero_infinity: bool, **_: Any
) -> Any:
    import torch

    told = (labels != IGNORED) & (labels != blank_token_id)
    options: dict[str, Any] = {"blank": blank_token_id, "reduction": reduction, "zero_infinity": zero_infinity}
    scores = logits.log_softmax(-1).transpose(0, 1)
    return torch.nn.functional.ctc_loss(scores, labels.masked_select(told), logit_lengths, told.sum(-1), **options)


def _without_rounding(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call in which `Tensor.float` changes nothing."""
    import torch

    @functools.wraps(call)
    def exact(*arguments: Any, **keywords: Any) -> Any:
        rounding = torch.Tensor.float
        torch.Tensor.float = lambda values: values  # pyright: ignore[reportAttributeAccessIssue]
        try:
            return call(*arguments, **keywords)
        finally:
            torch.Tensor.float = rounding

    return exact
