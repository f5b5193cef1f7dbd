"""What several commands print with."""

from typing import Any

import typer

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def visible(text: str) -> str:
    """The text with control characters as escapes: names in a stranger's files may hold commands for the terminal."""
    return text.translate(_CONTROLS)


def make_console() -> Any:
    """A console of rich on stdout, which shows control characters as escapes."""
    from rich.console import Console

    class VisibleConsole(Console):
        def render(self, *arguments: Any, **options: Any) -> Any:
            for segment in super().render(*arguments, **options):
                yield segment if segment.control else segment._replace(text=visible(segment.text))

    console = VisibleConsole(highlight=False)
    # rich would treat a file or pipe as a narrow terminal
    return console if console.is_terminal else VisibleConsole(highlight=False, width=160)


class FileErrors:
    """Reports files that cannot be read, and ends the command with exit code 2 if there were any."""

    def __init__(self) -> None:
        self.count = 0

    def report(self, error: ValueError) -> None:
        """Prints the error of a file on stderr."""
        typer.echo(visible(f"diptych: {' '.join(str(error).split())}"), err=True)
        self.count += 1

    def end(self) -> None:
        """Ends the command if an error was reported."""
        if self.count:
            raise typer.Exit(2)
