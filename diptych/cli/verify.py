"""The command `diptych verify`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from diptych.cli.options import IgnoreConfig, Json, given_flags, with_hub_flags
from diptych.cli.printing import make_console


@with_hub_flags()
def verify(
    directory: Annotated[str, typer.Argument(help="A checkpoint directory, or a name on the Hugging Face hub.")],
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The manifest; by default diptych_manifest.json in the directory."),
    ] = None,
    ignore_config: IgnoreConfig = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Check a checkpoint against the manifest that `diptych convert --manifest` wrote: every tensor and the config.

    The exit code is 1 if anything differs; what does is named. The checkpoint may have been converted again since.

    Examples:

      diptych convert bert-base-uncased bert-bf16 --dtype bfloat16 --manifest

      diptych verify bert-bf16

      diptych verify bert-flax --manifest bert-bf16/diptych_manifest.json
    """
    from rich.text import Text

    from diptych.conversion import verify

    found = verify(directory, manifest=manifest, ignore_config=tuple(ignore_config or ()), **given_flags(options))
    typer.echo(found.to_json()) if json else make_console().print(Text(str(found)), soft_wrap=True)
    raise typer.Exit(0 if found.passed else 1)
