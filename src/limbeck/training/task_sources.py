"""What each adapter reads of the prepared texts, and what the teacher says to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from limbeck import config
from limbeck.config import ClassificationAdapter, Recipe, RetrievalAdapter, Task
from limbeck.data.dedup import stable_hash
from limbeck.data.negatives import mine
from limbeck.data.prepare import Prepared
from limbeck.data.tables import ExampleTable
from limbeck.data.tokens import TokenTable
from limbeck.data.triplets import LabelTriplets
from limbeck.errors import ConfigError
from limbeck.model.prefixes import prefix
from limbeck.model.tokenizer import Tokenizer
from limbeck.training.task_batches import TaskSource

# Kinds of examples that each task can be trained on.
KINDS: dict[Task, tuple[str, ...]] = {
    "retrieval": ("pair", "triplet"),
    "text-matching": ("pair", "triplet", "scored_pair"),
    "clustering": ("text", "labelled_text", "pair", "triplet", "scored_pair"),
    "classification": ("labelled_text",),
}
_MOST_TRIPLETS = 4_000_000  # made at a time; a longer run goes through them again

Gather = Callable[[np.ndarray], np.ndarray]
"""Store rows [B] → teacher vectors [B, D]."""
Teach = Callable[[Sequence[str], str], np.ndarray]
"""(texts, instruction) → their rows in the teacher's store, taught now where they were not."""


@dataclass(frozen=True)
class Part:
    """Texts of one table under one prefix and one instruction of the teacher. `taught`: some loss reads its vectors."""

    texts: list[str]
    teacher_texts: list[str]
    prefix: str
    instruction: str
    taught: bool = True


def parts_of(recipe: Recipe, task: Task, settings: config.Adapter, table: ExampleTable) -> list[Part]:
    """What an adapter reads of a source, in the order of its token table.

    Raises ConfigError when the source holds another kind of examples than the task can be trained on.
    """
    if table.kind not in KINDS[task]:
        raise ConfigError(
            f"adapters.{task}.sources names {table.source!r}, which holds {table.kind} examples; {task} is trained on "
            f"{' or '.join(KINDS[task])}"
        )
    teacher, told = recipe.teacher, settings.teacher_instruction
    plain = teacher.document_instruction
    if task == "retrieval":
        asked = told if told is not None else teacher.query_instruction
        negatives = [n for row in table.negatives for n in row]
        return [
            Part(table.texts("query"), table.teacher_texts("query"), prefix("query", task), asked),
            Part(table.texts("document"), table.teacher_texts("document"), prefix("document", task), plain),
            *([Part(negatives, negatives, prefix("document", task), plain)] if negatives else []),
        ]
    taught = not (task == "text-matching" and table.kind == "scored_pair")
    told = plain if told is None else told
    return [
        Part(table.texts(role), table.teacher_texts(role), prefix("document", task), told, taught)
        for role in table.roles
    ]


def task_source(
    recipe: Recipe,
    task: Task,
    settings: config.Adapter,
    asked: config.AdapterSource,
    prepared: Prepared,
    tokenizer: Tokenizer,
    teach: Teach,
    gather: Gather,
    stem: Path,
) -> tuple[TaskSource, dict[str, int]]:
    """One source of an adapter, and what was counted on the way.

    Args:
        recipe: the run.
        task: the adapter.
        settings: its block.
        asked: the source's entry there.
        prepared: all sources.
        tokenizer: the student's.
        teach: see Teach.
        gather: see Gather.
        stem: the token table is kept at this path, and read when it is there.

    Raises ConfigError, DataError.
    """
    table = prepared.sources[asked.name].train
    parts = parts_of(recipe, task, settings, table)
    if not TokenTable.finished(stem):
        limit = settings.max_tokens or recipe.student.max_tokens
        TokenTable.write(stem, [(p.texts, p.prefix) for p in parts], tokenizer, max_tokens=limit)
    tokens = TokenTable.open(stem)
    ids = _ids(t for p in parts for t in p.texts)
    rows = [teach(p.teacher_texts, p.instruction) for p in parts] if all(p.taught for p in parts) else None
    taught = None if rows is None else np.concatenate(rows)
    size, weight = asked.batch_size or settings.batch_size, asked.weight * table.weight
    count = len(table)
    counts = {"rows": count, "truncated": tokens.truncated}

    def source(first: np.ndarray, second: np.ndarray | None = None, **more: np.ndarray | None) -> TaskSource:
        return TaskSource(asked.name, weight, size, tokens, ids, first, second, teacher_rows=taught, **more)

    each = np.arange(count, dtype=np.int64)
    if isinstance(settings, RetrievalAdapter):
        assert taught is not None
        given = _padded([len(n) for n in table.negatives], first=2 * count)
        if settings.negatives and settings.mining is not None:
            _, one, back = np.unique(ids[:count], return_index=True, return_inverse=True)  # each question once
            found = mine(
                taught[:count][one],
                taught[count : 2 * count],
                gather,
                _rows_of_each(back),
                ids[count : 2 * count],
                settings.mining,
            )
            mined = found.indices[back].astype(np.int64)
            given = np.concatenate([given, np.where(mined < 0, -1, mined + count)], axis=1)
            counts |= found.counts
        return source(each, each + count, negatives=given), counts
    if isinstance(settings, ClassificationAdapter):
        assert taught is not None
        triplets = LabelTriplets.make(
            table.labels,
            taught,
            gather,
            ids,
            negatives=settings.negatives,
            confusable=settings.confusable,
            count=min(settings.steps * size, _MOST_TRIPLETS),
            seed=recipe.seed,
        )
        weight *= count / max(1, len(triplets.anchor))  # it is of the source's rows, however many triplets they make
        arrays = (a.astype(np.int64) for a in (triplets.anchor, triplets.positive, triplets.negatives))
        anchor, positive, negatives = arrays
        return source(anchor, positive, negatives=negatives, labels=triplets.label_sets), counts | triplets.counts
    if task == "clustering":
        return source(np.arange(len(tokens), dtype=np.int64)), counts
    scores = table.scores if table.kind == "scored_pair" else None
    return source(each, each + count, scores=scores), counts


def text_ids(table: ExampleTable) -> np.ndarray:
    """A number for each text of a table, first role first, that equal texts share: int64 [N]."""
    return _ids(t for role in table.roles for t in table.texts(role))


def _ids(texts: Iterable[str]) -> np.ndarray:
    return np.array([stable_hash(t) for t in texts], np.uint64).view(np.int64)


def _rows_of_each(groups: np.ndarray) -> list[np.ndarray]:
    """For each group the rows that are of it. groups: [R] numbers from 0 on."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.cumsum(np.bincount(groups))[:-1])


def _padded(lengths: list[int], *, first: int) -> np.ndarray:
    """Places that follow each other from `first` on, so many a row: [R, longest] int64, −1 = none."""
    longest = max(lengths, default=0)
    starts = first + np.cumsum([0, *lengths[:-1]])
    places = np.arange(longest)[None, :]
    return np.where(places < np.array(lengths)[:, None], starts[:, None] + places, -1).astype(np.int64)
