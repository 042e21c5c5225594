"""Texts, a tokenizer and a teacher that stand in for those of a recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from limbeck.config import DistractorsSource, FileSource, PythonDocsSource, Source, Teacher
from limbeck.data.sources import read_source
from limbeck.data.tables import kind_of as kind_of_example
from limbeck.errors import DataError, TeacherError
from limbeck.model.tokenizer import Tokenizer
from limbeck.smoke.stand_ins import COLUMNS, Kind, kind_of, word, write_texts, write_tokenizer
from limbeck.teacher.backends import load_teacher, resolve_model_folder

TEACHER = Teacher(type="random", model="random-vectors", dim=64)


def source_of(kind: Kind) -> FileSource:
    return FileSource(name=kind, path="nowhere.jsonl", columns=COLUMNS[kind])


@pytest.mark.parametrize("kind", COLUMNS)
def test_rows_are_of_the_kind_and_length_of_the_source_they_stand_in_for(kind: Kind, tmp_path: Path) -> None:
    where = tmp_path / f"{kind}.jsonl"
    made = write_texts(where, source_of(kind), rows=300, words=7, vocabulary=50, negatives=3, seed=0)
    rows = list(read_source(made))
    assert made.name == kind and len(rows) == 300
    assert {kind_of_example(row) for row in rows} == {kind}
    texts = [getattr(row, role) for row in rows for role in ("query", "document", "text") if hasattr(row, role)]
    texts += [negative for row in rows for negative in getattr(row, "negatives", ())]
    assert {len(text.split()) for text in texts} == {7}
    if kind == "triplet":
        assert {len(getattr(row, "negatives", ())) for row in rows} == {3}
    again = write_texts(where, source_of(kind), rows=300, words=7, vocabulary=50, negatives=3, seed=0)
    assert list(read_source(again)) == rows


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (PythonDocsSource(), "pair"),
        (PythonDocsSource(pairs="section"), "labelled_text"),
        (PythonDocsSource(pairs="graded"), "scored_pair"),
        (DistractorsSource(name="hidden", of="pairs"), "pair"),
        (source_of("triplet"), "triplet"),
        (source_of("scored_pair"), "scored_pair"),
    ],
)
def test_the_kind_of_a_source_is_told_by_its_settings(source: Source, kind: Kind) -> None:
    assert kind_of(source) == kind


def test_the_tokenizer_has_the_vocabulary_asked_for_and_knows_every_word(tmp_path: Path) -> None:
    words = write_tokenizer(tmp_path, 100)
    tokenizer = Tokenizer.load(tmp_path)
    assert len(tokenizer) == 100 and words == 94
    (ids,), cut = tokenizer.ids([f"{word(0)} {word(93)}"], prefix="Query: ", max_tokens=20)
    assert len(ids) == 5 and cut == 0  # prefix, colon, two words, the end
    assert ids[-1] == tokenizer.closing_id and 0 not in ids and ids.max() == 99
    (ids,), cut = tokenizer.ids([" ".join(word(n) for n in range(30))], prefix="Query: ", max_tokens=20)
    assert len(ids) == 20 and cut == 1


def test_random_vectors_belong_to_text_and_instruction_and_share_a_topic() -> None:
    teacher = load_teacher(TEACHER)
    texts = [f"topic{n // 2} text {n}" for n in range(40)]
    vectors = teacher.encode(texts)
    assert vectors.dtype == np.float32 and vectors.shape == (40, 64)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(load_teacher(TEACHER).encode(texts[::-1])[::-1], vectors)
    assert not np.array_equal(teacher.encode(texts, instruction="topic: "), vectors)
    cosines = vectors @ vectors.T
    same = np.arange(40)[:, None] // 2 == np.arange(40)[None, :] // 2
    assert cosines[same & ~np.eye(40, dtype=bool)].mean() == pytest.approx(0.5, abs=0.1)
    assert abs(cosines[~same].mean()) < 0.05
    assert teacher.encode([]).shape == (0, 64)


def test_random_vectors_are_held_to_what_teachers_are() -> None:
    seen: list[int] = []
    load_teacher(TEACHER).encode(["a", "b"], progress=seen.append)
    assert sum(seen) == 2
    with pytest.raises(DataError, match="not valid Unicode"):
        load_teacher(TEACHER).encode(["\ud800"])
    with pytest.raises(TeacherError, match="have no folder"):
        resolve_model_folder(TEACHER)
    other = load_teacher(TEACHER.model_copy(update={"dim": 32}))
    assert other.fingerprint != load_teacher(TEACHER).fingerprint
