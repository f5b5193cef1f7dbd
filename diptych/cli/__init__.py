"""The command `diptych`: each subcommand parses its arguments, calls one public function and prints the result.

Exit codes: 0 done, 1 not equal, 2 bad input, 3 a fault of diptych itself, 130 interrupted, 141 stdout's reader is
gone, 143 terminated. Nothing heavy is imported unless needed.
"""

import contextlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

import diptych
from diptych.cli import classify, convert, diff, generate, inspect, parity, verify

app = typer.Typer(
    name="diptych",
    help="The same transformer models in JAX and PyTorch: convert, compare and inspect checkpoints, prove models "
    "equal, generate text, classify images.",
    epilog="Exit codes: 0 done, 1 not equal, 2 bad input, 3 a fault of diptych itself, 130 interrupted, "
    "141 nobody reads the output, 143 terminated.",
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
    # by default, SIGTERM would end the process without removing what is incomplete
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        code = _run(arguments)
    finally:
        signal.signal(signal.SIGTERM, before)
    if code in (130, 143):
        # interrupted calls of JAX can crash the end of Python; what was to be removed has been
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)
    raise SystemExit(code)


def _run(arguments: Sequence[str] | None) -> int:
    """The command's exit code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="diptych")
    except (ImportError, OSError, ValueError) as error:
        if isinstance(error, ValueError) and not _is_ours(error):
            traceback.print_exc()
            return 3
        with contextlib.suppress(OSError):  # stderr may be what cannot be written
            typer.echo(f"diptych: {' '.join(_message(error).split())}", err=True)
        return 2
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer's code for it is 1, which says "not equal" here
            return 141
        return end.code if isinstance(end.code, int) else 0
    except Exception:  # Python's own exit code for it is 1, which says "not equal" here
        traceback.print_exc()
        return 3
    return 0


def _prepare_streams() -> None:
    """Discards output to closed streams, and escapes characters that a stream cannot encode."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            # names of files may hold bytes that are no characters
            stream.reconfigure(errors="surrogateescape" if stream.encoding == "utf-8" else "backslashreplace")


def _message(error: Exception) -> str:
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
