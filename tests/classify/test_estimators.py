"""What scikit-learn asks of an estimator, and what pipelines and searches do with ours."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks as checks
from toy import clouds

sys.path[:0] = [str(Path(__file__).parents[1])]  # for other tests' modules that are no tests

import limbeck  # noqa: E402
from export.tiny_bundles import make_bundle  # noqa: E402
from limbeck.classify import estimators  # noqa: E402
from limbeck.classify.estimators import LimbeckClassifier, LimbeckEncoder  # noqa: E402
from limbeck.errors import ConfigError, ModelError, TextError  # noqa: E402

TEXTS = ["join two tables", "merge lists", "open a file", "read a line", "sort rows", "close it"]


@checks.parametrize_with_checks([LimbeckClassifier()])
def test_the_classifier_is_a_scikit_learn_estimator(estimator: Any, check: Any) -> None:
    check(estimator)


# `check_estimator` leaves out what takes no matrix, so those of its checks that fit nothing are called here by name.
WITHOUT_NUMBERS = [
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_parameters_default_constructible",
    "check_n_features_in_after_fitting",
    "check_mixin_order",
    "check_get_params_invariance",
    "check_set_params",
]
# The others fit numbers, of which an encoder must say that they are no texts.
EXPECTED_TO_FAIL = [
    "check_fit_score_takes_y",
    "check_estimators_overwrite_params",
    "check_estimators_fit_returns_self",
    "check_readonly_memmap_input",
    "check_fit_idempotent",
]


@pytest.mark.parametrize("name", WITHOUT_NUMBERS)
def test_the_encoder_passes_the_checks_that_need_no_numbers(name: str) -> None:
    getattr(checks, name)("LimbeckEncoder", LimbeckEncoder("a model that is not loaded"))


@pytest.mark.parametrize("name", EXPECTED_TO_FAIL)
def test_the_encoder_refuses_the_numbers_of_the_other_checks(name: str) -> None:
    with pytest.raises(Exception, match="text 0 is of type float(32|64): expected str"):
        getattr(checks, name)("LimbeckEncoder", LimbeckEncoder("a model that is not loaded"))


def test_scikit_learn_sees_by_the_tags_that_the_encoder_takes_texts() -> None:
    tags = LimbeckEncoder("model").__sklearn_tags__().input_tags
    assert (tags.string, tags.one_d_array, tags.two_d_array) == (True, True, False)
    with pytest.warns(SkipTestWarning, match="which requires input"):
        checks.check_estimator(LimbeckEncoder("model"))


# ----------------------------------------------------------------------------------------- the classifier


def test_classes_of_any_type_come_back_and_the_report_is_kept() -> None:
    vectors, targets = clouds(10)
    made = LimbeckClassifier().fit(vectors, np.array([2.0, 7.0, 5.0])[targets])
    assert made.classes_.tolist() == [2.0, 5.0, 7.0] and set(made.predict(vectors)) <= {2.0, 5.0, 7.0}
    assert made.report_ is not None and made.report_.texts == 30
    assert np.array_equal(made.predict(vectors), made.classes_[made.predict_proba(vectors).argmax(axis=1)])


# -------------------------------------------------------------------------------------------- the encoder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "model")


def encoder(bundle: Path, **parameters: Any) -> LimbeckEncoder:
    return LimbeckEncoder(bundle, device="cpu", compute="fp32", **parameters)


def test_vectors_are_those_of_the_model(bundle: Path) -> None:
    model = limbeck.load(bundle, device="cpu", precision="fp32")
    for given in ({}, {"task": "retrieval", "role": "query", "dim": 8}, {"task": {"clustering": 1.0}}):
        made = encoder(bundle, **given)
        vectors = made.fit_transform(np.array(TEXTS))
        wanted = model.encode(TEXTS, **({"task": "classification"} | given))
        assert np.array_equal(vectors, wanted)
        names = made.get_feature_names_out()
        assert len(names) == vectors.shape[1] and names[1] == "limbeck1"


@pytest.mark.parametrize("precision", ["int8", "binary", "ubinary"])
def test_smaller_vectors_are_the_numbers_that_their_codes_stand_for(bundle: Path, precision: str) -> None:
    full = encoder(bundle).fit_transform(TEXTS)
    small = encoder(bundle, precision=precision).fit_transform(TEXTS)
    assert small.shape == full.shape
    if precision == "int8":
        assert np.allclose(small, full, atol=np.abs(full).max() / 120)
    else:
        assert np.array_equal(small > 0, full > 0)
        assert np.allclose(np.linalg.norm(small, axis=1), 1, atol=1e-6)


def test_nothing_is_loaded_before_fit_and_clones_share_a_model(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimators._load.cache_clear()
    made = clone(encoder(bundle))
    assert estimators._load.cache_info().currsize == 0
    for each in (made, clone(made)):
        each.fit(TEXTS).transform(TEXTS)
    assert estimators._load.cache_info().misses == 1


def test_a_pipeline_is_searched_and_pickled_without_its_model(bundle: Path) -> None:
    pipeline = make_pipeline(encoder(bundle), LimbeckClassifier())
    texts, labels = TEXTS * 3, ["table", "table", "file", "file", "table", "file"] * 3
    search = GridSearchCV(pipeline, {"limbeckencoder__dim": [8, 32], "limbeckclassifier__strength": [1.0]}, cv=2)
    search.fit(texts, labels)
    body = pickle.dumps(search.best_estimator_)
    assert len(body) < 20_000 < sum(path.stat().st_size for path in bundle.glob("*.safetensors"))
    again = pickle.loads(body)
    assert np.array_equal(again.predict_proba(TEXTS), search.predict_proba(TEXTS))
    assert again[:-1].get_feature_names_out()[0] == "limbeck0"


def test_a_fitted_encoder_refuses_another_model_in_the_same_place(bundle: Path, tmp_path: Path) -> None:
    place = make_bundle(tmp_path / "model", tasks=["classification"])
    made = encoder(place).fit(TEXTS)
    make_bundle(tmp_path / "model", tasks=["classification", "retrieval"], kind="EuroBert", num_key_value_heads=2)
    with pytest.raises(ModelError, match="fit the pipeline again"):
        made.transform(TEXTS)
    made.fit(TEXTS).transform(TEXTS)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", "expected a list or array of texts, got str"),
        ([], "0 sample"),
        (["a", 3], "text 1 is of type int"),
        (["a", None], "text 1 is of type NoneType"),
        (np.array([["a"], ["b"]]), r"got shape \(2, 1\)"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(bundle: Path, texts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(bundle).fit(texts)


def test_no_texts_are_no_vectors_and_an_unfitted_encoder_says_so(bundle: Path) -> None:
    with pytest.raises(NotFittedError):
        encoder(bundle).transform(TEXTS)
    assert encoder(bundle).fit(TEXTS).transform([]).shape == (0, 32)


def test_parameters_that_the_model_does_not_take_are_named_at_fit(bundle: Path) -> None:
    for wrong in ({"task": "sorting"}, {"dim": 99}, {"precision": "int4"}, {"role": "title"}):
        with pytest.raises(ConfigError):
            encoder(bundle, **wrong).fit(TEXTS)
    with pytest.raises(TextError):
        encoder(bundle).fit(["fine"]).transform(["\ud800"])
    with pytest.raises(ModelError):
        LimbeckEncoder("nowhere/at/all").fit(TEXTS)
