"""A run that never happened, for tests of the report: shaped like the demo, with hostile texts in it."""

from __future__ import annotations

import math
from typing import Any

import pytest

DIMS = (32, 64, 128, 256, 384)
MATRIX = {  # task → base, the four adapters, auto, static, teacher
    "retrieval": (0.752, 0.787, 0.741, 0.748, 0.712, 0.786, 0.693, 0.845),
    "text-matching": (0.701, 0.695, 0.803, 0.699, 0.664, 0.768, 0.622, 0.742),
    "clustering": (0.488, 0.493, 0.527, 0.519, 0.472, 0.514, 0.451, 0.531),
    "classification": (0.671, 0.668, 0.684, 0.679, 0.738, 0.731, 0.655, 0.702),
}
HOSTILE = '<script>alert("x")</script> & <b>bold</b> | `code`'


def fake_scores() -> dict[str, Any]:
    """Every field of the schema, JSON only."""
    student = {32: 0.624, 64: 0.712, 128: 0.761, 256: 0.781, 384: 0.787}
    bits = {32: 0.327, 64: 0.531, 128: 0.656, 256: 0.727, 384: 0.744}
    teacher = {32: 0.541, 64: 0.693, 128: 0.782, 256: 0.831, 384: 0.845}
    return {
        "format": 1,
        "name": "demo",
        "created": "2026-03-01T10:22:00Z",
        "teacher": "all-MiniLM-L6-v2",
        "student": "A 4 × 256 RoPE transformer, last-token pooling",
        "ndcg_at_10": {"teacher": 0.845, "student": 0.787, "untrained": 0.214, "static": 0.693},
        "recall_at_10": {"teacher": 0.931, "student": 0.893, "untrained": 0.307},
        "mrr_at_10": {"teacher": 0.818, "student": 0.753, "untrained": 0.188},
        "queries": 1000,
        "documents": 2000,
        "indexes": [
            {"queries": "teacher", "documents": "teacher", "ndcg_at_10": 0.845},
            {"queries": "base", "documents": "base", "ndcg_at_10": 0.752},
            {"queries": "base", "documents": "teacher", "ndcg_at_10": 0.776},
            {"queries": "retrieval", "documents": "retrieval", "ndcg_at_10": 0.787},
            {"queries": "retrieval", "documents": "teacher", "ndcg_at_10": 0.803},
        ],
        "seconds": 581.3,
        "seconds_by_stage": {"data": 48.2, "teach": 121.9, "distill": 372.4, "evaluate": 36.0, "report": 0.6},
        "peak_rss_mb": 2931.4,
        "dims": [_row(student, d, "float32", 4 * d) for d in DIMS]
        + [_row(bits, d, "binary", d // 8, 0.787) for d in DIMS],
        "teacher_dims": [_row(teacher, d, "float32", 4 * d) for d in DIMS],
        "vector_dim": {"teacher": 384, "student": 384, "static": 256},
        "texts_per_second": {"teacher": 418.2, "student": 1012.7, "static": 21512.0},
        "parameters": {
            "teacher": {"total": 22713216, "without_token_embeddings": 10794624},
            "student": {"total": 10617088, "without_token_embeddings": 2803456},
            "static": {"total": 7813632},
        },
        "compute_per_token_ratio": 0.446,
        "max_tokens": {"teacher": 256, "student": 512},
        "adapters": {
            task: dict(zip(("base", *MATRIX, "auto", "static", "teacher"), row, strict=True))
            for task, row in MATRIX.items()
        },
        "adapter_metrics": {
            "retrieval": "nDCG@10",
            "text-matching": "Spearman",
            "clustering": "V-measure",
            "classification": "accuracy",
        },
        "spread": [
            {"regularised": True, "precision": "float32", "dim": 384, "ndcg_at_10": 0.787},
            {"regularised": True, "precision": "binary", "dim": 384, "ndcg_at_10": 0.771},
            {"regularised": False, "precision": "float32", "dim": 384, "ndcg_at_10": 0.784},
            {"regularised": False, "precision": "binary", "dim": 384, "ndcg_at_10": 0.744},
        ],
        "averaging": {
            "retrieval": {"final": 0.781, "averaged": 0.784, "kept": "averaged"},
            "clustering": {"final": 0.514, "averaged": 0.497, "kept": "final"},
        },
        "data": {
            "python-docs": {
                "read": 74211,
                "malformed": 0,
                "too_short": 1120,
                "exact_duplicates": 9871,
                "near_duplicates": 3402,
                "overlap": 17,
                "train": 58801,
                "heldout": 1000,
                "negatives_removed": 0,
            },
            "debian-packages": {
                "read": 31877,
                "malformed": 2,
                "too_short": 12,
                "exact_duplicates": 640,
                "near_duplicates": 2210,
                "overlap": 4,
                "train": 28009,
                "heldout": 1000,
                "negatives_removed": 0,
            },
        },
        "steps": 1400,
        "tokens": 13204480,
        "examples": [
            {
                "query": "Return the sum of the array elements over a given axis treating NaNs as zero",
                "gold": "numpy.nansum",
                "gold_rank": 1,
                "hits": [
                    {
                        "id": "numpy.nansum",
                        "score": 0.812,
                        "gold": True,
                        "text": "nansum(a, axis=None, dtype=None, out=None) In NumPy versions <= 1.9.0 Nan is returned "
                        "for slices that are all-NaN or empty. In later versions zero is returned. Parameters: a : "
                        "array_like, array containing numbers whose sum is desired.",
                    },
                    {
                        "id": "numpy.ma.core.MaskedArray.sum",
                        "score": 0.744,
                        "text": "Masked elements are set to 0 internally.",
                    },
                    {"id": "pandas.core.nanops.nansum", "score": 0.701, "text": HOSTILE},
                ],
            },
            {
                "query": "How do I parse a JSON document from a string?",
                "gold": "json.loads",
                "gold_rank": 7,
                "hits": [
                    {
                        "id": "json.decoder.JSONDecoder.raw_decode",
                        "score": 0.688,
                        "text": "Decode a JSON document from s (a str beginning with a JSON document) and return a "
                        "2-tuple of the Python representation and the index in s where the document ended.",
                    },
                    {
                        "id": "pandas.io.json._json.read_json",
                        "score": 0.655,
                        "text": "Convert a JSON string to pandas object.",
                    },
                    {
                        "id": "transformers.models.very_long_module_name."
                        "modeling_very_long.VeryLongConfiguration.from_json_file",
                        "score": 0.632,
                    },
                ],
            },
            {
                "query": f"Escape {HOSTILE}",
                "gold": "html.escape",
                "gold_rank": 2,
                "hits": [
                    {
                        "id": "xml.sax.saxutils.escape",
                        "score": 0.761,
                        "text": "You can escape other strings of data by passing a dictionary "
                        "as the optional entities parameter.",
                    },
                    {
                        "id": "html.escape",
                        "score": 0.759,
                        "gold": True,
                        "text": "If the optional flag quote is true (the default), the quotation mark "
                        "characters are also translated.",
                    },
                    {
                        "id": "markupsafe.escape",
                        "score": 0.742,
                        "text": "Replace the characters &, <, >, ', and \" in the string with HTML-safe sequences.",
                    },
                ],
            },
        ],
        "command": "limbeck run demo --set out=runs/demo",
        "versions": {
            "limbeck": "0.1.0",
            "python": "3.11.7",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "numpy": "2.4.6",
        },
        "machine": {
            "cpu": "Intel(R) Xeon(R) Platinum 8481C",
            "cores": 2,
            "memory": "8 GB",
            "device": "cpu",
            "system": "Linux 6.1 x86_64",
        },
    }


def fake_metrics(steps: int = 1400, every: int = 10) -> list[dict[str, float]]:
    """A training log whose losses fall like 1 − cos does, with a fixed wobble."""
    rows = []
    for step in range(every, steps + 1, every):
        wobble = 1 + 0.04 * math.sin(step * step * 12.9898) + 0.02 * math.sin(step * 0.7)
        losses = {f"loss/dim{d}": (0.16 + 4.1 / d + 0.55 * math.exp(-step / 160)) * wobble for d in DIMS}
        rows.append(
            {
                "step": step,
                "loss": sum(losses.values()) / len(losses),
                **losses,
                "lr": 2e-3 * min(1, step / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps)),
                "tokens_per_second": 35000 + 900 * math.sin(step),
                "tokens": step * 9431,
            }
        )
    return rows


def fake_adapter_logs() -> dict[str, list[dict[str, float]]]:
    """Logs of four adapters. Text-matching draws from two sources in turn, each with terms of its own."""

    def falls(step: int, start: float, end: float) -> float:
        return (end + (start - end) * math.exp(-step / 30)) * (1 + 0.05 * math.sin(step * step * 7.1))

    every = [{"step": step, "lr": 1e-3, "grad_norm": 0.7, "tokens": step * 5000} for step in range(10, 121, 10)]
    terms = {
        "retrieval": {"info_nce": (0.61, 0.31), "distill": (0.118, 0.094), "spread": (0.0061, 0.00082)},
        "text-matching": {"cosent": (3.9, 2.7)},
        "clustering": {"distill": (0.131, 0.089)},
        "classification": {"info_nce": (1.92, 0.84), "relational": (0.041, 0.023)},
    }
    logs = {
        task: [row | {name: falls(int(row["step"]), *ends) for name, ends in named.items()} for row in every]
        for task, named in terms.items()
    }
    for row in logs["text-matching"][2::3]:
        del row["cosent"]
        row |= {"info_nce": falls(int(row["step"]), 0.42, 0.3), "distill": falls(int(row["step"]), 0.12, 0.1)}
    for log in logs.values():
        for row in log:
            row["loss"] = sum(v for k, v in row.items() if k in ("info_nce", "distill", "spread", "cosent"))
    return logs


def _row(scores: dict[int, float], dim: int, precision: str, size: int, full: float | None = None) -> dict[str, Any]:
    reference = full or scores[max(scores)]
    return {
        "dim": dim,
        "precision": precision,
        "ndcg_at_10": scores[dim],
        "bytes": size,
        "relative_to_full": scores[dim] / reference,
    }


@pytest.fixture(name="scores")
def _scores() -> dict[str, Any]:
    return fake_scores()


@pytest.fixture(name="metrics")
def _metrics() -> list[dict[str, float]]:
    return fake_metrics()


@pytest.fixture(name="adapter_logs")
def _adapter_logs() -> dict[str, list[dict[str, float]]]:
    return fake_adapter_logs()
