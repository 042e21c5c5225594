"""Scores of an arm."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from limbeck.ablation import scoring


def test_a_task_that_has_no_score_for_such_vectors_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "sts" / "pairs"
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text('{"task": "sts"}')
    texts = ["a b", "a c", "d e", "f", "g h", "a i"]
    rows = [{"text1": texts[i], "text2": texts[i + 1], "score": float(i)} for i in range(5)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "read.jsonl").write_text('{"text": "nothing of it"}\n')
    run: Any = SimpleNamespace(
        out=tmp_path / "read.jsonl", recipe=SimpleNamespace(student=SimpleNamespace(max_tokens=None))
    )

    def drawn(_role: str, texts: Any) -> np.ndarray:
        rng = np.random.default_rng(0)
        vectors = rng.standard_normal((26, 8))[[ord(text[-1]) - ord("a") for text in texts]].astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def same(_role: str, texts: Any) -> np.ndarray:
        return np.eye(1, 8, dtype=np.float32).repeat(len(texts), axis=0)

    scored = [
        scoring.score_tasks(run, [str(folder)], vectors, key, 8, key, tmp_path / key).scores
        for key, vectors in (("drawn", drawn), ("same", same))
    ]
    assert [list(scores) for scores in scored] == [["pairs"], []]
    assert -1 <= scored[0]["pairs"] <= 1
