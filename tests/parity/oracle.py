"""transformers 5.23 in float64: the independent code that the models are compared with."""

import functools
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface
from transformers.models.trocr.modeling_trocr import TrOCRSinusoidalPositionalEmbedding

from diptych.conversion.exact import make_exact
from diptych.conversion.published_names import published_names
from diptych.core.checkpoint.dialects import respell

EXACT = "exact"
"""The attention that returns its probabilities, as "eager" does, which rounds CLIP's to float32 on the way."""


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = nn.functional.dropout(scores.softmax(-1), dropout, module.training)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


def _causal_loss(logits: Tensor, labels: Tensor, vocab_size: int, **_: Any) -> Tensor:
    following = nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    return nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten())


def _ctc_loss(
    logits: Tensor,
    labels: Tensor,
    logit_lengths: Tensor,
    blank_token_id: int,
    reduction: str,
    zero_infinity: bool,
    **_: Any,
) -> Tensor:
    told = (labels != -100) & (labels != blank_token_id)
    lengths = (logit_lengths, told.sum(-1))
    options = {"blank": blank_token_id, "reduction": reduction, "zero_infinity": zero_infinity}
    scores = logits.log_softmax(-1).transpose(0, 1)
    return nn.functional.ctc_loss(scores, labels.masked_select(told), *lengths, **options)


def _without_float32(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call in which tensors that are rounded to float32 keep their dtype."""

    @functools.wraps(call)
    def exact(*inputs: Any, **keywords: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "float", lambda values: values)
            return call(*inputs, **keywords)

    return exact


AttentionInterface.register(EXACT, _attention)
AttentionMaskInterface.register(EXACT, eager_mask)


def built(name: str, config: transformers.PretrainedConfig, **keywords: Any) -> Any:
    """A model in float64 whose every parameter is random, so that no bias is zero and no scale is one.

    Args:
        name: of the class.
        config: its config.
        keywords: more for the constructor, such as add_pooling_layer.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        model = getattr(transformers, name)(config, **keywords).double().eval()
    if name.endswith("ForCTC"):
        model.loss_function = _ctc_loss  # its own rounds the logits to float32
    if name.endswith(("LMHeadModel", "ForCausalLM", "GenerationDecoder", "ForVisionText2Text")):
        model.loss_function = _causal_loss  # its own rounds the logits to float32
    if name.startswith("Idefics"):
        _complete_idefics(make_exact(model))
    if name == "Wav2Vec2ForPreTraining":
        model.forward = _without_float32(model.forward)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.4, generator=generator)
            if "norm" in path.lower() and path.endswith("weight"):
                parameter.add_(1.0)
        for path, buffer in model.named_buffers():
            if path == "final_logits_bias" or path.endswith("running_mean"):
                buffer.normal_(0.0, 0.4, generator=generator)
            if path.endswith("running_var"):
                buffer.uniform_(0.2, 2.0, generator=generator)
        for module in model.modules():
            if isinstance(module, TrOCRSinusoidalPositionalEmbedding):
                module.weights = sinusoids(*module.weights.shape, module.padding_idx)
        head = getattr(getattr(model, "cls", None), "predictions", getattr(model, "lm_head", None))
        if hasattr(head, "decoder") and head.decoder.bias is not head.bias:
            # where the embeddings are not tied, nothing in 5.23 uses `bias`; up to 4.57 it was decoder.bias
            head.bias.copy_(head.decoder.bias)
    return model


def _complete_idefics(model: Any) -> None:
    """Makes IDEFICS return the embeddings as its first hidden state, and the probabilities of its cross-attention.

    5.23 returns the output of its first gated layer there. A token that sees no image has probabilities all the same,
    whose effect a gate undoes: they are zero.
    """
    base = getattr(model, "model", model)
    embeddings: list[Tensor] = []
    crosses: list[Tensor] = []

    def keep_embeddings(module: nn.Module, args: Any, keywords: Any, states: Tensor) -> None:
        embeddings.append(states)

    def keep_probabilities(module: nn.Module, args: Any, keywords: Any, output: tuple[Tensor, Any]) -> None:
        if output[1] is not None:
            seen = (keywords["attention_mask"] == 0.0).any(-1, keepdim=True)
            crosses.append(output[1].masked_fill(~seen, 0.0))

    def complete(module: nn.Module, args: Any, keywords: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            if model is base:  # whose tuple has the images second, other than its record
                first, images, *others = output
                output = (first, *others, images)
            return (*output, tuple(crosses)) if keywords.get("output_attentions") else output
        if "hidden_states" in output:
            output["hidden_states"] = ([*embeddings, keywords.get("inputs_embeds")][0], *output["hidden_states"][1:])
        if keywords.get("output_attentions") and crosses:
            output["cross_attentions"] = tuple(crosses)
        for name in ("hidden_states", "attentions", "image_hidden_states", "cross_attentions"):
            if name in output:
                output.move_to_end(name)
        embeddings.clear()
        crosses.clear()
        return output

    base.embed_tokens.register_forward_hook(keep_embeddings, with_kwargs=True)
    for layer in base.gated_cross_attn_layers:
        layer.cross_attn.register_forward_hook(keep_probabilities, with_kwargs=True)
    model.register_forward_hook(complete, with_kwargs=True)


def sinusoids(rows: int, width: int, padding: int) -> Tensor:
    """TrOCR's table of positions by its own code, with exponentials, sines and cosines in float64.

    It takes them in float32, where their last bit depends on the machine.
    """
    wide = {
        "exp": lambda values: values.double().exp().float(),
        "sin": lambda values: values.double().sin(),
        "cos": lambda values: values.double().cos(),
        "get_default_dtype": lambda: torch.float64,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, function in wide.items():
            patch.setattr(torch, name, function)
        return TrOCRSinusoidalPositionalEmbedding.get_embedding(rows, width, padding)


def saved(model: Any, directory: Path) -> Path:
    """The directory, with the model in it."""
    model.save_pretrained(directory)
    return directory


def published(model: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by the names of the model's parameters, with the names that are published instead."""
    found = {name: value for name, value in values.items() if name not in unread(model)}
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for head in [name for name in found if name.endswith("lm_head.decoder.weight")]:
        words = head.replace("lm_head.decoder", "roberta.embeddings.word_embeddings")
        if words in names - found.keys():  # XLM-RoBERTa and CamemBERT make their head first, where they are tied
            found[words] = found.pop(head)
    prefix = {"CLIPTextModel": "text_model.", "CLIPVisionModel": "vision_model."}.get(type(model).__name__, "")
    on_disk = published_names(model)
    found = {respell(prefix + on_disk[name]): value for name, value in found.items()}
    if type(getattr(model, "encoder", None)).__name__ == "CLIPVisionModel":  # whose files on the hub have its prefix
        found = {re.sub(r"^encoder\.", "encoder.vision_model.", name): value for name, value in found.items()}
    return found


def unread(model: Any) -> set[str]:
    """The model's parameters that nothing in 5.23 reads."""
    names = {name for name, _ in model.named_parameters()}
    found = {f"{head}.bias" for head in ("cls.predictions", "lm_head") if f"{head}.decoder.bias" in names}
    if not getattr(model.config, "tie_word_embeddings", True):
        found |= {"shared.weight", "model.shared.weight"} & names  # BART's, whose stacks have tables of their own
    return found


def gradients(model: Any) -> dict[str, np.ndarray]:
    """The gradient of every parameter by published name; zeros for those that the scalar does not depend on."""
    found = {
        name: np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.numpy()
        for name, parameter in model.named_parameters()
    }
    assert not any(found[name].any() for name in unread(model))
    return published(model, found)
