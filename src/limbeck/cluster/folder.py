"""A clustering on disk: assignments, topics and map, a folder that is whole or absent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from limbeck.cluster.clustering import Clustering
from limbeck.cluster.layout import Points
from limbeck.cluster.page import write_map
from limbeck.encoding.reading import Row
from limbeck.errors import ConfigError
from limbeck.files import write_json
from limbeck.folders import full_disk_named, replaced_folder, sync_file

ASSIGNMENTS, TOPICS, MAP = "assignments.jsonl", "topics.json", "map.html"


def check_folder(out: Path) -> None:
    """Raise ConfigError where `out` is neither absent nor empty, nor an earlier clustering, which would be replaced."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"{out} is a file: name a folder, new or empty")
    if others := sorted(path.name for path in out.iterdir() if path.name not in (ASSIGNMENTS, TOPICS, MAP)):
        named = ", ".join(others[:3]) + (" …" if len(others) > 3 else "")
        raise ConfigError(f"{out} holds other files ({named}): name a new folder, or an empty one")


def write_folder(out: Path, rows: Sequence[Row], clustering: Clustering, points: Points | None) -> None:
    """Write a clustering; an earlier one in `out` is replaced.

    The folder holds `assignments.jsonl`, see `write_assignments`; `topics.json`, see `Clustering.summary`; and, where
    there are points, `map.html`.

    Raises ConfigError as `check_folder`, DataError for a full disk.
    """
    check_folder(out)
    texts = [row.text for row in rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_named(out), replaced_folder(out) as folder:
        with open(folder / ASSIGNMENTS, "w", encoding="utf-8") as file:
            write_assignments(file, rows, clustering)
        sync_file(folder / ASSIGNMENTS)
        write_json(folder / TOPICS, clustering.summary(texts))
        if points is not None:
            write_map(folder / MAP, texts, clustering, points)


def write_assignments(to: TextIO, rows: Sequence[Row], clustering: Clustering) -> None:
    """Write one JSON object a line, in the order of the texts.

    Each has "id", or "text" where there are no ids; "cluster", −1 for noise; "distance", 1 − cosine to the centre of
    the cluster, null for noise; and of HDBSCAN "membership", 0 … 1.
    """
    for line in _assignments(rows, clustering):
        print(json.dumps(line, ensure_ascii=False), file=to)


def _assignments(rows: Sequence[Row], clustering: Clustering) -> Iterator[dict[str, Any]]:
    labels, distances = clustering.labels.tolist(), clustering.distances.tolist()
    for i, row in enumerate(rows):
        line: dict[str, Any] = {"text": row.text} if row.id is None else {"id": row.id}
        line |= {"cluster": labels[i], "distance": None if labels[i] < 0 else round(distances[i], 6)}
        if clustering.memberships is not None:
            line["membership"] = round(float(clustering.memberships[i]), 6)
        yield line
