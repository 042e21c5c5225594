"""A page as tests see it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text; fails on a tag that is closed in the wrong order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts).replace("\u00a0", " ")

    def attributes(self, name: str) -> list[str]:
        return [a[name] or "" for _, a in self.tags if name in a]

    def check(self) -> None:
        """What every page keeps to: ids, headings, nothing loaded or run, tables that the keyboard can scroll."""
        ids = self.attributes("id")
        assert len(ids) == len(set(ids))
        wanted = [i for value in self.attributes("aria-labelledby") for i in value.split()]
        wanted += [href[1:] for href in self.attributes("href")]
        assert wanted and set(wanted) <= set(ids)
        levels = [int(tag[1]) for tag, _ in self.tags if re.fullmatch(r"h[1-6]", tag)]
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(deeper <= level + 1 for level, deeper in zip(levels, levels[1:], strict=False))
        names = {tag for tag, _ in self.tags}
        assert not names & {"script", "link", "img", "iframe", "object", "embed", "use"}
        assert {"header", "nav", "main", "footer"} <= names
        assert ("html", {"lang": "en"}) in self.tags
        assert not [a for _, attributes in self.tags for a in attributes if a.startswith("on") or a == "src"]
        assert all(href.startswith("#") for href in self.attributes("href"))
        assert not re.search(r"url\(|@import|https?:", " ".join(self.texts[: self.texts.index("Skip to the results")]))
        regions = [a for _, a in self.tags if a.get("class") == "scroll"]
        assert regions and all(a.get("tabindex") == "0" and a.get("aria-label") for a in regions)


def cells_of(markdown: str) -> list[list[int]]:
    """For each table of a Markdown text, the cells of each of its rows."""
    tables = re.findall(r"(?:^\|.*\n)+", markdown, re.M)
    return [[len(re.findall(r"(?<!\\)\|", line)) - 1 for line in table.splitlines()] for table in tables]
