"""The command `diptych generate`."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from diptych.cli.generation_flags import collect_options, parse_ids, with_flags
from diptych.cli.options import Ignore, IgnoreConfig


@with_flags
def generate(
    directory: Annotated[str, typer.Argument(help="A checkpoint directory, or a name on the Hugging Face hub.")],
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="TEXT",
            help="A text to continue, or the input of an encoder, with the special tokens that the checkpoint's "
            "tokenizer.json adds; - reads it from stdin; may be repeated.",
        ),
    ] = None,
    ids: Annotated[
        list[str] | None,
        typer.Option(metavar="ID[,ID…]", help="The same as token ids, used unchanged; may be repeated."),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="jax or torch; same tokens. By default DIPTYCH_BACKEND's, or else the installed one, torch first."
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float64, float32, float16 or bfloat16; by default the checkpoint's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random choices of --do-sample.")] = 0,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the decoding step with torch; JAX always does.")
    ] = False,
    echo: Annotated[
        bool, typer.Option("--echo", help="Print the prompt too, or the start token of a decoder with an encoder.")
    ] = False,
    ignore: Ignore = None,
    ignore_config: IgnoreConfig = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each text: its ids, text and score.")
    ] = False,
    **options: Any,
) -> None:
    """Generate text: a decoder continues a prompt, a model with an encoder generates text from its input.

    Only new text is printed, without special tokens, or ids if there is no tokenizer.json. A single text without beams
    is printed while its tokens are generated. A flag takes precedence over the checkpoint's own option.

    Examples:

      diptych generate gpt2 --text "Once upon a time" --max-new-tokens 40 --do-sample --seed 7

      diptych generate bart-large-cnn --text - --num-beams 4 < article.txt

      diptych generate gpt2 --ids 464,3290 --ids 464,3797 --json
    """
    from diptych.core.errors import InputError
    from diptych.text import generate_text

    if bool(text) is bool(ids):
        raise InputError("generate: one of --text and --ids is needed, and not both")
    results = generate_text(
        directory,
        _read_texts(text) if text else [parse_ids("--ids", one) for one in ids or ()],
        backend=backend,
        dtype=dtype,
        seed=seed,
        compile=compile,
        echo=echo,
        show=None if json else _print_piece,
        ignore=tuple(ignore or ()),
        ignore_config=tuple(ignore_config or ()),
        **collect_options(options),
    )
    for one in results if json else ():
        typer.echo(one.to_json())


def _read_texts(given: Sequence[str]) -> list[str]:
    """The texts, with - replaced by stdin without its last line break."""
    from diptych.core.errors import InputError

    if given.count("-") > 1:
        raise InputError("generate: stdin can be read once, so --text - can be given once")
    try:
        return [sys.stdin.read().removesuffix("\n") if text == "-" else text for text in given]
    except UnicodeDecodeError as error:
        raise InputError(f"generate: stdin is no text ({error})") from None


def _print_piece(text: str) -> None:
    typer.echo(text, nl=False)
