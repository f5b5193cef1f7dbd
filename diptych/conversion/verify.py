"""The check of a checkpoint against the manifest that its conversion wrote."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

from diptych.conversion.contents import open_contents
from diptych.conversion.diff import ConfigDifference, config_differences
from diptych.conversion.manifest import read_manifest
from diptych.core.checkpoint.companions import MANIFEST
from diptych.core.checkpoint.hub import HubOptions
from diptych.core.checkpoint.locate import locate
from diptych.core.checkpoint.tensors import digest


@dataclass(frozen=True)
class Verification:
    """The result of checking a checkpoint against a manifest.

    Attributes:
        directory, manifest: what was checked, and the file that it was checked against.
        verified: the tensors that are as the manifest says.
        missing: the tensors of the manifest that are not there.
        extra: the tensors that the manifest does not have.
        changed: the tensors with other values.
        shapes, dtypes: the tensors with another shape or dtype -> the manifest's and the present one.
        config: the fields of config.json that differ, with the manifest as the reference.
    """

    directory: str
    manifest: str
    verified: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    changed: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    dtypes: Mapping[str, tuple[str, str]]
    config: tuple[ConfigDifference, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.extra or self.changed or self.shapes or self.dtypes or self.config)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON data."""
        return {"passed": self.passed, **asdict(self)}

    def to_json(self) -> str:
        """Everything as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        lines = [
            f"{what}: {', '.join(names)}"
            for what, names in (("missing", self.missing), ("extra", self.extra), ("changed values", self.changed))
            if names
        ]
        lines += [f"changed shape: {name}, {list(old)} to {list(new)}" for name, (old, new) in self.shapes.items()]
        lines += [f"changed dtype: {name}, {old} to {new}" for name, (old, new) in self.dtypes.items()]
        for field in self.config:
            old, new = field.texts
            lines.append(f"changed config: {field.name}, {old} in the manifest and {new} in config.json")
        return "\n".join([*lines, self._verdict()])

    def _verdict(self) -> str:
        wrong = len(self.missing) + len(self.changed) + len(self.shapes) + len(self.dtypes)
        count, says = len(self.verified), f"tensors are as {self.manifest} says"
        if self.passed:
            return f"VERIFIED: {count} {says}"
        if wrong:
            return f"DIFFERENT: only {count} of {count + wrong} {says}"
        others = [*(["the config differs"] if self.config else []), *(["there are others"] if self.extra else [])]
        return f"DIFFERENT: all {count} {says}, but {' and '.join(others)}"


def verify(
    name_or_path: str | os.PathLike[str],
    *,
    manifest: str | os.PathLike[str] | None = None,
    ignore_config: Iterable[str] = (),
    **options: Unpack[HubOptions],
) -> Verification:
    """Checks a checkpoint, of any format, against the manifest of a conversion.

    Args:
        name_or_path: a directory, or a name on the Hugging Face hub.
        manifest: the manifest's path, such as that of the same weights in another format; by default
            diptych_manifest.json in the directory.
        ignore_config: unknown fields of config.json to skip.
        options: see `HubOptions`.

    Raises:
        CheckpointError: there is no manifest, or it or the weights can't be read.
        ConfigError: config.json is missing or asks for an unsupported feature.
    """
    directory = locate(name_or_path, **options)
    path = directory / MANIFEST if manifest is None else Path(manifest)
    wanted = read_manifest(path)
    opened = open_contents(directory, ignore_config=ignore_config, variant=options.get("variant"))
    found = opened.contents(wanted.architecture)
    verified: list[str] = []
    changed: list[str] = []
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    dtypes: dict[str, tuple[str, str]] = {}
    for name, record in wanted.tensors.items():
        tensor = found.tensors.get(name)
        if tensor is None:
            continue
        if tensor.shape != record.shape:
            shapes[name] = (record.shape, tensor.shape)
        elif tensor.dtype.name != record.dtype:
            dtypes[name] = (record.dtype, tensor.dtype.name)
        else:
            (verified if digest(tensor) == record.sha256 else changed).append(name)
    return Verification(
        directory=str(name_or_path),
        manifest=str(path),
        verified=tuple(verified),
        missing=tuple(name for name in wanted.tensors if name not in found.tensors),
        extra=tuple(name for name in found.tensors if name not in wanted.tensors),
        changed=tuple(changed),
        shapes=shapes,
        dtypes=dtypes,
        config=tuple(config_differences(wanted.config, found.config)),
    )
