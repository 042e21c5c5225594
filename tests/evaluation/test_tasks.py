"""Held-out scores of the four tasks: against hand computations, and what is in which part."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limbeck.config import Data, Evaluate
from limbeck.data.dedup import stable_hash
from limbeck.data.prepare import Prepared, prepare
from limbeck.errors import DataError
from limbeck.evaluation import tasks
from limbeck.evaluation.heldout import Vectors, heldout_sets
from limbeck.evaluation.tasks import FewShots, GradedPairs, Searches, Topics, heldout_tasks

COLUMNS: dict[str, dict[str, Any]] = {
    "pair": {"query": "q", "document": "d"},
    "scored_pair": {"query": "q", "document": "d", "score": "s"},
    "labelled_text": {"text": "t", "labels": "l"},
}


def prepared(tmp_path: Path, fraction: float = 0.5, **sources: tuple[str, list[dict[str, Any]]]) -> Prepared:
    """Sources by name: kind and rows."""
    given = []
    for name, (kind, rows) in sources.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given.append({"type": "file", "name": name, "path": str(tmp_path / f"{name}.jsonl"), "columns": COLUMNS[kind]})
    data = {"sources": given, "heldout_fraction": fraction, "near_duplicate_threshold": None}
    return prepare(Data.model_validate(data), tmp_path / "data")


def pairs(count: int = 60) -> tuple[str, list[dict[str, Any]]]:
    return "pair", [{"q": f"query {i}", "d": f"document {i}"} for i in range(count)]


def graded(count: int = 60) -> tuple[str, list[dict[str, Any]]]:
    return "scored_pair", [{"q": f"left {i}", "d": f"right {i}", "s": i % 5 / 4} for i in range(count)]


def labelled(labels: int = 4, each: int = 40, word: str = "text") -> tuple[str, list[dict[str, Any]]]:
    """Texts end with their label."""
    return "labelled_text", [
        {"t": f"{word} {i} of {n}", "l": [f"label {n}"]} for n in range(labels) for i in range(each)
    ]


def by_last_number(texts: Sequence[str]) -> np.ndarray:
    """What knows the label of every text, and nothing else."""
    return np.eye(16, dtype=np.float32)[[int(text.split()[-1]) for text in texts]]


def noise(texts: Sequence[str]) -> np.ndarray:
    """Vectors that have nothing to do with the text but to be its own."""
    return np.stack([np.random.default_rng(stable_hash(text)).standard_normal(16) for text in texts]).astype(np.float32)


def vectors_of(known: Callable[[Sequence[str]], np.ndarray]) -> Vectors:
    return lambda role, texts: known(texts)


def fixed(rows: Sequence[Sequence[float]]) -> Vectors:
    return lambda role, texts: np.array(rows, np.float32)


def flat(angles: Sequence[float]) -> list[tuple[float, float]]:
    return [(math.cos(a), math.sin(a)) for a in angles]


# ----------------------------------------------------------------------------------- each metric, by hand


def test_text_matching_is_the_rank_correlation_of_cosine_and_grade() -> None:
    # one text against four others, at growing angles; the grades put the last two the other way round
    texts = ["a", "1", "2", "3", "4"]
    found = GradedPairs(texts, np.zeros(4, np.int64), np.arange(1, 5), np.array([1.0, 0.8, 0.1, 0.3]))
    vectors = fixed(flat([0, 0.2, 0.4, 0.6, 0.8]))
    assert found.score(vectors) == pytest.approx(1 - 6 * 2 / (4 * (4**2 - 1)))  # Σ d² = 2
    in_order = GradedPairs(texts, found.left, found.right, np.array([4.0, 3.0, 2.0, 1.0]))
    assert in_order.score(vectors) == pytest.approx(1)
    assert GradedPairs(texts, found.left, found.right, -in_order.grades).score(vectors) == pytest.approx(-1)
    assert in_order.score(fixed(flat([0] * 5))) == 0  # a collapsed model knows nothing; it is not undefined


def test_clustering_is_the_v_measure_of_the_clusters_found() -> None:
    topics = np.array([0, 0, 0, 1])
    mixed = Topics(list("abcd"), topics).score(fixed(flat([0, 0.01, 3, 3.01])))  # clusters: two of 0, and 0 with 1
    homogeneity = 1 - 0.5 * math.log(2) / (0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    completeness = 1 - 0.75 * (2 / 3 * math.log(3 / 2) + 1 / 3 * math.log(3)) / math.log(2)
    assert mixed == pytest.approx(2 * homogeneity * completeness / (homogeneity + completeness))
    two = Topics(list("abcd"), np.array([0, 0, 1, 1]))
    assert two.score(fixed(flat([0, 0.01, 3, 3.01]))) == pytest.approx(1)
    assert two.score(fixed(flat([0, 3, 0.01, 3.01]))) == pytest.approx(0, abs=1e-9)


def test_classification_is_the_mean_accuracy_of_the_fitted_classifiers() -> None:
    shots = [(1, 0), (0, 1), (0, 1), (1, 0)]  # the second draw learns the labels the wrong way round
    asked = [(0.9, 0.1), (0.8, 0.2), (0.2, 0.8), (0.7, 0.3)]
    draws = [np.array([0, 1]), np.array([2, 3])]
    test = FewShots(list("abcd"), np.array([0, 1, 0, 1]), draws, list("wxyz"), np.array([0, 0, 1, 1]))
    assert test.score(fixed([*shots, *asked])) == pytest.approx((0.75 + 0.25) / 2)


def test_vectors_that_know_the_answer_score_one_and_noise_scores_chance(tmp_path: Path) -> None:
    made = prepared(tmp_path, p=pairs(), g=graded(400), t=labelled(each=60))
    found = heldout_tasks(made, Evaluate(), part="test")
    assert {task: test.metric for task, test in found.items()} == {
        "retrieval": "nDCG@10",
        "text-matching": "Spearman",
        "clustering": "V-measure",
        "classification": "accuracy",
    }
    right, wrong = vectors_of(by_last_number), vectors_of(noise)
    assert found["clustering"].score(right) == found["classification"].score(right) == pytest.approx(1)
    assert found["clustering"].score(wrong) < 0.2
    assert 0.1 < found["classification"].score(wrong) < 0.4  # four labels
    assert abs(found["text-matching"].score(wrong)) < 0.25
    one_hot = {text: i for i, text in enumerate(f"{i}" for i in range(60))}
    answer = vectors_of(lambda texts: np.eye(60, dtype=np.float32)[[one_hot[t.split()[1]] for t in texts]])
    assert found["retrieval"].score(answer) == pytest.approx(1)


def test_sources_count_the_same_whatever_their_size(tmp_path: Path) -> None:
    made = prepared(tmp_path, big=labelled(each=80, word="big"), small=labelled(each=30, word="small"))
    test = heldout_tasks(made, Evaluate(), part="test")["clustering"]
    assert test.counts["big"]["texts"] > test.counts["small"]["texts"] and test.counts["big"]["labels"] == 4

    def half(texts: Sequence[str]) -> np.ndarray:
        return by_last_number(texts) if texts[0].startswith("big") else noise(texts)

    by_source = [s.score(vectors_of(half)) for s in test.sources.values()]
    assert by_source[0] == pytest.approx(1) and test.score(vectors_of(half)) == pytest.approx(np.mean(by_source))


# ------------------------------------------------------------------------------------- what is asked


def asked_of(found: dict[Any, tasks.TaskSet]) -> dict[str, set[str]]:
    """Task → queries, pairs or texts that are scored."""
    asked: dict[str, set[str]] = {}
    for task, test in found.items():
        for source in test.sources.values():
            if isinstance(source, Searches):
                new = source.held.queries
            elif isinstance(source, GradedPairs):
                new = [f"{source.texts[a]} | {source.texts[b]}" for a, b in zip(source.left, source.right, strict=True)]
            else:
                assert isinstance(source, Topics | FewShots)
                new = source.texts
            asked.setdefault(task, set()).update(new)
    return asked


def test_dev_and_test_share_nothing_that_is_asked_and_together_are_all_that_is_held_out(tmp_path: Path) -> None:
    made = prepared(tmp_path, p=pairs(200), g=graded(400), t=labelled(each=100))
    settings = Evaluate(queries=60)
    dev, test = (asked_of(heldout_tasks(made, settings, part=part)) for part in ("dev", "test"))
    heldout = {name: len(split.heldout) for name, split in made.sources.items()}
    for task, source in (("retrieval", "p"), ("text-matching", "g"), ("clustering", "t"), ("classification", "t")):
        assert dev[task] and test[task] and not dev[task] & test[task]
        assert len(dev[task]) + len(test[task]) == heldout[source]
        if source != "p":
            assert 0.15 < len(dev[task]) / heldout[source] < 0.35  # a quarter


def test_retrieval_is_tested_on_the_queries_of_stage_one_and_dev_has_the_next(tmp_path: Path) -> None:
    made = prepared(tmp_path, p=pairs(200))
    [today] = heldout_sets(made, 40)
    parts = {p: heldout_tasks(made, Evaluate(queries=40), part=p)["retrieval"] for p in ("dev", "test")}
    held = {part: test.sources["p"].held for part, test in parts.items()}  # type: ignore[attr-defined]
    assert held["test"].queries == today.queries and held["test"].documents == held["dev"].documents
    assert held["dev"].queries == heldout_sets(made, 80)[0].queries[40:]
    for query, relevant in zip(held["dev"].queries, held["dev"].relevant, strict=True):
        assert [held["dev"].documents[i] for i in relevant] == [query.replace("query", "document")]
    assert "retrieval" not in heldout_tasks(made, Evaluate(queries=1000), part="dev")


def test_a_pair_and_its_reverse_are_in_one_part(tmp_path: Path) -> None:
    rows = [{"q": f"a {i}", "d": f"b {i}", "s": i % 5} for i in range(200)]
    rows += [{"q": row["d"], "d": row["q"], "s": row["s"]} for row in rows]
    made = prepared(tmp_path, fraction=0.9, g=("scored_pair", rows))
    dev, test = (asked_of(heldout_tasks(made, Evaluate(), part=p))["text-matching"] for p in ("dev", "test"))
    turned = {" | ".join(reversed(pair.split(" | "))) for pair in dev}
    assert turned & dev and not turned & test


def test_scored_pairs_are_no_searches(tmp_path: Path) -> None:
    both = prepared(tmp_path, p=pairs(), g=graded())
    assert [held.source for held in heldout_sets(both, 10)] == ["p"]
    graded_only = prepared(tmp_path, g=graded())
    assert set(heldout_tasks(graded_only, Evaluate(), part="test")) == {"text-matching"}
    with pytest.raises(DataError, match="no source has held-out pairs"):
        heldout_sets(graded_only, 10)


def test_each_text_is_encoded_once_and_only_retrieval_has_queries(tmp_path: Path) -> None:
    rows = [{"q": f"left {i // 2}", "d": f"right {i}", "s": i % 5} for i in range(80)]
    made = prepared(tmp_path, p=pairs(), g=("scored_pair", rows), t=labelled())
    for task, test in heldout_tasks(made, Evaluate(), part="test").items():
        seen: list[tuple[str, str]] = []

        def vectors(role: str, texts: Sequence[str], seen: list[tuple[str, str]] = seen) -> np.ndarray:
            seen += [(role, text) for text in texts]
            return noise(texts)

        test.score(vectors)
        assert len(seen) == len(set(seen))
        assert {role for role, _ in seen} == ({"query", "document"} if task == "retrieval" else {"document"})


def test_the_first_of_several_labels_counts(tmp_path: Path) -> None:
    kind, rows = labelled()
    made = prepared(tmp_path, t=(kind, [row | {"l": [*row["l"], f"also {i}"]} for i, row in enumerate(rows)]))
    found = heldout_tasks(made, Evaluate(), part="test")
    assert found["clustering"].counts["t"]["labels"] == found["classification"].counts["t"]["labels"] == 4
    assert found["clustering"].score(vectors_of(by_last_number)) == pytest.approx(1)


def test_classification_leaves_out_labels_that_training_hardly_has(tmp_path: Path) -> None:
    kind, rows = labelled(labels=3)
    rare = [{"t": f"rare {i} of 9", "l": ["rare"]} for i in range(40)]
    trained = prepared(tmp_path, t=(kind, rows + rare)).sources["t"].train.texts("text")
    gone = [row["t"] for row in rare if row["t"] in trained][1:]  # all but one
    once = prepared(tmp_path, t=(kind, rows + [row for row in rare if row["t"] not in gone]))
    for part in ("dev", "test"):
        assert heldout_tasks(once, Evaluate(), part=part)["classification"].counts["t"]["labels"] == 3
    assert heldout_tasks(once, Evaluate(), part="test")["clustering"].counts["t"]["labels"] == 4


def test_classifiers_learn_from_other_texts_of_each_label_as_far_as_there_are_any(tmp_path: Path) -> None:
    made = prepared(tmp_path, fraction=0.2, t=labelled(labels=2, each=100))
    [test] = heldout_tasks(made, Evaluate(shots=8), part="test")["classification"].sources.values()
    assert isinstance(test, FewShots) and len(test.draws) == tasks.DRAWS
    for draw in test.draws:
        assert np.bincount(test.shot_labels[draw]).tolist() == [8, 8]
    assert len(np.unique(np.concatenate(test.draws))) == len(test.shots) == 2 * 8 * tasks.DRAWS
    assert set(test.shots) <= set(made.sources["t"].train.texts("text"))
    few = heldout_tasks(made, Evaluate(shots=50), part="test")["classification"].sources["t"]
    assert isinstance(few, FewShots)
    for first, second in zip(few.draws, few.draws[1:], strict=False):
        assert len(set(first)) == len(first) == 100 and set(first) != set(second)


def test_what_is_scored_is_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = prepared(tmp_path, g=graded(200), t=labelled(labels=6, each=40))
    monkeypatch.setattr(tasks, "MOST_PAIRS", 20)
    monkeypatch.setattr(tasks, "MOST_TEXTS", 30)
    monkeypatch.setattr(tasks, "MOST_LABELS", 3)
    found = heldout_tasks(made, Evaluate(shots=4), part="test")
    assert found["text-matching"].counts == {"g": {"pairs": 20}}
    assert found["clustering"].counts["t"]["texts"] == 30
    counts = found["classification"].counts["t"]
    assert counts["labels"] == 3 and counts["texts"] <= 30 and counts["training texts"] <= 30


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("setting", ["clustering", "classification"])
def test_named_sources_must_be_there_and_have_labels(setting: str, tmp_path: Path) -> None:
    made = prepared(tmp_path, p=pairs(), t=labelled(), u=labelled(word="other"))
    for name, reason in (("x", "is not there"), ("p", "holds pair examples, no labels")):
        with pytest.raises(DataError, match=rf"evaluate\.{setting} names source '{name}', which {reason}.*here t, u"):
            heldout_tasks(made, Evaluate.model_validate({setting: [name]}), part="test")
    one = heldout_tasks(made, Evaluate.model_validate({setting: ["u"]}), part="test")
    assert set(one[setting].counts) == {"u"}  # type: ignore[index]
    assert setting not in heldout_tasks(made, Evaluate.model_validate({setting: []}), part="test")


def test_a_source_with_one_label_or_one_grade_is_left_out_and_said_or_refused_where_it_was_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = ("scored_pair", [{"q": f"left {i}", "d": f"right {i}", "s": 1} for i in range(40)])
    made = prepared(tmp_path, p=pairs(), g=same, t=labelled(labels=1))
    assert set(heldout_tasks(made, Evaluate(), part="test")) == {"retrieval"}
    assert "source 'g' has fewer than two grades" in caplog.text and "not scored for clustering" in caplog.text
    with pytest.raises(DataError, match=r"evaluate\.clustering: source 't' has fewer than two .* or name another"):
        heldout_tasks(made, Evaluate(clustering=["t"]), part="test")
    assert "clustering" not in heldout_tasks(made, Evaluate(clustering=["t"]), part="dev")


def test_a_vector_without_direction_is_an_error(tmp_path: Path) -> None:
    found = heldout_tasks(prepared(tmp_path, g=graded(), t=labelled()), Evaluate(), part="test")
    for test in found.values():
        with pytest.raises(DataError):
            test.score(lambda role, texts: np.full((len(texts), 4), np.nan, np.float32))
