"""Licences that this machine knows of; all others are said to be unknown."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from limbeck.config import Recipe, load_recipe
from limbeck.export.licences import UNKNOWN, licence_of, licences_of
from limbeck.model.bundle import BundleSpec, TeacherNote


def card(folder: Path, body: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(f"---\n{body}\n---\n\n# a model\n")
    return folder


def spec(teacher: str | None) -> BundleSpec:
    note = TeacherNote(model=teacher, dim=8) if teacher else None
    return BundleSpec(name="tiny", pooling="last", dims=[8], max_tokens=20, teacher=note)


def recipe(**student: object) -> Recipe:
    loaded = load_recipe("demo")
    return loaded.model_copy(update={"student": loaded.student.model_copy(update=student)})


def test_of_a_folder_the_card_says_it(tmp_path: Path) -> None:
    assert licence_of(str(card(tmp_path / "plain", "license: apache-2.0"))) == "apache-2.0"
    other = card(tmp_path / "own", "license: other\nlicense_name: their-own-terms")
    assert licence_of(str(other)) == "their-own-terms"
    assert licence_of(str(card(tmp_path / "silent", "tags: [a]"))) is None
    assert licence_of(str(card(tmp_path / "torn", "license: [a"))) is None


def test_of_an_installed_package_its_metadata_says_it_and_that_it_is_the_packages() -> None:
    stated = licence_of("safetensors")
    about = metadata.metadata("safetensors")
    known = [about[key] for key in ("License-Expression", "License") if key in about]
    assert stated is None or (stated.endswith("(of the Python package)") and known)
    assert licence_of("no-such-package-anywhere") is None


def test_a_model_of_the_hub_that_is_cached_is_known_by_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = card(tmp_path / "cache", "license: mit") / "README.md"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: str(cached))
    assert licence_of("someone/model") == "mit"


def test_what_nobody_said_is_unknown(tmp_path: Path) -> None:
    found = licences_of(tmp_path, spec(None), None)
    assert (found.model.name, found.model.licence) == ("tiny", UNKNOWN)
    assert {found.base.name, found.base.licence, found.teacher.name, found.teacher.licence} == {UNKNOWN}


def test_base_and_teacher_are_those_of_the_card_and_the_spec(tmp_path: Path) -> None:
    base, teacher = card(tmp_path / "base", "license: mit"), card(tmp_path / "teacher", "license: cc-by-nc-4.0")
    folder = card(tmp_path / "model", f"license: cc-by-nc-4.0\nbase_model: {base}")
    found = licences_of(folder, spec(str(teacher)), None)
    assert (found.model.licence, found.base.licence, found.teacher.licence) == ("cc-by-nc-4.0", "mit", "cc-by-nc-4.0")
    assert (found.base.name, found.teacher.name) == (str(base), str(teacher))


def test_the_recipe_of_a_run_tells_the_base_that_no_card_names(tmp_path: Path) -> None:
    pruned = recipe()
    assert licences_of(tmp_path, spec("t"), pruned).base.name == pruned.teacher.model
    assert licences_of(tmp_path, spec("t"), recipe(init="pretrained", model="a/b")).base.name == "a/b"
    assert licences_of(tmp_path, spec("t"), recipe(init="random", model="a/b")).base.name == UNKNOWN
