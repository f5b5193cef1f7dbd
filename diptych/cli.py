"""The command `diptych`: each subcommand parses its arguments, calls one public function and prints the result.

Exit codes: 0 done, 1 not equal, 2 bad input, 3 a fault of diptych itself, 130 interrupted. Nothing heavy is imported
unless needed.
"""

import inspect as reflection
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

import diptych

if TYPE_CHECKING:
    from diptych.conversion import ConversionReport, Inspection

app = typer.Typer(
    name="diptych",
    help="The same transformer models in JAX and PyTorch: convert and inspect checkpoints, prove models "
    "equal, generate text.",
    epilog="Exit codes: 0 done, 1 not equal, 2 bad input, 3 a fault of diptych itself, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, without progress bars.")]
Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="NAME", help="A tensor, a module, or a pattern with *, to skip; may be repeated."),
]
IgnoreConfig = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD", help="An unknown field of config.json to accept without checks; may be repeated."),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits; bad input is reported in one line on stderr."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="diptych")
    except (ImportError, OSError, ValueError) as error:
        if isinstance(error, ValueError) and not _is_ours(error):
            traceback.print_exc()
            raise SystemExit(3) from None
        typer.echo(f"diptych: {' '.join(str(error).split())}", err=True)
        raise SystemExit(2) from None
    except Exception:  # Python's own exit code for it is 1, which says "not equal" here
        traceback.print_exc()
        raise SystemExit(3) from None


def _is_ours(error: ValueError) -> bool:
    from diptych.core.errors import CheckpointError, ConfigError, InputError

    return isinstance(error, CheckpointError | ConfigError | InputError)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"diptych {diptych.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version  # its callback has done the work


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A checkpoint directory, or a name on the Hugging Face hub.")],
    destination: Annotated[Path, typer.Argument(help="The directory to create, outside of the source.")],
    format: Annotated[
        str,
        typer.Option(
            help="safetensors, which transformers loads, or flax-msgpack, for the Flax classes of transformers 4."
        ),
    ] = "safetensors",
    dtype: Annotated[
        str | None,
        typer.Option(help="float64, float32, float16 or bfloat16, for all tensors; by default each keeps its own."),
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="The maximum size of a file, such as 200MB or 5GB.")] = "5GB",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint at the destination.")] = False,
    architecture: Annotated[
        str | None, typer.Option(help="The class of the weights; by default the one that config.json names.")
    ] = None,
    allow_missing: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A parameter or a module that the source may lack; may be repeated."),
    ] = None,
    ignore: Ignore = None,
    ignore_config: IgnoreConfig = None,
    json: Json = False,
) -> None:
    """Convert a checkpoint to another format or dtype.

    Every tensor is read back and compared before the result appears; a run that fails leaves nothing behind.

    Examples:

      diptych convert clip-vit-base-patch32 clip-flax --format flax-msgpack

      diptych convert bert-base-uncased bert-bf16 --dtype bfloat16 --max-shard-size 200MB
    """
    from diptych.conversion import convert

    report = convert(
        source,
        destination,
        format=format,
        dtype=dtype,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
        architecture=architecture,
        allow_missing=tuple(allow_missing or ()),
        ignore=tuple(ignore or ()),
        ignore_config=tuple(ignore_config or ()),
        progress=False if json else None,
    )
    _print_json(report.to_json()) if json else _print_conversion(report)


@app.command()
def inspect(
    directory: Annotated[str, typer.Argument(help="A checkpoint directory, or a name on the Hugging Face hub.")],
    ignore_config: IgnoreConfig = None,
    json: Json = False,
) -> None:
    """Show the contents of a checkpoint: class, files, and every tensor with its shape, dtype and size.

    Examples:

      diptych inspect clip-vit-base-patch32

      diptych inspect clip-vit-base-patch32 --json | jq .parameters
    """
    from diptych.conversion import inspect_checkpoint

    inspection = inspect_checkpoint(directory, ignore_config=tuple(ignore_config or ()))
    _print_json(inspection.to_json()) if json else _print_inspection(inspection)


@app.command()
def parity(
    reference: Annotated[str, typer.Argument(help="A checkpoint directory.")],
    candidate: Annotated[
        str | None, typer.Argument(help="Another one; by default the reference in the other backend.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="transformers: compare the checkpoint, run by transformers, with ours.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="jax or torch, for the candidate.")] = None,
    input: Annotated[
        Path | None,
        typer.Option("--input", metavar="FILE.npz", help="The call's keywords as arrays; by default random ones."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    dtype: Annotated[
        str, typer.Option(help="float32, float16 or bfloat16, compared in addition to float64.")
    ] = "float64",
    gradients: Annotated[bool, typer.Option("--gradients/--no-gradients", help="Compare gradients too.")] = True,
    json: Json = False,
) -> None:
    """Compare two models point by point: every module's output, the final outputs, the gradient of every parameter.

    Examples:

      diptych parity clip-vit-base-patch32

      diptych parity clip-vit-base-patch32 --against transformers --dtype float32

      diptych parity original fine-tuned --input batch.npz --no-gradients
    """
    from diptych.conversion import parity

    chosen: Any = {"against": against, "backend": backend, "progress": False if json else None}
    inputs = None if input is None else _load_arrays(input)
    report = parity(reference, candidate, inputs=inputs, seed=seed, dtype=dtype, gradients=gradients, **chosen)
    _print_json(report.to_json()) if json else _console().print(report)
    raise typer.Exit(0 if report.passed else 1)


def _load_arrays(path: Path) -> dict[str, Any]:
    """The arrays of an .npz file by name."""
    import zipfile

    import numpy as np

    from diptych.core.errors import InputError

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}
    except (ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is no .npz file of plain arrays, as numpy.savez writes it ({error})") from None


def _parse_ids(flag: str, values: str | Sequence[str]) -> tuple[int, ...]:
    """Ids that are separated by commas or spaces, in one or more values."""
    from diptych.core.errors import InputError

    text = values if isinstance(values, str) else ",".join(values)
    try:
        return tuple(int(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise InputError(f"{flag} {text!r}: whole numbers are needed, between commas or spaces") from None


def _parse_json(flag: str, value: str) -> Any:
    import json

    from diptych.core.errors import InputError

    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{flag} {value!r}: is no JSON ({error})") from None


def _parse_early_stopping(flag: str, value: str) -> bool | str:
    from diptych.core.errors import InputError

    choices = {"true": True, "false": False, "never": "never"}
    if value not in choices:
        raise InputError(f"{flag} {value!r}: is none of {', '.join(choices)}")
    return choices[value]


_KINDS: Mapping[str, tuple[Any, str | None, Callable[[str, Any], Any] | None]] = {
    "whole": (int, None, None),
    "real": (float, None, None),
    "switch": (bool, None, None),
    "ids": (list[str], "ID[,ID…]", _parse_ids),
    "json": (str, "JSON", _parse_json),
    "early": (str, "true|false|never", _parse_early_stopping),
}
"""Kind of a flag -> its type for typer, the name of its value in help, and its parser, if it needs one."""

_FLAGS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Length": {
        "max_new_tokens": ("whole", "The most new tokens; 20 if no option limits them."),
        "min_new_tokens": ("whole", "New tokens before a text may end."),
        "max_length": ("whole", "The most tokens of a text, its prompt included; --max-new-tokens takes precedence."),
        "min_length": ("whole", "Tokens of a text, its prompt included, before it may end."),
    },
    "Sampling": {
        "do_sample": ("switch", "Sample each token by its probability instead of taking the most probable."),
        "temperature": ("real", "Above 0: below 1 sharpens the distribution, above 1 flattens it."),
        "top_k": ("whole", "Sample from this many most probable tokens; 0 from all."),
        "top_p": ("real", "Sample from the most probable tokens that together have this probability."),
        "min_p": ("real", "Sample from tokens with at least this share of the most probable one's probability."),
        "typical_p": ("real", "Sample from the most typical tokens that together have this probability."),
    },
    "Beams and several texts": {
        "num_return_sequences": ("whole", "Texts for each prompt: samples, or the best beams."),
        "num_beams": ("whole", "Beams of a search for the most probable text; 1 for none."),
        "length_penalty": ("real", "The power of its length by which a beam's score is divided."),
        "early_stopping": (
            "early",
            "Stop once there are as many texts as beams; never: once no better one is possible.",
        ),
    },
    "Logits processors": {
        "repetition_penalty": ("real", "Above 1: tokens that occurred before become less probable."),
        "no_repeat_ngram_size": ("whole", "No n-gram of this many tokens occurs twice; 0 is off."),
        "encoder_no_repeat_ngram_size": (
            "whole",
            "No n-gram of this many tokens is copied from the encoder's input; 0 is off.",
        ),
        "bad_words_ids": ("json", "Forbidden sequences of ids: [[5, 6], [7]]."),
        "suppress_tokens": ("ids", "Forbidden tokens; may be repeated."),
        "begin_suppress_tokens": ("ids", "Tokens forbidden as the first new one; may be repeated."),
        "sequence_bias": ("json", "Amounts added to the scores of sequences of ids: [[[5, 6], -1.5], [[7], 2.0]]."),
        "exponential_decay_length_penalty": (
            "json",
            "From this many new tokens on, a factor per token in favour of ending: [10, 1.1].",
        ),
        "renormalize_logits": ("switch", "Normalise scores to log-probabilities after all processors."),
    },
    "Special tokens": {
        "bos_token_id": ("whole", "The id that begins a text."),
        "eos_token_id": ("ids", "The ids that end a text; may be repeated."),
        "pad_token_id": ("whole", "The id of padding."),
        "decoder_start_token_id": ("whole", "The id that a decoder with an encoder starts from."),
        "forced_bos_token_id": ("whole", "The id forced as the first new token after the start token."),
        "forced_eos_token_id": (
            "ids",
            "The ids of which one is forced as the last token at the greatest length; may be repeated.",
        ),
    },
}
"""Panel of help -> the options of `GenerationConfig` that are flags, each with its kind and help.

They are listed here, not derived from that class, so that help needs none of its imports.
"""

NO_FLAGS: Mapping[str, str] = {
    **dict.fromkeys(
        ("output_scores", "output_logits", "output_attentions", "output_hidden_states"),
        "arrays, of which the command prints none",
    ),
    "return_dict_in_generate": "the output is always a record",
    "use_cache": "changes nothing",
    "cache_implementation": "changes nothing",
}
"""The options of `GenerationConfig` that are not flags -> the reason."""


def _with_flags(verb: Callable[..., None]) -> Callable[..., None]:
    """The command with a parameter for each flag in place of its **options."""
    signature = reflection.signature(verb)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    flags: list[reflection.Parameter] = []
    for panel, rows in _FLAGS.items():
        for name, (kind, text) in rows.items():
            hint, metavar, _ = _KINDS[kind]
            option = typer.Option(help=text, metavar=metavar, rich_help_panel=panel)
            annotation = Annotated[hint | None, option]
            flags.append(reflection.Parameter(name, own[-1].kind, default=None, annotation=annotation))
    cast(Any, verb).__signature__ = signature.replace(parameters=[*own, *flags])
    return verb


def _collect_options(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The options whose flags are given, parsed for `GenerationConfig`."""
    kinds = {name: kind for rows in _FLAGS.values() for name, (kind, _) in rows.items()}
    chosen: dict[str, Any] = {}
    for name, value in flags.items():
        if value not in (None, []):
            parse = _KINDS[kinds[name]][2]
            chosen[name] = value if parse is None else parse(f"--{name.replace('_', '-')}", value)
    return chosen


@app.command()
@_with_flags
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
        _read_texts(text) if text else [_parse_ids("--ids", one) for one in ids or ()],
        backend=backend,
        dtype=dtype,
        seed=seed,
        compile=compile,
        echo=echo,
        show=None if json else _print_piece,
        ignore=tuple(ignore or ()),
        ignore_config=tuple(ignore_config or ()),
        **_collect_options(options),
    )
    for one in results if json else ():
        _print_json(one.to_json())


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


def _print_json(text: str) -> None:
    typer.echo(text)


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False)
    # rich would treat a file or pipe as a narrow terminal
    return console if console.is_terminal else Console(highlight=False, width=160)


def _print_conversion(report: "ConversionReport") -> None:
    from rich.text import Text

    _console().print(Text(str(report)), soft_wrap=True)


def _print_inspection(inspection: "Inspection") -> None:
    from rich import box
    from rich.filesize import decimal
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("tensor", overflow="fold")
    for column in ("shape", "dtype", "bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    for tensor in inspection.tensors:
        shape = " × ".join(map(str, tensor.shape)) or "scalar"
        name = Text(tensor.name, style="" if tensor.role == "parameter" else "dim")
        table.add_row(name, shape, tensor.dtype, f"{tensor.nbytes:,}")
    files = ", ".join(f"{name} ({decimal(size)})" for name, size in inspection.files.items())
    dtypes = ", ".join(f"{count} {name}" for name, count in inspection.dtypes.items())
    known = inspection.architecture or f"none that is known here ({', '.join(inspection.named) or 'none is named'})"
    console = _console()
    console.print(table)
    for what, value in (
        ("class", known),
        ("config", inspection.config_class),
        ("format", f"{inspection.format}: {files}"),
        ("tensors", f"{len(inspection.tensors)} ({dtypes}), {inspection.nbytes:,} bytes"),
        ("parameters", f"{inspection.parameters:,}"),
    ):
        console.print(Text.assemble((f"{what:<11}", "bold"), value), soft_wrap=True)


if __name__ == "__main__":
    main(sys.argv[1:])
