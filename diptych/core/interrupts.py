"""Signals that end the command, also where what runs swallows the exception that they raise (an import, a callback)."""

received: list[int] = []
"""The numbers of the signals that have come, in order."""
_result_is_final = False


def note(number: int) -> bool:
    """Notes a signal; returns whether it ends the command, which it does not while the result takes its place."""
    if not _result_is_final:
        received.append(number)
    return not _result_is_final


def reset() -> None:
    """Forgets what has come, for the next command."""
    global _result_is_final
    _result_is_final = False
    received.clear()


def make_final() -> None:
    """Ends what runs if a signal has come. From here on none does: the result takes its place, and is complete.

    Raises:
        SystemExit: a signal has come.
    """
    global _result_is_final
    _result_is_final = True
    if received:
        raise SystemExit(128 + received[0])
