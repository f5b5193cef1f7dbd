"""The command `diptych`: each subcommand parses its arguments, calls one public function and prints the result.

Exit codes: 0 done, 1 not equal, 2 bad input, or output that cannot be written, 3 a fault of diptych itself, 130
interrupted, 141 stdout's reader is gone, 143 terminated. Nothing heavy is imported unless needed.
"""

import contextlib
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

import diptych
from diptych.cli import classify, convert, diff, generate, inspect, parity, verify
from diptych.cli.printing import visible
from diptych.core import interrupts

app = typer.Typer(
    name="diptych",
    help="The same transformer models in JAX and PyTorch: convert, compare and inspect checkpoints, prove models "
    "equal, generate text, classify images and sound.",
    epilog="Exit codes: 0 done, 1 not equal, 2 bad input or unwritable output, 3 a fault of diptych itself, "
    "130 interrupted, 141 nobody reads the output, 143 terminated.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
verbs = (
    convert.convert,
    inspect.inspect,
    diff.diff,
    verify.verify,
    parity.parity,
    generate.generate,
    classify.classify,
)
for verb in verbs:
    app.command()(verb)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits; bad input is reported in one line on stderr."""
    _prepare_streams()
    with _handled_signals() as received:
        code = _run(arguments, received)
    if code == 130:
        with contextlib.suppress(OSError):
            line_break = "\n" if sys.stderr.isatty() else ""  # after ^C
            typer.echo(f"{line_break}diptych: interrupted", err=True)
    if code in (130, 143):
        # interrupted calls of JAX can crash the end of Python; what was to be removed has been
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
    raise SystemExit(code)


@contextlib.contextmanager
def _handled_signals() -> Iterator[list[int]]:
    """Ends what runs at SIGINT or SIGTERM, so that what is incomplete is removed; gives the list of those received.

    An interrupt in the middle of an import may become an ImportError, or be swallowed by the module. Python swallows it
    in a callback of its garbage collector, such as JAX's. Once a result takes its place, the command runs to its end.
    """

    def end(number: int, _: Any) -> None:
        if not interrupts.note(number):
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(143)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handled = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    interrupts.reset()
    for number in handled:
        signal.signal(number, end)
    try:
        yield interrupts.received
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
        interrupts.reset()


def _run(arguments: Sequence[str] | None, received: Sequence[int]) -> int:
    """The command's exit code.

    Args:
        arguments: of the command line; by default the process'.
        received: the signals that end the command.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="diptych")
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer's code for it is 1, which says "not equal" here
            return 141
        code = end.code if isinstance(end.code, int) else 0
    except (Exception, KeyboardInterrupt) as error:
        code = 0 if received else _report(error)
    else:
        code = 0
    return 128 + received[0] if received else code


def _report(error: BaseException) -> int:
    """Prints an error on stderr, and returns the exit code for it; Python's own is 1, which says "not equal" here."""
    if isinstance(error, ImportError | OSError) or (isinstance(error, ValueError) and _is_ours(error)):
        with contextlib.suppress(OSError):  # stderr may be what cannot be written
            typer.echo(visible(f"diptych: {' '.join(_message(error).split())}"), err=True)
        return 2
    traceback.print_exception(error)
    return 3


class _ClosedOutput(io.TextIOBase):
    """In place of a stdout that is closed: refuses what is written."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, "is closed, so the output is lost", "stdout")


def _prepare_streams() -> None:
    """Refuses output to a closed stdout, discards that to a closed stderr, and escapes what a stream cannot encode."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None and name == "stdout":
            os.open(os.devnull, os.O_WRONLY)  # takes the number 1, or the next file would, and get what libraries print
            sys.stdout = _ClosedOutput()
        elif stream is None:
            sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            # names of files may hold bytes that are no characters
            stream.reconfigure(errors="surrogateescape" if stream.encoding == "utf-8" else "backslashreplace")


def _message(error: BaseException) -> str:
    """The text of an error; that of a file begins with its name in place of a number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


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
