"""Texts → the vectors that clusters and classifiers are made of, and the model that they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from limbeck.encode_file import task_words
from limbeck.errors import ConfigError, DataError, ModelError, TextError

Task: TypeAlias = str | Mapping[str, float] | None
"""An adapter, a blend of adapters, or none; "auto" only until it is settled."""


class Model(Protocol):
    """What is needed of a model; `limbeck.load` gives one."""

    truncated: int  # texts that the last call of `encode` cut

    @property
    def spec(self) -> Any:
        """What there is to know of it; asked for its `name`."""
        ...

    @property
    def tasks(self) -> list[str]:
        """Adapters there are."""
        ...

    @property
    def dim(self) -> int:
        """Full width of its vectors."""
        ...

    @property
    def max_tokens(self) -> int:
        """Where it cuts texts."""
        ...

    def fingerprint_of(self, task: Task) -> str:
        """What changes when vectors of the task do."""
        ...

    def route(self, texts: Sequence[str]) -> Mapping[str, float]:
        """The blend that suits the texts."""
        ...

    def encode(self, texts: list[str], *, task: Any, dim: int | None, progress: Callable[[int], None] | None) -> Any:
        """Vectors [N, D] of length 1, of texts as documents."""
        ...


def settled_task(model: Model, asked: Task, texts: Sequence[str], *, usual: str) -> Task:
    """The task that all vectors are made for: what is asked, else the usual one where the model has it.

    "auto" becomes the blend that suits the texts, so that those that come later lie in the same space. Raises
    ConfigError: a task that the model does not have, or none where it has adapters but not the usual one.
    """
    if asked is None and usual in model.tasks:
        asked = usual
    if asked == "auto":
        asked = model.route(texts)
    model.encode([], task=asked, dim=None, progress=None)  # for what it raises
    return asked


def checked_dim(model: Model, dim: int | None) -> int:
    """The width of the vectors. Raises ConfigError: more than the model has."""
    if dim is not None and not 1 <= dim <= model.dim:
        raise ConfigError(f"dim must be from 1 to {model.dim}, got {dim}")
    return dim or model.dim


def check_fingerprint(model: Model, task: Task, made: str, *, what: str, made_with: str, again: str) -> None:
    """Raise ModelError when vectors of another model would be held against those of `what`.

    Args:
        model: that is to be used.
        task: that vectors are made for.
        made: the fingerprint for that task of the model that was used before.
        what: was made with it, such as "the classifier".
        made_with: name of the model that was used before.
        again: the command that makes it again.
    """
    try:
        found = model.fingerprint_of(task)
    except ConfigError as error:  # it lacks the task
        found = f"none for this task: {error}"
    if found != made:
        of_task = f" for the task {task_words(task)}" if task else ""
        raise ModelError(
            f"{what} was made with the model {made_with}{of_task} (fingerprint {made}), and this is {model.spec.name} "
            f"(fingerprint {found}): its vectors mean something else. Give the model that it was made with, or make it "
            f"again: {again}"
        )


def vectors_of(
    model: Model,
    texts: Sequence[str],
    places: Sequence[str],
    *,
    task: Task,
    dim: int | None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Encode texts, as documents. → float32 [N, D].

    Raises DataError that names the place: of a text that cannot be encoded, or whose vector has no direction.
    """
    try:
        vectors = model.encode(list(texts), task=task, dim=dim, progress=progress)
    except TextError as error:
        raise DataError(f"{places[error.index]} {error.reason}") from None
    lengths = np.linalg.norm(vectors, axis=1)
    if (bad := ~(np.isfinite(lengths) & (lengths > 0))).any():
        place = places[int(bad.argmax())]
        raise DataError(f"{place} has a vector that is all zeros or not finite: look at the text, or leave it out")
    return vectors
