"""The command `diptych inspect`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from diptych.cli.options import IgnoreConfig, Json, given_flags, with_hub_flags
from diptych.cli.printing import make_console

if TYPE_CHECKING:
    from diptych.conversion import Inspection


@with_hub_flags()
def inspect(
    directory: Annotated[str, typer.Argument(help="A checkpoint directory, or a name on the Hugging Face hub.")],
    ignore_config: IgnoreConfig = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Show the contents of a checkpoint: class, files, and every tensor with its shape, dtype and size.

    Examples:

      diptych inspect clip-vit-base-patch32

      diptych inspect clip-vit-base-patch32 --json | jq .parameters
    """
    from diptych.conversion import inspect_checkpoint

    inspection = inspect_checkpoint(directory, ignore_config=tuple(ignore_config or ()), **given_flags(options))
    typer.echo(inspection.to_json()) if json else _print_inspection(inspection)


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
    console = make_console()
    console.print(table)
    for what, value in (
        ("class", known),
        ("config", inspection.config_class),
        ("format", f"{inspection.format}: {files}"),
        ("tensors", f"{len(inspection.tensors)} ({dtypes}), {inspection.nbytes:,} bytes"),
        ("parameters", f"{inspection.parameters:,}"),
    ):
        console.print(Text.assemble((f"{what:<11}", "bold"), value), soft_wrap=True)
