"""`/`: a page to try the model with. It holds no data, and asks the server's own API for all that it shows.

It loads nothing from elsewhere and may talk to this server only: the one script and the one style that a browser may
take from it are those whose digests its Content-Security-Policy names.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from fastapi import APIRouter, Response


def router_of(name: str) -> APIRouter:
    """The route of the page. name: of the model, as requests call it."""
    router = APIRouter()
    body, policy = _page(name)
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",  # a newer limbeck has a newer page at the same address
    }

    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        """The page."""
        return Response(body, media_type="text/html; charset=utf-8", headers=headers)

    return router


def _page(name: str) -> tuple[bytes, str]:
    """HTML, and the policy that goes with it."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    own, shared = PackageLoader("limbeck.serve", "templates"), PackageLoader("limbeck.evaluation", "templates")
    environment = Environment(
        loader=ChoiceLoader([own, shared]),  # colours and fonts are those of all pages
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (files("limbeck.serve") / "templates" / "try.js").read_text(encoding="utf-8")
    style = environment.get_template("try.css.j2").render()
    html = environment.get_template("try.html.j2").render(name=name, script=Markup(script), style=Markup(style))
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html.encode(), policy


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
