"""A few steps of every stage: on a small model here, and on the true ones where somebody asks for it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

import limbeck
from limbeck.config import TASKS, Recipe, load_recipe, shipped_recipes
from limbeck.errors import ConfigError
from limbeck.plan import make_plan
from limbeck.smoke.recipe import Sizes, reduced
from limbeck.smoke.run import folder_of, run_smoke

SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "vocab_size": 60,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "mask_token_id": 0,
}
LAYER = 4 * 16 * 16 + 3 * 16 * 24 + 2 * 16  # attention, feed-forward part, two norms
BACKBONE = 60 * 16 + 2 * LAYER + 16
ADAPTER = 32 * 2 * (4 * (16 + 16) + 3 * (16 + 24))  # rank 32 of both layers
PROJECTION = (8 + 1 + 16 + 1) * 12


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nano recipe, of another shape."""
    folder = tmp_path_factory.mktemp("recipe")
    body = {
        "extends": str(shipped_recipes()["jina-v5-nano"]),
        "name": "small-nano",
        "out": str(folder / "run"),
        "threads": 1,
        "teacher": {"dim": 12},
        "student": {"config": SHAPE, "dims": [8, 16]},
    }
    path = folder / "small-nano.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


@pytest.fixture(scope="module")
def random_recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file, ["student.init=random"])


SMALLEST = Sizes(step_tokens=96, micro_tokens=48, max_tokens=12, long_max_tokens=24, rows=3)


@pytest.mark.slow
def test_every_stage_and_adapter_of_the_nano_recipe_runs_and_the_bundle_works(random_recipe: Recipe) -> None:
    found = run_smoke(random_recipe, 2, sizes=SMALLEST)
    out = Path(found.out)
    assert out.name == "run-smoke" and not random_recipe.out_dir.exists()
    stages = {stage.name: stage for stage in found.stages}
    adapters = [f"adapt-{task}" for task in TASKS]
    assert list(stages) == ["data", "teach", "distill", "extend", *adapters, "router", "bundle"]
    for name in ("distill", "extend", *adapters):
        stage = stages[name]
        assert stage.steps == 2 and stage.peak > 0 and stage.ratio == stage.peak / sum((stage.parts or {}).values())
        assert stage.tokens_per_second is not None and stage.tokens_per_second > 0
        trains_all = name in ("distill", "extend")
        assert stage.trained == (BACKBONE + PROJECTION if trains_all else ADAPTER)
        assert stage.weights == BACKBONE + PROJECTION + (0 if trains_all else ADAPTER)
        assert not list(out.rglob("checkpoints"))
    assert found.backbone == BACKBONE
    assert found.adapters == dict.fromkeys(TASKS, ADAPTER)
    assert found.vectors == dict.fromkeys(["base", *TASKS], [2, 16])
    assert any("random vectors of 12 dims" in note for note in found.notes)
    assert any("a stand-in of 60 tokens" in note for note in found.notes)
    assert json.loads((out / "smoke.json").read_text())["stages"][2]["ratio"] == stages["distill"].ratio
    model = limbeck.load(out / "model", device="cpu", precision="fp32")
    vectors = model.encode(["w0000001 w0000002", "w0000003"], task="clustering")
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert abs(float(vectors[0] @ vectors[1])) < 0.9999  # two texts are two vectors
    log = (out / "distill" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2]


def test_a_folder_that_no_smoke_run_made_is_left_alone(random_recipe: Recipe, tmp_path: Path) -> None:
    recipe = random_recipe.model_copy(update={"out": str(tmp_path / "run")})
    folder_of(recipe).mkdir()
    (folder_of(recipe) / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="was not made by a smoke run"):
        run_smoke(recipe, 2, sizes=SMALLEST)
    assert (folder_of(recipe) / "mine.txt").read_text() == "mine"


def test_what_a_smoke_run_cannot_do_is_said(recipe_file: Path, random_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 2 steps, got 1"):
        reduced(random_recipe, 1, tmp_path, device="cpu")
    with pytest.raises(ConfigError, match=r"--set student\.init=random"):
        reduced(load_recipe(recipe_file, ["student.model=far/away"]), 2, tmp_path, device="cpu")
    copied = ["student.init=fresh", "student.fresh.hidden_size=16"]
    with pytest.raises(ConfigError, match=r"copies from Qwen/Qwen3-Embedding-4B"):
        reduced(load_recipe(recipe_file, copied), 2, tmp_path, device="cpu")


def test_on_a_gpu_steps_are_made_of_the_recipes_micro_batches(random_recipe: Recipe, tmp_path: Path) -> None:
    body = random_recipe.model_dump(mode="json")
    body["distill"] |= {"max_tokens": 12, "tokens_per_micro_batch": 48}
    body["extend"] |= {"max_tokens": 24, "tokens_per_micro_batch": 72}
    for block in (body["adapters"][task] for task in TASKS):
        block |= {"max_tokens": 12, "batch_size": 5, "tokens_per_micro_batch": 40}
    for source in body["adapters"]["text-matching"]["sources"]:
        source["batch_size"] = 5
    small = reduced(Recipe.model_validate(body), 4, tmp_path, device="cuda").recipe
    assert small.distill.tokens_per_micro_batch == 48 and small.distill.tokens_per_step == 96
    assert small.extend and (small.extend.max_tokens, small.extend.tokens_per_step) == (24, 144)
    assert small.distill.precision == "bf16"
    blocks = small.adapters.by_task()
    assert {block.batch_size for block in blocks.values()} == {5}
    assert {block.steps for block in blocks.values()} == {4} and small.distill.steps == 4
    # every text is cut, so that the plan knows its length; sources are one of a kind
    plan = make_plan(small, probe=False)
    assert plan.length == 12
    kinds = [(s.columns.negatives, s.columns.score, s.columns.labels) for s in small.data.sources if s.type == "file"]
    assert len(kinds) == len(small.data.sources)


@pytest.mark.slow
@pytest.mark.skipif("LIMBECK_TRUE_SIZE" not in os.environ, reason="minutes and 5 GB; LIMBECK_TRUE_SIZE=jina-v5-nano")
def test_at_true_size_memory_is_what_was_planned(tmp_path: Path) -> None:
    name = os.environ["LIMBECK_TRUE_SIZE"]
    found = run_smoke(load_recipe(name, ["student.init=random", f"out={tmp_path / name}"]), 3)
    with_adapters = found.backbone + sum(found.adapters.values())
    assert with_adapters == {"jina-v5-nano": 238_897_920, "jina-v5-small": 676_790_272}[name]
    for stage in found.stages:
        if stage.steps:
            assert stage.ratio == pytest.approx(1, abs=0.2), stage
