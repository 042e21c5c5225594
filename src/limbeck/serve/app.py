"""An encoder and settings → an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from limbeck import __version__
from limbeck.serve import (
    routes_apps,
    routes_cohere,
    routes_openai,
    routes_page,
    routes_search,
    routes_status,
    routes_tei,
)
from limbeck.serve.asking import Parts
from limbeck.serve.catalogue import Catalogue
from limbeck.serve.embedding import Embedder
from limbeck.serve.errors import CohereRefused, Refusal, Refused, TeiRefused, documented, of_validation
from limbeck.serve.gate import Gate, answer_of
from limbeck.serve.keys import Keys
from limbeck.serve.metrics import Metrics
from limbeck.serve.searching import Searcher
from limbeck.serve.settings import Settings

if TYPE_CHECKING:
    from limbeck.classify.saved import Classifier
    from limbeck.search.index import Index


def make_app(
    encoder: Any,
    settings: Settings | None = None,
    *,
    classifiers: Mapping[str, Classifier] = {},
    indexes: Mapping[str, Index] = {},
    keys: str | None = None,
) -> FastAPI:
    """An application that serves a model.

    Args:
        encoder: of `limbeck.load`; nobody else may use it from now on.
        settings: how.
        classifiers: by the name that requests call them.
        indexes: likewise; they are closed when the application ends, and nobody else may use them from now on.
        keys: API keys, with commas or spaces between them, besides those of `settings.keys_file`.

    Raises ConfigError: a default task that the model does not have, a file without keys. ModelError: a classifier
    or an index of another model.
    """
    settings = settings or Settings()
    for classifier in classifiers.values():
        classifier.check_model(encoder)
    for index in indexes.values():
        index.check_model(encoder)
    catalogue = Catalogue(
        settings.name or encoder.spec.name,
        encoder.tasks,
        routed=encoder.router is not None,
        aliases=settings.aliases,
        default=settings.default_task,
    )
    metrics = Metrics()
    embedder = Embedder(encoder, settings, metrics)
    searchers = {name: Searcher(name, index) for name, index in indexes.items()}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await embedder.start()
        try:
            yield
        finally:
            await embedder.close()
            for searcher in searchers.values():
                await searcher.close()

    app = FastAPI(
        title=f"limbeck: {catalogue.name}",
        version=__version__,
        summary="Text embeddings by the APIs of OpenAI, Jina, Cohere and TEI.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.parts = Parts(embedder, catalogue, settings, metrics, dict(classifiers), searchers)
    for routes in (routes_openai, routes_cohere, routes_tei, routes_apps, routes_search, routes_status):
        refused = {routes_cohere: CohereRefused, routes_tei: TeiRefused}.get(routes, Refused)
        app.include_router(routes.router, responses=documented(refused))
    if settings.page:
        app.include_router(routes_page.router_of(catalogue.name))
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _other)
    app.add_middleware(Gate, settings=settings, keys=Keys(settings.keys_file, keys), metrics=metrics)
    if settings.origins:  # outside the gate: a browser's question before the request has no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After", "X-Request-Id", "X-Limbeck-Task", "X-Limbeck-Dims", "X-Limbeck-Fingerprint"],
        )
    return app


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    request.app.state.parts.metrics.refused.labels(error.code).inc()
    return answer_of(error, request.scope)


async def _not_valid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _refused(request, of_validation(error.errors()))


async def _other(request: Request, error: Exception) -> Response:
    """No such path, another method, a body that cannot be parsed."""
    assert isinstance(error, HTTPException)
    known = sorted(request.app.openapi()["paths"])
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    message = f"there is no such path; known are {', '.join(known)}" if error.status_code == 404 else str(error.detail)
    answer = await _refused(request, Refusal(error.status_code, code, message))
    answer.headers.update(error.headers or {})  # of 405, the methods that there are
    return answer
