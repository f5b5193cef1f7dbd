"""What several commands print with."""

from typing import Any


def make_console() -> Any:
    """A console of rich on stdout."""
    from rich.console import Console

    console = Console(highlight=False)
    # rich would treat a file or pipe as a narrow terminal
    return console if console.is_terminal else Console(highlight=False, width=160)
