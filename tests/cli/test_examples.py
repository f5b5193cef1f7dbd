"""The example trains: alike in both backends, with a picture of it, and an error where it does not reach its target."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.assertions import assert_close

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_seq2seq.py"
BACKENDS = ("jax", "torch")
STEPS = 3


def trained(out: Path, *options: str) -> Any:
    """The example's process once it has ended."""
    command = [sys.executable, str(EXAMPLE), *options, "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=out.parent)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a few steps in each backend, one after the other, and what the two runs said."""
    out = tmp_path_factory.mktemp("example") / "out"
    steps = ("--steps", str(STEPS), "--every", str(STEPS), "--target", "0")
    return out, {backend: trained(out, "--backend", backend, *steps) for backend in BACKENDS}


def losses_of(out: Path, backend: str) -> np.ndarray:
    return np.array(json.loads((out / f"losses-{backend}.json").read_text()), np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_says_what_came_of_it(runs: tuple[Path, dict[str, Any]], backend: str) -> None:
    out, processes = runs
    run = processes[backend]
    assert run.returncode == 0, run.stderr
    assert re.search(rf"^{backend}: \d+\.\d% of 1000 test strings correct after {STEPS} steps", run.stdout)
    losses = losses_of(out, backend)
    assert losses.shape == (STEPS,)
    assert (
        f"loss {losses[0]:.4f} at the start, {losses[-1]:.4f} at the end; curves in {out / 'losses.png'}" in run.stdout
    )
    assert abs(losses[0] - np.log(13)) < 0.1  # it starts from nothing, and 13 tokens are alike to it


def test_both_backends_learn_alike(runs: tuple[Path, dict[str, Any]]) -> None:
    out, _ = runs
    found, expected = losses_of(out, "jax"), losses_of(out, "torch")
    assert_close(found, expected, kind="float32", name="losses")
    assert len(set(found.tolist())) == STEPS  # each step was taken


def test_the_picture_has_both_curves(runs: tuple[Path, dict[str, Any]]) -> None:
    out, _ = runs
    assert sorted(path.name for path in out.iterdir()) == ["losses-jax.json", "losses-torch.json", "losses.png"]
    with Image.open(out / "losses.png") as picture:
        assert picture.format == "PNG" and picture.size == (1050, 600)
        colours = picture.convert("RGB").getcolors(maxcolors=1050 * 600)
    assert colours is not None
    found = {colour for _, colour in colours}
    assert {(31, 119, 180), (255, 127, 14)} <= found  # matplotlib's first two


def test_a_target_that_is_not_reached_is_an_error(tmp_path: Path) -> None:
    run = trained(tmp_path / "out", "--backend", "torch", "--steps", "1", "--target", "1")
    assert (run.returncode, run.stderr.splitlines()[-1]) == (1, "the target of 100.0% was not reached")
    assert losses_of(tmp_path / "out", "torch").shape == (1,) and (tmp_path / "out" / "losses.png").exists()
