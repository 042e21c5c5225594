from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dictated import Dictated, corpus_of, families

from limbeck.dedup import calibration
from limbeck.dedup.calibration import Labelled, Sample, chance, nearest_of, read_labelled, sample_of, scored
from limbeck.errors import ConfigError, DataError


def drawn(count: int, seed: int = 0) -> Labelled:
    """Pairs that are duplicates as often as their cosine says."""
    draw = np.random.default_rng(seed)
    cosines = draw.uniform(0.5, 1, count)
    return Labelled(cosines, draw.uniform(0.5, 1, count) < cosines)


def test_what_a_given_threshold_promises_is_counted() -> None:
    pairs = Labelled(np.array([0.95, 0.9, 0.9, 0.8, 0.7]), np.array([True, True, False, True, False]))
    found = pairs.at(0.9)
    assert (found.precision, found.recall, found.sample, found.rests_on) == (2 / 3, 2 / 3, 5, "labels")
    # Wilson's interval of 2 in 3, worked out by hand
    z = 1.959964
    middle, half = (2 + z**2 / 2) / (3 + z**2), z / (3 + z**2) * np.sqrt(2 / 3 + z**2 / 4)
    assert found.low == pytest.approx(middle - half, abs=1e-6) and found.high == pytest.approx(middle + half, abs=1e-6)


def test_above_all_pairs_there_is_no_precision() -> None:
    found = Labelled(np.array([0.5, 0.6]), np.array([True, False])).at(0.9)
    assert found.precision is None and found.recall == 0 and "not known" in str(found)


def test_the_lowest_threshold_that_is_precise_enough_is_chosen() -> None:
    cosines = np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.5] * 10)
    labels = np.array([True, True, True, False, True, False] * 10)
    assert Labelled(cosines, labels).choose(0.99).threshold == 0.8
    assert Labelled(cosines, labels).choose(0.8).threshold == 0.6  # four in five, though three in four at 0.7
    assert Labelled(cosines, labels).choose(0.6).threshold == 0.5
    expected = Labelled(cosines, labels).choose(0.99)
    assert expected.precision == 1 and expected.high == 1 and 0.85 < (expected.low or 0) < 0.9  # 30 of 30


def test_the_promise_is_kept_on_other_pairs_where_the_pairs_that_chose_flatter() -> None:
    promised, flattered, true = [], [], []
    everyone = drawn(200_000, seed=99)
    for seed in range(40):
        pairs = drawn(120, seed=seed)
        chosen = pairs.choose(0.9)
        promised.append(chosen.precision)
        flattered.append(pairs.at(chosen.threshold).precision)
        true.append(everyone.at(chosen.threshold).precision)
    assert np.mean(promised) < np.mean(true) + 0.005 and np.mean(flattered) > np.mean(true) + 0.02


def test_a_precision_out_of_reach_is_an_error_that_says_the_best() -> None:
    pairs = Labelled(np.array([0.9, 0.8, 0.7]), np.array([False, True, True]))
    with pytest.raises(DataError, match="no threshold has a precision of 0.9 .* best has 0.667"):
        pairs.choose(0.9)


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_labelled_pairs_are_read_and_each_text_is_encoded_once(tmp_path: Path) -> None:
    file = write(
        tmp_path / "pairs.jsonl",
        {"text_a": "x", "text_b": "y", "label": 1},
        {"text_a": "x", "text_b": "z", "label": 0},
    )
    pairs, labels = read_labelled(file)
    assert pairs == [("x", "y"), ("x", "z")] and labels.tolist() == [True, False]
    model: Any = Dictated({"x": np.array([1.0, 0]), "y": np.array([1.0, 1]), "z": np.array([0, 1.0])})
    found = scored(model, pairs, labels, task=None, dim=None)
    np.testing.assert_allclose(found.cosines, [np.sqrt(0.5), 0], atol=1e-6)
    assert model.calls == [["x", "y", "z"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text_a": "x", "text_b": "y", "label": 1}] * 2, "pairs of label 1 alone"),
        ([{"text_a": "x", "text_b": "y", "label": 2}], "a label is 1 for duplicates or 0 for others, got 2"),
        ([{"text_a": "x", "text_b": "y"}], "no label"),
        ([{"text_a": "x", "label": 1}], "no text in field 'text_b'"),
    ],
)
def test_labelled_pairs_that_do_not_fit_are_named(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_labelled(write(tmp_path / "pairs.jsonl", *rows))


def no_neighbours(light: np.ndarray, changed: np.ndarray) -> Sample:
    return Sample(np.full((10, 20), 0.1), light, changed)


def test_precision_is_that_of_light_edits_among_both_and_recall_that_of_light_ones() -> None:
    sample = no_neighbours(np.array([0.99] * 90 + [0.7] * 10), np.array([0.95] * 10 + [0.6] * 90))
    found = sample.at(0.9)
    assert found.precision == pytest.approx(90.5 / 101) and found.recall == pytest.approx(0.9)
    assert found.low is not None and found.high is not None and found.low < 90.5 / 101 < found.high
    assert sample.choose(0.95).threshold == pytest.approx(0.951)
    assert sample.choose(0.85).threshold == pytest.approx(0.601)  # 100 light ones and 10 changed ones
    with pytest.raises(DataError, match="best 0.995"):
        sample.choose(0.999)


@pytest.mark.parametrize("dims", [4, 8])
def test_what_is_near_by_chance_is_found_without_looking_at_the_nearest(dims: int) -> None:
    draw = np.random.default_rng(0)
    points = draw.normal(size=(3000, dims)).astype(np.float32)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    nearest = -np.sort(-cosines, axis=1)[:, :20].astype(np.float64)
    middle = np.quantile(nearest[:, 0], [0.5, 0.9])
    # nothing is a duplicate here, so that all there is is chance
    np.testing.assert_allclose(chance(nearest, middle), 1, atol=0.15)
    twins = nearest.copy()
    twins[:1500, 1:] = nearest[:1500, :-1]
    twins[:1500, 0] = 0.99999
    near = float(np.quantile(nearest[:, 0], 0.95))
    by_chance = 0.05 / (0.5 + 0.5 * 0.05)  # of those that have a near one
    assert by_chance / 2 < chance(twins, np.array([near]))[0] < by_chance * 2


def test_neighbours_are_the_nearest_others() -> None:
    vectors = families(8, 5, 16, spread=0.4)
    with corpus_of(vectors) as corpus:
        unit = corpus.vectors.astype(np.float32)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -2)
        rows = np.array([0, 7, 39])
        np.testing.assert_allclose(nearest_of(corpus, rows), -np.sort(-cosines[rows], axis=1)[:, :20], atol=1e-5)


def test_too_few_texts_are_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with corpus_of(np.eye(8)) as corpus:
        with pytest.raises(ConfigError, match="8 different texts are too few .*--threshold"):
            sample_of(Dictated({"": np.ones(8)}), corpus, dim=None)  # type: ignore[arg-type]
        monkeypatch.setattr(calibration, "LEAST_TEXTS", 8)
        monkeypatch.setattr("limbeck.dedup.edits.LEAST", 100)
        with pytest.raises(ConfigError, match="0 of 8 sampled texts have 100 characters"):
            sample_of(Dictated({"": np.ones(8)}), corpus, dim=None)  # type: ignore[arg-type]
