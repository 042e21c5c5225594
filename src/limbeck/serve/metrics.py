"""What a server counts, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from limbeck.serve.batching import Batcher

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_TOKENS = (16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144)


class Metrics:
    """Counters of one server; several may live in a process. Labels are route patterns and names of tasks only."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        """All at zero."""
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("limbeck_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "limbeck_request_seconds", "From request to answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.texts = Counter("limbeck_texts", "Texts encoded.", ["task"], registry=registry)
        self.tokens = Counter("limbeck_tokens", "Tokens encoded.", ["task"], registry=registry)
        self.refused = Counter("limbeck_refused", "Requests refused.", ["reason"], registry=registry)
        self.gone = Counter("limbeck_gone", "Requests dropped because their client had gone.", registry=registry)
        self.tokenize_seconds = Histogram(
            "limbeck_tokenize_seconds", "Tokens of a request made.", buckets=_SECONDS, registry=registry
        )
        self._queue = Histogram(
            "limbeck_queue_seconds", "A request waits for its first batch.", buckets=_SECONDS, registry=registry
        )
        self._compute = Histogram("limbeck_batch_seconds", "A batch is computed.", buckets=_SECONDS, registry=registry)
        self._batch_requests = Histogram(
            "limbeck_batch_requests", "Requests in a batch.", buckets=_COUNTS, registry=registry
        )
        self._batch_texts = Histogram("limbeck_batch_texts", "Texts in a batch.", buckets=_COUNTS, registry=registry)
        self._batch_tokens = Histogram("limbeck_batch_tokens", "Tokens in a batch.", buckets=_TOKENS, registry=registry)

    def look_at(self, batcher: Batcher) -> None:
        """Show what waits."""
        registry = self.registry
        Gauge("limbeck_queue_tokens", "Tokens that wait or are computed.", registry=registry).set_function(
            lambda: batcher.tokens
        )
        Gauge("limbeck_queue_requests", "Requests that wait.", registry=registry).set_function(lambda: batcher.requests)

    def waited(self, seconds: float) -> None:
        """See `batching.Watch`."""
        self._queue.observe(seconds)

    def computed(self, *, seconds: float, requests: int, texts: int, tokens: int) -> None:
        """See `batching.Watch`."""
        self._compute.observe(seconds)
        self._batch_requests.observe(requests)
        self._batch_texts.observe(texts)
        self._batch_tokens.observe(tokens)

    def page(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
