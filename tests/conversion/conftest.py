"""Models of both backends, checkpoints that transformers saved, and some of our own."""

import shutil

import pytest
import torch

from tests.conversion import checkpoints
from tests.conversion.refusals import BACKENDS
from tests.conversion.tiny import config_of, theirs


@pytest.fixture(params=BACKENDS)
def backend(request):
    return BACKENDS[request.param]


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Gives the directory of a tiny model that transformers saved."""
    directories = {}

    def save(architecture):
        if architecture not in directories:
            torch.manual_seed(1)
            directories[architecture] = tmp_path_factory.mktemp(architecture)
            model = theirs(architecture)
            with torch.no_grad():
                for values in model.state_dict().values():  # biases and norms start from constants
                    if values.is_floating_point():
                        values.add_(torch.randn_like(values) * 0.1)
            model.save_pretrained(directories[architecture])
        return directories[architecture]

    return save


@pytest.fixture
def copy_of(saved, tmp_path):
    """Gives a copy of such a directory, to be changed."""
    return lambda architecture: shutil.copytree(saved(architecture), tmp_path / architecture)


@pytest.fixture(scope="module")
def models():
    """Every class in both backends, tiny and with drawn weights."""
    made = {}

    def get(backend, architecture, **changes):
        key = (backend, architecture, tuple(changes.items()))
        if key not in made:
            made[key] = getattr(BACKENDS[backend], architecture)(config_of(architecture).replace(**changes))
        return made[key]

    return get


@pytest.fixture
def source(tmp_path):
    """A BertModel with the files that come with one."""
    directory = tmp_path / "source"
    checkpoints.write(directory, "BertModel")
    return directory
