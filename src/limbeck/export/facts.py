"""What an export says about itself: limbeck_export.json, and the same facts in its README."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from limbeck.config import Scaling
from limbeck.export.licences import Licences
from limbeck.files import read_json, write_json

MARK = "limbeck_export.json"  # tells an export, which may be replaced, from any other folder


class RetrievalLoss(BaseModel):
    """Retrieval with vectors of the model and of an export of it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: str  # of the queries
    queries: int
    documents: int
    task: str | None  # adapter that made the vectors
    float_ndcg_at_10: float
    ndcg_at_10: float

    def __str__(self) -> str:
        """One line for people."""
        change = f" ({self.ndcg_at_10 / self.float_ndcg_at_10 - 1:+.2%})" if self.float_ndcg_at_10 else ""
        return (
            f"nDCG@10 {self.float_ndcg_at_10:.4f} in float, {self.ndcg_at_10:.4f} in int8{change}: {self.queries:,} "
            f"queries of {self.source} in {self.documents:,} documents{f', {self.task}' if self.task else ''}"
        )


class Facts(BaseModel):
    """limbeck_export.json: all that one needs to know to use an export, and where it came from."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: str
    precision: str  # of the weights
    limbeck: str  # version that wrote it
    name: str
    tasks: list[str]  # adapters in it; of ONNX and OpenVINO, the input `task` counts them from 0. [] = the base alone
    merged: bool  # whether the one adapter is part of the weights
    prompts: dict[str, str]  # by role, in front of every text
    pooling: str
    dims: list[int]
    max_tokens: int
    rope_theta: float | None
    rope_scaling: Scaling | None
    fingerprint: str  # of the model's vectors, see `Encoder.fingerprint`
    licences: Licences
    min_cosine: float | None = None  # to limbeck's own vectors, the least that was found
    int8_embedding: bool = False  # whether token embeddings are int8 too
    retrieval: RetrievalLoss | None = None  # of int8

    def save(self, folder: Path) -> None:
        """Write limbeck_export.json."""
        write_json(folder / MARK, self.model_dump(mode="json"))


def read_facts(folder: Path) -> Facts | None:
    """Of an export; None where there are none, or those of an earlier version, which said less."""
    try:
        return Facts.model_validate(read_json(folder / MARK))
    except (OSError, ValueError, ValidationError):
        return None
