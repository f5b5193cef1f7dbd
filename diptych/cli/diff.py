"""The command `diptych diff`."""

from typing import Annotated, Any

import typer

from diptych.cli.options import IgnoreConfig, Json, given_flags, with_hub_flags
from diptych.cli.printing import make_console


@with_hub_flags("candidate")
def diff(
    reference: Annotated[str, typer.Argument(help="A checkpoint directory, or a name on the Hugging Face hub.")],
    candidate: Annotated[str, typer.Argument(help="Another one, in any format.")],
    ignore_config: IgnoreConfig = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Show what differs between two checkpoints: tensors by published name, and config fields.

    Layouts and spellings of the formats don't count: a Flax file and a safetensors file of the same model are the same.
    The exit code is 1 if anything differs.

    Examples:

      diptych diff bert-base-uncased fine-tuned

      diptych diff gpt2 gpt2 --revision main --candidate-revision v2 --json
    """
    from diptych.conversion import diff

    found = diff(reference, candidate, ignore_config=tuple(ignore_config or ()), **given_flags(options))
    typer.echo(found.to_json()) if json else make_console().print(found)
    raise typer.Exit(0 if found.equal else 1)
