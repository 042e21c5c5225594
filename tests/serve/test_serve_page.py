"""`/`: what the page may load, run and name, without a browser; tests/serve/test_page_browser.py has one."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

pytest.importorskip("fastapi")

VOID = {"meta", "link", "input", "br"}


class Elements(HTMLParser):
    """Every element, and the text of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.inside:
            self.inside[tag].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:  # those of SVG that close themselves were never opened here
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.inside:
            self.inside[self.open[-1]][-1] += data

    def of(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture
def page(client: Any) -> Elements:
    return Elements(client.get("/").text)


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_it_is_a_page_that_may_run_its_own_script_and_ask_this_server_alone(client: Any) -> None:
    answer = client.get("/")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Elements(answer.text)
    assert not page.open  # every element is closed
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    [script], [style] = page.inside["script"], page.inside["style"]
    assert policy == {
        "default-src": "'none'",
        "script-src": digest(script),
        "style-src": digest(style),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_nothing_comes_from_elsewhere_and_nothing_runs_from_an_attribute(page: Elements) -> None:
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "srcset", "style", "action")]
    assert [each["href"].partition(",")[0] for each in page.of("link")] == ["data:image/svg+xml"]  # type: ignore[union-attr]
    assert {each["href"] for each in page.of("a")} == {"#main", "docs"}
    [script], [style] = page.inside["script"], page.inside["style"]
    assert not re.search(r"https?://|@import|url\(", script + style)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)


def test_what_the_script_and_the_labels_ask_for_is_there(page: Elements) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    [script] = page.inside["script"]
    asked = set(re.findall(r'(?<!\.)\bget\("([\w-]+)"\)', script))
    assert asked and asked <= set(ids)
    for name in ("for", "aria-controls", "aria-labelledby", "aria-describedby"):
        assert {attributes[name] for _, attributes in page.tags if name in attributes} <= set(ids)
    labelled = {each["for"] for each in page.of("label") if "for" in each}
    for each in page.of("input", "select", "textarea"):
        assert each.get("type") in ("radio", "checkbox") or each["id"] in labelled


def test_it_needs_no_key_and_is_not_part_of_the_api(serve: Any) -> None:
    client = serve(keys="one")
    assert client.get("/").status_code == 200
    assert client.get("/info").status_code == 401
    assert "/" not in client.get("/openapi.json").json()["paths"]
    assert client.post("/", json={}).status_code == 405


def test_it_can_be_left_out(serve: Any) -> None:
    assert serve(page=False).get("/").status_code == 404


def test_the_name_of_a_model_stays_text(serve: Any) -> None:
    html = serve(name="<script>alert(1)</script>").get("/").text
    page = Elements(html)
    assert len(page.inside["script"]) == 1 and "&lt;script&gt;alert(1)" in html
