"""How good a classifier is, and how far its probabilities can be believed.  N: texts, K: labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from limbeck.classify.calibration import BINS, calibration_error, log_loss
from limbeck.classify.head import Label

_MATRIX = 16  # labels whose confusion matrix is printed; of more, what is confused most
_NAME = 24  # characters of a label in it


@dataclass(frozen=True)
class LabelScore:
    """One label."""

    label: Label
    texts: int  # that have it
    precision: float  # right ones of those that were given it; 0 where none was
    recall: float
    f1: float


@dataclass(frozen=True)
class Report:
    """Scores on texts that the classifier was not fitted to."""

    on: str  # which texts these are
    texts: int
    accuracy: float
    always_the_commonest: float  # accuracy of that
    macro_f1: float  # mean over the labels that some text has
    log_loss: float  # nats, of calibrated probabilities
    log_loss_before: float | None  # at temperature 1, or a zero-shot classifier's usual scale; None = not calibrated
    ece: float  # expected calibration error, see `calibration.calibration_error`
    ece_before: float | None
    labels: list[LabelScore]
    confusion: list[list[int]]  # [K][K]: rows are right labels, columns given ones

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.on} ({self.texts:,} texts, {len(self.labels):,} labels)"
        yield f"  accuracy           {self.accuracy:.3f}  (the commonest label alone: {self.always_the_commonest:.3f})"
        yield f"  macro F1           {self.macro_f1:.3f}"
        yield f"  log loss           {_change(self.log_loss_before, self.log_loss)}"
        yield f"  calibration error  {_change(self.ece_before, self.ece)}  (ECE, {BINS} bins)"
        yield ""
        names = [_cut(score.label) for score in self.labels]
        width = max(len("label"), *map(len, names))
        yield f"{'label':<{width}}  texts  precision  recall     F1"
        for name, s in zip(names, self.labels, strict=True):
            yield f"{name:<{width}}  {s.texts:>5,}  {s.precision:>9.3f}  {s.recall:>6.3f}  {s.f1:>5.3f}"
        yield ""
        yield from self._matrix(names, width) if len(names) <= _MATRIX else self._confused()

    def _matrix(self, names: list[str], width: int) -> Iterator[str]:
        most = max(max(row) for row in self.confusion)
        cell = max(len(f"{most:,}"), len(str(len(names)))) + 2
        yield "confusion matrix: rows are right labels, columns are the given ones in the same order"
        yield " " * width + "".join(f"{i:>{cell}}" for i in range(1, len(names) + 1))
        for name, row in zip(names, self.confusion, strict=True):
            yield f"{name:<{width}}" + "".join(f"{n or '·':>{cell}}" for n in row)

    def _confused(self) -> Iterator[str]:
        """The pairs of labels that are confused most, of a matrix too wide to read."""
        names = [_cut(score.label) for score in self.labels]
        pairs = [(n, i, j) for i, row in enumerate(self.confusion) for j, n in enumerate(row) if n and i != j]
        pairs = sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:_MATRIX]
        yield "confused most (the whole matrix: --json)" if pairs else "no label was taken for another"
        for n, i, j in pairs:
            yield f"  {n:>5,}  {names[i]} taken for {names[j]}"


def report_of(
    on: str,
    logits: np.ndarray,
    targets: np.ndarray,
    labels: Sequence[Label],
    *,
    before: np.ndarray | None = None,
) -> Report:
    """Score calibrated logits.

    Args:
        on: what to say of the texts.
        logits: [N, K], divided by the temperature. N ≥ 1.
        targets: [N], places of the right labels.
        labels: K.
        before: [N, K], the same before they were calibrated.
    """
    k, given = len(labels), logits.argmax(axis=1)
    confusion = np.zeros((k, k), np.int64)
    np.add.at(confusion, (targets, given), 1)
    hits, texts, times = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = hits / np.maximum(times, 1), hits / np.maximum(texts, 1)
    f1 = 2 * hits / np.maximum(times + texts, 1)
    return Report(
        on=on,
        texts=len(targets),
        accuracy=float(hits.sum() / len(targets)),
        always_the_commonest=float(texts.max() / len(targets)),
        macro_f1=float(f1[texts > 0].mean()),
        log_loss=log_loss(logits, targets),
        log_loss_before=None if before is None else log_loss(before, targets),
        ece=calibration_error(logits, targets),
        ece_before=None if before is None else calibration_error(before, targets),
        labels=[
            LabelScore(label, int(n), float(p), float(r), float(f))
            for label, n, p, r, f in zip(labels, texts, precision, recall, f1, strict=True)
        ],
        confusion=confusion.tolist(),
    )


def _change(before: float | None, after: float) -> str:
    return f"{after:.3f}" if before is None else f"{before:.3f} → {after:.3f} when calibrated"


def _cut(label: Label) -> str:
    name = " ".join(str(label).split()) or "(empty)"
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"
