import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, fields

import pytest

from diptych.core import outputs
from diptych.core.models.bert import BertForPreTrainingOutput
from diptych.core.models.clip import CLIPOutput, CLIPTextModelOutput, CLIPVisionModelOutput
from diptych.core.outputs import (
    BaseModelOutput,
    BaseModelOutputWithPooling,
    ClassifierOutput,
    ImageClassifierOutput,
    MaskedLMOutput,
    ModelOutput,
    SequenceClassifierOutput,
)

# Names and order in transformers 5.23; `past_key_values` and `cross_attentions` belong to decoders.
FIELDS = {
    BaseModelOutput: "last_hidden_state hidden_states attentions",
    BaseModelOutputWithPooling: "last_hidden_state pooler_output hidden_states attentions",
    MaskedLMOutput: "loss logits hidden_states attentions",
    SequenceClassifierOutput: "loss logits hidden_states attentions",
    ImageClassifierOutput: "loss logits hidden_states attentions",
    BertForPreTrainingOutput: "loss prediction_logits seq_relationship_logits hidden_states attentions",
    CLIPTextModelOutput: "text_embeds last_hidden_state hidden_states attentions",
    CLIPVisionModelOutput: "image_embeds last_hidden_state hidden_states attentions",
    CLIPOutput: "loss logits_per_image logits_per_text text_embeds image_embeds text_model_output vision_model_output",
}


@pytest.mark.parametrize("record", FIELDS)
def test_fields_and_their_order(record):
    assert [f.name for f in fields(record)] == FIELDS[record].split()


def test_fields_that_are_none_are_left_out():
    output = BaseModelOutputWithPooling(last_hidden_state=[1], attentions=(2, 3))
    assert output.keys() == ("last_hidden_state", "attentions")
    assert output.values() == output.to_tuple() == ([1], (2, 3))
    assert output.items() == (("last_hidden_state", [1]), ("attentions", (2, 3)))
    assert list(output) == ["last_hidden_state", "attentions"]  # as in transformers: the names
    assert len(output) == 2
    assert "attentions" in output and "pooler_output" not in output
    assert dict(output) == {"last_hidden_state": [1], "attentions": (2, 3)}


def test_reading_by_attribute_by_name_and_by_position():
    output = MaskedLMOutput(logits="L", attentions=("a",))
    assert output.logits == output["logits"] == output[0] == "L"
    assert output[-1] == output[1] == ("a",)
    assert output[:1] == ("L",) and output[0:2] == ("L", ("a",))
    assert output.loss is None
    with pytest.raises(KeyError, match="MaskedLMOutput has no 'loss' here; it has logits, attentions"):
        output["loss"]
    with pytest.raises(IndexError):
        output[2]


def test_records_inside_become_tuples_too():
    inner = BaseModelOutputWithPooling(last_hidden_state=1, pooler_output=2)
    output = CLIPOutput(logits_per_text=3, text_model_output=inner)
    assert output.to_tuple() == (3, (1, 2))
    assert output.values() == (3, inner)


def test_zero_is_not_none():
    assert MaskedLMOutput(loss=0.0, logits=False).to_tuple() == (0.0, False)


def test_records_are_frozen_and_replace_makes_a_changed_copy():
    output = MaskedLMOutput(logits=1)
    with pytest.raises(FrozenInstanceError):
        output.logits = 2
    other = output.replace(loss=3, logits=None)
    assert other.to_tuple() == (3,) and output.to_tuple() == (1,)
    assert type(other) is MaskedLMOutput
    with pytest.raises(TypeError):
        MaskedLMOutput(logit=1)


def test_records_can_be_pickled_and_copied():
    output = CLIPOutput(loss=1.5, text_model_output=BaseModelOutputWithPooling(pooler_output=(1, 2)))
    assert pickle.loads(pickle.dumps(output)) == output == copy.deepcopy(output)


def test_a_listener_hears_of_every_record_there_is_and_will_be(monkeypatch):
    monkeypatch.setattr(outputs, "_records", list(outputs._records))
    monkeypatch.setattr(outputs, "_listeners", [])
    heard = []
    outputs.each_record(heard.append)
    assert set(FIELDS) | {ClassifierOutput} <= set(heard)

    @dataclass(frozen=True, kw_only=True)
    class Another(ModelOutput):
        pass

    assert heard[-1] is Another
    assert len(heard) == len(set(heard))
