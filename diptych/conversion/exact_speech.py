"""Makes speech models of transformers comparable: losses aren't rounded to float32, and attention calls its modules."""

import functools
from collections.abc import Callable
from typing import Any

from diptych.core.semantics.losses import IGNORED


def make_speech_exact(model: Any) -> Any:
    """The model of transformers, changed in place if it is one of speech."""
    if model.loss_type == "ForCTC":
        model.loss_function = _ctc_loss
    if type(model).__name__ == "Wav2Vec2ForPreTraining":
        model.forward = _without_rounding(model.forward)
        model.quantizer.to(model.dtype)  # whose code vectors are loaded in float32, whatever the dtype
    for module in model.modules():
        if type(module).__name__ == "WavLMAttention":
            module.torch_multi_head_self_attention = functools.partial(_wavlm_attention, module)
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


def _wavlm_attention(module: Any, hidden_states: Any, attention_mask: Any, bias: Any) -> tuple[Any, Any]:
    """WavLM's attention by calls of its projections, whose outputs can be compared; torch's function reads weights."""
    layers = (module.q_proj, module.k_proj, module.v_proj)
    query, key, value = (layer(hidden_states).unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for layer in layers)
    scores = query @ key.mT * module.scaling + bias.unflatten(0, (-1, module.num_heads))
    if attention_mask is not None:
        scores = scores.masked_fill((attention_mask != 1)[:, None, None, :], -float("inf"))
    probabilities = scores.softmax(-1)
    states = module.out_proj((probabilities @ value).transpose(1, 2).flatten(2))
    return states, probabilities.mean(1, keepdim=True).expand(probabilities.shape)


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
