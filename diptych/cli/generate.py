"""The command `diptych generate`."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from diptych.cli.generation_flags import collect_options, parse_ids, with_flags
from diptych.cli.options import (
    Backend,
    Device,
    Dtype,
    Ignore,
    IgnoreConfig,
    Images,
    MoreFiles,
    Recordings,
    Set,
    Sharding,
    gather_files,
    given_flags,
    parse_settings,
    with_hub_flags,
)  # fmt: skip
from diptych.cli.printing import FileErrors


@with_hub_flags()
@with_flags
def generate(
    directory: Annotated[str, typer.Argument(help="A checkpoint directory, or a name on the Hugging Face hub.")],
    more_files: MoreFiles = None,
    image: Images = None,
    audio: Recordings = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="TEXT",
            help="A text to continue, or the input of an encoder, with the special tokens that the checkpoint's "
            "tokenizer adds; @FILE reads it from a file, - from stdin, @@ begins a text with @; may be repeated. "
            "IDEFICS reads images in it: ![](cat.jpg). With --image, the first tokens of every text, such as Donut's "
            "<s_cord-v2>.",
        ),
    ] = None,
    lines: Annotated[
        bool, typer.Option("--lines", help="Each line of a file or of stdin is a text of its own; not blank ones.")
    ] = False,
    ids: Annotated[
        list[str] | None,
        typer.Option(metavar="ID[,ID…]", help="The same as token ids, used unchanged; may be repeated."),
    ] = None,
    backend: Backend = None,
    dtype: Dtype = None,
    device: Device = None,
    sharding: Sharding = None,
    seed: Annotated[int, typer.Option(help="Of the random choices of --do-sample.")] = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Prompts to generate from at once, by default all; or images, or windows of recordings, by default 8."
        ),
    ] = None,
    source_language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Of the texts, for the tokenizers of MBart, such as de_DE.")
    ] = None,
    target_language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Of the output: its token is forced as the first one.")
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(
            metavar="CODE",
            help="Of the text of recordings: its token is forced as the first one, as in de_DE, or its adapter and "
            "vocabulary are loaded, as in deu (MMS).",
        ),
    ] = None,
    window: Annotated[
        float | None, typer.Option(help="The seconds of a recording that are read at once, by default 30.")
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(help="The seconds at each end of a CTC model's windows that are context only; a sixth of them."),
    ] = None,
    timestamps: Annotated[
        bool,
        typer.Option(
            "--timestamps", help="Print the seconds of each word of a CTC model, or of each window of others."
        ),
    ] = False,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the decoding step with torch; JAX always does.")
    ] = False,
    echo: Annotated[
        bool, typer.Option("--echo", help="Print the prompt too, or the start token of a decoder with an encoder.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write to this file instead of stdout, batch by batch.")
    ] = None,
    ignore: Ignore = None,
    ignore_config: IgnoreConfig = None,
    set: Set = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print a line of JSON for each text: its prompt's number or its file, the text, its ids and score or "
            "its times.",
        ),
    ] = False,
    **options: Any,
) -> None:
    """Generate text: a decoder continues a prompt, a model with an encoder reads a text, an image or a recording.

    Only new text is printed, without special tokens, or ids if there is no tokenizer; that of a CTC model keeps <s>,
    </s> and <unk>, as the pipeline of transformers does. A single text without beams is printed while its tokens are
    generated. A flag takes precedence over the checkpoint's own option. An image or a recording that cannot be read is
    reported, the others are read, and the exit code is 2.

    Examples:

      diptych generate gpt2 --text "Once upon a time" --max-new-tokens 40 --do-sample --seed 7

      diptych generate bart-large-cnn --text - --num-beams 4 < article.txt

      diptych generate bart-large-cnn --text @articles.txt --lines --batch-size 8 --output summaries.txt

      diptych generate gpt2 --ids 464,3290 --ids 464,3797 --json

      diptych generate vit-gpt2-image-captioning --image photo.jpg

      diptych generate trocr-base-printed --image 'lines/*.png' --batch-size 16 --output lines.txt

      diptych generate donut-base-finetuned-cord-v2 --image receipt.png --text "<s_cord-v2>"

      diptych generate idefics-9b-instruct --text "User: ![](cat.jpg) What is this?<end_of_utterance>Assistant:"

      diptych generate wav2vec2-base-960h --audio speech.wav --timestamps

      diptych generate wav2vec2-xls-r-300m-en-to-15 --audio 'talks/*.flac' --language de_DE --output german.txt
    """
    from diptych.core.checkpoint.hub import split_options
    from diptych.core.errors import InputError

    hub, options = split_options(given_flags(options))
    images, recordings = gather_files("generate", image, audio, more_files)
    _check_texts(text or (), ids or (), lines, (*images, *recordings))
    prompts = _read_texts(text, lines) if text else [parse_ids("--ids", one) for one in ids or ()]
    languages = given_flags({"source_language": source_language, "target_language": target_language})
    of_sound = given_flags(
        {"language": language, "window": window, "overlap": overlap, "timestamps": timestamps or None}
    )
    _refuse_unused(images, recordings, prompts, languages, of_sound)
    if output is not None and output.is_file():
        _refuse_input(output, [one[1:] for one in text or () if _is_file(one) and one != "-"], images, recordings)
    written, errors = _Output(output), FileErrors()
    chosen: dict[str, Any] = {
        "backend": backend,
        "dtype": dtype,
        "device": device,
        "sharding": sharding,
        "changes": parse_settings(set),
        "seed": seed,
        "compile": compile,
        "echo": echo,
        "show": written.write,
        "as_json": json,
        "ignore": tuple(ignore or ()),
        "ignore_config": tuple(ignore_config or ()),
        **given_flags({"batch_size": batch_size}),
        **collect_options(options),
        **hub,
    }
    if recordings:
        from diptych.sound import transcribe

        transcribe(directory, recordings, on_error=errors.report, **of_sound, **chosen)
    elif images:
        from diptych.images import generate_text_from_images

        start = {"prompt": prompts[0]} if prompts else {}
        generate_text_from_images(directory, images, on_error=errors.report, **start, **chosen)
    elif text and _reads_images_in_prompts(directory, backend, chosen["ignore_config"], hub):
        from diptych.images import generate_text_with_images

        if languages:
            raise InputError("generate: --source-language and --target-language have no use for a model of images")
        generate_text_with_images(directory, prompts, on_error=errors.report, **chosen)
    else:
        from diptych.text import generate_text

        generate_text(directory, prompts, **languages, **chosen)
    written.close()
    errors.end()


def _check_texts(text: Sequence[str], ids: Sequence[str], lines: bool, files: Sequence[str]) -> None:
    """Raises an InputError if nothing is given to read, or --text, --ids, --lines or stdin do not go together.

    Args:
        text, ids, lines: the flags.
        files: the images or recordings.
    """
    from diptych.core.errors import InputError

    if (text and ids) or not (text or ids or files):
        raise InputError("generate: one of --text and --ids is needed, and not both; or --image, or --audio")
    if lines and not any(_is_file(one) for one in text):
        raise InputError("generate: --lines needs a file or stdin, as --text @FILE or --text -")
    if "-" in text and "-" in files:
        raise InputError("generate: stdin can be read once, so - can be given once")


def _refuse_unused(
    images: Sequence[str],
    recordings: Sequence[str],
    prompts: Sequence[Any],
    languages: Mapping[str, Any],
    of_sound: Mapping[str, Any],
) -> None:
    """Raises an InputError for flags that were given but have no use for images, or for recordings."""
    from diptych.core.errors import InputError

    if of_sound and not recordings:
        raise InputError(f"generate: --{next(iter(of_sound))} is for recordings, but there is no --audio")
    if recordings and (prompts or languages):
        raise InputError(
            "generate: with --audio, --text, --ids, --source-language and --target-language have no use; "
            "--language is that of the text"
        )
    if images and (len(prompts) > 1 or languages):
        raise InputError(
            "generate: with --image, one --text or --ids begins every text, and --source-language and "
            "--target-language have no use"
        )


def _refuse_input(output: Path, texts: list[str], images: Any, recordings: Any) -> None:
    """Raises an InputError if the output would replace one of the files that are read."""
    from diptych.core.errors import InputError

    names = texts
    if images:
        from diptych.images.files import find_images

        names = [*names, *find_images(images)]
    if recordings:
        from diptych.sound.files import find_recordings

        names = [*names, *find_recordings(recordings)]
    for name in names:
        if Path(name).exists() and output.samefile(name):
            raise InputError(f"--output {output}: is the input {name}, and would replace it; give another file")


def _reads_images_in_prompts(
    directory: str, backend: str | None, ignore_config: Sequence[str], hub: Mapping[str, Any]
) -> bool:
    from diptych.images import reads_images_in_prompts

    return reads_images_in_prompts(directory, backend, ignore_config, **hub)


def _read_texts(given: Sequence[str], lines: bool) -> list[str]:
    """The texts, with those of files and of stdin, without their last line break or as lines, in their places.

    Raises:
        InputError: a file cannot be read, holds no text, or has blank lines alone; or stdin is given twice.
    """
    from diptych.core.errors import InputError

    if given.count("-") > 1:
        raise InputError("generate: stdin can be read once, so --text - can be given once")
    if "-" in given and sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise InputError("--text -: stdin is closed")
    texts: list[str] = []
    for text in given:
        if not _is_file(text):
            texts.append(text.removeprefix("@"))
            continue
        name = "stdin" if text == "-" else text[1:]
        try:
            read = sys.stdin.read() if text == "-" else Path(name).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"generate: {name} is no text ({error})") from None
        except OSError as error:
            raise InputError(f"--text {text}: {error.strerror}") from None
        texts += _lines_of(name, read) if lines else [read.removesuffix("\n")]
    return texts


def _is_file(text: str) -> bool:
    """Whether a value of --text names a file or stdin."""
    return text == "-" or (text.startswith("@") and not text.startswith("@@"))


def _lines_of(name: str, read: str) -> list[str]:
    """The lines of a file that are not blank; those that are blank are reported on stderr.

    Raises:
        InputError: all are blank.
    """
    from diptych.core.errors import InputError

    lines = read.splitlines()
    blank = [str(number) for number, line in enumerate(lines, 1) if not line.strip()]
    if len(blank) == len(lines):
        raise InputError(f"--lines: {name} has no line that is not blank")
    if blank:
        listed = ", ".join(blank[:5]) + (" …" if blank[5:] else "")
        typer.echo(f"diptych: {name}: blank lines are skipped: {listed}", err=True)
    return [line for line in lines if line.strip()]


class _Output:
    """Where texts go: a file, which is opened for the first of them, or stdout."""

    def __init__(self, path: Path | None) -> None:
        """Checks the path of a file.

        Raises:
            InputError: it is a directory, or there is none to hold it.
        """
        from diptych.core.errors import InputError

        if path is not None and path.is_dir():
            raise InputError(f"--output {path}: is a directory; give the name of a file")
        if path is not None and not path.parent.is_dir():
            raise InputError(f"--output {path}: there is no directory {path.parent}")
        self.path = path
        self.file: IO[str] | None = None

    def write(self, text: str) -> None:
        """Writes a piece of text at once."""
        if self.path is None:
            typer.echo(text, nl=False)
            return
        if self.file is None:
            try:
                self.file = self.path.open("w", encoding="utf-8")
            except OSError as error:
                raise OSError(f"--output {self.path}: {error.strerror}") from None
        self.file.write(text)
        self.file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self.file is not None:
            self.file.close()
