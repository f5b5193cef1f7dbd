"""Refusals that are the same in both backends."""

import pytest

from diptych.core.errors import InputError
from tests.backends import BACKENDS


def refusals(error, act):
    """The text with which both backends refuse, the same in both."""
    texts = []
    for name in BACKENDS:
        with pytest.raises(error) as caught:
            act(name)
        assert type(caught.value) is error
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    return texts[0]


def refused_call(models, architecture, /, *arguments, error=InputError, **keywords):
    """The text with which a model of both backends refuses a call."""
    return refusals(error, lambda name: models(name, architecture)(*arguments, **keywords))
