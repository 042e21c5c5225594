"""What a comparison has a column for: a variant of a model, or the seeds of one training brought together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from statistics import fmean

from limbeck.errors import ConfigError, DataError
from limbeck.evaluation import formatting as fmt
from limbeck.evaluation.plots import KINDS
from limbeck.evaluation.results import Evaluation, ModelResult, TaskResult
from limbeck.evaluation.statistics import averages, mean_interval


@dataclass(frozen=True)
class Task:
    """What was measured, by any of the models."""

    name: str
    type: str
    metric: str


@dataclass(frozen=True)
class Column:
    """One variant, or several that differ in nothing but the seed of their training."""

    name: str
    number: int  # its place, which gives it a colour and a shape
    results: tuple[ModelResult, ...]

    @property
    def css(self) -> str:
        """Class of its colour."""
        return KINDS[self.number % len(KINDS)][0]

    def found(self, task: str) -> list[TaskResult]:
        """Its results of a task, one a seed; none when it was not measured."""
        return [t for result in self.results for t in result.tasks if t.task == task]

    def score(self, task: str) -> float | None:
        """Mean over seeds. None when it was not measured."""
        return _mean([t.score for t in self.found(task)])

    def means(self, tasks: Sequence[Task]) -> dict[str, list[float]]:
        """Means over all tasks, over the means of types, and of each type, by MTEB's names → one value a seed.

        As MTEB has it, a mean that needs a task which was not measured is absent.
        """
        values: dict[str, list[float]] = {}
        for result in self.results:
            if not result.tasks:
                continue
            measured = {t.task for t in result.tasks}
            found = averages(result)
            whole = {type: all(t.name in measured for t in tasks if t.type == type) for type in types_of(tasks)}
            rows = {"Mean (Task)": found.mean_task, "Mean (TaskType)": found.mean_type} if all(whole.values()) else {}
            for name, value in (rows | {t: found.by_type[t] for t, all_there in whole.items() if all_there}).items():
                values.setdefault(name, []).append(value)
        return values


def tasks_of(evaluation: Evaluation) -> list[Task]:
    """Every task that a model has, by type and then as it came.

    Raises DataError when two models have scores of different metrics or types for one task: they do not compare.
    """
    found: dict[str, Task] = {}
    for result in evaluation.models:
        for t in result.tasks:
            known = found.setdefault(t.task, Task(t.task, t.type, t.metric))
            if (known.type, known.metric) != (t.type, t.metric):
                raise DataError(
                    f"task {t.task!r} is {t.type} by {t.metric} for {result.model}, {known.type} by {known.metric} for "
                    "another model: evaluate both again with one version of limbeck"
                )
    types = types_of(list(found.values()))
    return sorted(found.values(), key=lambda task: types.index(task.type))


def types_of(tasks: Sequence[Task]) -> list[str]:
    """Types of tasks, each once, as they come."""
    return list(dict.fromkeys(task.type for task in tasks))


def columns_of(evaluation: Evaluation) -> list[Column]:
    """A column for each variant; variants of one group, where there are two or more, share one."""
    members: dict[str, list[ModelResult]] = {}
    for result in evaluation.models:
        members.setdefault(f"group {result.group}" if result.group else f"only {result.identity}", []).append(result)
    alone = _names([results[0] for results in members.values() if len(results) == 1])
    columns = []
    for results in members.values():
        name = alone[results[0].identity] if len(results) == 1 else _name_of_seeds(results)
        columns.append(Column(name, len(columns), tuple(results)))
    return columns


def column_named(columns: Sequence[Column], name: str) -> Column:
    """The column with a name, or else the only one whose model has it. Raises ConfigError that lists the names."""
    fitting = [c for c in columns if c.name == name] or [c for c in columns if any(r.model == name for r in c.results)]
    if len(fitting) != 1:
        what = "names no model" if not fitting else f"names {len(fitting)} models"
        raise ConfigError(f"{name!r} {what} of the comparison: choose one of {', '.join(c.name for c in columns)}")
    return fitting[0]


def cell(values: Sequence[float]) -> str:
    """A score, with the half width of its 95% interval where there are several seeds: "0.612 ± 0.008"."""
    if not values:
        return fmt.NONE
    if len(values) == 1:
        return fmt.score(values[0])
    found = mean_interval(values)
    return f"{fmt.score(found.mean)} ± {fmt.score((found.high - found.low) / 2)}"


def best_of(values: Sequence[float | None]) -> set[int]:
    """Places of the highest values, as they are shown; none where there is nothing to choose from."""
    shown = [None if value is None else round(value, 3) for value in values]
    given = [value for value in shown if value is not None]
    return {i for i, value in enumerate(shown) if value == max(given)} if len(given) > 1 else set()


def mean_of(values: Sequence[float] | None) -> float | None:
    """Mean over seeds, None where there is none."""
    return _mean(values or [])


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _name_of_seeds(results: Sequence[ModelResult]) -> str:
    shared = commonprefix([r.model for r in results]).rstrip(" -_.·") or str(results[0].group)
    return f"{shared}, {len(results)} seeds"


def _names(results: Sequence[ModelResult]) -> dict[str, str]:
    """Identity → name; variants of one name are told apart by what they differ in."""
    ways: list[Callable[[ModelResult], str]] = [
        lambda r: f"{r.dim} dims",
        lambda r: r.precision,
        lambda r: "" if r.max_tokens is None else f"{r.max_tokens} tokens",
        lambda r: "" if r.seed is None else f"seed {r.seed}",
        lambda r: hashlib.sha256(r.identity.encode()).hexdigest()[:8],
    ]
    names = {r.identity: r.model for r in results}
    for way in ways:
        for name in [n for n in dict.fromkeys(names.values()) if list(names.values()).count(n) > 1]:
            alike = [r for r in results if names[r.identity] == name]
            if len({way(r) for r in alike}) > 1:
                names |= {r.identity: ", ".join(part for part in (name, way(r)) if part) for r in alike}
    return names
