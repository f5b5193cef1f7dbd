"""The documents are true: the examples of README and docs/ print what is shown, and what is named exists."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from diptych import cli
from diptych.core.registry import Family, architectures

ROOT = Path(__file__).parents[2]
GUIDES = tuple(sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md")))
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", *GUIDES)
CONTINUES = {"docs/generation.md": "docs/encoder-decoder.md"}
"""Documents whose examples need files that the examples of another one write."""

ANYTHING = "…"
PRINTED = "# > "
# A row of a parity table: what rounding leaves, and where it leaves most, is the machine's own.
ROW = re.compile(r"^(module|output|gradient) +(\w+) +[\d.e+-]+ +[\d.e+-]+ +[\d.e+-]+  (yes|NO ) .*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line on which the text starts."""

    language: str
    text: str
    line: int


def blocks(document: str) -> Iterator[Block]:
    """The fenced blocks of a document in order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)


def shown(text: str) -> str:
    """The printed lines that a Python block shows."""
    return "\n".join(line[len(PRINTED) :] for line in text.splitlines() if line.startswith(PRINTED))


def assert_printed(printed: str, expected: str, where: str) -> None:
    """Fails unless the printed lines are those expected, where an ellipsis stands for anything and figures of rounding
    for any others."""
    found, wanted = (ROW.sub(r"\1 \2 \3", text).strip() for text in (printed, expected))
    pattern = ".*".join(re.escape(part) for part in wanted.split(ANYTHING))
    assert re.fullmatch(pattern, found, re.DOTALL), f"{where} printed\n{printed}\nbut shows\n{expected}"


def commands(block: Block) -> list[list[str]]:
    """The command lines of a bash block that call diptych, as arguments."""
    lines = [shlex.split(line, comments=True) for line in block.text.splitlines()]
    return [words[1:] for words in lines if words and words[0] == "diptych"]


def run_examples(document: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs a document's examples in order and compares what they print with what is shown.

    Raises:
        AssertionError: an example prints something else, a command fails, or the document has no example.
    """
    names: dict[str, Any] = {}
    printed, commanded, ran = "", "", 0
    every = list(blocks(document))
    for index, block in enumerate(every):
        following = every[index + 1] if index + 1 < len(every) else None
        where = f"{document}, line {block.line}"
        capsys.readouterr()
        if block.language == "python":
            # empty lines in front, so that a traceback names the document's own lines
            exec(compile("\n" * (block.line - 1) + block.text, str(ROOT / document), "exec"), names)
            printed = capsys.readouterr().out
            if following is None or following.language != "text":
                assert_printed(printed, shown(block.text), where)
        elif block.language == "bash":
            printed = ""
            for arguments in commands(block):
                with pytest.raises(SystemExit) as ended:
                    cli.main(arguments)
                assert not ended.value.code, f"{where}: diptych {shlex.join(arguments)} ended with {ended.value.code}"
                printed += capsys.readouterr().out
            commanded += printed
        elif block.language == "text":
            assert_printed(printed, block.text, where)
        else:
            continue
        ran += 1
    assert ran, f"{document} has no examples"
    for verdict in re.findall(r"`(EQUAL: [^`]*)`", (ROOT / document).read_text(encoding="utf-8")):
        assert verdict in commanded


@pytest.mark.parametrize("document", [name for name in ("README.md", *GUIDES) if name not in CONTINUES.values()])
def test_examples_print_what_is_shown(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIPTYCH_BACKEND", raising=False)
    for part in filter(None, (CONTINUES.get(document), document)):
        monkeypatch.setattr("diptych.core.backends._default", None)
        run_examples(part, capsys)


def test_an_example_that_breaks_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    for text, error in (
        ("```python\nprint(1)\n# > 2\n```\n", AssertionError),
        ("```python\nraise KeyError\n```\n", KeyError),
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", AssertionError),
        ("```bash\ndiptych inspect nowhere/at/all\n```\n", AssertionError),
        ("Equal: `EQUAL: 3 points`\n\n```bash\ndiptych --version\n```\n", AssertionError),
        ("no example\n", AssertionError),
    ):
        Path(tmp_path, "broken.md").write_text(text)
        with pytest.raises(error):
            run_examples("broken.md", capsys)


def test_readme_links_every_guide() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(GUIDES) > 1
    assert [guide for guide in GUIDES if f"]({guide})" not in text] == []


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("a b", "a c"),
        ("a b c", "a … d"),
        ("a b\nc", "a b"),
        ("output    float64     5.9e-15   9.6e-16       4.3  NO   x", "output    float64  1.0 1.0 1.0  yes  x"),
        ("output    float64     5.9e-15   9.6e-16       4.3  yes  x", "module    float64  1.0 1.0 1.0  yes  x"),
    ],
)
def test_a_comparison_with_other_lines_fails(printed: str, expected: str) -> None:
    assert_printed(printed, printed, "here")
    with pytest.raises(AssertionError, match="but shows"):
        assert_printed(printed, expected, "here")


def test_every_class_is_in_the_table_of_models() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(architectures())


def test_classes_that_replace_others_exist() -> None:
    text = (ROOT / "docs/migrating.md").read_text(encoding="utf-8")
    named = re.findall(r"`(?!Flax)(\w+(?:Model|ForCausalLM|Classification))`", text)
    assert len(named) > 5
    assert set(named) <= set(architectures())


def _prose(document: str) -> str:
    """A document without its examples, whose files are made by them."""
    return re.sub(
        r"^```(python|bash|text)\n.*?^```$", "", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files(document: str) -> None:
    # ![](…) is an image in a prompt
    for target in re.findall(r"(?<!!\[)\]\(([^)#]+)[^)]*\)", _prose(document)):
        assert target.startswith("https://") or (ROOT / document).parent.joinpath(target).exists(), (
            f"{document}: no {target}"
        )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_that_are_named_exist(document: str) -> None:
    tops = "|".join(re.escape(path.name) for path in ROOT.iterdir() if path.is_dir() and path.name[:1].isalpha())
    names = re.findall(rf"(?<![\w/.<-])((?:{tops})/[\w./<>-]*\w/?)(?![\w<*{{])", _prose(document))
    missing = [name for name in names if "<" not in name and not (ROOT / name).exists()]
    assert not missing, f"{document}: {missing}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_that_are_named_exist(document: str) -> None:
    targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(r"(?:`|^|\s)make ([a-z][a-z-]*)(?=`|\s+#|$)", (ROOT / document).read_text(), re.MULTILINE)
    assert set(named) <= set(targets), f"{document}: {set(named) - set(targets)}"


def test_every_field_of_a_family_is_explained() -> None:
    rows = re.findall(r"^ +\| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(field.name for field in fields(Family))


def test_documents_name_paths_and_targets() -> None:
    """So that the two tests above look at something."""
    text = "".join((ROOT / document).read_text(encoding="utf-8") for document in DOCUMENTS)
    assert len(re.findall(r"diptych/core/", text)) > 3
    assert len(re.findall(r"`make test`", text)) > 1


def test_subcommands_that_are_named_exist() -> None:
    named = set(re.findall(r"`diptych ([a-z]+)", "".join((ROOT / document).read_text() for document in DOCUMENTS)))
    assert named <= {command.callback.__name__ for command in cli.app.registered_commands if command.callback}
