"""Which adapters a task means, with which shares, and what then stands in front of a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

from limbeck.errors import ConfigError
from limbeck.model.prefixes import PREFIXES, prefix

Task: TypeAlias = str | Mapping[str, float] | Sequence[str]
"""Name of an adapter, or "auto"; a blend, name → weight; or a list of names, one for each text."""

Shares: TypeAlias = tuple[tuple[str, float], ...]
"""Adapters to merge and their shares, which sum to 1, in the bundle's order; () = the base."""


@dataclass(frozen=True)
class Choice:
    """What there is to choose from."""

    model: str  # its name
    tasks: Sequence[str]  # adapters there are
    prompts: Mapping[str, str]  # by role
    routed: bool  # whether "auto" is known
    route: Callable[..., Mapping[str, float]]  # (texts, *, role) → the blend that "auto" means for them

    @property
    def known(self) -> str:
        """What can be asked for, in words."""
        names = [*self.tasks, "auto"] if self.routed else self.tasks
        return ", ".join(names) or "none: this bundle has no adapters, leave `task` out"

    def groups(self, texts: Sequence[str], task: Task | None, role: str) -> list[tuple[Shares, Sequence[int]]]:
        """What to merge for which of the texts. Raises ConfigError."""
        groups: list[tuple[str | Mapping[str, float] | None, Sequence[int]]]
        if isinstance(task, Sequence) and not isinstance(task, str):
            if len(task) != len(texts):
                raise ConfigError(f"a list of tasks has one for each text: got {len(task)} for {len(texts)} texts")
            places: dict[str, list[int]] = {}
            for i, name in enumerate(task):
                places.setdefault(name, []).append(i)
            groups = list(places.items())
        else:
            groups = [(task, range(len(texts)))]
        shares = [self.shares(asked, role, [texts[i] for i in at] if asked == "auto" else ()) for asked, at in groups]
        return [(found, at) for found, (_, at) in zip(shares, groups, strict=True) if len(at)]

    def shares(
        self, task: str | Mapping[str, float] | None, role: str = "document", texts: Sequence[str] = ()
    ) -> Shares:
        """What to merge for a task in a role; `texts` decide where it is "auto". Raises ConfigError."""
        if task is None and not self.tasks:
            return ()
        if task is None:
            raise ConfigError(
                f"{self.model} has adapters, so `task` is needed: one of {self.known}, "
                f'or a blend such as {{"{self.tasks[0]}": 0.7, "{self.tasks[-1]}": 0.3}}'
            )
        if task == "auto" and self.tasks:
            task = self.route(texts, role=role)
        weights = task if isinstance(task, Mapping) else {task: 1.0}
        if unknown := [name for name in weights if name not in self.tasks]:
            raise ConfigError(f"unknown task {unknown[0]!r}; known are {self.known}")
        valid = all(isinstance(weight, Real) and 0 <= weight < math.inf for weight in weights.values())
        if not valid or not any(weights.values()):
            raise ConfigError(f"a blend has weights of 0 or more, at least one above 0; got {dict(weights)}")
        total = math.fsum(weights.values())  # exact, so that the order of the names does not matter
        shares = tuple((name, weights[name] / total) for name in self.tasks if weights.get(name))
        self.prefix(shares, role)
        return shares

    def prefix(self, shares: Shares, role: str) -> str:
        """What stands in front of the text. Raises ConfigError: none of the tasks has the role."""
        if not shares:
            return self.prompts[role]
        names = [name for name, _ in shares]
        return prefix(role, next((n for n in names if (n, role) in PREFIXES), names[0]), self.prompts)
