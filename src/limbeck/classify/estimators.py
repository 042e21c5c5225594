"""Models and classifiers as scikit-learn has them: for pipelines, grid searches, cross-validation.

    from sklearn.pipeline import make_pipeline
    from limbeck.classify.estimators import LimbeckClassifier, LimbeckEncoder

    pipeline = make_pipeline(LimbeckEncoder("runs/demo/model"), LimbeckClassifier())
    pipeline.fit(["how do I join tables?", "what is the fee?", …], ["sql", "bank", …])
    pipeline.predict_proba(["select rows"])

Needs scikit-learn: pip install 'limbeck[classify]'.  N: texts, D: dims, K: labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from limbeck import compress
from limbeck.classify import few_shot
from limbeck.encoding.vectors import settled_task
from limbeck.errors import ConfigError, ModelError


class LimbeckEncoder(TransformerMixin, BaseEstimator):
    """Texts → vectors, by a model of `limbeck.load`.

    `fit` learns nothing from the texts, but settles what all later vectors are: the task and the model's fingerprint.
    A fitted encoder that is pickled holds these and not the model, which is loaded again, from the same place, when it
    is needed; where another model is there by then, `transform` refuses. The model that was loaded last is shared by
    all encoders of the process.

    Parameters (which a grid search may vary):
        model: a folder or hub id, as of `limbeck.load`.
        task: an adapter; a blend of them; "auto", settled by the texts of `fit`; None = "classification" where the
            model has it, none where it has no adapters.
        role: "document" or "query"; a text that is neither is a document.
        dim: keep the first so many numbers, renormalised; None = all.
        precision: "float32"; or "int8", "binary", "ubinary": the numbers that such codes stand for, so that one sees
            what they cost (bits are ±1 / √D).
        device: as of `limbeck.load`.
        compute: "auto", "fp32" (the same vectors everywhere) or "bf16"; the `precision` of `limbeck.load`.

    Attributes of a fitted one: `task_`, `fingerprint_`, `n_features_out_`.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        task: str | Mapping[str, float] | None = None,
        role: str = "document",
        dim: int | None = None,
        precision: str = "float32",
        device: str | None = None,
        compute: str = "auto",
    ) -> None:
        """Nothing is loaded or checked before `fit`."""
        self.model = model
        self.task = task
        self.role = role
        self.dim = dim
        self.precision = precision
        self.device = device
        self.compute = compute

    def fit(self, X: Any, y: Any = None) -> LimbeckEncoder:
        """Load the model, and settle the task. X: N texts, N ≥ 1; y: not used.

        Raises ValueError: X is no sequence of texts, or empty. ConfigError: a parameter that the model does not take.
        ModelError: no model there.
        """
        texts = _texts(X)
        if not texts:
            raise ValueError("found array with 0 sample(s): an encoder is fitted to one text or more")
        encoder = self._loaded()
        task = settled_task(encoder, self.task, texts, usual=few_shot.TASK)
        encoder.encode(texts[:1], task=task, role=self.role, dim=self.dim, precision=self.precision)  # what it raises
        self.task_ = task
        self.fingerprint_ = encoder.fingerprint_of(task)
        self.n_features_out_ = self.dim or encoder.dim
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Encode texts. X: N texts → float32 [N, D].

        Raises ValueError as `fit` (but no texts are no vectors), NotFittedError. ModelError: the model is another one
        than `fit` saw. TextError: a text that is not valid Unicode.
        """
        check_is_fitted(self)
        texts, encoder = _texts(X), self._loaded()
        try:
            found = encoder.fingerprint_of(self.task_)
        except ConfigError as error:  # it lacks the task
            found = f"none for this task: {error}"
        if found != self.fingerprint_:
            raise ModelError(
                f"this encoder was fitted with the model of fingerprint {self.fingerprint_}, and {self.model} is "
                f"another one by now (fingerprint {found}): put the first one back, or fit the pipeline again"
            )
        vectors = encoder.encode(texts, task=self.task_, role=self.role, dim=self.dim, precision=self.precision)
        if self.precision == "int8":
            return compress.from_int8(*vectors)
        if self.precision == "float32":
            return vectors
        bits = vectors if self.precision == "ubinary" else (vectors.astype(np.int16) + 128).astype(np.uint8)
        return compress.from_bits(bits) / np.float32(np.sqrt(self.n_features_out_))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """limbeck0 … as many as the vectors have numbers. input_features: not used."""
        check_is_fitted(self)
        return np.array([f"limbeck{i}" for i in range(self.n_features_out_)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        """Takes texts, one dimension of them."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _loaded(self) -> Any:
        return _load(str(self.model), self.device, self.compute, _stamp(Path(self.model)))


class LimbeckClassifier(ClassifierMixin, BaseEstimator):
    """Calibrated few-shot classifier of vectors: `few_shot.fit`.

    Parameters:
        strength: of the fit, scikit-learn's C; None = chosen by cross-validation.
        folds: of the cross-validation, 2 or more.
        calibrate: find a temperature.
        random_state: of the split into folds, a whole number.

    Attributes of a fitted one: `classes_` [K], `n_features_in_`, `head_`, `strength_`, `temperature_`, and `report_`
    of held-out examples (None where no label has two), whose labels are places in `classes_`.
    """

    def __init__(
        self,
        strength: float | None = None,
        *,
        folds: int = few_shot.FOLDS,
        calibrate: bool = True,
        random_state: int = 0,
    ) -> None:
        """Nothing is checked before `fit`."""
        self.strength = strength
        self.folds = folds
        self.calibrate = calibrate
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> LimbeckClassifier:
        """Fit to vectors [N, D] and N labels of two kinds or more. Raises ValueError, ConfigError: a parameter."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        self.classes_, targets = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs examples of two classes or more, got one class: {self.classes_[0]!r}")
        found = few_shot.fit(
            X,
            targets.tolist(),
            folds=self.folds,
            strength=self.strength,
            calibrate=self.calibrate,
            seed=self.random_state,
        )
        self.head_, self.report_ = found.head, found.report
        self.strength_, self.temperature_ = found.strength, found.head.temperature
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits at the temperature. X: [N, D] → [N, K]; of two classes [N], the second one's less the first's."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        logits = self.head_.logits(X) / self.head_.temperature
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Calibrated probabilities, in the order of `classes_`. X: [N, D] → [N, K]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return self.head_.probabilities(X)

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class. X: [N, D] → [N]."""
        found = self.decision_function(X)
        places = (found > 0).astype(int) if found.ndim == 1 else found.argmax(axis=1)
        return self.classes_[places]


@lru_cache(maxsize=1)
def _load(model: str, device: str | None, compute: Any, stamp: int | None) -> Any:
    """The model that was used last: clones of an encoder, of which a search makes many, share it."""
    from limbeck.model.loading import load

    return load(model, device=device, precision=compute)


def _stamp(folder: Path) -> int | None:
    """What changes when a folder gets another model; None for what is no folder."""
    if not folder.is_dir():
        return None
    return max((path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()), default=None)


def _texts(X: Any) -> list[str]:
    """X as a list of texts. Raises ValueError that names the first that is none."""
    if isinstance(X, str | bytes) or not hasattr(X, "__len__"):
        raise ValueError(f"expected a list or array of texts, got {type(X).__name__}")
    if getattr(X, "ndim", 1) != 1:
        raise ValueError(
            f"expected texts in one dimension, got shape {tuple(X.shape)}: name the column alone, not in a list"
        )
    texts = list(X)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {i} is of type {type(text).__name__}: expected str")
    return [str(text) for text in texts]  # numpy has a type of its own for them
