"""The router: logistic regression on vectors, against scikit-learn, and the blends that come of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from limbeck.errors import DataError, ModelError
from limbeck.model.router import Router, rounded


def clouds(counts: dict[str, int], dim: int = 12, spread: float = 0.3, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Unit vectors around one direction a task; the directions do not depend on `counts` or `seed`."""
    centres = np.linalg.qr(np.random.default_rng(9).standard_normal((dim, dim)))[0]
    draw = np.random.default_rng(seed)
    parts = [centres[i] + spread * draw.standard_normal((n, dim)) for i, n in enumerate(counts.values())]
    vectors = np.concatenate(parts)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32), [task for task, n in counts.items() for _ in range(n)]


COUNTS = {"retrieval": 60, "clustering": 40, "classification": 20}


def test_texts_of_a_task_are_given_to_it() -> None:
    router = Router.fit(*clouds(COUNTS))
    for task in COUNTS:
        unseen = dict.fromkeys(COUNTS, 0) | {task: 50}
        shares = router.shares(clouds(unseen, seed=1)[0])
        assert max(shares, key=lambda name: shares[name]) == task
        assert shares[task] > 0.75
        assert sum(shares.values()) == pytest.approx(1)
    half = router.shares(clouds({"retrieval": 50, "clustering": 50}, seed=1)[0])
    assert half["retrieval"] == pytest.approx(half["clustering"], abs=0.1)
    assert half["classification"] < 0.2


def test_probabilities_are_those_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    vectors, tasks = clouds(COUNTS, spread=0.6)
    router = Router.fit(vectors, tasks, regularisation=0.01)
    theirs = LogisticRegression(C=1 / (0.01 * len(tasks)), class_weight="balanced", tol=1e-8, max_iter=5000)
    theirs.fit(vectors.astype(np.float64), tasks)
    unseen = clouds(COUNTS, spread=0.6, seed=1)[0]
    for row, expected in zip(unseen, theirs.predict_proba(unseen.astype(np.float64)), strict=True):
        shares = router.shares(row[None])
        assert [shares[name] for name in theirs.classes_] == pytest.approx(expected.tolist(), abs=1e-4)


def test_shares_are_the_mean_over_the_texts() -> None:
    router = Router(("a", "b"), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, 0.0]))
    rows = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    high = 1 / (1 + np.exp(-1))
    assert router.shares(rows) == pytest.approx({"a": (high + 2 * (1 - high)) / 3, "b": (1 - high + 2 * high) / 3})
    assert router.shares(rows[:0]) == {"a": 0.5, "b": 0.5}


def test_a_task_with_more_texts_is_not_preferred() -> None:
    router = Router.fit(*clouds({"retrieval": 400, "clustering": 20}))
    shares = router.shares(clouds({"retrieval": 200, "clustering": 200}, seed=1)[0])
    assert shares["retrieval"] == pytest.approx(0.5, abs=0.05)


def test_fitting_twice_gives_the_same_bits_and_draws_nothing() -> None:
    state = torch.get_rng_state()
    one, two = (Router.fit(*clouds(COUNTS)) for _ in range(2))
    assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_task_gets_everything() -> None:
    assert Router.fit(*clouds({"retrieval": 5})).shares(clouds({"x": 3})[0]) == {"retrieval": 1.0}


def test_a_router_is_read_as_it_was_saved(tmp_path: Path) -> None:
    router = Router.fit(*clouds(COUNTS))
    router.save(tmp_path / "router.safetensors")
    again = Router.load(tmp_path / "router.safetensors")
    assert again.tasks == router.tasks == tuple(COUNTS)
    assert torch.equal(again.weight, router.weight) and torch.equal(again.bias, router.bias)


@pytest.mark.parametrize("damage", ["absent", "empty", "torn", "foreign", "tasks"])
def test_a_file_that_is_no_router_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "router.safetensors"
    Router.fit(*clouds(COUNTS)).save(path)
    if damage == "absent":
        path.unlink()
    elif damage == "foreign":
        save_file({"weight": torch.ones(2, 2)}, path)
    elif damage == "tasks":
        tensors = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
        save_file(tensors, path, metadata={"tasks": '["a", "b"]'})
    else:
        path.write_bytes(path.read_bytes()[: {"empty": 0, "torn": 150}[damage]])
    with pytest.raises(ModelError, match=f"the router {path} cannot be read"):
        Router.load(path)


def test_input_that_no_router_can_be_fitted_on_is_an_error() -> None:
    vectors, tasks = clouds(COUNTS)
    with pytest.raises(DataError, match="got 120 vectors, 119 tasks"):
        Router.fit(vectors, tasks[1:])
    with pytest.raises(DataError, match="got 0 vectors, 0 tasks"):
        Router.fit(vectors[:0], [])
    vectors[3, 3] = np.nan
    with pytest.raises(DataError, match="NaN"):
        Router.fit(vectors, tasks)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"a": 1.0}, {"a": 1.0}),
        ({"a": 0.97, "b": 0.03}, {"a": 1.0}),
        ({"a": 0.62, "b": 0.36, "c": 0.02}, {"a": 0.65, "b": 0.35}),
        ({"a": 0.05, "b": 0.95}, {"a": 0.05, "b": 0.95}),
        ({"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}, {"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}),
        ({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, {"a": 0.35, "b": 0.35, "c": 0.3}),
    ],
)
def test_shares_are_rounded_to_twentieths(shares: dict[str, float], expected: dict[str, float]) -> None:
    assert rounded(shares) == pytest.approx(expected)


def test_rounded_shares_always_sum_to_one_and_stay_near() -> None:
    draw = np.random.default_rng(0)
    for _ in range(500):
        shares = dict(zip("abcd", draw.dirichlet([0.5] * 4).tolist(), strict=True))
        found = rounded(shares)
        assert sum(found.values()) == pytest.approx(1)
        assert all(abs(share * 20 - round(share * 20)) < 1e-9 and share >= 0.05 for share in found.values())
        assert all(abs(found.get(name, 0.0) - share) < 0.2 for name, share in shares.items())
        assert {n for n, share in shares.items() if share >= 0.05} == set(found)
