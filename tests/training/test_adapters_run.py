"""A run with all four adapters, from texts to bundle and report."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import limbeck
from limbeck.config import TASKS, load_recipe
from limbeck.errors import ConfigError, DataError, TrainingError
from limbeck.training import pipeline
from limbeck.training.stages import stages_of

Write = Callable[[dict[str, Any]], Path]


@pytest.fixture
def finished(adapted: dict[str, Any], write_recipe: Write) -> Path:
    adapted["adapters"]["retrieval"]["also_without_spread"] = True
    return pipeline.run(load_recipe(write_recipe(adapted)))


def test_a_run_with_four_adapters_ends_in_a_bundle_that_speaks_all_tasks(
    finished: Path, adapted: dict[str, Any]
) -> None:
    model = limbeck.load(finished / "model", device="cpu", precision="fp32")
    assert model.tasks == list(TASKS)
    texts = ["sort the table", "open a file"]
    base = model.base.encode(texts)
    found = {task: model.encode(texts, task=task) for task in TASKS}
    for task, vectors in found.items():
        assert np.abs(vectors - base).max() > 1e-3, task
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert model.encode(texts, task="auto").shape == base.shape
    with pytest.raises(ConfigError, match="retrieval, text-matching, clustering, classification"):
        model.encode(texts)

    scores = json.loads((finished / "scores.json").read_text())
    assert set(scores["adapters"]) == set(TASKS)
    for row in scores["adapters"].values():
        assert set(row) == {"base", *TASKS, "auto", "teacher"}
        assert all(-1 <= value <= 1 for value in row.values())
    assert scores["adapter_metrics"]["retrieval"] == "nDCG@10"
    assert {(s["regularised"], s["precision"], s["dim"]) for s in scores["spread"]} == {
        (spread, precision, dim)
        for spread in (True, False)
        for precision in ("float32", "int8", "binary")
        for dim in adapted["student"]["dims"]
    }
    assert {point["label"] for point in scores["map"]["points"]} <= {f"label {i}" for i in range(4)}
    assert set(scores["leaks"]) == set(TASKS)
    assert scores["adapters"]["retrieval"]["retrieval"] == pytest.approx(scores["ndcg_at_10"]["student"])
    page = (finished / "report" / "index.html").read_text()
    assert "text-matching" in page and "auto" in page


def test_a_changed_block_trains_that_adapter_alone_and_never_goes_on_from_the_old_one(
    adapted: dict[str, Any], write_recipe: Write
) -> None:
    recipe = load_recipe(write_recipe(adapted))
    out = pipeline.run(recipe)
    stamps = {n: (out / n / "stage.json").stat().st_mtime_ns for n in ("distill", *(f"adapt/{t}" for t in TASKS))}
    changed = load_recipe(write_recipe(adapted), ["adapters.clustering.steps=7"])
    with pytest.raises(TrainingError, match=r"adapt/clustering/checkpoints.* was made by another recipe"):
        pipeline.run(changed)
    shutil.rmtree(out / "adapt" / "clustering" / "checkpoints")
    pipeline.run(changed)
    after = {n: (out / n / "stage.json").stat().st_mtime_ns for n in stamps}
    assert {n for n in stamps if stamps[n] != after[n]} == {"adapt/clustering"}


def test_an_adapter_can_be_left_out(adapted: dict[str, Any], write_recipe: Write) -> None:
    for task in ("text-matching", "clustering", "classification"):
        del adapted["adapters"][task]
    recipe = load_recipe(write_recipe(adapted))
    assert stages_of(recipe) == ("data", "teach", "distill", "adapt-retrieval", "bundle", "evaluate", "report")
    model = limbeck.load(pipeline.run(recipe) / "model", device="cpu")
    assert model.tasks == ["retrieval"] and model.router is None


def test_a_source_of_the_wrong_kind_is_an_error_before_anything_is_taught(
    adapted: dict[str, Any], write_recipe: Write
) -> None:
    adapted["adapters"]["classification"]["sources"] = ["pairs"]
    with pytest.raises(ConfigError, match=r"adapters.classification.sources names 'pairs', which holds pair examples"):
        pipeline.run(load_recipe(write_recipe(adapted)))
    assert not list(Path(adapted["teacher"]["store"]).rglob("vectors.f16"))


def test_an_unknown_source_of_an_adapter_is_an_error_of_the_recipe(
    adapted: dict[str, Any], write_recipe: Write
) -> None:
    adapted["adapters"]["clustering"]["sources"] = ["nonsense"]
    with pytest.raises(ConfigError, match=r"adapters.clustering.sources names \['nonsense'\], data.sources has"):
        load_recipe(write_recipe(adapted))


def test_labels_that_are_all_the_same_are_an_error_that_says_what_to_do(
    adapted: dict[str, Any], write_recipe: Write, tmp_path: Path
) -> None:
    same = tmp_path / "same.jsonl"
    same.write_text("".join(json.dumps({"text": f"text number {i}", "label": "one"}) + "\n" for i in range(40)))
    adapted["data"]["sources"][2]["path"] = str(same)
    recipe = load_recipe(write_recipe(adapted))
    with pytest.raises(DataError, match="at least two labels with two different texts each, and there are 1"):
        pipeline.run(recipe)


def test_scores_outside_the_declared_range_are_malformed_rows(
    adapted: dict[str, Any], write_recipe: Write, tmp_path: Path
) -> None:
    rows = [{"a": f"left {i}", "b": f"right {i}", "score": 2.0} for i in range(20)]
    odd = tmp_path / "odd.jsonl"
    odd.write_text("".join(json.dumps(row) + "\n" for row in rows))
    adapted["data"]["sources"][1]["path"] = str(odd)
    with pytest.raises(DataError, match=r"odd.jsonl:1: .score. is 2, outside the declared range 0 to 1"):
        pipeline.run(load_recipe(write_recipe(adapted)))


def test_a_clustering_instruction_is_what_the_teacher_reads_and_none_is_said(
    adapted: dict[str, Any], write_recipe: Write
) -> None:
    said = io.StringIO()
    recipe = load_recipe(write_recipe(adapted))
    pipeline.run(recipe, stop_after="adapt-clustering", console=Console(file=said, width=200))
    assert "is given no instruction for clustering" in said.getvalue()
    taught = sum(f.stat().st_size for f in Path(adapted["teacher"]["store"]).rglob("vectors.f16"))
    told = load_recipe(
        write_recipe(adapted), ["adapters.clustering.teacher_instruction='topic: '", f"out={adapted['out']}-2"]
    )
    pipeline.run(told, stop_after="adapt-clustering")
    again = sum(f.stat().st_size for f in Path(adapted["teacher"]["store"]).rglob("vectors.f16"))
    assert again > taught
