"""How many texts and tokens the sources hold, where they are on this machine."""

from __future__ import annotations

import time
from array import array
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from limbeck.config import DebianPackagesSource, DerivedSource, HubSource, Recipe, Source
from limbeck.data.examples import Example
from limbeck.plan.models import teacher_folder

CHARS_PER_TOKEN = 4.0  # of English under a subword vocabulary; used where no tokenizer is at hand
_ADDED_TOKENS = 3  # prefix and end of text
_SAMPLE = 500  # texts that are tokenised to learn the characters of a token


@dataclass(frozen=True, slots=True)
class Texts:
    """What a source holds. None = not known until it is read."""

    source: str
    kind: str
    rows: int | None = None
    texts: int | None = None  # different ones that the teacher reads, with the instruction that it is given
    tokens: int | None = None  # of all rows, as the student reads them in stage 1
    mean_tokens: dict[int, float] = field(default_factory=dict)  # of a text, by the tokens that it is cut to
    chars: int | None = None  # of all rows
    note: str = ""


def count_texts(recipe: Recipe, limits: Collection[int], seconds: float) -> list[Texts]:
    """Count what the local sources hold.

    Args:
        recipe: of the run.
        limits: tokens that texts are cut to; the first of them is that of stage 1.
        seconds: that counting a source may take after its first row (a corpus of this machine is read whole before
            that); one that is cut short is not counted.

    Raises:
        DataError: a source cannot be read.
        ConfigError: an adapter names a source of examples that it cannot be trained on.
    """
    chars_per_token: float | None = None
    found = []
    for source in recipe.data.sources:
        if not _is_local(source):
            most = f", at most {source.max_rows:,} rows" if source.max_rows else ""
            done = f"made of {source.of}" if isinstance(source, DerivedSource) else "read"
            found.append(Texts(source.name, source.type, note=f"unknown until it is {done}{most}"))
            continue
        rows, taught, lengths, sample, complete = _read(recipe, source, seconds)
        chars_per_token = chars_per_token or _chars_per_token(recipe, sample)
        tokens = [round(n / chars_per_token) + _ADDED_TOKENS for n in lengths]
        sums = {limit: sum(min(limit, n) for n in tokens) for limit in limits}
        found.append(
            Texts(
                source.name,
                source.type,
                rows=rows if complete else None,
                texts=taught if complete else None,
                tokens=next(iter(sums.values())) if complete else None,
                mean_tokens={limit: total / len(tokens) for limit, total in sums.items()} if tokens else {},
                chars=sum(lengths) if complete else None,
                note="" if complete else f"more than {rows:,} rows: counting stopped after {seconds:.0f} s",
            )
        )
    return found


def _is_local(source: Source) -> bool:
    """Whether it can be read by itself, and that leaves the network alone."""
    if isinstance(source, HubSource):
        return Path(source.dataset).is_dir()
    fetched = isinstance(source, DebianPackagesSource) and source.fetch_into
    return not (fetched or isinstance(source, DerivedSource))


def _read(recipe: Recipe, source: Source, seconds: float) -> tuple[int, int, array[int], list[str], bool]:
    """Rows, texts to teach, characters of every text, some texts, and whether there was time for all."""
    from limbeck.data.sources import read_source

    rows, lengths, sample, complete = 0, array("q"), list[str](), True
    asked: Mapping[str, Collection[str]] = {}
    seen: set[int] = set()
    deadline = float("inf")
    for rows, example in enumerate(read_source(source), start=1):
        if rows == 1:
            asked, deadline = _instructions(recipe, source, example), time.monotonic() + seconds
        for role in ("text", "query", "document"):
            text = getattr(example, role, None)
            if text is None:
                continue
            taught = getattr(example, f"teacher_{role}") or text
            seen |= {hash((instruction, taught)) for instruction in asked.get(role, [""])}
            lengths.append(len(text))
            if len(sample) < _SAMPLE:
                sample.append(text)
        for negative in getattr(example, "negatives", ()):
            seen |= {hash((instruction, negative)) for instruction in asked.get("negative", ())}
        if rows % 256 == 0 and time.monotonic() > deadline:
            complete = False
            break
    # what no training asks for is taught where it is held out
    share = 1.0 if asked else min(recipe.data.heldout_of(source), (recipe.data.heldout_max or rows) / max(1, rows))
    return rows, round(share * len(seen)), lengths, sample, complete


def _instructions(recipe: Recipe, source: Source, example: Example) -> Mapping[str, Collection[str]]:
    """What the teacher is told when it reads texts of a role for training; negatives count as a role."""
    from limbeck.data.tables import kind_of
    from limbeck.training.task_sources import parts_of

    teacher = recipe.teacher
    roles = ("text",) if hasattr(example, "text") else ("query", "document")
    found: dict[str, set[str]] = defaultdict(set)
    if source.name in [*recipe.distill_sources, *recipe.extend_sources]:
        for role in roles:
            found[role].add(teacher.query_instruction if role == "query" else teacher.document_instruction)
    # a table of one row whose texts are the names of their roles: so each part says whose it is
    table: Any = SimpleNamespace(
        kind=kind_of(example),
        source=source.name,
        roles=roles,
        texts=lambda role: [role],
        teacher_texts=lambda role: [role],
        negatives=[("negative",) if hasattr(example, "negatives") else ()],
    )
    for task, block in recipe.adapters.by_task().items():
        if source.name in [s.name for s in block.sources]:
            for part in parts_of(recipe, task, block, table):
                if part.taught:
                    found[part.texts[0]].add(part.instruction)
    return found


def _chars_per_token(recipe: Recipe, sample: list[str]) -> float:
    """Characters of a token of the student's tokenizer, or of a usual one where it is not on this machine."""
    from transformers import AutoTokenizer

    where = recipe.student.tokenizer or recipe.student.model or teacher_folder(recipe)
    if not where or not sample:
        return CHARS_PER_TOKEN
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=True)
    except (OSError, ValueError):
        return CHARS_PER_TOKEN
    tokens = sum(len(ids) for ids in tokenizer(sample, add_special_tokens=False, verbose=False)["input_ids"])
    return sum(map(len, sample)) / max(1, tokens)
