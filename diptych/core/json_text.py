"""JSON objects in text files."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, cast

from diptych.core.errors import ConfigError


class DuplicateNameError(ValueError):
    """An object has one name twice, so that readers would disagree on its value."""


_DEEPEST = 100
"""Levels of arrays and objects; what walks over the data calls itself on each."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def load_json(text: str) -> Any:
    """The data of a JSON text.

    Raises:
        DuplicateNameError: an object has one name twice.
        ValueError: it is not JSON, is nested more than 100 levels deep, or has strings that are not valid Unicode.
    """
    try:
        data = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if text.count("[") + text.count("{") > _DEEPEST:
        _check_depth(data)
    if _SURROGATE.search(text):
        json.dumps(data, ensure_ascii=False).encode()  # a UnicodeEncodeError for half of a surrogate pair
    return data


def _check_depth(data: Any) -> None:
    level: list[Any] = [data] if isinstance(data, list | dict) else []
    for _ in range(_DEEPEST):
        inner = [cast(dict[str, Any], item).values() if isinstance(item, dict) else item for item in level]
        level = [item for items in inner for item in items if isinstance(item, list | dict)]
        if not level:
            return
    raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    duplicates = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if duplicates:
        raise DuplicateNameError(f"has the same name twice: {', '.join(duplicates)}")
    return dict(pairs)


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        ConfigError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error})") from None


def parse_config(text: str, source: str) -> dict[str, Any]:
    """The JSON object that the text of a config holds.

    Raises:
        ConfigError: it is not JSON, has one name twice, or is not an object.
    """
    try:
        data = load_json(text)
    except DuplicateNameError as error:
        raise ConfigError(f"{source}: {error}; keep one of them") from None
    except ValueError as error:  # also for numbers of too many digits
        raise ConfigError(f"{source}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: holds a JSON {type(data).__name__}, but a config is a JSON object")
    return cast(dict[str, Any], data)
