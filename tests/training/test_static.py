"""The static floor: what its first vectors are, what training makes of them, and the stage of a run that does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model2vec import StaticModel
from tiny_texts import TEACHER_DIM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from limbeck.config import Static, load_recipe
from limbeck.errors import ConfigError
from limbeck.evaluation.subjects import open_subject
from limbeck.training import pipeline
from limbeck.training.pipeline import Pipeline
from limbeck.training.stages import stages_of
from limbeck.training.static import Bags, first_vectors, principal_components, save, token_texts, train

WORDS = ["[PAD]", "[UNK]", "sort", "list", "key", "##s", "join", "table"]


@pytest.fixture
def tokenizer() -> Tokenizer:
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["[PAD]", "[UNK]"])
    return made


# ---------------------------------------------------------------------------------- texts and tokens


def test_a_bag_holds_the_known_tokens_of_a_text_up_to_the_limit(tokenizer: Tokenizer) -> None:
    bags = Bags.of(["sort lists", "ßß", "", "join table join table join"], tokenizer, max_tokens=4)
    found = [bags.ids[a:b].tolist() for a, b in zip(bags.starts, bags.starts[1:], strict=False)]
    assert found == [[2, 3, 5], [], [], [6, 7, 6, 7]]
    assert bags.with_tokens.tolist() == [0, 3]
    ids, begins = bags.take(np.array([3, 0]))
    assert ids.tolist() == [6, 7, 6, 7, 2, 3, 5] and begins.tolist() == [0, 4]


def test_the_teacher_reads_the_most_frequent_tokens_as_text_and_no_special_ones(tokenizer: Tokenizer) -> None:
    counts = np.array([9, 9, 1, 2, 0, 5, 0, 0])
    assert token_texts(tokenizer, counts, most=4) == {5: "s", 3: "list", 2: "sort", 4: "key"}
    assert list(token_texts(tokenizer, counts, most=99)) == [5, 3, 2, 4, 6, 7]
    assert token_texts(tokenizer, counts, most=0) == {}


def test_parts_of_characters_and_white_space_are_no_texts() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.decoder = decoders.ByteLevel()
    found = token_texts(made, np.zeros(len(alphabet), np.int64), most=999)
    assert set(found.values()) >= {"a", "z", "!"}
    assert all(text.isascii() and text.strip() == text and text for text in found.values())


# --------------------------------------------------------------------------------------- first vectors


def test_components_of_the_full_width_keep_scalar_products_and_fewer_keep_as_much_as_any() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32) + 1
    whole = vectors @ principal_components(np.arange(50), vectors.__getitem__, 6)
    np.testing.assert_allclose(whole @ whole.T, vectors @ vectors.T, atol=1e-3)
    kept = vectors @ principal_components(np.arange(50), vectors.__getitem__, 2)
    singular = np.linalg.svd(vectors, compute_uv=False)
    assert (kept**2).sum() == pytest.approx((singular[:2] ** 2).sum(), rel=1e-4)


def test_a_tokens_first_vector_is_the_teachers_times_a_weight_that_falls_with_its_share() -> None:
    counts = np.array([0, 3, 1])
    found = first_vectors(np.array([1, 2]), np.array([[2.0, 0], [0, 4]]), counts, np.eye(2, dtype=np.float32), sif=0.25)
    np.testing.assert_allclose(found, [[0, 0], [2 * 0.25 / 1.0, 0], [0, 4 * 0.25 / 0.5]])


# -------------------------------------------------------------------------------------------- training


def drawn_bags(texts: int, tokens: int, draw: np.random.Generator) -> Bags:
    lengths = draw.integers(1, 6, texts)
    return Bags(draw.integers(0, tokens, lengths.sum()), np.cumsum([0, *lengths]))


def means_of(vectors: np.ndarray, bags: Bags) -> np.ndarray:
    pairs = zip(bags.starts, bags.starts[1:], strict=False)
    found = np.stack([vectors[bags.ids[a:b]].mean(axis=0) for a, b in pairs])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_training_finds_token_vectors_that_explain_texts_it_has_not_seen() -> None:
    draw = np.random.default_rng(0)
    truth = draw.normal(size=(30, 8)).astype(np.float32)
    seen, unseen = drawn_bags(600, 30, draw), drawn_bags(100, 30, draw)
    targets = means_of(truth, seen)
    start = draw.normal(size=(30, 8)).astype(np.float32)
    settings = Static(dim=8, epochs=40, batch_size=32, learning_rate=0.03)
    found, loss = train(start, seen, targets.__getitem__, settings, seed=1)

    def cosine(vectors: np.ndarray) -> float:
        return float((means_of(vectors, unseen) * means_of(truth, unseen)).sum(axis=1).mean())

    assert abs(cosine(start)) < 0.3 and cosine(found) > 0.98
    assert loss is not None and loss < 0.02


def test_the_same_seed_gives_the_same_bytes_and_no_epoch_the_first_vectors() -> None:
    draw = np.random.default_rng(0)
    bags, start = drawn_bags(50, 10, draw), draw.normal(size=(10, 4)).astype(np.float32)
    targets = draw.normal(size=(50, 4)).astype(np.float32)
    settings = Static(dim=4, epochs=2, batch_size=8)
    one, same, other = (train(start, bags, targets.__getitem__, settings, seed=s)[0] for s in (1, 1, 2))
    assert one.tobytes() == same.tobytes() != other.tobytes()
    untouched, loss = train(start, bags, targets.__getitem__, settings.model_copy(update={"epochs": 0}), seed=1)
    assert loss is None and untouched.tobytes() == start.tobytes()


def test_model2vec_reads_the_folder_and_gives_the_mean_of_the_token_vectors(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    vectors = np.random.default_rng(0).normal(size=(len(WORDS), 3)).astype(np.float32)
    save(tmp_path / "static", vectors, tokenizer, Static(dim=3, max_tokens=4), teacher="some-teacher")
    model = StaticModel.from_pretrained(tmp_path / "static")
    mean = vectors[[2, 3, 5]].mean(axis=0)
    np.testing.assert_allclose(model.encode(["sort lists"])[0], mean / np.linalg.norm(mean), atol=1e-6)
    assert model.max_length == 4 and model.config["teacher"] == "some-teacher"  # type: ignore[typeddict-item]
    assert sorted(p.name for p in (tmp_path / "static").iterdir()) == [
        "config.json",
        "model.safetensors",
        "modules.json",
        "tokenizer.json",
    ]


# ------------------------------------------------------------------------------------------- a run


def test_a_run_with_a_static_model_scores_it_beside_the_others_and_leaves_their_stages_as_they_were(
    body: dict[str, Any], write_recipe: Callable[[dict[str, Any]], Path]
) -> None:
    torch.manual_seed(0)
    plain = load_recipe(write_recipe(body))
    out = pipeline.run(plain)
    done = {path: path.read_bytes() for path in out.rglob("stage.json")}
    recipe = load_recipe(write_recipe(body | {"static": {"dim": 8, "epochs": 3, "batch_size": 16}}))
    assert set(stages_of(recipe)) - set(stages_of(plain)) == {"static"}
    pipeline.run(recipe)
    changed = {path.parent.name for path, before in done.items() if path.read_bytes() != before}
    assert changed == {"evaluate", "report"}

    scores = json.loads((out / "scores.json").read_text())
    subject = open_subject(str(out / "static"))
    assert subject.kind == "static" and subject.dim == 8
    assert scores["vector_dim"]["static"] == 8
    assert scores["parameters"]["static"]["total"] == subject.parameters
    assert 0 < scores["ndcg_at_10"]["static"] <= 1 and scores["texts_per_second"]["static"] > 0
    assert [(i["queries"], i["documents"]) for i in scores["indexes"]] == [
        ("teacher", "teacher"),
        ("base", "base"),
        ("base", "teacher"),
    ]
    assert scores["indexes"][0]["ndcg_at_10"] == scores["ndcg_at_10"]["teacher"]
    assert scores["indexes"][1]["ndcg_at_10"] == scores["ndcg_at_10"]["student"]
    report = (out / "report" / "report.md").read_text()
    assert "Static token vectors" in report and "| student | teacher |" in report

    vectors = (out / "static" / "model.safetensors").read_bytes()
    stamp = (out / "static" / "stage.json").stat().st_mtime_ns
    pipeline.run(recipe)
    assert (out / "static" / "stage.json").stat().st_mtime_ns == stamp
    Pipeline(recipe, pipeline.Console(quiet=True)).do("static", force=True)
    assert (out / "static" / "model.safetensors").read_bytes() == vectors


def test_the_key_of_the_stage_follows_what_its_vectors_depend_on(
    body: dict[str, Any], write_recipe: Callable[[dict[str, Any]], Path]
) -> None:
    body["static"] = {"dim": 8}
    path = write_recipe(body)
    pipeline.run(load_recipe(path), stop_after="data")

    def key(*changes: str) -> str:
        return Pipeline(load_recipe(path, changes), pipeline.Console(quiet=True)).stage("static").key

    assert key("distill.steps=11", "student.dims=[24]", "evaluate.queries=5") == key()
    others = ["static.dim=7", "static.epochs=1", "seed=3", "train_share=0.5", "teacher.document_instruction=x"]
    assert len({key(), *map(key, others)}) == len(others) + 1


def test_a_static_model_wider_than_its_teacher_is_an_error_of_the_recipe(
    body: dict[str, Any], write_recipe: Callable[[dict[str, Any]], Path]
) -> None:
    body["static"] = {}
    with pytest.raises(ConfigError, match=rf"static.dim is 256, the teacher's vectors have {TEACHER_DIM} dims"):
        load_recipe(write_recipe(body))
