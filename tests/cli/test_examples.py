"""The examples train: alike in both backends, with pictures, and an error where one does not reach its target."""

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

EXAMPLES = Path(__file__).parents[2] / "examples"
BACKENDS = ("jax", "torch")
STEPS = 3
SAYS = {
    "train_seq2seq": ("test strings correct", 13),
    "train_captioner": ("unseen images described correctly", 22),
    "train_idefics": ("questions about unseen pairs answered correctly", 23),
    "train_speech": ("unseen recordings written correctly", 13),
}
"""Example -> what its score counts, and the size of its vocabulary."""
PHASES = {"train_idefics": 2, "train_speech": 2}
"""Example -> the number of its phases of training, if there are several."""
PICTURES = {
    "train_captioner": ("captions", (1200, 880)),
    "train_idefics": ("answers", (1200, 900)),
    "train_speech": ("texts", (1200, 900)),
}
"""Example -> the name and size of the picture of what it writes."""
WRITTEN = {"train_captioner": {"model": "captions"}, "train_speech": {"ctc": "numbers", "model": "numbers"}}
"""Example -> the models that the other framework loads, and what they write."""

MISSES = "train_seq2seq"
"""The example that is given a target that it does not reach."""

Runs = tuple[str, Path, dict[str, Any]]


def trained(example: str, out: Path, *options: str) -> Any:
    """An example's process once it has ended."""
    command = [sys.executable, str(EXAMPLES / f"{example}.py"), *options, "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=out.parent)


@pytest.fixture(scope="module", params=SAYS)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """An example, the folder of a few steps in each backend, one after the other, and what the two runs said."""
    out = tmp_path_factory.mktemp("example") / "out"
    target = "1" if request.param == MISSES else "0"
    steps = ("--steps", str(STEPS), "--every", str(STEPS), "--target", target)
    steps += ("--first-steps", str(STEPS)) if request.param in PHASES else ()
    return (
        request.param,
        out,
        {backend: trained(request.param, out, "--backend", backend, *steps) for backend in BACKENDS},
    )


def losses_of(out: Path, backend: str) -> np.ndarray:
    return np.array(json.loads((out / f"losses-{backend}.json").read_text()), np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_says_what_came_of_it(runs: Runs, backend: str) -> None:
    example, out, processes = runs
    run = processes[backend]
    assert run.returncode == int(example == MISSES), run.stderr
    (counted, vocabulary), steps = SAYS[example], STEPS * PHASES.get(example, 1)
    assert re.search(
        rf"^{backend}: \d+\.\d% of 1000 {counted} after {steps} steps and \d+ s$", run.stdout, re.MULTILINE
    )
    losses = losses_of(out, backend)
    assert losses.shape == (steps,)
    assert (
        f"loss {losses[0]:.4f} at the start, {losses[-1]:.4f} at the end; curves in {out / 'losses.png'}" in run.stdout
    )
    # it starts from nothing, and all tokens are alike to it, or almost so where the initial weights are larger;
    # the loss of CTC is that of every path of a text together
    speech = example == "train_speech"
    assert -0.1 < losses[STEPS if speech else 0] - np.log(vocabulary) < (1.0 if speech else 0.1)


def test_both_backends_learn_alike(runs: Runs) -> None:
    example, out, _ = runs
    found, expected = losses_of(out, "jax"), losses_of(out, "torch")
    assert_close(found, expected, kind="float32", name="losses")
    assert len(set(found.tolist())) == STEPS * PHASES.get(example, 1)  # each step was taken


def colours_of(path: Path, size: tuple[int, int]) -> set[Any]:
    """The colours in a PNG of the size."""
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.size == size
        colours = picture.convert("RGB").getcolors(maxcolors=size[0] * size[1])
    assert colours is not None
    return {colour for _, colour in colours}


def test_the_picture_has_both_curves(runs: Runs) -> None:
    example, out, _ = runs
    more = {
        "train_captioner": ["captions-{}.png", "model-{}"],
        "train_idefics": ["answers-{}.png", "model-{}"],
        "train_speech": ["ctc-{}", "model-{}", "texts-{}.png"],
    }
    names = [name.format(backend) for name in ["losses-{}.json", *more.get(example, [])] for backend in BACKENDS]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "losses.png"])
    assert {(31, 119, 180), (255, 127, 14)} <= colours_of(out / "losses.png", (1050, 600))  # matplotlib's first two


@pytest.mark.parametrize("runs", WRITTEN, indirect=True)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_saved_model_writes_the_same_in_the_other_backend(runs: Runs, backend: str) -> None:
    example, out, processes = runs
    other, said = BACKENDS[1 - BACKENDS.index(backend)], processes[backend].stdout.splitlines()
    for model, texts in WRITTEN[example].items():
        assert (
            f"loaded from {out / f'{model}-{backend}'}, the model writes 1000 of 1000 {texts} alike in {other}" in said
        )


@pytest.mark.parametrize("runs", PICTURES, indirect=True)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_page_shows_what_was_read_and_wrong_texts_in_red(runs: Runs, backend: str) -> None:
    example, out, _ = runs
    name, size = PICTURES[example]
    colours = colours_of(out / f"{name}-{backend}.png", size)
    assert (255, 0, 0) in colours and len(colours) > 1000  # nothing is right after three steps


@pytest.mark.parametrize("runs", [MISSES], indirect=True)
def test_a_target_that_is_not_reached_is_an_error(runs: Runs) -> None:
    for run in runs[2].values():
        assert (run.returncode, run.stderr.splitlines()[-1]) == (1, "the target of 100.0% was not reached")
