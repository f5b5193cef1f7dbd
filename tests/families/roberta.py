"""RoBERTa, XLM-RoBERTa and CamemBERT: models and inputs to compare."""

from typing import Any

import transformers

from tests.families import bert
from tests.families.drawing import PROBLEMS, Case, Drawn

CONFIGS: dict[str, Any] = {
    "Roberta": transformers.RobertaConfig,
    "XLMRoberta": transformers.XLMRobertaConfig,
    "Camembert": transformers.CamembertConfig,
}
"""What the names of a family's classes start with -> its config."""
# The other two are RoBERTa under other names: what may differ is what the names lead to.
_ALIKE: dict[str, list[dict[str, Any]]] = {
    "Model": [{}],
    "ForCausalLM": [{"tied": True, "crosses": True}],
    "ForMaskedLM": [{"tied": False}],
    "ForSequenceClassification": [{}],
}

MADE: dict[str, list[dict[str, Any]]] = {
    "RobertaModel": [
        *({"padding": padding, "is_decoder": False} for padding in ("right", "left", "holes")),
        *({"padding": padding, "is_decoder": True} for padding in ("left", "holes")),
        *({"pad_token_id": pad} for pad in (0, 6)),
        {"crosses": True},
    ],
    "RobertaForCausalLM": [
        *({"tied": tied, "crosses": False} for tied in (True, False)),
        *({"padding": padding, "crosses": True} for padding in ("left", "right")),
    ],
    "RobertaForMaskedLM": [{"tied": tied} for tied in (True, False)],
    "RobertaForSequenceClassification": [{"problem_type": problem} for problem in PROBLEMS],
    **{f"{name}{head}": made for name in ("XLMRoberta", "Camembert") for head, made in _ALIKE.items()},
}
"""Class -> the choices that a test of its own makes, one after the other."""
CLASSES = tuple(MADE)


def drawn_case(drawn: Drawn, name: str) -> Case:
    """A model of a class, and one call of it."""
    config = next(config for start, config in CONFIGS.items() if name.startswith(start))
    return bert.case(drawn, name, config, counts_pads=False)
