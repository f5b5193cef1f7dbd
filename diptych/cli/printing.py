"""What several commands print with."""

from typing import Any

import typer


def make_console() -> Any:
    """A console of rich on stdout."""
    from rich.console import Console

    console = Console(highlight=False)
    # rich would treat a file or pipe as a narrow terminal
    return console if console.is_terminal else Console(highlight=False, width=160)


class FileErrors:
    """Reports files that cannot be read, and ends the command with exit code 2 if there were any."""

    def __init__(self) -> None:
        self.count = 0

    def report(self, error: ValueError) -> None:
        """Prints the error of a file on stderr."""
        typer.echo(f"diptych: {' '.join(str(error).split())}", err=True)
        self.count += 1

    def end(self) -> None:
        """Ends the command if an error was reported."""
        if self.count:
            raise typer.Exit(2)
