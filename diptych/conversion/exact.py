"""Makes models of transformers compute in the dtype of their parameters where they round to float32."""

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from diptych.core.semantics.losses import IGNORED


def make_exact(model: Any) -> Any:
    """The model of transformers, changed in place: its losses, IDEFICS' norms and rotary positions aren't rounded.

    Where a token of IDEFICS sees no image, attention gives the zeros that the model itself sets one step later.
    """
    if type(model).__name__ in ("IdeficsModel", "IdeficsForVisionText2Text"):
        model.forward = _forward_of_5_23(model)
    if model.loss_type in (None, "ForCausalLM"):  # the default loss
        model.loss_function = _causal_loss
    for module in model.modules():
        if (forward := _FORWARDS.get(type(module).__name__)) is not None:
            module.forward = functools.partial(forward, module)
        if getattr(module, "is_cross_attention", False) and type(module).__name__ == "IdeficsAttention":
            _give_zeros_without_images(module)
    return model


def _causal_loss(logits: Any, labels: Any, **options: Any) -> Any:
    import torch

    following = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    return torch.nn.functional.cross_entropy(logits.mT, following, ignore_index=IGNORED)


def _forward_of_5_23(model: Any) -> Callable[..., Any]:
    """The forward of IDEFICS with the inputs and the record that it has in transformers 5.23.

    Later versions return the outputs of the image encoder instead of the states that the texts attend to, and take
    `perceiver_embeddings` with one axis for all images of all texts.
    """
    forward, resampled = model.forward, list[Any]()
    separate_images = transformers_version() < (5, 24)
    for module in model.modules():
        if type(module).__name__ == "IdeficsPerceiverResampler":
            module.register_forward_hook(lambda module, args, states: resampled.append(states))

    @functools.wraps(forward)
    def call(*args: Any, **keywords: Any) -> Any:
        resampled.clear()
        if (embeddings := keywords.get("perceiver_embeddings")) is not None and not separate_images:
            keywords["perceiver_embeddings"] = embeddings.flatten(0, -3)
        output = forward(*args, **keywords)
        if not isinstance(output, tuple) and (images := output.get("image_outputs")) is not None:
            states = resampled[0] if resampled else images.last_hidden_state
            texts = output["last_hidden_state" if "last_hidden_state" in output else "logits"]
            # the record refuses to be changed; generation goes on to read the attribute
            OrderedDict.__delitem__(output, "image_outputs")
            OrderedDict.__setitem__(output, "image_hidden_states", states.unflatten(0, (len(texts), -1)))
        return output

    return call


def transformers_version() -> tuple[int, ...]:
    """The major and the minor version of transformers."""
    import transformers

    return tuple(int(part) for part in transformers.__version__.split(".")[:2])


def _rms_norm(module: Any, hidden_states: Any) -> Any:
    squares = hidden_states.square().mean(-1, keepdim=True)
    return module.weight * (hidden_states * (squares + module.variance_epsilon).rsqrt())


def _rotary(module: Any, states: Any, position_ids: Any) -> Any:
    """The cosines and sines of the published angles, which are in float32."""
    angles = (position_ids[..., None].float() * module.inv_freq.float()).to(states.dtype).repeat(1, 1, 2)
    return angles.cos(), angles.sin()


def _give_zeros_without_images(attention: Any) -> None:
    masks: list[Any] = []

    def keep_mask(module: Any, args: Any, keywords: Any) -> None:
        masks[:] = [keywords["attention_mask"]]

    def gate(module: Any, args: Any) -> Any:
        sees_none = (masks[0] != 0.0).all(-1)[:, 0, :, None]
        return (args[0].masked_fill(sees_none, 0.0),)

    attention.register_forward_pre_hook(keep_mask, with_kwargs=True)
    attention.o_proj.register_forward_pre_hook(gate)


_FORWARDS = {"IdeficsRMSNorm": _rms_norm, "IdeficsRotaryEmbedding": _rotary}
