"""A teacher's vectors by many workers: the store has the bytes that one process writes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # for the modules there that are no tests

from tiny_run import adapted, body, graded, labelled, pairs, teacher_folder, write_recipe  # noqa: E402, F401
from tiny_texts import TEACHER_DIM, WORDS  # noqa: E402

from limbeck.config import Teacher, load_recipe  # noqa: E402
from limbeck.errors import DataError, TeacherError  # noqa: E402
from limbeck.folders import held  # noqa: E402
from limbeck.scale import teach_corpus as module  # noqa: E402
from limbeck.scale.crew import Crew  # noqa: E402
from limbeck.scale.teach_corpus import PARTS, teach_corpus  # noqa: E402
from limbeck.teacher.taught import Taught  # noqa: E402
from limbeck.training import pipeline  # noqa: E402

CHUNK = 7


@pytest.fixture
def asked() -> list[tuple[list[str], str]]:
    """Texts with repeats within a list and between lists, under two instructions."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, draw.integers(1, 12))) for _ in range(40)]
    return [(texts[:20], "query: "), (texts[10:30] * 2, "query: "), (texts[5:40], ""), ([], "")]


def taught_in(store: Path, folder: Path) -> Taught:
    return Taught(Teacher(model=str(folder), dim=TEACHER_DIM, precision="fp32", store=str(store)))


def by_one(store: Path, folder: Path, asked: list[tuple[list[str], str]]) -> Taught:
    taught = taught_in(store, folder)
    for texts, instruction in asked:
        taught.store.teach(texts, instruction, taught.model.encode, chunk=CHUNK)
    return taught


def by_crew(taught: Taught, asked: list[tuple[list[str], str]], crew: Crew | None = None, **how: Any) -> Any:
    parts = [(taught, texts, instruction) for texts, instruction in asked]
    return teach_corpus(parts, crew or Crew(), chunk=CHUNK, **how)


def bytes_of(taught: Taught) -> dict[str, bytes]:
    return {name: (taught.store.path / name).read_bytes() for name in ("vectors.f16", "keys.bin", "commits.bin")}


def test_the_store_has_the_bytes_that_one_process_writes(
    teacher_folder: Path,  # noqa: F811
    asked: list[tuple[list[str], str]],
    tmp_path: Path,
) -> None:
    one = by_one(tmp_path / "one", teacher_folder, asked)
    many = taught_in(tmp_path / "many", teacher_folder)
    told: list[int] = []
    done = by_crew(many, asked, bar=lambda total: nullcontext(told.append))
    assert bytes_of(many) == bytes_of(one)
    assert done.texts == sum(told) == len(one.store) == len({(t, i) for texts, i in asked for t in texts})
    assert not (many.store.path / PARTS).exists()
    assert by_crew(many, asked).texts == 0


def test_a_run_that_failed_goes_on_with_what_is_missing(
    teacher_folder: Path,  # noqa: F811
    asked: list[tuple[list[str], str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = by_one(tmp_path / "one", teacher_folder, asked)
    many = taught_in(tmp_path / "many", teacher_folder)
    real, calls = many.model.encode, []

    def encode(texts: Sequence[str], **options: Any) -> np.ndarray:
        calls.append(list(texts))
        if len(calls) == 2:
            raise RuntimeError("CUDA out of memory")
        return real(texts, **options)

    monkeypatch.setattr(many.model, "encode", encode)
    with pytest.raises(TeacherError, match=r"1 of 10 parts have no vectors.*RuntimeError: CUDA out of memory"):
        by_crew(many, asked)
    assert len(many.store) == CHUNK  # later parts wait for the one that failed
    failed = calls[1]
    calls.clear()
    calls.extend([[], []])
    by_crew(many, asked)
    assert calls[2:] == [failed]
    assert bytes_of(many) == bytes_of(one)


def test_parts_of_a_run_that_was_killed_are_used(
    teacher_folder: Path,  # noqa: F811
    asked: list[tuple[list[str], str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = by_one(tmp_path / "one", teacher_folder, asked)
    many = taught_in(tmp_path / "many", teacher_folder)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_add", killed)
        with pytest.raises(KeyboardInterrupt):
            by_crew(many, asked)
    assert len(many.store) == 0
    by_crew(many, asked)
    assert bytes_of(many) == bytes_of(one)


def test_one_process_at_a_time_hands_out_parts(
    teacher_folder: Path,  # noqa: F811
    asked: list[tuple[list[str], str]],
    tmp_path: Path,
) -> None:
    many = taught_in(tmp_path / "many", teacher_folder)
    (many.store.path / PARTS).mkdir()
    with held(many.store.path / PARTS), pytest.raises(DataError, match="another process is teaching by way of"):
        by_crew(many, asked)


@pytest.mark.slow
def test_a_recipe_is_taught_by_workers_as_by_one_process(
    adapted: dict[str, Any],  # noqa: F811
    write_recipe: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    stores = {}
    for name, crew in (("one", None), ("many", Crew(workers=2))):
        adapted["out"], adapted["teacher"]["store"] = name, f"store-{name}"
        recipe = load_recipe(write_recipe(adapted))
        pipeline.run(recipe, stop_after="teach", crew=crew)
        [folder] = (tmp_path / f"store-{name}").iterdir()
        stores[name] = {f: (folder / f).read_bytes() for f in ("vectors.f16", "keys.bin")}
        assert (tmp_path / name / "teach" / "stage.json").exists()
    assert stores["one"] == stores["many"]
