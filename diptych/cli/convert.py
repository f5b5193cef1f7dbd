"""The command `diptych convert`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from diptych.cli.options import Ignore, IgnoreConfig, Json, given_flags, with_hub_flags
from diptych.cli.printing import make_console

if TYPE_CHECKING:
    from diptych.conversion import ConversionReport


@with_hub_flags()
def convert(
    source: Annotated[str, typer.Argument(help="A checkpoint directory, or a name on the Hugging Face hub.")],
    destination: Annotated[str, typer.Argument(help="The directory to create, outside of the source.")],
    format: Annotated[
        str,
        typer.Option(
            help="safetensors, for transformers; flax-msgpack, for the Flax classes of transformers 4; or orbax."
        ),
    ] = "safetensors",
    dtype: Annotated[
        str | None,
        typer.Option(help="float64, float32, float16 or bfloat16, for all tensors; by default each keeps its own."),
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="The maximum size of a file, such as 200MB or 5GB.")] = "5GB",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint at the destination.")] = False,
    manifest: Annotated[
        bool,
        typer.Option("--manifest", help="Write diptych_manifest.json too, against which `diptych verify` checks."),
    ] = False,
    architecture: Annotated[
        str | None, typer.Option(help="The class of the weights; by default the one that config.json names.")
    ] = None,
    allow_missing: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A parameter or a module that the source may lack; may be repeated."),
    ] = None,
    allow_overflow: Annotated[
        bool, typer.Option("--allow-overflow", help="Let values that are too large for --dtype become infinite.")
    ] = False,
    ignore: Ignore = None,
    ignore_config: IgnoreConfig = None,
    json: Json = False,
    **options: Any,
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
        manifest=manifest,
        architecture=architecture,
        allow_missing=tuple(allow_missing or ()),
        ignore=tuple(ignore or ()),
        ignore_config=tuple(ignore_config or ()),
        allow_overflow=allow_overflow,
        progress=False if json else None,
        **given_flags(options),
    )
    typer.echo(report.to_json()) if json else _print_conversion(report)


def _print_conversion(report: "ConversionReport") -> None:
    from rich.text import Text

    make_console().print(Text(str(report)), soft_wrap=True)
