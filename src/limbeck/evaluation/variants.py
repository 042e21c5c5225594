"""A model with all that changes its scores: adapter, dims, precision, length. No two variants share an identity."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.errors import ConfigError
from limbeck.evaluation.results import VectorPrecision
from limbeck.evaluation.subjects import Subject
from limbeck.evaluation.task_types import use_of

BY_TASK = "by-task"  # each task by its own adapter, see task_types
BASE = "base"  # no adapter, whatever the task


@dataclass(frozen=True)
class Variant:
    """What one column of a table of scores stands for."""

    subject: Subject
    dim: int
    precision: VectorPrecision = "float32"
    adapter: str = BY_TASK  # or BASE, the name of an adapter, or a blend as "retrieval=0.7,clustering=0.3"
    name: str = ""  # of the subject, where two have the same; "" = its own

    @property
    def label(self) -> str:
        """What a table calls it: "demo", "demo · 128 · binary"."""
        parts = [self.name or self.subject.name]
        if self.subject.adapters and self.adapter != BY_TASK:
            parts.append(self.adapter)
        if self.dim != self.subject.dim:
            parts.append(str(self.dim))
        if self.precision != "float32":
            parts.append(self.precision)
        return " · ".join(parts)

    @property
    def identity(self) -> str:
        """Names all that its scores depend on but the task."""
        subject = self.subject
        adapters = [None, *subject.adapters] if self.adapter == BY_TASK else [self._named()]
        prints = [subject.fingerprint(adapter) for adapter in adapters]
        one = prints[0] if len(prints) == 1 else hashlib.sha256("\n".join(prints).encode()).hexdigest()[:16]
        return (
            f"{subject.name} {one} adapter={self.adapter if subject.adapters else 'none'} dim={self.dim} "
            f"precision={self.precision} max_tokens={subject.max_tokens}"
        )

    @property
    def digest(self) -> str:
        """16 hex digits of the identity."""
        return hashlib.sha256(self.identity.encode()).hexdigest()[:16]

    def adapter_of(self, task_type: str) -> str | None:
        """The adapter that encodes tasks of a type; None = the base. Raises ConfigError: an unknown type."""
        own = use_of(task_type).adapter
        if self.adapter == BY_TASK:
            return own if own in self.subject.adapters else None
        return self._named()

    def _named(self) -> str | None:
        return None if self.adapter == BASE or not self.subject.adapters else self.adapter


def variants_of(
    subjects: Sequence[Subject],
    *,
    dims: Sequence[int] = (),
    precisions: Sequence[VectorPrecision] = ("float32",),
    adapter: str = BY_TASK,
    names: Sequence[str] = (),
) -> list[Variant]:
    """Every model at every width and precision.

    Args:
        subjects: the models.
        dims: widths; () = the full width of each.
        precisions: of the vectors.
        adapter: as in `Variant`.
        names: what to call the models where two of them have the same name, as they were asked for.

    Raises ConfigError: a width that a model does not have, bits of a width that 8 does not divide, an unknown adapter,
    or the same variant twice.
    """
    own = [subject.name for subject in subjects]
    called = [name if own.count(s.name) > 1 else "" for s, name in zip(subjects, names or own, strict=True)]
    if adapter == "auto":
        raise ConfigError(
            "auto routes by the texts of one call, so a score would depend on how they are cut into calls: ask for "
            "by-task, base, the name of an adapter, or a blend"
        )
    if adapter not in (BY_TASK, BASE) and not any(s.adapters for s in subjects):
        raise ConfigError(f"none of the models has adapters, so {adapter!r} cannot be asked of them")
    found = [
        Variant(subject, dim, precision, adapter, name)
        for subject, name in zip(subjects, called, strict=True)
        for dim in dict.fromkeys(dims or [subject.dim])
        for precision in dict.fromkeys(precisions)
    ]
    for variant in found:
        _check(variant)
    digests = [variant.digest for variant in found]
    if twice := [v.label for v in found if digests.count(v.digest) > 1]:
        raise ConfigError(f"the same model is asked for twice: {', '.join(twice)}")
    return found


def _check(variant: Variant) -> None:
    name, full, dim = variant.subject.name, variant.subject.dim, variant.dim
    if not 1 <= dim <= full:
        raise ConfigError(f"{name} has {full} dims, and {dim} were asked for: ask for 1 … {full}")
    if variant.precision == "binary" and dim % 8:
        raise ConfigError(
            f"bits are packed eight to a byte: {name} cannot be binary at {dim} dims, ask for {max(8, dim // 8 * 8)}"
        )
