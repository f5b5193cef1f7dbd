"""Signals that end the command, also where what runs swallows the exception that they raise (an import, a callback)."""

received: list[int] = []
"""The numbers of the signals that have come, in order; whoever handles signals notes them here."""


def stop_if_interrupted() -> None:
    """Ends what runs if a signal has come, before its result takes its place.

    Raises:
        SystemExit: a signal has come.
    """
    if received:
        raise SystemExit(128 + received[0])
