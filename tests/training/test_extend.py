"""The long-context phase: what it is trained on, under which theta, and how it fits into a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import limbeck
from limbeck.config import load_recipe
from limbeck.errors import ConfigError
from limbeck.evaluation.scores import read_metrics
from limbeck.model.rope import theta_of
from limbeck.training import pipeline
from limbeck.training.distill import TaughtSource
from limbeck.training.extend import with_short_share
from limbeck.training.measure import one_log
from limbeck.training.stages import MANIFEST

Write = Callable[[dict[str, Any]], Path]


def source(name: str, tokens: int, weight: float = 1.0) -> TaughtSource:
    table: Any = SimpleNamespace(tokens=tokens)
    return TaughtSource(name, weight, table, np.array([]), 2)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.8])
def test_short_texts_get_their_share_of_the_tokens_and_weights_keep_their_proportions(share: float) -> None:
    given = [source("long", 1000), source("longer", 3000, 0.5), source("short", 400), source("brief", 100, 2.0)]
    found = with_short_share(given, ["short", "brief"], share)
    drawn = {s.name: s.weight * s.tokens.tokens for s in found}
    assert (drawn["short"] + drawn["brief"]) / sum(drawn.values()) == pytest.approx(share)
    assert found[3].weight == pytest.approx(2 * found[2].weight)
    assert found[0].weight == 1.0 and found[1].weight == 0.5


@pytest.fixture
def finished(extended: dict[str, Any], write_recipe: Write) -> Path:
    return pipeline.run(load_recipe(write_recipe(extended)))


def test_the_phase_goes_on_from_stage_1_and_the_bundle_is_what_it_trained(finished: Path) -> None:
    before, after, bundle = (
        load_file(finished / folder / "model.safetensors") for folder in ("distill/student", "extend/student", "model")
    )
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert any("layers.0" in name for name in changed)
    assert all(torch.equal(after[name], bundle[name]) for name in after)
    rows = read_metrics(finished / "extend" / "metrics.jsonl")
    assert rows[-1]["step"] == 6 and rows[-1]["loss"] < rows[0]["loss"] * 1.1
    facts = json.loads((finished / "extend" / MANIFEST).read_text())
    assert facts["tokens"] >= 6 * 600
    scores = json.loads((finished / "scores.json").read_text())
    assert scores["steps"] == 10 + 6
    assert scores["command"] == f"limbeck run {finished / 'recipe.yaml'}"
    assert scores["tokens"] == facts["tokens"] + json.loads((finished / "distill" / MANIFEST).read_text())["tokens"]


def test_the_log_of_both_phases_goes_on_where_the_first_ended(finished: Path) -> None:
    logs = [read_metrics(finished / phase / "metrics.jsonl") for phase in ("distill", "extend")]
    rows = one_log(logs)
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == 10 + 6
    assert rows[-1]["tokens"] == logs[0][-1]["tokens"] + logs[1][-1]["tokens"]
    assert [row["loss"] for row in rows] == [row["loss"] for log in logs for row in log]


def test_each_stage_has_its_theta_and_the_bundle_the_one_for_inference(finished: Path) -> None:
    from transformers import AutoConfig

    thetas = {
        f: theta_of(AutoConfig.from_pretrained(finished / f)) for f in ("distill/student", "extend/student", "model")
    }
    assert thetas == {"distill/student": 1000, "extend/student": 1500, "model": 4000}
    spec = limbeck.load(finished / "model").spec
    assert (spec.train_theta, spec.inference_theta) == (1500, 4000)


def test_long_documents_are_read_beyond_the_limit_of_stage_1(finished: Path) -> None:
    """The same beginning, other ends: under the 48 tokens of stage 1 they would be one text."""
    model = limbeck.load(finished / "model", device="cpu", precision="fp32")
    start = "sort the table " * 30
    one, other = model.encode([start + "by name", start + "open a socket"])
    assert model.truncated == 0
    assert float(one @ other) < 1 - 1e-5


def test_another_phase_keeps_stage_1_and_another_inference_theta_trains_nothing(
    finished: Path, extended: dict[str, Any], write_recipe: Write
) -> None:
    manifests = {s: (finished / s / MANIFEST).read_text() for s in ("data", "teach", "distill", "extend")}
    extended["student"]["rope"]["inference_theta"] = 8000
    pipeline.run(load_recipe(write_recipe(extended)))
    assert {s: (finished / s / MANIFEST).read_text() for s in manifests} == manifests
    assert limbeck.load(finished / "model").spec.inference_theta == 8000
    extended["extend"]["theta"] = 2500
    shutil.rmtree(finished / "extend" / "checkpoints")  # of another recipe, which the loop refuses to go on from
    pipeline.run(load_recipe(write_recipe(extended)), stop_after="extend")
    assert (finished / "distill" / MANIFEST).read_text() == manifests["distill"]
    assert (finished / "extend" / MANIFEST).read_text() != manifests["extend"]


def test_adapters_are_trained_on_what_the_phase_left(extended: dict[str, Any], write_recipe: Write) -> None:
    extended["adapters"] = {
        "retrieval": {
            "sources": ["pairs"],
            "steps": 2,
            "batch_size": 8,
            "lora": {"rank": 2},
            "precision": "fp32",
            "theta": 3000,
            "mining": None,
            "negatives": 0,
        }
    }
    out = pipeline.run(load_recipe(write_recipe(extended)))
    model = limbeck.load(out / "model", device="cpu", precision="fp32")
    alone = limbeck.load(out / "extend" / "student", device="cpu", precision="fp32", rope_theta=4000)
    texts = ["open the file", "join two tables"]
    np.testing.assert_allclose(model.base.encode(texts), alone.encode(texts), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extend": {"sources": ["nowhere"]}}, "extend.sources names .*nowhere"),
        ({"extend": {"short_sources": ["nowhere"]}}, "extend.short_sources names .*nowhere"),
        ({"extend": {"short_sources": ["hidden"]}}, "share .*hidden"),
        ({"extend": {"theta": 0}}, "theta"),
        ({"extend": {"scaling": {"type": "longrope", "factor": 2}}}, "linear.*dynamic.*yarn"),
        ({"data": {"sources": [{"type": "distractors", "name": "x", "of": "y"}]}}, "must stand before"),
    ],
)
def test_a_phase_that_cannot_be_is_an_error_that_names_the_field(
    extended: dict[str, Any], write_recipe: Write, change: dict[str, Any], message: str
) -> None:
    for section, fields in change.items():
        extended[section] |= fields
    with pytest.raises(ConfigError, match=message):
        load_recipe(write_recipe(extended))
