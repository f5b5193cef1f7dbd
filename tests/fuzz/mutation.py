"""Damaged and malicious variants of files: bytes changed, cut, moved and repeated, and JSON with values of any kind."""

import json
import random
from collections.abc import Callable
from typing import Any

NUMBERS = (0, 1, -1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**48, 2**62, 2**63, 2**64, -(2**63), 10**40, 10**400)
TEXTS = ("", "a", "..", "../x", "/etc/passwd", "x/../../y", "\0", "\ud800", "{0.__class__}", "{", "é" * 40, "1" * 5000)
VALUES: tuple[Any, ...] = (
    None, True, False, 1.5, 1e308, float("nan"), float("inf"), -float("inf"), [], {}, [[]], [None], [0, -1], {"": {}},
    {"a": [1]}, *NUMBERS, *TEXTS,
)  # fmt: skip
FRAGMENTS = (b"\x00" * 8, b"\xff" * 8, b"PK\x03\x04", b"..", b"/", b"[" * 3000, b'{"a":' * 3000, b"\x81\xa1a" * 2000)


def mutate(draw: random.Random, data: bytes, other: bytes) -> bytes:
    """Data after one to four changes; some take parts of the other data."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        draw.choice(_CHANGES)(draw, changed, other)
    return bytes(changed)


def _flip(draw: random.Random, data: bytearray, other: bytes) -> None:
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _set(draw: random.Random, data: bytearray, other: bytes) -> None:
    if data:
        data[draw.randrange(len(data))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))


def _number(draw: random.Random, data: bytearray, other: bytes) -> None:
    """Overwrites 1, 2, 4 or 8 bytes with a number that may be at a limit."""
    width, order = draw.choice((1, 2, 4, 8)), draw.choice(("little", "big"))
    start = draw.randrange(len(data) + 1)
    near = draw.choice((*NUMBERS, len(data), len(data) + draw.randrange(-9, 9))) % (1 << 8 * width)
    data[start : start + width] = near.to_bytes(width, order)


def _cut(draw: random.Random, data: bytearray, other: bytes) -> None:
    start = draw.randrange(len(data) + 1)
    del data[start : start + draw.choice((1, 2, 8, len(data)))]


def _repeat(draw: random.Random, data: bytearray, other: bytes) -> None:
    start, length = draw.randrange(len(data) + 1), draw.choice((1, 4, 16, 64, 512))
    to = draw.randrange(len(data) + 1)
    data[to:to] = data[start : start + length] * draw.choice((1, 1, 8))


def _splice(draw: random.Random, data: bytearray, other: bytes) -> None:
    start, length, to = draw.randrange(len(other) + 1), draw.choice((4, 16, 128)), draw.randrange(len(data) + 1)
    data[to : to + draw.choice((0, length))] = other[start : start + length]


def _insert(draw: random.Random, data: bytearray, other: bytes) -> None:
    start = draw.randrange(len(data) + 1)
    data[start:start] = draw.choice(FRAGMENTS)


_CHANGES: tuple[Callable[[random.Random, bytearray, bytes], None], ...] = (
    _flip, _set, _set, _number, _number, _cut, _repeat, _splice, _insert,
)  # fmt: skip


def mutate_json(draw: random.Random, text: bytes) -> bytes:
    """A JSON text in which some values or names are replaced, removed, repeated or nested."""
    tree = [json.loads(text)]  # a list, so that the top can be replaced too
    for _ in range(draw.choice((1, 1, 2, 3))):
        places: list[tuple[Any, Any]] = []
        _collect(tree, places)
        holder, key = draw.choice(places)
        how = draw.randrange(8)
        if how == 0 and isinstance(holder, dict):
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[draw.choice(("a", "", "__class__", "..", key + "x"))] = holder.pop(key)
        elif how == 2:
            deep: Any = holder[key]
            for _ in range(draw.choice((1, 10, 100))):
                deep = {"a": deep} if draw.random() < 0.5 else [deep]
            holder[key] = deep
        elif how == 3:
            other, name = draw.choice(places)
            holder[key] = json.loads(json.dumps(other[name])) if name in other or isinstance(other, list) else None
        else:
            holder[key] = json.loads(json.dumps(draw.choice(VALUES)))  # a copy, which may be changed
    written = json.dumps(tree[0]).encode()
    if draw.random() < 0.1 and b": " in written:  # the same name twice
        written = written.replace(b"{", b'{"a": 1, "a": 2, ', 1)
    return written


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    """Every place of a tree: what holds it, and the name or the number there."""
    pending = [value]
    while pending:
        found = pending.pop()
        keys = list(found) if isinstance(found, dict) else range(len(found)) if isinstance(found, list) else ()
        for key in keys:
            places.append((found, key))
            pending.append(found[key])
