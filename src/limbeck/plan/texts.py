"""How many texts and tokens the sources hold, where they are on this machine."""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass
from pathlib import Path

from limbeck.config import DebianPackagesSource, HubSource, Recipe, Source
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
    texts: int | None = None  # different ones that the teacher reads: each is taught once
    tokens: int | None = None  # of all rows, as the student reads them in training
    mean_tokens: float | None = None  # of a text
    chars: int | None = None  # of all rows
    note: str = ""


def count_texts(recipe: Recipe, longest: int, seconds: float) -> list[Texts]:
    """Count what the local sources hold.

    Args:
        recipe: of the run.
        longest: tokens that training truncates a text to.
        seconds: that counting a source may take after its first row (a corpus of this machine is read whole before
            that); one that is cut short is not counted.
    """
    chars_per_token: float | None = None
    found = []
    for source in recipe.data.sources:
        if not _is_local(source):
            most = f", at most {source.max_rows:,} rows" if source.max_rows else ""
            found.append(Texts(source.name, source.type, note=f"unknown until it is read{most}"))
            continue
        rows, taught, lengths, sample, complete = _read(source, seconds)
        chars_per_token = chars_per_token or _chars_per_token(recipe, sample)
        tokens = [min(longest, round(n / chars_per_token) + _ADDED_TOKENS) for n in lengths]
        found.append(
            Texts(
                source.name,
                source.type,
                rows=rows if complete else None,
                texts=taught if complete else None,
                tokens=sum(tokens) if complete else None,
                mean_tokens=sum(tokens) / len(tokens) if tokens else None,
                chars=sum(lengths) if complete else None,
                note="" if complete else f"more than {rows:,} rows: counting stopped after {seconds:.0f} s",
            )
        )
    return found


def _is_local(source: Source) -> bool:
    """Whether reading it leaves the network alone."""
    if isinstance(source, HubSource):
        return Path(source.dataset).is_dir()
    return not (isinstance(source, DebianPackagesSource) and source.fetch_into)


def _read(source: Source, seconds: float) -> tuple[int, int, array[int], list[str], bool]:
    """Rows, different texts, characters of every text, some texts, and whether there was time for all."""
    from limbeck.data.sources import read_source

    rows, lengths, sample = 0, array("q"), list[str]()
    seen: set[int] = set()
    deadline = float("inf")
    for rows, example in enumerate(read_source(source), start=1):
        if rows == 1:
            deadline = time.monotonic() + seconds
        for role in ("text", "query", "document"):
            text = getattr(example, role, None)
            if text is None:
                continue
            seen.add(hash((role == "query", getattr(example, f"teacher_{role}") or text)))  # queries are instructed
            lengths.append(len(text))
            if len(sample) < _SAMPLE:
                sample.append(text)
        if rows % 256 == 0 and time.monotonic() > deadline:
            return rows, len(seen), lengths, sample, False
    return rows, len(seen), lengths, sample, True


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
