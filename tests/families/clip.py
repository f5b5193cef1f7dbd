"""CLIP: models and inputs to compare."""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import transformers

from diptych.core.config import Activation
from tests.families.drawing import EPSILONS, PADDINGS, PROBLEMS, Case, Drawn, Inputs, unseen

MADE: dict[str, list[dict[str, Any]]] = {
    "CLIPTextModel": [{"padding": padding} for padding in PADDINGS],
    "CLIPTextModelWithProjection": [{"eos_token_id": end} for end in (2, 7)],
    "CLIPVisionModel": [{"interpolate_pos_encoding": other} for other in (True, False)],
    "CLIPVisionModelWithProjection": [{"interpolate_pos_encoding": other} for other in (True, False)],
    "CLIPModel": [{"return_loss": loss} for loss in (True, False)],
    "CLIPForImageClassification": [{"num_labels": labels} for labels in (0, 1, 4)],
}
"""Class -> the choices that a test of its own makes, one after the other."""
CLASSES = tuple(MADE)


def _text_config(drawn: Drawn, projection: int) -> transformers.CLIPTextConfig:
    layers = drawn.size(1, 4)
    heads, width = drawn.heads()
    vocabulary = drawn.size(20, 40)
    return transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=drawn.size(5, 40),
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=drawn.size(11, 17),
        hidden_act=drawn.choice("hidden_act", get_args(Activation)),
        layer_norm_eps=drawn.choice("layer_norm_eps", EPSILONS),
        attention_dropout=0.1,  # eval mode leaves it out
        eos_token_id=drawn.choice("eos_token_id", [2, 7, vocabulary - 1]),
        bos_token_id=0,
        pad_token_id=1,
    )


def _vision_config(drawn: Drawn, projection: int) -> transformers.CLIPVisionConfig:
    layers = drawn.size(1, 3)
    heads, width = drawn.heads()
    patch = drawn.high(1, 4)
    return transformers.CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=drawn.size(5, 40),
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_channels=drawn.size(1, 8),
        image_size=drawn.high(patch, 4 * patch + 1),  # some are no multiple of the patch
        patch_size=patch,
        hidden_act=drawn.choice("hidden_act", get_args(Activation)),
        layer_norm_eps=drawn.choice("layer_norm_eps", EPSILONS),
        attention_dropout=0.1,
    )


def _texts(drawn: Drawn, config: Any, batch: int, paddings: Sequence[str]) -> tuple[Inputs, np.ndarray | None]:
    length, end = drawn.size(4, 10), config.eos_token_id
    ids = drawn.ids(batch, length, config.vocab_size)
    ids[np.arange(batch), drawn.random().integers(0, length, batch)] = end
    mask = drawn.mask(batch, length, paddings)
    inputs: Inputs = {"input_ids": ids}
    if mask is not None:
        inputs["attention_mask"] = mask
        ids[mask == 0] = config.pad_token_id
        ids[:, -1] = config.vocab_size - 1 if end == 2 else end  # the last token sees whatever is not padding
    return inputs | drawn.ids_or_not("position_ids", batch, length, config.max_position_embeddings), unseen(
        mask, causal=True
    )


def _images(drawn: Drawn, config: Any, batch: int) -> Inputs:
    size, patch = config.image_size, config.patch_size
    shape: tuple[int, ...] = (size, size)
    switches: Inputs = {}
    if drawn.choice("interpolate_pos_encoding", [True, False]):
        switches["interpolate_pos_encoding"] = True
        shape = (drawn.high(patch, size + 2 * patch), drawn.high(patch, size + patch))
    return {"pixel_values": drawn.random().standard_normal((batch, config.num_channels, *shape)), **switches}


def drawn_case(drawn: Drawn, name: str) -> Case:
    """A model of a class, and one call of it."""
    batch, projection = drawn.size(2, 5), drawn.size(3, 12)
    if name.startswith("CLIPText"):
        text = _text_config(drawn, projection)
        inputs, hidden = _texts(drawn, text, batch, PADDINGS)
        ids, end = inputs["input_ids"], text.eos_token_id
        return Case(name, text, inputs, hidden, pooled=(ids if end == 2 else ids == end).argmax(-1))
    vision = _vision_config(drawn, projection)
    images = _images(drawn, vision, batch)
    if name.startswith("CLIPVision"):
        return Case(name, vision, images)
    if name == "CLIPForImageClassification":
        classes = drawn.choice("num_labels", [drawn.size(3, 12), 1, 0])
        problem_type = drawn.choice("problem_type", PROBLEMS if classes > 1 else PROBLEMS[:2]) if classes else None
        config = transformers.CLIPConfig(vision_config=vision.to_dict(), num_labels=classes, problem_type=problem_type)
        labels = {"labels": drawn.targets(batch, classes, problem_type)} if classes else {}
        return Case(name, config, {**images, **labels})
    side = Drawn(drawn.draw, drawn.made)  # the text tower's sizes differ from each other and from these
    side.taken = {batch, projection, vision.num_hidden_layers, vision.hidden_size}
    text = _text_config(side, projection)
    config = transformers.CLIPConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=projection,
        logit_scale_init_value=2.6592,
    )
    loss = drawn.choice("return_loss", [True, False])
    texts, hidden = _texts(side, text, batch if loss else side.size(1, 8), PADDINGS[:-1])
    return Case(name, config, {**texts, **images, **({"return_loss": True} if loss else {})}, hidden)
