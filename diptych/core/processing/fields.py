"""The fields of a processor's config file: declared, carried along without effect, or refused by name."""

from collections.abc import Collection, Mapping
from typing import Any

from diptych.core.errors import ConfigError

Accepted = Mapping[str, tuple[Any, ...]]
"""Undeclared fields -> the values that have no effect; () means any value."""


def is_accepted(name: str, value: Any, accepted: Accepted) -> bool:
    """Whether an undeclared field with this value may be carried along."""
    return name in accepted and (accepted[name] == () or value in accepted[name])


def split_fields(
    data: Mapping[str, Any],
    declared: Collection[str],
    accepted: Accepted,
    *,
    ignore: Collection[str],
    owner: str,
    source: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The declared fields of a file that are not null, and those that are carried along.

    Args:
        data: the fields.
        declared: the names that the config has.
        accepted: the others that may be there.
        ignore: the names of further fields to carry along.
        owner: the type of processor, for error messages.
        source: the origin of the data in error messages, such as a path.

    Raises:
        ConfigError: fields are unknown or have values that are not supported; all are listed.
    """
    values: dict[str, Any] = {}
    carried: dict[str, Any] = {}
    unknown: list[str] = []
    refused: list[str] = []
    for name, value in data.items():
        if name in declared:
            values |= {} if value is None else {name: value}
        elif name in ignore or is_accepted(name, value, accepted):
            carried[name] = value
        elif name in accepted:
            refused.append(f"{name}={value!r} is not supported; supported: {', '.join(map(repr, accepted[name]))}")
        else:
            unknown.append(name)
    if unknown:
        refused.append(
            f"{owner} does not know {', '.join(unknown)}; it knows {', '.join(sorted(declared))}. "
            f"If they change nothing, pass ignore_config=({', '.join(map(repr, unknown))},)"
        )
    if refused:
        raise ConfigError(f"{source}: {'; '.join(refused)}")
    return values, carried
