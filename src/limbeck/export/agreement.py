"""Whether an export gives limbeck's own vectors, in its target.  N: texts, D: dims."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from limbeck.errors import ModelError
from limbeck.export.facts import Facts
from limbeck.export.targets import Encode
from limbeck.model.prefixes import PREFIXES, ROLES

LEAST = {"fp32": 0.9999, "int8": 0.99}  # cosine, by the precision of the weights

# Of several languages, scripts and lengths: nothing, a word, code, and more than most models read.
TEXTS = (
    "",
    "tree",
    "How do I join two tables on a key column?",
    "def mean(values): return sum(values) / len(values)  # 0 values: ZeroDivisionError",
    "Der Zug nach Köln fährt heute wegen einer Störung erst um 17:45 Uhr, von Gleis 9 ¾.",
    "Le musée est fermé le mardi ; l'entrée est gratuite le premier dimanche du mois.",
    "東京では、桜は三月の終わりに咲き始めます。",
    "المكتبة مفتوحة كل يوم من التاسعة صباحا.",
    "Поезд отправляется в семь часов утра. 🚂",
    "Water boils at a lower temperature on a mountain, because the air above it is thinner. " * 60,
)


def least_cosine(found: Encode, wanted: Encode, tasks: list[str]) -> float:
    """The least cosine of two encoders' vectors of the same texts, in every task and role, together and alone.

    Raises ModelError: a vector that is not finite, or of another width.
    """
    return min(_cosines(found, wanted, tasks))


def is_near(facts: Facts) -> bool:
    """Whether an export is near enough to the model."""
    return facts.min_cosine is not None and facts.min_cosine >= LEAST[facts.precision]


def check(facts: Facts) -> None:
    """Raise ModelError where an export is too far from the model."""
    if not is_near(facts):
        advice = "with precision fp32" if facts.precision == "int8" else "in another format, or use the model itself"
        raise ModelError(
            f"the {facts.format} export does not give the model's vectors: the least cosine over {len(TEXTS)} texts is "
            f"{facts.min_cosine:.6f}, and {LEAST[facts.precision]} is needed. Nothing was kept; export {advice}"
        )


def _cosines(found: Encode, wanted: Encode, tasks: list[str]) -> Iterator[float]:
    for task, role in sides(tasks):
        expected = wanted(TEXTS, task, role)
        alone = np.concatenate([found([text], task, role) for text in TEXTS])
        for vectors in (found(TEXTS, task, role), alone):
            if vectors.shape != expected.shape or not np.isfinite(vectors).all():
                raise ModelError(
                    f"the export gives vectors of shape {list(vectors.shape)}, expected {list(expected.shape)}, all "
                    "finite: nothing was kept; export in another format"
                )
            norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
            yield float(np.min((vectors * expected).sum(axis=1) / norms))


def sides(tasks: list[str]) -> list[tuple[str | None, str]]:
    """Each task with the roles that it has; without tasks, the base in both roles."""
    if not tasks:
        return [(None, role) for role in ROLES]
    return [(task, role) for task in tasks for role in ROLES if (task, role) in PREFIXES]
