"""Pages from templates: HTML that loads nothing and runs nothing, and the same in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.evaluation import formatting as fmt
from limbeck.files import atomic_write

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def write_page(out: Path, templates: Mapping[str, str], context: Mapping[str, Any]) -> None:
    """Render each template of `templates` (file name in `out` → template) with `context`, each whole or not at all."""
    environment = _environment()
    texts = {name: environment.get_template(template).render(context) for name, template in templates.items()}
    for name, text in texts.items():
        with atomic_write(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def breakable(name: str) -> Markup:
    """HTML of a qualified name that may wrap after its dots, slashes and underscores."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([./_])", r"\1<wbr>", str(escape(name))))


def markdown_text(value: object) -> str:
    """Text that Markdown shows as it is, on one line, also inside a table cell."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]|<>&#~])", r"\\\1", text)


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # in the `eval` extra

    environment = Environment(
        loader=PackageLoader("limbeck.evaluation", "templates"),
        # Docstrings and descriptions contain HTML. Markdown is quoted by its own filter, on top of a renderer's rules.
        autoescape=lambda name: not (name or "").endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": fmt.score,
        "percent": fmt.percent,
        "whole_percent": fmt.whole_percent,
        "count": fmt.count,
        "short_count": fmt.short_count,
        "duration": fmt.duration,
        "memory": fmt.memory,
        "size": fmt.size,
        "md": markdown_text,
        "breakable": breakable,
    }
    return environment
