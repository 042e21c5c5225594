from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.cluster import cluster
from limbeck.cluster.page import _script_json, write_map

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>alert(1)</script>",
    "]]> & &lt;b&gt; ' \" \\ \u2028 \u2029",
    "half \ud83d of a pair, and \x00",
]


class Elements(HTMLParser):
    """Every element, and what stands in each script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}", {}))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)


def page_of(folder: Path, texts: list[str], vectors: np.ndarray, points: np.ndarray, **options: Any) -> Elements:
    write_map(folder / "map.html", texts, cluster(vectors, texts, **options), points)
    return Elements((folder / "map.html").read_text(encoding="utf-8"))


def data_of(page: Elements) -> dict[str, Any]:
    return json.loads(page.scripts[0][1])


def numbers(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<i2")


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    page = page_of(tmp_path, HOSTILE, np.eye(4), np.random.default_rng(0).normal(size=(4, 2)), k=2)
    assert len(page.scripts) == 2
    assert "img" not in {tag for tag, _ in page.tags}
    assert data_of(page)["texts"][:2] == HOSTILE[:2]
    assert data_of(page)["texts"][2] == " ".join(HOSTILE[2].split())
    assert data_of(page)["texts"][3] == "half ? of a pair, and \x00"


@given(st.text(st.sampled_from("<>&!-/script\u2028 \"'\\é😀")))
def test_json_in_a_script_reads_back_and_holds_no_sign_of_html(text: str) -> None:
    written = _script_json({"text": text})
    assert json.loads(written) == {"text": text}
    assert not set("<>&\u2028\u2029") & set(written)


def test_the_page_loads_nothing_and_runs_its_own_script_alone(tmp_path: Path) -> None:
    page = page_of(tmp_path, ["a", "b", "c"], np.eye(3), np.eye(3)[:, :2], k=2)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    assert "default-src 'none'" in policy
    digest = base64.b64encode(hashlib.sha256(page.scripts[1][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert page.scripts[0][0] == {"type": "application/json", "id": "data"}  # which a browser does not run
    assert not {"link", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert not [name for _, a in page.tags for name in a if name.startswith("on") or name == "src"]
    html = (tmp_path / "map.html").read_text()
    assert not re.search(r"https?:|@import|url\(|innerHTML|eval\(", html)


def test_every_element_that_the_script_asks_for_is_there(tmp_path: Path) -> None:
    page = page_of(tmp_path, ["a", "b", "c"], np.eye(3), np.eye(3)[:, :2], k=2)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    asked = re.findall(r"\bget(?:ElementById)?\(\"(\w+)\"\)", page.scripts[1][1])
    assert asked and set(asked) <= set(ids)


def test_places_keep_their_proportions_and_clusters_their_texts(tmp_path: Path) -> None:
    points = np.array([[0.0, 0], [4, 0], [4, 2], [0, 2]])
    vectors = np.array([[1.0, 0], [1, 0.1], [0, 1], [1, 0.2]])
    data = data_of(page_of(tmp_path, ["w", "x", "y", "z"], vectors, points, k=2))
    places = numbers(data["xy"]).reshape(-1, 2)
    assert places.tolist() == [[-32000, 16000], [32000, 16000], [32000, -16000], [-32000, -16000]]
    assert numbers(data["of"]).tolist() == [0, 0, 1, 0]
    assert [c["size"] for c in data["clusters"]] == [3, 1]
    assert data["clusters"][1]["at"] == 2 and data["clusters"][1]["central"] == ["y"]


def test_noise_is_said_and_marked(tmp_path: Path) -> None:
    page = page_of(tmp_path, ["a", "b"], np.eye(2), np.zeros((2, 2)), method="hdbscan")
    assert numbers(data_of(page)["of"]).tolist() == [-1, -1]
    assert "2 in no cluster" in (tmp_path / "map.html").read_text()


def test_long_texts_are_cut_and_shorter_ones_are_not(tmp_path: Path) -> None:
    texts = ["x" * 400, "y" * 401]
    data = data_of(page_of(tmp_path, texts, np.eye(2), np.eye(2), k=2))
    assert data["texts"] == ["x" * 400, "y" * 399 + "…"]


def test_a_map_of_many_texts_shows_less_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limbeck.cluster.page._ALL_CHARS", 250)
    data = data_of(page_of(tmp_path, ["z" * 300, "z" * 90], np.eye(2), np.eye(2), k=2))
    assert [len(text) for text in data["texts"]] == [125, 90]


def test_a_page_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        write_map(tmp_path / "map.html", ["a", "b"], cluster(np.eye(2), ["a", "b"], k=2), np.zeros((1, 2)))
    assert list(tmp_path.iterdir()) == []
