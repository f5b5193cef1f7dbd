"""Flags that several commands have."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, without progress bars.")]
Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="NAME", help="A tensor, a module, or a pattern with *, to skip; may be repeated."),
]
IgnoreConfig = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD", help="An unknown field of config.json to accept without checks; may be repeated."),
]
