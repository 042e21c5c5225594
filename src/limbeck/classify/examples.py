"""Labelled texts of files, and the labels of a command line or a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck.classify.head import Label
from limbeck.encoding.reading import Inputs, find_inputs, read_rows
from limbeck.errors import ConfigError, DataError


@dataclass(frozen=True)
class Examples:
    """Texts with their labels, each pair once."""

    texts: list[str]
    labels: list[Label]  # of one type
    places: list[str]  # where each stands, "line 3"
    repeated: int  # that were left out, since the same text with the same label came before
    contradictory: list[bool]  # for each: whether its text has another label elsewhere

    def __len__(self) -> int:
        """How many there are."""
        return len(self.texts)


@dataclass(frozen=True)
class Described:
    """A label for zero-shot classification."""

    label: Label
    description: str | None = None

    @property
    def text(self) -> str:
        """What the model reads: the name, its underscores as spaces, and the description."""
        name = str(self.label).replace("_", " ")
        return f"{name}: {self.description}" if self.description else name


def find_examples(sources: Sequence[str], *, field: str, label: str) -> Inputs:
    """Find files of examples: JSON lines or Parquet, as `find_inputs`. Raises what it raises."""
    return find_inputs(sources, field=field, id=label, id_is="label")


def read_examples(inputs: Inputs) -> Examples:
    """Read them all.

    Raises DataError as `read_rows`, and for a label that is not valid Unicode.
    """
    seen: dict[tuple[str, Label], None] = {}
    found, repeated = [], 0
    labels_of: dict[str, int] = {}
    for row in read_rows(inputs):
        assert row.id is not None
        if (row.text, row.id) in seen:
            repeated += 1
            continue
        if isinstance(row.id, str):
            _check_unicode(row.id, row.place)
        seen[row.text, row.id] = None
        labels_of[row.text] = labels_of.get(row.text, 0) + 1
        found.append(row)
    return Examples(
        texts=[row.text for row in found],
        labels=[row.id for row in found],
        places=[row.place for row in found],
        repeated=repeated,
        contradictory=[labels_of[row.text] > 1 for row in found],
    )


def check_known(examples: Examples, known: Sequence[Label]) -> None:
    """Raise DataError for an example whose label is not among those known."""
    for label, place in zip(examples.labels, examples.places, strict=True):
        if label not in known:
            shown = ", ".join(map(repr, known[:8])) + (", …" if len(known) > 8 else "")
            raise DataError(f"{place}: unknown label {label!r}; the {len(known)} that are known are {shown}")


def parse_labels(words: Sequence[str]) -> list[Described]:
    """Labels of a command line, each NAME or NAME=DESCRIPTION. Raises ConfigError as `checked`, and for no name."""
    found = []
    for word in words:
        name, _, description = word.partition("=")
        if not name.strip():
            raise ConfigError(f"expected NAME or NAME=DESCRIPTION, got {word!r}")
        found.append(Described(name.strip(), description.strip() or None))
    return checked(found)


def read_labels(path: str) -> list[Described]:
    """Labels of a file of JSON lines: {"label": …, "description": …}, or a name alone, as a string.

    Raises DataError that names the line: not JSON, no label, a description that is no text. As `checked`.
    """
    file, found = Path(path), []
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason}, byte {error.start + 1}): convert the file") from None
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not JSON ({error})") from None
        row = {"label": row} if isinstance(row, str) else row
        if not isinstance(row, dict) or not _is_label(row.get("label")):
            raise DataError(f'{place}: expected {{"label": …, "description": …}} with a label that is text or a whole '
                            f"number, got {line.strip()!r:.80}")  # fmt: skip
        description = row.get("description")
        if description is not None and not isinstance(description, str):
            raise DataError(f"{place}: the description of {row['label']!r} is no text: {description!r:.40}")
        if isinstance(row["label"], str):
            _check_unicode(row["label"], place)
        found.append(Described(row["label"], description or None))
    return checked(found)


def checked(labels: Sequence[Described]) -> list[Described]:
    """The labels. Raises ConfigError: fewer than two, one twice, some text and some numbers."""
    names = [each.label for each in labels]
    if len(names) < 2:
        raise ConfigError(f"a classifier needs two labels or more, got {len(names)}: {', '.join(map(str, names))}")
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ConfigError(f"the label {twice[0]!r} is given twice: keep one of them")
    if len({type(name) for name in names}) > 1:
        raise ConfigError("labels are all text or all whole numbers, got both: write the numbers as text")
    return list(labels)


def _is_label(value: object) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, int) and not isinstance(value, bool)


def _check_unicode(label: str, place: str) -> None:
    try:
        label.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: the label {label!r} is not valid Unicode") from None
