from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from limbeck.errors import ConfigError
from limbeck.evaluation.local_data import find_folders, read_search
from limbeck.evaluation.long_text import (
    DEPTHS,
    KINDS,
    LongTextTask,
    count_words,
    long_text_tasks,
    mean_by_depth,
    write_folder,
    write_named,
)
from limbeck.evaluation.retrieval import evaluate_retrieval


def task_of(kind: str, length: int = 512, **arguments: object) -> LongTextTask:
    (task,) = long_text_tasks([length], kinds=[kind], **arguments)  # pyright: ignore[reportArgumentType]
    return task


def ndcg_by_query(task: LongTextTask, queries: np.ndarray, documents: np.ndarray) -> dict[str, float]:
    place = {name: i for i, name in enumerate(task.corpus)}
    scores = evaluate_retrieval(queries, documents, [{place[d]} for d in task.qrels.values()])
    return dict(zip(task.queries, scores.ndcg.tolist(), strict=True))


def lexical_vectors(task: LongTextTask, words_read: int) -> list[np.ndarray]:
    """Presence of rare words, weighted by rarity, in queries and in the first words of documents."""
    queries, texts = list(task.queries.values()), [" ".join(t.split()[:words_read]) for t in task.corpus.values()]
    vectorizer = TfidfVectorizer(binary=True, max_df=0.3, stop_words="english").fit([*texts, *queries])
    vectors = [vectorizer.transform(side).toarray() for side in (queries, texts)]
    return [np.hstack([v, np.full((len(v), 1), 1e-3)]) for v in vectors]  # a text without such words has a vector too


def sentences(text: str) -> list[str]:
    return re.findall(r"[^.]+\.", text)


# ------------------------------------------------------------------------------- what is in a task


@pytest.mark.parametrize("kind", KINDS)
def test_documents_are_as_long_as_whole_sentences_allow(kind: str) -> None:
    for length in (64, 256, 2048):
        task = task_of(kind, length)
        longest = max(count_words(s) for text in task.corpus.values() for s in sentences(text))
        assert all(length - longest <= count_words(text) <= length for text in task.corpus.values())


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_counted_by_the_tokenizer_that_is_given(kind: str) -> None:
    def count(text: str) -> int:
        return 2 + len(text) // 3  # two special tokens, and parts that do not add up to the whole

    for length in (100, 1000):
        task = task_of(kind, length, documents=20, queries=20, count=count)
        longest = max(count(s) for text in task.corpus.values() for s in sentences(text))
        assert all(length - longest <= count(text) <= length for text in task.corpus.values())


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_answer_of_a_query_speaks_of_what_it_asks_for(kind: str) -> None:
    task = task_of(kind, documents=400, queries=400)
    asks = {"passkey": r"pass key of (.+)\?", "needle": r"the (\w+ in \w+ Lane)"}[kind]
    for query, text in task.queries.items():
        about = re.search(asks, text)
        assert about
        assert [d for d, body in task.corpus.items() if about[1] in body] == [task.qrels[query]]
    assert len(set(task.queries.values())) == len(set(task.qrels.values())) == 400


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_are_hidden_at_their_depths_and_queries_ask_for_all_depths_alike(kind: str) -> None:
    task = task_of(kind, documents=50, queries=25)
    marks = {"passkey": "pass key of", "needle": " Lane"}
    for name, depth in task.depths.items():
        found = [marks[kind] in s for s in sentences(task.corpus[name])]
        assert sum(found) == 1
        assert found.index(True) == round(depth * (len(found) - 1))
    asked = [float(query.rpartition("-")[2]) for query in task.queries]
    assert asked == [task.depths[d] for d in task.qrels.values()]
    assert sorted(asked) == sorted(DEPTHS * 5)


def test_the_same_seed_gives_the_same_texts_on_every_machine() -> None:
    made = long_text_tasks([128, 256], documents=12, queries=6)
    assert long_text_tasks([128, 256], documents=12, queries=6) == made
    assert {t.name for t in made} == {"passkey-128", "passkey-256", "needle-128", "needle-256"}
    other = long_text_tasks([128, 256], documents=12, queries=6, seed=1)
    assert all(a.corpus != b.corpus and a.queries != b.queries for a, b in zip(made, other, strict=True))
    # scores of different versions compare only while this value stays
    assert hashlib.sha256(repr(made).encode()).hexdigest()[:16] == "501ccab542144fd1"


def test_a_longer_task_leaves_the_shorter_one_as_it_is() -> None:
    assert long_text_tasks([128, 512], documents=8, queries=4)[0] == long_text_tasks([128], documents=8, queries=4)[0]


# ------------------------------------------------------------------------- what models score on it


@pytest.mark.parametrize("kind", KINDS)
def test_random_vectors_score_what_chance_gives(kind: str) -> None:
    task = task_of(kind, 64)
    gains = np.zeros(100)
    gains[:10] = [1 / math.log2(rank + 1) for rank in range(1, 11)]
    scores = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scores += ndcg_by_query(task, rng.standard_normal((50, 64)), rng.standard_normal((100, 64))).values()
    assert gains.mean() == pytest.approx(0.0454, abs=1e-4)
    assert abs(np.mean(scores) - gains.mean()) < 4 * gains.std() / math.sqrt(len(scores))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [64, 512, 4096])
def test_exact_matches_of_rare_words_find_everything(kind: str, length: int) -> None:
    task = task_of(kind, length)
    scores = ndcg_by_query(task, *lexical_vectors(task, words_read=length))
    assert set(scores.values()) == {1.0}
    assert mean_by_depth(scores) == dict.fromkeys(DEPTHS, 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_reads_the_first_half_finds_what_is_hidden_there_and_nothing_deeper(kind: str) -> None:
    task = task_of(kind, 1024)
    by_depth = mean_by_depth(ndcg_by_query(task, *lexical_vectors(task, words_read=400)))
    assert (by_depth[0.0], by_depth[0.25]) == (1, 1)
    assert max(by_depth[d] for d in (0.5, 0.75, 1.0)) < 0.3


# ------------------------------------------------------------------------------ folders and errors


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_task_is_an_evaluation_set_that_reads_back_whole(tmp_path: Path, kind: str) -> None:
    write_folder(task_of(kind, 128), tmp_path)
    task = task_of(kind, 128, documents=12, queries=6)
    path = write_folder(task, tmp_path)
    (folder,) = find_folders(tmp_path)
    assert (folder.kind, folder.name, folder.path) == ("longdoc", f"{kind}-128", path.resolve())
    found = read_search(folder)
    assert found.documents == {name: ("", text) for name, text in task.corpus.items()}
    assert found.queries == task.queries
    assert found.grades == {query: {document: 1} for query, document in task.qrels.items()}
    assert (found.warnings, folder.languages()) == ([], ["eng-Latn"])


def test_arguments_that_make_no_task_are_errors() -> None:
    with pytest.raises(ConfigError, match="got 50 queries and 40 documents"):
        long_text_tasks([128], documents=40)
    with pytest.raises(ConfigError, match="≤ 400 different sentences"):
        long_text_tasks([128], documents=401)
    with pytest.raises(ConfigError, match="got 0 queries"):
        long_text_tasks([128], queries=0)
    with pytest.raises(ConfigError, match=r"depths must lie in 0 … 1.*\[0.5, 2\]"):
        long_text_tasks([128], depths=[0.5, 2])
    with pytest.raises(ConfigError, match="8 tokens are too few for what is hidden"):
        long_text_tasks([8], kinds=["passkey"])
    with pytest.raises(ConfigError, match="'q17' names no depth"):
        mean_by_depth({"q17": 0.5})


def test_names_of_long_text_tasks_become_sets_and_other_names_stay(tmp_path: Path) -> None:
    found = write_named(["SciFact", "needle-300", "needle-300", str(tmp_path)], tmp_path / "made")
    assert found == ["SciFact", str(tmp_path / "made" / "longdoc" / "needle-300"), str(tmp_path)]
    rows = [json.loads(line) for line in (Path(found[1]) / "corpus.jsonl").read_text().splitlines()]
    assert len(rows) == 100 and all(250 < len(row["text"].split()) <= 300 for row in rows)
    with pytest.raises(ConfigError):
        write_named(["passkey-3"], tmp_path / "made")
