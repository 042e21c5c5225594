"""Refusals, and the bodies that each API's clients expect of them. None of them quotes a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from limbeck.errors import LimbeckError

TOO_LONG = "INPUT_TOKEN_LIMIT_EXCEEDED"  # as Jina calls it

_TYPES = {401: "authentication_error", 404: "invalid_request_error", 429: "rate_limit_error"}
_TEI_TYPES = {400: "Empty", 424: "Backend", 429: "Overloaded", 500: "Backend", 503: "Unhealthy", 504: "Overloaded"}
_TEXTS = ("input", "inputs", "texts", "queries", "query")  # several forms, each with a message of its own


class Refusal(LimbeckError):
    """A request is not answered: HTTP status, a code for programs, a message for people."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        """`param`: the field at fault; `retry_after`: seconds."""
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.param, self.retry_after = param, retry_after


class Error(BaseModel):
    """As OpenAI's clients read it."""

    message: str
    type: str
    param: str | None = Field(description="The field at fault.")
    code: str


class Detail(BaseModel):
    """As Jina's clients read it."""

    message: str
    request_id: str
    code: str


class Refused(BaseModel):
    """No answer, and why: the same twice."""

    error: Error
    detail: Detail


class CohereRefused(BaseModel):
    """No answer, and why, as Cohere says it."""

    id: str
    message: str


class TeiRefused(BaseModel):
    """No answer, and why, as text-embeddings-inference says it."""

    error: str
    error_type: str


_WHY = {
    400: "Not valid JSON, no text, token ids, a text over the model's limit.",
    401: "A key is needed.",
    404: "No such model or classifier.",
    408: "The body did not arrive in time.",
    413: "Too large: the body, or what it asks for.",
    422: "A field does not fit.",
    429: "Try again later: the server is busy, or the key's allowance is used up.",
    500: "The server failed.",
    503: "The server is shutting down, or not ready.",
    504: "No answer within the time limit.",
}


def documented(body: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What a route may answer besides 200, for the API's description: `body` is the model of each."""
    return {status: {"model": body, "description": why} for status, why in _WHY.items()}


def body_of(path: str, refusal: Refusal, request_id: str) -> tuple[int, dict[str, Any]]:
    """Status and body, in the words of the API that a path belongs to."""
    if path.startswith("/v2/"):  # Cohere
        return refusal.status, {"id": request_id, "message": refusal.message}
    if path in ("/embed", "/info"):  # TEI
        long = refusal.code == TOO_LONG
        kind = "Validation" if long else _TEI_TYPES.get(refusal.status, "Validation")
        return 413 if long else refusal.status, {"error": refusal.message, "error_type": kind}
    # OpenAI's clients read `error`, Jina's `detail`; their routes are the same
    kind = _TYPES.get(refusal.status, "server_error" if refusal.status >= 500 else "invalid_request_error")
    error = {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}
    detail = {"message": refusal.message, "request_id": request_id, "code": refusal.code}
    return refusal.status, {"error": error, "detail": detail}


def of_validation(errors: Sequence[Any]) -> Refusal:
    """Say what does not fit in a body, by field. The values stay out: they may be texts."""
    fields: dict[str, str] = {}
    for error in errors:
        names = [str(part) for part in error["loc"] if part != "body"]
        if error["type"] == "json_invalid":
            return Refusal(400, "invalid_json", "the body is not valid JSON")
        field = names[0] if names and not names[0].isdigit() else "body"
        fields.setdefault(field, "expected a text, or a list of texts" if field in _TEXTS else error["msg"])
    shown = [f"{name}: {message}" for name, message in list(fields.items())[:3]]
    param = next((name for name in fields if name != "body"), None)
    return Refusal(422, "invalid_request", "; ".join(shown) or "the body does not fit", param=param)
