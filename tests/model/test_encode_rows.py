"""Vectors of texts that were tokenised elsewhere are those that `encode` gives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_adapters import adapted_bundle
from tiny_models import student

from limbeck.errors import ConfigError
from limbeck.model.encoder import Encoder
from limbeck.model.loading import load
from limbeck.model.runtime import use_threads
from limbeck.model.spans import token_ranges

TEXTS = ["", "a key", "Split the string at the first occurrence of sep. " * 9, "how do I join two tables?", "日本語 🙂"]
SPANS = [[(0, 5)], [(0, 16), (17, 27)], [(0, 6), (7, 8), (0, 25)]]
SPANNED = ["a key", "Split the string at the sep", "how do I join two tables?"]


@pytest.fixture(scope="module", params=["last", "mean"])
def encoder(request: pytest.FixtureRequest, eurobert: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    section = student(model=str(eurobert), pooling=request.param)
    return load(
        adapted_bundle(tmp_path_factory.mktemp("rows") / "model", section, eurobert), device="cpu", precision="fp32"
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("task", "role"),
    [
        ("retrieval", "query"),
        ("retrieval", "document"),
        ("clustering", "document"),
        ({"retrieval": 3, "clustering": 1}, "query"),
    ],
)
@pytest.mark.parametrize("batch_tokens", [None, 40])
def test_rows_have_the_vectors_of_their_texts(task, role: str, batch_tokens: int | None, encoder: Encoder) -> None:
    shares, prefix = encoder.chosen(task, role=role)
    rows, _ = encoder.tokenizer.ids(TEXTS, prefix=prefix, max_tokens=encoder.max_tokens)
    found = encoder.encode_rows(rows, shares, batch_tokens=batch_tokens)
    assert [each.shape for each in found] == [(1, encoder.dim)] * len(TEXTS)
    for dim in (encoder.dim, 8):
        expected = encoder.encode(TEXTS, task=task, role=role, dim=dim)
        np.testing.assert_allclose(unit(np.concatenate(found)[:, :dim]), expected, atol=1e-5)


def test_two_roles_of_one_adapter_share_a_pass(encoder: Encoder) -> None:
    sides = [encoder.chosen("retrieval", role=role) for role in ("query", "document")]
    assert sides[0][0] == sides[1][0]
    rows = [encoder.tokenizer.ids(["a key"], prefix=prefix, max_tokens=32)[0][0] for _, prefix in sides]
    query, document = encoder.encode_rows(rows, sides[0][0])
    np.testing.assert_allclose(unit(query)[0], encoder.encode("a key", task="retrieval", role="query"), atol=1e-5)
    np.testing.assert_allclose(unit(document)[0], encoder.encode("a key", task="retrieval"), atol=1e-5)


def test_threads_that_encode_at_a_time_get_the_vectors_of_one(encoder: Encoder) -> None:
    encoder._copies.hold, before = 1, encoder.hold  # copies come and go under their feet
    asked = [(task, encoder.chosen(task)) for task in ("retrieval", "clustering") * 10]

    def encoded(one: Any) -> np.ndarray:
        task, (shares, prefix) = one
        use_threads(1)
        rows, _ = encoder.tokenizer.ids(TEXTS, prefix=prefix, max_tokens=encoder.max_tokens)
        return unit(np.concatenate(encoder.encode_rows(rows, shares, batch_tokens=40)))

    here = torch.get_num_threads()
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(encoded, asked))
    assert torch.get_num_threads() == here  # of another thread
    encoder._copies.hold = before
    for (task, _), vectors in zip(asked, found, strict=True):
        np.testing.assert_allclose(vectors, encoder.encode(TEXTS, task=task), atol=1e-5)


def test_one_call_at_a_time_where_more_gain_nothing(encoder: Encoder) -> None:
    assert encoder.parallel == torch.get_num_threads()
    alone = Encoder(
        encoder.model,
        encoder.tokenizer,
        encoder.spec.model_copy(update={"tasks": []}),
        device=torch.device("cpu"),
        compile=True,
    )
    assert alone.parallel == 1


def test_ranges_have_the_vectors_of_their_spans(encoder: Encoder) -> None:
    shares, prefix = encoder.chosen("clustering")
    placed = encoder.tokenizer.placed(SPANNED, prefix=prefix, max_tokens=encoder.max_tokens)
    ranges = [
        token_ranges(each, spans, index=i, max_tokens=encoder.max_tokens)
        for i, (each, spans) in enumerate(zip(placed, SPANS, strict=True))
    ]
    found = encoder.encode_rows([each.ids for each in placed], shares, ranges=ranges)
    expected = encoder.encode(SPANNED, task="clustering", spans=SPANS)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(unit(got), wanted, atol=1e-5)


def test_no_rows_are_no_vectors_and_an_unknown_task_or_role_is_an_error(encoder: Encoder) -> None:
    assert encoder.encode_rows([], encoder.chosen("retrieval")[0]) == []
    for task, role in (("nope", "document"), (None, "document"), ("clustering", "query"), ("retrieval", "nobody")):
        with pytest.raises(ConfigError):
            encoder.chosen(task, role=role)
