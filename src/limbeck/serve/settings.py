"""What a server is told at its start. Every limit with its unit and its reason."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from limbeck.errors import ConfigError


class Settings(BaseModel):
    """How a model is served."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(default=None, min_length=1)
    """The model's name in requests; None = the bundle's own."""
    aliases: tuple[str, ...] = ()
    """Further names, such as one that a client has built in."""
    default_task: str | None = None
    """Of a request without a task, where its API does not need one; None = see `limbeck.serve.catalogue`."""

    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens that are computed at a time; None = twice what the device takes in one forward pass, so that texts of
    several requests can be sorted by length."""
    parallel_batches: int | None = Field(default=None, ge=1)
    """Batches that are computed at a time, each on its share of a CPU's cores, so that no core waits for another that
    serves a client meanwhile; a batch that is alone has all of them. None = as many as there are cores, up to 4. Other
    devices, and compiled models, compute one."""
    window_ms: float = Field(default=2.0, ge=0)
    """How long a batch that is not full stays open, once a second request waits: less than a forward pass takes."""
    queue_tokens: int = Field(default=500_000, ge=1)
    """Tokens of all requests that wait or are computed; what would come on top is told to try again (429)."""
    waiting_requests: int = Field(default=512, ge=1)
    """Requests at a time, from their first byte to their answer; what comes on top is told to try again (429)."""
    request_tokens: int = Field(default=300_000, ge=1)
    """Tokens of one request; more is refused (413)."""
    request_texts: int = Field(default=2_048, ge=1)
    """Texts of one request; more is refused (413)."""
    body_bytes: int = Field(default=16 * 2**20, ge=1)
    """Of one request; more is refused (413) before it is read."""
    body_seconds: float = Field(default=30.0, gt=0)
    """For a body to arrive (408)."""
    request_seconds: float = Field(default=120.0, gt=0)
    """For an answer (504), waiting included."""
    shutdown_seconds: int = Field(default=60, ge=1)
    """For requests that were accepted before a shutdown."""

    keys_file: Path | None = None
    """API keys, one a line; read again when it changes."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Of one key; without keys, of one address."""
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Likewise."""
    origins: tuple[str, ...] = ()
    """Web pages that may call the server from a browser (CORS); none unless named."""
    page: bool = True
    """Whether `/` is a page to try the model with."""
    debug: bool = False
    """Log tracebacks, which may hold texts."""


def checked(**fields: object) -> Settings:
    """Settings of a command line. Raises ConfigError that names the field."""
    try:
        return Settings.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}") from None
