"""The result of a parity check: every compared point, the first that differs, and a verdict."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

PointKind = Literal["module", "output", "gradient", "parameter"]


@dataclass(frozen=True)
class Point:
    """One compared tensor.

    Attributes:
        name: the module's published path, the output's name, or the parameter's published name.
        kind: what was compared.
        dtype: of the runs compared.
        shape: of the tensor, in the published layout.
        max_absolute: the largest |candidate - reference|.
        max_relative: max_absolute divided by the largest |reference|.
        units: max_absolute in units of rounding: eps times the largest |reference| (plus a thousandth of the largest of
            its kind), or in a narrower dtype the reference's own difference from its float64 run, if that is larger.
        passed: whether it is within bounds; False if either side is not finite or the shapes differ.
        note: why it did not pass, if the numbers don't show it.
    """

    name: str
    kind: PointKind
    dtype: str
    shape: tuple[int, ...]
    max_absolute: float
    max_relative: float
    units: float
    passed: bool
    note: str = ""

    def __str__(self) -> str:
        return (
            f"{self.kind} {self.name or '(the model)'} {list(self.shape)} in {self.dtype}: differs by "
            f"{self.max_absolute:.2e}, {self.max_relative:.1e} of the largest, {self.units:.2g} units of rounding"
            + (f" ({self.note})" if self.note else "")
        )


@dataclass(frozen=True)
class Report:
    """The result of a parity check.

    Attributes:
        reference, candidate: what was compared: class, backend, source, versions and device.
        class_name: the architecture.
        dtypes: the dtypes in which the models ran.
        seed: of the inputs, unless they were given, and of the outputs' weights in the differentiated sum.
        inputs: name -> shape and dtype.
        input_hash: sha256 of the inputs.
        points: every compared tensor: modules in the order in which the reference finished calling them, then outputs,
            then gradients.
        only_reference, only_candidate: modules that only one side called under this name, but for those that only
            group others.
        blind: parameters on which no output depends here -> why a fault in them would not show.
    """

    reference: dict[str, str]
    candidate: dict[str, str]
    class_name: str
    dtypes: tuple[str, ...]
    seed: int
    inputs: dict[str, str]
    input_hash: str
    points: tuple[Point, ...]
    only_reference: tuple[str, ...] = ()
    only_candidate: tuple[str, ...] = ()
    blind: dict[str, str] = field(default_factory=dict[str, str])

    MATCHED_AT_LEAST = 0.9

    @property
    def matched(self) -> float:
        """The fraction of the called modules that both sides called under the same name."""
        both = len({point.name for point in self.points if point.kind == "module"})
        return both / max(1, both + len(self.only_reference) + len(self.only_candidate))

    @property
    def passed(self) -> bool:
        """Whether every point is within bounds, and enough of them could be compared."""
        return bool(self.points) and self.matched >= self.MATCHED_AT_LEAST and all(p.passed for p in self.points)

    @property
    def first_divergence(self) -> Point | None:
        """The first point, in the order of the calls, that is out of bounds."""
        return next((point for point in self.points if not point.passed), None)

    def verdict(self) -> str:
        """The result in one sentence."""
        failed = [point for point in self.points if not point.passed]
        if self.passed:
            return f"EQUAL: {len(self.points)} points agree within bounds ({', '.join(self.dtypes)})"
        if not failed:
            return (
                f"NOT PROVED: only {self.matched:.0%} of the modules were called on both sides, "
                f"{self.MATCHED_AT_LEAST:.0%} are needed"
            )
        return f"NOT EQUAL: {len(failed)} of {len(self.points)} points differ; the first is {failed[0]}"

    def worst(self) -> list[Point]:
        """For each dtype and kind, the first three failures, or else the three points with the largest differences."""
        rows: list[Point] = []
        for dtype in self.dtypes:
            for kind in get_args(PointKind):
                group = [point for point in self.points if point.kind == kind and point.dtype == dtype]
                failed = [point for point in group if not point.passed]
                rows += failed[:3] or sorted(group, key=lambda point: point.units, reverse=True)[:3]
        return rows

    def to_json(self) -> str:
        """The whole report as JSON text, with the verdict."""
        first = self.first_divergence
        data = {
            "passed": self.passed,
            "verdict": self.verdict(),
            "first_divergence": None if first is None else first.name,
            "matched": self.matched,
            **asdict(self),
        }
        return json.dumps(plain_json(data), indent=2)

    def __str__(self) -> str:
        lines = [*self._head(), ""]
        lines.append(f"{'kind':<9} {'dtype':<9} {'max abs':>9} {'max rel':>9} {'units':>9}  ok   point")
        for point in self.worst():
            lines.append(
                f"{point.kind:<9} {point.dtype:<9} {point.max_absolute:>9.1e} {point.max_relative:>9.1e} "
                f"{point.units:>9.3g}  {'yes' if point.passed else 'NO '}  {point.name or '(the model)'}"
            )
        return "\n".join([*lines, "", *self._tail(), self.verdict()])

    def __rich__(self) -> Any:
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, title_justify="left")
        table.title = "The points that differ most, by kind" if self.passed else "Where they differ first, by kind"
        table.add_column("point", overflow="fold")
        for column in ("max abs", "max rel", "units", ""):
            table.add_column(column, justify="right", no_wrap=True)
        group = None
        for point in self.worst():
            if group != (group := (point.kind, point.dtype)):
                table.add_section()
                table.add_row(f"[bold]{point.kind}s in {point.dtype}[/]")
            numbers = (f"{point.max_absolute:.1e}", f"{point.max_relative:.1e}", f"{point.units:.3g}")
            mark = "[green]ok[/]" if point.passed else "[red]differs[/]"
            table.add_row(Text(point.name or "(the model)"), *numbers, mark)
        verdict = Text(self.verdict(), style="bold green" if self.passed else "bold red")
        return Group(*map(Text, self._head()), table, *map(Text, self._tail()), verdict)

    def _head(self) -> list[str]:
        def describe(side: dict[str, str]) -> str:
            return ", ".join(f"{name} {value}" for name, value in side.items())

        once = [point.kind for point in self.points if point.dtype == self.dtypes[0]]
        kinds = {kind: once.count(kind) for kind in ("module", "output", "gradient")}
        return [
            f"{self.class_name}: parity in {', '.join(self.dtypes)}",
            f"reference: {describe(self.reference)}",
            f"candidate: {describe(self.candidate)}",
            f"inputs:    {', '.join(f'{name} {shape}' for name, shape in self.inputs.items())}"
            f" (seed {self.seed}, sha256 {self.input_hash[:16]})",
            f"compared:  {', '.join(f'{count} {kind}s' for kind, count in kinds.items())}; "
            f"{self.matched:.0%} of the modules matched",
        ]

    def _tail(self) -> list[str]:
        lines: list[str] = []
        for side, names in (("reference", self.only_reference), ("candidate", self.only_candidate)):
            if names:
                lines.append(f"called only by the {side}: {', '.join(names)}")
        reasons: dict[str, list[str]] = {}
        for name, reason in self.blind.items():
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            lines.append(f"blind to:  {shown}: {reason}")
        return lines


def plain_json(value: Any) -> Any:
    """Converts NaN and infinity, which JSON lacks, to strings."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, dict):
        return {name: plain_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return value
