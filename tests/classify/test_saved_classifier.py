"""Classifiers on disk: the same probabilities again, for their own model alone, whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toy import LetterModel, clouds

from limbeck.classify import saved
from limbeck.classify.few_shot import fit
from limbeck.classify.saved import Classifier
from limbeck.errors import ConfigError, ModelError


def made(model: LetterModel | None = None, task: object = "classification", **known: object) -> Classifier:
    vectors, targets = clouds(5)
    names = known.pop("names", ["x", "größer", "z"])
    head = fit(vectors[:, :8], [names[i] for i in targets]).head  # type: ignore[index]
    fields = {"kind": "few-shot", "calibrated": True, "examples": 15} | known
    return Classifier.of(model or LetterModel(), head, task=task, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [["x", "größer", "z"], [3, 1, -2]])
def test_what_is_read_again_gives_identical_probabilities(names: list[str | int], tmp_path: Path) -> None:
    classifier = made(names=names)
    folder = classifier.save(tmp_path / "new" / "c")
    again = Classifier.load(folder)
    vectors = clouds(4, seed=1)[0][:, :8]
    assert np.array_equal(again.head.probabilities(vectors), classifier.head.probabilities(vectors))
    assert again.manifest == classifier.manifest and again.head.labels == tuple(sorted(names))  # type: ignore[type-var]
    assert sorted(path.name for path in folder.iterdir()) == ["classifier.json", "head.safetensors"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c"]


@pytest.mark.parametrize("task", ["classification", None, {"classification": 0.75, "clustering": 0.25}])
def test_the_task_is_read_again(task: object, tmp_path: Path) -> None:
    model = LetterModel(tasks=() if task is None else ("classification", "clustering"))
    again = Classifier.load(made(model, task).save(tmp_path / "c"))
    assert again.task == task
    again.check_model(model)  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [LetterModel("others"), LetterModel(tasks=["clustering"])])
def test_another_model_is_refused_with_both_named_and_what_to_do(other: LetterModel, tmp_path: Path) -> None:
    classifier = Classifier.load(made().save(tmp_path / "c"))
    with pytest.raises(ModelError) as refused:
        classifier.check_model(other)  # type: ignore[arg-type]
    said = str(refused.value)
    assert "made with the model letters for the task classification (fingerprint letters classification)" in said
    assert f"this is {other.spec.name}" in said and "limbeck classify train MODEL EXAMPLES" in said


def test_only_a_classifier_is_replaced(tmp_path: Path) -> None:
    folder = made().save(tmp_path / "c")
    made(examples=3).save(folder)
    assert Classifier.load(folder).manifest.examples == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    for taken in (tmp_path / "mine", tmp_path / "mine/thesis.txt"):
        with pytest.raises(ConfigError, match="is there, and is no classifier"):
            made().save(taken)
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"


def test_what_is_interrupted_leaves_the_earlier_classifier_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(examples=1).save(tmp_path / "c")

    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saved, "sync_file", interrupted)
    for name in ("c", "d"):
        with pytest.raises(KeyboardInterrupt):
            made(examples=2).save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert Classifier.load(tmp_path / "c").manifest.examples == 1


def test_what_is_torn_or_foreign_is_one_error(tmp_path: Path) -> None:
    folder = made().save(tmp_path / "c")
    with pytest.raises(ModelError, match="is no classifier"):
        Classifier.load(tmp_path)
    manifest, head = folder / "classifier.json", folder / "head.safetensors"
    text, weights = manifest.read_text(), head.read_bytes()
    body = json.loads(text)
    for changed in (
        text[:50],
        "[]",
        json.dumps(body | {"labels": ["x", "z"]}),
        json.dumps(body | {"dim": 9}),
        json.dumps(body | {"temperature": 0}),
    ):
        manifest.write_text(changed)
        with pytest.raises(ModelError, match="cannot be read"):
            Classifier.load(folder)
    manifest.write_text(json.dumps(body | {"format": 2, "limbeck": "9.0"}))
    with pytest.raises(ModelError, match=r"format 2, written by limbeck 9\.0"):
        Classifier.load(folder)
    manifest.write_text(text)
    head.write_bytes(weights[:-8])
    with pytest.raises(ModelError, match="cannot be read"):
        Classifier.load(folder)
    head.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        Classifier.load(folder)
