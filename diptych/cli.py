"""The command `diptych`: each verb parses, calls one public function, prints.

Exit codes: 0 done, 1 not equal, 2 bad input, 3 a fault of diptych itself. Nothing heavy is imported unless needed.
"""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import diptych

if TYPE_CHECKING:
    from diptych.conversion import ConversionReport, Inspection

app = typer.Typer(
    name="diptych",
    help="The same transformer models in JAX and PyTorch: convert their checkpoints, look into them, prove them equal.",
    epilog="Exit codes: 0 done, 1 not equal, 2 bad input, 3 a fault of diptych itself.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines; no progress bars.")]
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore", metavar="NAME", help="A tensor, a module, or a pattern with *, to leave behind; may be repeated."
    ),
]
IgnoreConfig = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD", help="An unknown field of config.json to carry along unread; may be repeated."),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits; bad input is one line on stderr."""
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
    destination: Annotated[Path, typer.Argument(help="The directory to make, outside of the source.")],
    format: Annotated[
        str,
        typer.Option(
            help="safetensors, which transformers loads, or flax-msgpack, for the Flax classes of transformers 4."
        ),
    ] = "safetensors",
    dtype: Annotated[
        str | None,
        typer.Option(help="float64, float32, float16 or bfloat16 for all tensors; by default each keeps its own."),
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Most bytes a file, such as 200MB or 5GB.")] = "5GB",
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
    """Write a checkpoint again in another format or dtype.

    Every tensor is read back and compared before the result takes its place; a run that fails leaves nothing behind.

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
    """Show what a checkpoint holds: class, files, and every tensor with its shape, dtype and size.

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
        str | None, typer.Argument(help="Another; by default the reference itself in the other backend.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="transformers: compare with the checkpoint as transformers runs it.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="jax or torch: that the candidate is loaded in.")] = None,
    input: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="FILE.npz", help="The call's keywords as arrays; by default drawn from the seed."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Keys the inputs that are drawn.")] = 0,
    dtype: Annotated[
        str, typer.Option(help="Compared besides float64, which always is: float32, float16 or bfloat16.")
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
    inputs = None if input is None else _arrays(input)
    report = parity(reference, candidate, inputs=inputs, seed=seed, dtype=dtype, gradients=gradients, **chosen)
    _print_json(report.to_json()) if json else _console().print(report)
    raise typer.Exit(0 if report.passed else 1)


def _arrays(path: Path) -> dict[str, Any]:
    """The arrays of an .npz file by name."""
    import zipfile

    import numpy as np

    from diptych.core.errors import InputError

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}
    except (ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is no .npz file of plain arrays, as numpy.savez writes it ({error})") from None


def _print_json(text: str) -> None:
    typer.echo(text)


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False)
    # a file or a pipe is not as narrow as the terminal that rich takes it for
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
