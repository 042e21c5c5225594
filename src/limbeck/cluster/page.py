"""The map of a clustering: one HTML file that loads nothing, for a hundred texts or a hundred thousand.

Places and clusters stand in it as base64 of 16-bit numbers, texts as JSON. The only script that the page may run is the
one whose digest its Content-Security-Policy names, and texts are set as text, never as HTML.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.cluster.clustering import Clustering
from limbeck.cluster.groups import IntArray
from limbeck.cluster.layout import Points
from limbeck.errors import ConfigError
from limbeck.files import atomic_write

_EDGE = 32_000  # of the 16-bit numbers that places are stored as
_ALL_CHARS = 12_000_000  # of the texts of a page: what a browser opens in a second or two
_CHARS = (80, 400)  # of one text, at least and at most
_MOST_CLUSTERS = 2**15 - 1


def write_map(out: Path, texts: Sequence[str], clustering: Clustering, points: Points) -> None:
    """Write the map of a clustering, whole or not at all.

    Long texts are cut: at 400 characters, or where there are more than 30,000, at their share of 12 million, and at 80
    at least.

    Args:
        out: the file.
        texts: N.
        clustering: of these texts.
        points: their places, [N, 2].

    Raises ConfigError for more than 32,767 clusters.
    """
    if len(clustering.clusters) > _MOST_CLUSTERS:
        raise ConfigError(f"a map shows up to {_MOST_CLUSTERS:,} clusters, got {len(clustering.clusters):,}")
    page = _page(texts, clustering, points)
    with atomic_write(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _page(texts: Sequence[str], clustering: Clustering, points: Points) -> str:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined  # in the `cluster` extra
    from markupsafe import Markup

    own, shared = PackageLoader("limbeck.cluster", "templates"), PackageLoader("limbeck.evaluation", "templates")
    environment = Environment(
        loader=ChoiceLoader([own, shared]),  # colours and fonts are those of all pages
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (files("limbeck.cluster") / "templates" / "map.js").read_text(encoding="utf-8")
    count, groups = len(texts), len(clustering.clusters)
    headline = f"{count:,} text{'s' * (count != 1)} in {groups:,} cluster{'s' * (groups != 1)}"
    return environment.get_template("map.html.j2").render(
        title=f"Map of {headline}",
        headline=headline,
        facts=_facts(clustering),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(_script_json(_data(texts, clustering, points))),
    )


def _facts(clustering: Clustering) -> str:
    said = ["Like texts are near each other; distances and axes mean nothing", clustering.method_name]
    if clustering.silhouette is not None:
        said.append(f"silhouette {clustering.silhouette:.2f}")
    if clustering.noise:
        said.append(f"{clustering.noise:,} in no cluster")
    return " · ".join(said)


def _data(texts: Sequence[str], clustering: Clustering, points: Points) -> dict[str, Any]:
    low, high = _CHARS
    most = min(high, max(low, _ALL_CHARS // len(texts)))
    places = _placed(points)
    return {
        "xy": _numbers(places),
        "of": _numbers(clustering.labels),
        "texts": [_shown(text, most) for text in texts],
        "clusters": [
            {
                "size": c.size,
                "label": c.label,
                "terms": c.terms,
                "central": [_shown(texts[row], high) for row in c.central],
                "at": _midmost(places, np.flatnonzero(clustering.labels == c.cluster)),
            }
            for c in clustering.clusters
        ],
    }


def _placed(points: Points) -> IntArray:
    """Points as whole numbers, one scale for both axes, −32,000 … 32,000; y grows downwards. [N, 2] → [N, 2]."""
    low, high = points.min(axis=0), points.max(axis=0)
    span = float((high - low).max()) or 1.0
    return np.rint((points - (low + high) / 2) * np.array([1, -1]) * (2 * _EDGE / span)).astype(np.int64)


def _midmost(places: IntArray, rows: IntArray) -> int:
    """The row nearest to the median of these: where the name of a cluster stands."""
    away = places[rows] - np.median(places[rows], axis=0)
    return int(rows[np.square(away).sum(axis=1).argmin()])


def _numbers(values: IntArray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<i2").tobytes()).decode()


def _shown(text: str, most: int) -> str:
    line = " ".join(text.split())
    line = line if len(line) <= most else line[: most - 1].rstrip() + "…"
    return line.encode("utf-8", "replace").decode()  # half a surrogate pair is no text


def _script_json(value: Any) -> str:
    """JSON that no HTML parser takes for a tag, a comment or the end of its script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
