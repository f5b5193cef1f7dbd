"""Which backend is used: the named one, that of diptych.use, of DIPTYCH_BACKEND, or what is installed."""

import sys

import pytest

from diptych.core import backends
from diptych.core.errors import InputError

PURPOSES = ("model", "result", "names")


@pytest.fixture(autouse=True)
def nothing_is_chosen(monkeypatch):
    monkeypatch.setattr(backends, "_default", None)
    monkeypatch.delenv("DIPTYCH_BACKEND", raising=False)


@pytest.fixture
def install(monkeypatch):
    def install(*packages):
        def finder(name):
            return object() if name in packages else None

        monkeypatch.setattr(backends.importlib.util, "find_spec", finder)
        for package in ("torch", "jax"):
            monkeypatch.delitem(sys.modules, package, raising=False)

    return install


@pytest.mark.parametrize("purpose", PURPOSES)
def test_each_choice_goes_before_the_ones_after_it(purpose, install, monkeypatch):
    install("torch")
    assert backends.choose(purpose) == "torch"
    monkeypatch.setenv("DIPTYCH_BACKEND", "jax")
    assert backends.choose(purpose) == "jax"
    backends.set_default("torch")
    assert backends.choose(purpose) == "torch"
    assert backends.choose(purpose, "jax") == "jax"
    backends.set_default(None)
    monkeypatch.setenv("DIPTYCH_BACKEND", "")
    assert backends.choose(purpose) == "torch"


def test_flax_belongs_to_jax(install):
    install("jax", "torch")
    assert backends.installed_backends() == ("torch",)
    install("jax", "flax")
    assert backends.installed_backends() == ("jax",)
    assert backends.choose("model") == "jax"
    install("jax", "flax", "torch")
    assert backends.installed_backends() == ("torch", "jax")


def test_where_both_are_installed_a_model_needs_a_choice(install):
    install("jax", "flax", "torch")
    with pytest.raises(ImportError, match=r"both installed: choose with DIPTYCH_BACKEND or diptych.use\('jax' | 't"):
        backends.choose("model")


def test_where_both_are_installed_the_first_gives_results(install, monkeypatch):
    install("jax", "flax", "torch")
    assert backends.choose("result") == "torch"
    monkeypatch.setitem(sys.modules, "jax", object())
    assert backends.choose("result") == "torch"


def test_where_both_are_installed_names_come_from_the_one_that_is_imported(install, monkeypatch):
    install("jax", "flax", "torch")
    assert backends.choose("names") == "torch"
    monkeypatch.setitem(sys.modules, "jax", object())
    assert backends.choose("names") == "jax"
    monkeypatch.setitem(sys.modules, "torch", object())
    assert backends.choose("names") == "torch"


@pytest.mark.parametrize("purpose", PURPOSES)
def test_without_any_backend(purpose, install):
    install("jax")
    with pytest.raises(ImportError, match=r"^neither JAX with Flax nor PyTorch is installed; pip install 'dip"):
        backends.choose(purpose)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_unknown_names_are_refused(purpose, monkeypatch):
    with pytest.raises(InputError, match=r"^generate: backend='tf' is not known; known: jax, torch$"):
        backends.choose(purpose, "tf", argument="generate: backend")
    with pytest.raises(InputError, match=r"^backend='' is not known; known: jax, torch$"):
        backends.choose(purpose, "")
    with pytest.raises(InputError, match=r"^backend='tf' is not known; known: jax, torch$"):
        backends.set_default("tf")
    monkeypatch.setenv("DIPTYCH_BACKEND", "tf")
    with pytest.raises(InputError, match=r"^DIPTYCH_BACKEND='tf' is not known; known: jax, torch$"):
        backends.choose(purpose)
