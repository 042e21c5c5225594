"""What an index says of itself: which model made its vectors, how, and which fields its documents have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from limbeck import __version__
from limbeck.encode_file import parse_task
from limbeck.encoding.vectors import Task
from limbeck.errors import StoreError
from limbeck.search.conditions import Kind

FORMAT = 1

Precision: TypeAlias = Literal["float16", "int8", "binary"]
Chunks: TypeAlias = Literal["none", "separate", "late"]


class IndexSpec(BaseModel):
    """What limbeck-index.json, or the metadata of a collection on a server, holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    model: str  # its name
    address: str  # where it was loaded from
    fingerprint: str  # of that model for that task: `Encoder.fingerprint_of`
    task: str | None  # as on a command line; None = a model without adapters
    prompts: dict[str, str]  # what stands before queries and documents
    dim: int = Field(gt=0)  # of the vectors: the first so many numbers
    precision: Precision  # that is searched at; int8 and binary find candidates, which float16 puts in order
    chunks: Chunks
    chunk_chars: int = Field(gt=0)  # of the longest chunk
    words: bool  # whether BM25 can be asked too
    language: str | None = None  # of stop words and stemming; None = neither
    average_words: float = Field(gt=0)  # of a chunk: what BM25 holds lengths against
    fields: dict[str, Kind] = {}
    limbeck: str = __version__  # that wrote it

    @property
    def encoding_task(self) -> Task:
        """What to encode texts for."""
        return None if self.task is None else parse_task(self.task)

    def with_fields(self, fields: Mapping[str, Kind]) -> IndexSpec:
        """The same with other fields."""
        return self.model_copy(update={"fields": dict(fields)})

    @classmethod
    def read(cls, body: Any, where: str) -> IndexSpec:
        """Raises StoreError: of a newer limbeck, or torn."""
        if isinstance(body, dict) and isinstance(body.get("format"), int) and body["format"] > FORMAT:
            raise StoreError(
                f"{where} has format {body['format']}, written by limbeck {body.get('limbeck')}; this is "
                f"{__version__}, which knows format {FORMAT}: update limbeck, or make the index again"
            )
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "its description"
            raise StoreError(f"{where} cannot be read: {place}: {first['msg']}: make the index again") from None
