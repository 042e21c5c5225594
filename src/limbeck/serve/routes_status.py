"""Whether the server lives, whether it is ready, and what it has counted."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from limbeck.serve.asking import parts_of
from limbeck.serve.errors import Refusal

router = APIRouter(tags=["status"])


@router.get("/health")
async def health(request: Request) -> dict[str, str]:
    """200 while the process can answer; 503 when it should be started anew."""
    if not parts_of(request).embedder.batcher.alive:
        raise Refusal(503, "not_alive", "nothing is computed any more")
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """200 when it takes requests: the model is loaded, and the queue has room."""
    parts = parts_of(request)
    batcher = parts.embedder.batcher
    if not batcher.alive or batcher.tokens >= parts.settings.queue_tokens:
        raise Refusal(503, "not_ready", "no requests are taken now", retry_after=1)
    return {"status": "ready"}


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    parts = parts_of(request)
    return Response(parts.metrics.page(), media_type=parts.metrics.content_type)
