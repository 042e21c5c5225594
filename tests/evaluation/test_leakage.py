from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.config import Columns, Data, FileSource
from limbeck.data.dedup import normalise, words_of
from limbeck.data.prepare import prepare
from limbeck.errors import ConfigError, DataError
from limbeck.evaluation import leakage
from limbeck.evaluation.leakage import SHORT_WORDS, TrainingTexts, find_leaks, training_texts_of


def words(count: int, seed: int) -> list[str]:
    return [f"w{n}" for n in random.Random(seed).sample(range(10**6), count)]


def text(count: int, seed: int) -> str:
    return " ".join(words(count, seed))


def one_word_changed(count: int, seed: int) -> str:
    changed = words(count, seed)
    changed[count // 2] = "other"
    return " ".join(changed)


def counts(evaluation: list[str], training: list[str]) -> tuple[int, int, int]:
    leak = find_leaks(evaluation, training)
    return leak.exact, leak.near, leak.texts


def gram_jaccard(a: str, b: str, size: int) -> float:
    """Of the sets of `size` words in a row, by definition; a shorter text is one gram."""
    grams = []
    for side in (a, b):
        parts = words_of(normalise(side))
        parts += [""] * (size - len(parts))
        grams.append({tuple(parts[i : i + size]) for i in range(len(parts) - size + 1)})
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


# ----------------------------------------------------------------------------------- what leaked


def test_a_training_text_is_found_whatever_its_case_and_white_space() -> None:
    training = [text(8, seed=0), "The Cat sat", "Straße"]
    assert counts(["the cat\n SAT", "STRASSE ", "the dog sat"], training) == (2, 0, 3)


def test_punctuation_alone_makes_a_near_duplicate_of_an_exact_one() -> None:
    assert counts(["Hello, world!"], ["hello world"]) == (0, 1, 1)


@pytest.mark.parametrize("count", [60, 400, 5000])
def test_one_changed_word_in_a_long_text_is_a_near_duplicate(count: int) -> None:
    assert counts([one_word_changed(count, seed=0), text(count, seed=1)], [text(count, seed=0)]) == (0, 1, 2)


def test_one_changed_word_is_found_in_short_texts_from_nineteen_words_on() -> None:
    # word pairs: n − 3 shared of n + 1, which is 19 / 23 = 0.83 of 22 words and 15 / 19 = 0.79 of 18
    assert gram_jaccard(text(22, 0), one_word_changed(22, 0), 2) == pytest.approx(19 / 23)
    exact, near, texts = counts([one_word_changed(22, s) for s in range(200)], [text(22, s) for s in range(200)])
    assert (exact, texts) == (0, 200)
    assert near >= 0.95 * 200
    assert counts([one_word_changed(18, s) for s in range(200)], [text(18, s) for s in range(200)]) == (0, 0, 200)


def test_from_the_length_where_five_grams_bear_a_changed_word_they_alone_decide() -> None:
    # n − 9 shared of n + 1: 0.804 of 50 words, and word pairs would go on to flag two changes, 5-grams do not
    assert gram_jaccard(text(SHORT_WORDS, 0), one_word_changed(SHORT_WORDS, 0), 5) >= 0.8
    twice = one_word_changed(60, seed=0).replace(words(60, seed=0)[10], "another")
    assert gram_jaccard(text(60, 0), twice, 2) >= 0.8
    assert counts([twice], [text(60, seed=0)]) == (0, 0, 1)


def test_a_text_shorter_than_a_gram_is_near_only_to_the_same_words() -> None:
    training = ["sort a list", "sort", "list!"]
    assert counts(["sort a list.", "sort a dict", "a list sort", "list", "sort a"], training) == (0, 2, 5)


def test_unrelated_texts_are_no_leak() -> None:
    evaluation = [text(5 + seed % 80, seed) for seed in range(300)]
    assert counts(evaluation, [text(5 + seed % 80, seed) for seed in range(300, 900)]) == (0, 0, 300)


def test_a_text_that_occurs_many_times_counts_once_and_a_blank_one_never() -> None:
    assert counts(["A b", "a  b", "c", "", " \n"], ["a b", "a b", ""]) == (1, 0, 2)


vocabulary = st.sampled_from("abc")
sentences = st.lists(st.lists(vocabulary, max_size=14).map(" ".join), max_size=12)


@settings(max_examples=60, deadline=None)
@given(sentences, sentences.filter(any))
def test_exact_leaks_are_the_equal_texts_and_near_ones_are_as_similar_as_the_threshold(
    evaluation: list[str], training: list[str]
) -> None:
    leak = find_leaks(evaluation, training, threshold=0.7, shown=100)
    asked, known = {t for t in map(normalise, evaluation) if t}, {normalise(t) for t in training}
    assert leak.texts == len(asked)
    assert leak.exact == len(asked & known)
    assert leak.exact + leak.near <= leak.texts
    assert len(leak.examples) == leak.exact + leak.near
    for found, original in leak.examples[leak.exact :]:
        assert max(gram_jaccard(found, original, size) for size in (2, 5)) >= 0.7


def test_the_threshold_decides_what_is_near() -> None:
    training, evaluation = [text(100, seed=0)], [one_word_changed(100, seed=0)]  # 91 / 101 = 0.90
    assert find_leaks(evaluation, training, threshold=0.85).near == 1
    assert find_leaks(evaluation, training, threshold=0.95).near == 0


# -------------------------------------------------------------------------------- what is told of it


def test_examples_pair_the_evaluation_text_with_the_training_text_and_are_cut() -> None:
    training = [text(5, seed=9), text(300, seed=0), "The Cat  sat"]
    leak = find_leaks([one_word_changed(300, seed=0), "the cat sat", "nothing"], training)
    (exact, near) = leak.examples
    assert exact == ("the cat sat", "The Cat sat")
    assert near[0] == one_word_changed(300, seed=0)[:199] + "…"
    assert near[1] == text(300, seed=0)[:199] + "…"


def test_of_each_kind_so_many_examples_are_shown_and_all_are_counted() -> None:
    exact = [text(7, seed) for seed in range(9)]
    near = [text(60, seed) for seed in range(9)]
    leak = find_leaks([*exact, *(t + " end" for t in near)], [*near, *exact], shown=2)
    assert (leak.exact, leak.near) == (9, 9)
    assert [e[0] for e in leak.examples] == [*exact[:2], *((t + " end")[:199] + "…" for t in near[:2])]


# ------------------------------------------------------------------------- how the work is cut in parts


def test_the_result_does_not_depend_on_where_blocks_end(monkeypatch: pytest.MonkeyPatch) -> None:
    training = [text(10 + seed, seed) for seed in range(100)]
    evaluation = [one_word_changed(10 + seed, seed) for seed in range(80)] + training[70:] + training[90:] + ["new"]
    whole = find_leaks(evaluation, training)
    assert (whole.exact, whole.texts) == (30, 111)
    monkeypatch.setattr(leakage, "_BLOCK_TEXTS", 7)
    assert find_leaks(evaluation, training) == whole


def test_training_texts_are_read_and_signed_once_for_all_tasks() -> None:
    readings = []

    def read() -> list[str]:
        readings.append(1)
        return ["a b c", text(60, seed=0)]

    training = TrainingTexts(read)
    assert [find_leaks([t], training, shown=0).exact for t in ("a b c", "x", "A b c")] == [1, 0, 1]
    assert len(readings) == 1
    assert find_leaks(["a B c"], training).examples == [("a B c", "a b c")]
    assert len(readings) == 2


def test_a_bucket_of_a_thousand_copies_of_a_template_still_gives_the_right_one() -> None:
    template = words(60, seed=0)
    training = [" ".join([*template, f"number{n}"]) for n in range(1000)]
    evaluation = [" ".join(template), " ".join([*template, "number500"]), text(60, seed=1)]
    assert counts(evaluation, training) == (1, 1, 3)


# ----------------------------------------------------------------------------- where texts come from


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    data = "\n".join(map(json.dumps, rows)).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_a_run_gives_its_training_halves_with_negatives_and_teacher_texts(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"q": f"query {i} {text(8, i)}", "d": text(20, i), "n": [text(20, 1000 + i)], "t": text(20, 2000 + i)}
        for i in range(40)
    ]
    columns = Columns(query="q", document="d", negatives="n", teacher_document="t")
    source = FileSource(name="s", path=str(write_rows(tmp_path / "rows.jsonl", rows)), columns=columns)
    prepared = prepare(Data(sources=[source], heldout_fraction=0.3), tmp_path / "run" / "data")
    split = prepared.sources["s"]
    assert len(split.heldout) and len(split.train)

    for folder in (tmp_path / "run", tmp_path / "run" / "data"):
        training = training_texts_of(folder)
        for half, leaked in ((split.train, len(split.train)), (split.heldout, 0)):
            assert find_leaks(half.texts("query"), training).exact == leaked
            assert find_leaks(half.texts("document"), training).exact == leaked
            assert find_leaks(half.teacher_texts("document"), training).exact == leaked
            assert find_leaks([n for negatives in half.negatives for n in negatives], training).exact == leaked


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_of_a_file_every_text_of_every_field_counts(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, object]] = [{"question": "who, me", "answer": "you", "n": 3}, {"question": "a", "answer": "b"}]
    if name == "a.parquet":
        rows[0]["more"] = ["one", "two"]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    elif name == "a.csv":
        (tmp_path / name).write_text('question,answer\n"who, me",you\na,b\n')
    else:
        rows[1]["more"] = ["one", "two"]
        write_rows(tmp_path / name, rows)
    leak = find_leaks(["who, me", "you", "a", "b", "one", "two", "zebra"], training_texts_of(tmp_path / name))
    assert (leak.exact, leak.texts) == (4 if name == "a.csv" else 6, 7)


# -------------------------------------------------------------------------------------- bad input


def test_what_cannot_be_compared_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give a run folder"):
        training_texts_of(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="not a prepared folder"):
        training_texts_of(tmp_path)
    with pytest.raises(DataError, match="no training texts to compare with"):
        find_leaks(["a"], ["", " "])
    with pytest.raises(ConfigError, match="above 0 and at most at 1, got 1.5"):
        find_leaks(["a"], ["a"], threshold=1.5)
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text":\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2: not valid JSON"):
        find_leaks(["a"], training_texts_of(tmp_path / "bad.jsonl"))


def test_a_lone_surrogate_is_compared_like_any_other_character() -> None:
    assert counts(["a \ud800 b", "c"], ["a \ud800 b"]) == (1, 0, 2)
