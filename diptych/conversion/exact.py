"""Makes models of transformers compute in the dtype of their parameters where they round to float32."""

import functools
from typing import Any

from diptych.core.semantics.losses import IGNORED


def exact(model: Any) -> Any:
    """The model of transformers, changed in place: its losses, IDEFICS' norms and rotary positions aren't rounded."""
    if model.loss_type in (None, "ForCausalLM"):  # the default loss
        model.loss_function = _causal_loss
    for module in model.modules():
        if (forward := _FORWARDS.get(type(module).__name__)) is not None:
            module.forward = functools.partial(forward, module)
    return model


def _causal_loss(logits: Any, labels: Any, **options: Any) -> Any:
    import torch

    following = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    return torch.nn.functional.cross_entropy(logits.mT, following, ignore_index=IGNORED)


def _rms_norm(module: Any, hidden_states: Any) -> Any:
    squares = hidden_states.square().mean(-1, keepdim=True)
    return module.weight * (hidden_states * (squares + module.variance_epsilon).rsqrt())


def _rotary(module: Any, states: Any, position_ids: Any) -> Any:
    """The cosines and sines of the published angles, which are in float32."""
    angles = (position_ids[..., None].float() * module.inv_freq.float()).to(states.dtype).repeat(1, 1, 2)
    return angles.cos(), angles.sin()


_FORWARDS = {"IdeficsRMSNorm": _rms_norm, "IdeficsRotaryEmbedding": _rotary}
