"""Tasks × variants → scores: against other libraries, and that what is done is not done again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_sets import (
    DOCUMENTS,
    GRADES,
    QUERIES,
    WordCounts,
    write_all,
    write_instruction,
    write_labels,
    write_pairs,
    write_rows,
    write_search,
)
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, ndcg_score

from limbeck.compress import hamming_distance, to_bits, truncate
from limbeck.config import TASKS
from limbeck.errors import ConfigError, DataError, ModelError
from limbeck.evaluation.local_data import find_folders, read_pairs
from limbeck.evaluation.named_tasks import find_tasks
from limbeck.evaluation.results import Evaluation, TaskResult, read_evaluation
from limbeck.evaluation.runner import evaluate
from limbeck.evaluation.variants import Variant, variants_of


def scores(subject: Any, folders: Sequence[Path] | Path, out: Path, **options: Any) -> Evaluation:
    names = [str(f) for f in ([folders] if isinstance(folders, Path) else folders)]
    kept = {k: options.pop(k) for k in ("dims", "precisions", "adapter") if k in options}
    return evaluate(variants_of([subject], **kept), find_tasks(names).tasks, out, **options)


def only(evaluation: Evaluation) -> TaskResult:
    [model] = evaluation.models
    [task] = model.tasks
    return task


def cosines(subject: WordCounts, left: Sequence[str], right: Sequence[str], roles: Sequence[Any] = (None, None)) -> Any:
    sides = [
        truncate(np.stack([subject.vector(t, role) for t in texts]), subject.dim)
        for texts, role in zip((left, right), roles, strict=True)
    ]
    return sides[0] @ sides[1].T


# -------------------------------------------------------------------------- against other libraries


def test_retrieval_is_the_ndcg_that_scikit_learn_computes(tmp_path: Path) -> None:
    subject = WordCounts()
    found = only(scores(subject, write_search(tmp_path), tmp_path / "out"))
    similar = cosines(subject, list(QUERIES.values()), list(DOCUMENTS.values()), ("query", "document"))
    gains = np.array([[GRADES[q].get(d, 0) for d in DOCUMENTS] for q in QUERIES])
    expected = {q: ndcg_score(gains[[i]], similar[[i]], k=10) for i, q in enumerate(QUERIES)}
    assert found.by_item == pytest.approx(expected, abs=1e-6)
    assert found.score == pytest.approx(np.mean(list(expected.values())), abs=1e-5)  # mteb rounds to five places
    assert (found.type, found.metric) == ("Retrieval", "ndcg_at_10")
    assert found.counts == {"queries": 5, "documents": 15}


def test_reranking_is_the_average_precision_among_the_candidates(tmp_path: Path) -> None:
    subject = WordCounts()
    grades = {"q0": {"d0": 1, "d1": 0, "d4": 1, "d7": 0}, "q3": {"d2": 0, "d10": 1, "d12": 0}}
    queries = {q: QUERIES[q] for q in grades}
    found = only(scores(subject, write_search(tmp_path, "reranking", queries=queries, grades=grades), tmp_path / "out"))
    similar = cosines(subject, list(queries.values()), list(DOCUMENTS.values()), ("query", "document"))
    place = {d: i for i, d in enumerate(DOCUMENTS)}
    expected = {
        q: average_precision_score(list(of.values()), [similar[i, place[d]] for d in of])
        for i, (q, of) in enumerate(grades.items())
    }
    assert (found.type, found.metric) == ("Reranking", "map_at_1000")
    assert found.by_item == pytest.approx(expected, abs=1e-6)


def test_sts_is_the_rank_correlation_of_scipy(tmp_path: Path) -> None:
    subject, folder = WordCounts(), write_pairs(tmp_path)
    pairs = read_pairs(find_folders(folder)[0])
    expected = spearmanr(np.diag(cosines(subject, pairs.left, pairs.right)), pairs.values).statistic
    assert only(scores(subject, folder, tmp_path / "out")).score == pytest.approx(expected, abs=1e-6)


def test_pair_classification_is_the_average_precision_of_the_cosine_among_others(tmp_path: Path) -> None:
    subject, folder = WordCounts(), write_pairs(tmp_path, "pairclf")
    pairs = read_pairs(find_folders(folder)[0])
    found = only(scores(subject, folder, tmp_path / "out"))
    expected = average_precision_score(pairs.values, np.diag(cosines(subject, pairs.left, pairs.right)))
    assert found.scores["cosine_ap"] == pytest.approx(expected, abs=1e-6)
    assert found.score == pytest.approx(found.scores["max_ap"])


def test_bitext_finds_the_translation_where_the_cosine_does(tmp_path: Path) -> None:
    subject, folder = WordCounts(), write_pairs(tmp_path, "bitext")
    pairs = read_pairs(find_folders(folder)[0])
    nearest = cosines(subject, pairs.left, pairs.right).argmax(axis=1)
    found = only(scores(subject, folder, tmp_path / "out"))
    assert found.scores["accuracy"] == pytest.approx(np.mean(nearest == np.arange(len(nearest))))


def test_p_mrr_is_one_minus_the_ratio_of_ranks_where_a_document_falls(tmp_path: Path) -> None:
    folder = write_instruction(tmp_path)

    class Obeys(WordCounts):
        """Puts the unwanted document second once the instruction has changed, and first before."""

        def vector(self, text: str, role: str | None = None) -> np.ndarray:
            vector = np.full(self.dim, 0.01, np.float32)
            changed = "hunts mice" in text or "boil slowly" in text
            unwanted = text in (DOCUMENTS["d0"], DOCUMENTS["d10"])
            vector[int(changed) if role == "query" else int(not unwanted)] = 1
            return vector

    found = only(scores(Obeys(), folder, tmp_path / "out"))
    assert found.metric == "p-MRR"
    assert found.score == pytest.approx(1 - 1 / 2)  # from rank 1 to rank 2, in both pairs


def test_separable_classes_are_classified_and_clustered_without_an_error(tmp_path: Path) -> None:
    class Topic(WordCounts):
        def vector(self, text: str, role: str | None = None) -> np.ndarray:
            found = [any(word in text for word in words) for words in (("cat", "kitten", "mice"), ("basil", "soup"))]
            vector = np.zeros(self.dim, np.float32)
            vector[0 if found[0] else 1 if found[1] or "tomato" in text or "leek" in text else 2] = 1
            return vector

    folders = [write_labels(tmp_path), write_labels(tmp_path, "clustering", "groups")]
    [model] = scores(Topic(), folders, tmp_path / "out").models
    assert {t.metric: t.score for t in model.tasks} == pytest.approx({"accuracy": 1.0, "v_measure": 1.0})


# ------------------------------------------------------------------------------ adapters and roles


def test_each_kind_goes_to_its_adapter_with_the_roles_of_the_table(tmp_path: Path) -> None:
    subject = WordCounts(adapters=TASKS)
    [model] = scores(subject, write_all(tmp_path / "sets"), tmp_path / "out").models
    by_type = {task.type: task.adapter for task in model.tasks}
    assert by_type == {
        **dict.fromkeys(("Retrieval", "Reranking", "InstructionReranking"), "retrieval"),
        **dict.fromkeys(("STS", "PairClassification", "BitextMining"), "text-matching"),
        "Clustering": "clustering",
        "Classification": "classification",
    }
    assert {(adapter, role) for _, role, adapter in subject.calls} == {
        ("retrieval", "query"),
        ("retrieval", "document"),
        ("text-matching", None),
        ("clustering", None),
        ("classification", None),
    }
    read = [text for texts, role, _ in subject.calls if role == "query" for text in texts]
    assert "cats purr softly" in read  # a query and its instruction


def test_a_model_that_lacks_an_adapter_says_so_in_the_result(tmp_path: Path) -> None:
    subject = WordCounts(adapters=["retrieval"])
    found = only(scores(subject, write_pairs(tmp_path), tmp_path / "out"))
    assert found.adapter is None
    assert found.warnings == ["words has no adapter for STS, and is scored without one"]


# -------------------------------------------------------------------------------------- precisions


def test_a_binary_search_ranks_by_hamming_distance(tmp_path: Path) -> None:
    subject = WordCounts()
    folder = write_search(tmp_path)
    found = only(scores(subject, folder, tmp_path / "out", dims=[16], precisions=["binary"]))
    bits = [
        to_bits(truncate(np.stack([subject.vector(t, role) for t in texts]), 16))
        for texts, role in ((QUERIES.values(), "query"), (DOCUMENTS.values(), "document"))
    ]
    # trec_eval puts equal scores in the order of their names, the last first
    order = sorted(DOCUMENTS, reverse=True)
    place = {d: i for i, d in enumerate(DOCUMENTS)}
    for i, query in enumerate(QUERIES):
        distance = hamming_distance(bits[0][[i]], bits[1])[0]
        ranked = sorted(order, key=lambda d: distance[place[d]])  # noqa: B023
        gains = [GRADES[query].get(d, 0) for d in ranked[:10]]
        ideal = sorted(GRADES[query].values(), reverse=True)
        expected = sum(g / np.log2(r + 2) for r, g in enumerate(gains)) / sum(
            g / np.log2(r + 2) for r, g in enumerate(ideal)
        )
        assert found.by_item[query] == pytest.approx(expected, abs=1e-6)


def test_texts_are_encoded_once_for_all_widths_and_precisions(tmp_path: Path) -> None:
    subject = WordCounts()
    folders = [write_search(tmp_path), write_pairs(tmp_path), write_labels(tmp_path)]
    evaluation = scores(subject, folders, tmp_path / "out", dims=[64, 16], precisions=["float32", "int8", "binary"])
    asked = [(text, role) for texts, role, _ in subject.calls for text in texts]
    assert len(asked) == len(set(asked))
    assert [m.model for m in evaluation.models] == [
        *("words", "words · int8", "words · binary"),
        *("words · 16", "words · 16 · int8", "words · 16 · binary"),
    ]
    assert len({json.dumps([t.score for t in m.tasks]) for m in evaluation.models}) > 3  # they do differ


def test_a_score_does_not_depend_on_what_was_scored_before_it(tmp_path: Path) -> None:
    folders = [write_labels(tmp_path, "clustering"), write_labels(tmp_path)]
    both = scores(WordCounts(), folders, tmp_path / "both", dims=[64, 8])
    alone = scores(WordCounts(), folders, tmp_path / "alone", dims=[8])
    assert [t.score for t in both.models[1].tasks] == [t.score for t in alone.models[0].tasks]


# ---------------------------------------------------------------------------- kept, resumed, renewed


def test_a_second_run_gives_the_same_results_and_encodes_nothing(tmp_path: Path) -> None:
    folder, out = write_all(tmp_path / "sets"), tmp_path / "out"
    first = scores(WordCounts(), folder, out)
    subject = WordCounts()
    said: list[str] = []
    second = scores(subject, folder, out, tell=said.append)
    assert subject.calls == [] and said == []
    assert second.models == first.models
    assert read_evaluation(out / "results.json") == second


def test_an_evaluation_that_was_stopped_goes_on_with_the_task_it_was_at(tmp_path: Path) -> None:
    folders = [write_search(tmp_path), write_pairs(tmp_path)]

    class Stops(WordCounts):
        def encode(self, texts: Sequence[str], *, role: str | None, adapter: str | None) -> np.ndarray:
            if role is None:
                raise KeyboardInterrupt
            return super().encode(texts, role=role, adapter=adapter)

    with pytest.raises(KeyboardInterrupt):
        scores(Stops(), folders, tmp_path / "out")
    subject = WordCounts()
    [model] = scores(subject, folders, tmp_path / "out").models
    assert [t.task for t in model.tasks] == ["pets", "alike"]
    assert {role for _, role, _ in subject.calls} == {None}


def test_another_model_of_the_same_name_does_not_get_the_first_ones_scores(tmp_path: Path) -> None:
    class Other(WordCounts):
        def fingerprint(self, adapter: str | None) -> str:
            return "of other weights"

        def vector(self, text: str, role: str | None = None) -> np.ndarray:
            return super().vector(text[::-1], role)

    folder, out = write_pairs(tmp_path), tmp_path / "out"
    assert only(scores(WordCounts(), folder, out)).score != only(scores(Other(), folder, out)).score


def test_a_task_whose_data_changed_is_scored_again(tmp_path: Path) -> None:
    folder, out = write_pairs(tmp_path), tmp_path / "out"
    before = only(scores(WordCounts(), folder, out)).score
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    write_rows(folder / "pairs.jsonl", [row | {"score": -row["score"]} for row in rows])
    assert only(scores(WordCounts(), folder, out)).score == pytest.approx(-before)


def test_a_torn_file_of_a_score_is_made_again(tmp_path: Path) -> None:
    folder, out = write_pairs(tmp_path), tmp_path / "out"
    first = scores(WordCounts(), folder, out)
    [kept] = [p for p in out.glob("*/*.json") if p.name == "alike.json"]
    kept.write_text(kept.read_text()[:50])
    assert only(scores(WordCounts(), folder, out)).score == only(first).score


# ---------------------------------------------------------------------------------------- bad input


def test_a_model_that_gives_nan_is_an_error_and_no_score_is_kept(tmp_path: Path) -> None:
    class Broken(WordCounts):
        def vector(self, text: str, role: str | None = None) -> np.ndarray:
            return super().vector(text, role) * np.nan

    with pytest.raises(ModelError, match="words gives 15 of 15 texts a vector of NaN or infinity"):
        scores(Broken(), write_search(tmp_path), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*/pets.json"))


def test_a_model_that_says_the_same_of_every_text_has_no_correlation(tmp_path: Path) -> None:
    class Constant(WordCounts):
        def vector(self, text: str, role: str | None = None) -> np.ndarray:
            return np.ones(self.dim, np.float32)

    with pytest.raises(DataError, match=r"words has no cosine_spearman on alike \(mteb gives nan\)"):
        scores(Constant(), write_pairs(tmp_path), tmp_path / "out")


def test_fewer_documents_than_the_metric_looks_at_are_warned_of(tmp_path: Path) -> None:
    few = {d: DOCUMENTS[d] for d in ("d0", "d4", "d6")}
    grades = {"q0": {"d0": 1}, "q2": {"d6": 1, "d9": 1}}
    found = only(scores(WordCounts(), write_search(tmp_path, documents=few, grades=grades), tmp_path / "out"))
    assert found.warnings == [
        "1 lines of qrels.tsv name a document that is not in corpus.jsonl, and are left out (d9)",
        "3 queries have no relevant document, and are left out (q1, q3, q4)",
        "3 documents are fewer than the 10 that ndcg_at_10 looks at",
    ]
    assert found.counts == {"queries": 2, "documents": 3}


# -------------------------------------------------------------------------------------------- leaks


def test_training_texts_in_a_task_are_listed_with_its_score(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", [{"text": "Cats purr  softly"}, {"text": "of something else"}])
    leak = only(scores(WordCounts(), write_search(tmp_path), tmp_path / "out", training=train)).leak
    assert leak is not None
    assert (leak.exact, leak.texts) == (1, len({*QUERIES.values(), *DOCUMENTS.values()}))


def test_strict_refuses_before_anything_is_encoded(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "train.jsonl", [{"text": "cats purr softly"}])
    subject, clean = WordCounts(), write_labels(tmp_path, "clustering", "clean")
    write_rows(clean / "test.jsonl", [{"text": f"{w} of {w}", "label": w} for w in ("apple", "pear")] * 4)
    folders = [clean, write_search(tmp_path), write_pairs(tmp_path)]
    with pytest.raises(DataError, match=r"of 2 tasks:\n  pets: 1 exact, 0 near of 20 texts\n  alike: 1 exact"):
        scores(subject, folders, tmp_path / "out", training=train, strict=True)
    assert subject.calls == []
    assert only(scores(subject, clean, tmp_path / "out", training=train, strict=True)).leak


def test_strict_without_training_texts_is_an_error_and_no_empty_promise(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none are known: name them by --train"):
        scores(WordCounts(), write_search(tmp_path), tmp_path / "out", strict=True)


def test_what_was_found_is_kept_until_the_training_texts_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = write_search(tmp_path), tmp_path / "out"
    train = write_rows(tmp_path / "train.jsonl", [{"text": "cats purr softly"}])
    first = only(scores(WordCounts(), folder, out, training=train)).leak
    monkeypatch.setattr("limbeck.evaluation.leak_checks.find_leaks", None)
    assert only(scores(WordCounts(), folder, out, training=train)).leak == first
    monkeypatch.undo()
    write_rows(train, [{"text": "cats purr softly"}, {"text": "stocks fell today"}])
    second = only(scores(WordCounts(), folder, out, training=train)).leak
    assert first and second and (first.exact, second.exact) == (1, 2)


def test_a_bundle_in_its_run_is_held_against_the_runs_own_training_texts(tmp_path: Path) -> None:
    from limbeck.config import Data
    from limbeck.data.prepare import prepare

    rows = [{"q": f"question {i}", "d": f"answer number {i}"} for i in range(30)] + [{"q": "cats purr", "d": "meow"}]
    source = {"type": "file", "name": "pairs", "path": str(write_rows(tmp_path / "pairs.jsonl", rows))}
    source["columns"] = {"query": "q", "document": "d"}  # type: ignore[assignment]
    run = tmp_path / "run"
    prepare(Data.model_validate({"sources": [source], "heldout_fraction": 0.0}), run / "data")
    (run / "recipe.yaml").write_text("extends: demo\nseed: 3\n")
    subject = WordCounts()
    subject.kind, subject.folder = "bundle", run / "model"  # type: ignore[assignment]
    [model] = scores(subject, write_search(tmp_path), tmp_path / "out").models
    assert model.tasks[0].leak and model.tasks[0].leak.exact == 1
    assert model.seed == 3 and model.group


# ------------------------------------------------------------------------------------------- curves


def test_a_curve_is_made_of_the_vectors_that_were_searched_and_ends_in_the_score(tmp_path: Path) -> None:
    subject, out = WordCounts(), tmp_path / "out"
    folders = [write_search(tmp_path), write_pairs(tmp_path)]
    scores(subject, folders, out)
    encoded = len(subject.calls)
    evaluation = scores(subject, folders, out, curves=True, dims=[64, 8])
    assert len(subject.calls) == encoded
    search, pairs = evaluation.models[0].tasks
    full = next(p for p in search.curve if p.dim == 64 and p.precision == "float32")
    assert full.score == pytest.approx(search.score, abs=1e-4)
    assert {p.dim for p in search.curve} == {32, 64}
    assert pairs.curve == [] and evaluation.models[1].tasks[0].curve == []


def test_a_variant_scores_what_the_curve_says_of_its_width_and_precision(tmp_path: Path) -> None:
    class NoTies(WordCounts):  # mteb puts equal scores in the order of names, the curve in that of places
        def vector(self, text: str, role: str | None = None) -> np.ndarray:
            noise = np.random.default_rng(len(text) + sum(text.encode())).standard_normal(self.dim)
            return super().vector(text, role) + 0.5 * noise.astype(np.float32)

    folder, precisions = write_search(tmp_path), ["float32", "int8"]
    evaluation = scores(NoTies(), folder, tmp_path / "out", dims=[64, 32], precisions=precisions, curves=True)
    curve = {(p.dim, p.precision): p.score for p in evaluation.models[0].tasks[0].curve if not p.rescored_by}
    for model in evaluation.models:
        assert model.tasks[0].score == pytest.approx(curve[model.dim, model.precision], abs=1e-4)


def test_what_is_told_of_the_whole_is_kept_in_the_results(tmp_path: Path) -> None:
    evaluation = scores(
        WordCounts(), write_pairs(tmp_path), tmp_path / "out", command="limbeck evaluate x", warnings=["1 left out"]
    )
    assert evaluation.commands == ["limbeck evaluate x"] and evaluation.warnings == ["1 left out"]
    assert evaluation.versions["mteb"].startswith("2.")
    [model] = evaluation.models
    assert (model.kind, model.dim, model.parameters) == ("sentence-transformers", 64, 7)
    assert model.texts_per_second and model.texts_per_second > 0
    assert model.identity == Variant(WordCounts(), 64).identity
