"""Every task is held against the training texts before any is scored; what was found is kept, and not sought again.

The training texts are those that are named, or of each bundle in the folder of its run those of that run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from limbeck.data.tables import Prepared
from limbeck.errors import ConfigError, DataError
from limbeck.evaluation.leakage import THRESHOLD, TrainingTexts, find_leaks, training_texts_of
from limbeck.evaluation.named_tasks import EvaluationTask
from limbeck.evaluation.results import Leak
from limbeck.evaluation.scoring import Tell
from limbeck.evaluation.subjects import run_folder
from limbeck.evaluation.task_contents import evaluation_texts
from limbeck.evaluation.variants import Variant
from limbeck.files import read_json, sha256_file, write_json

_FORMAT = 1


def look_for_leaks(
    variants: Sequence[Variant],
    tasks: Sequence[EvaluationTask],
    kept: Path,
    *,
    training: Path | None = None,
    strict: bool = False,
    tell: Tell = lambda _: None,
) -> dict[tuple[str, str], Leak]:
    """Training texts among the texts of each task, by variant's digest and task's name.

    Args:
        variants: what is to be scored; one without known training texts is absent from the answer.
        tasks: on what.
        kept: folder of what was found.
        training: see `training_texts_of`; None = of each bundle its own run.
        strict: raise DataError that lists the tasks with any, and ConfigError when there is nothing to look for.
        tell: called with what is being done.
    """
    of_training: dict[Path, list[Variant]] = {}
    for variant in variants:
        path = training or _own_training(variant)
        if path is not None:
            of_training.setdefault(path, []).append(variant)
    if strict and not of_training:
        raise ConfigError(
            "--strict looks for training texts in the tasks, and none are known: name them by --train RUN_OR_FILE"
        )
    found: dict[tuple[str, str], Leak] = {}
    for path, trained in of_training.items():
        texts, fingerprint = training_texts_of(path), _fingerprint(path)
        for task in tasks:
            key = [_FORMAT, fingerprint, task.digest(), THRESHOLD]
            file = kept / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
            leak = _kept(file)
            if leak is None:
                tell(f"looking for texts of {path} in {task.name}")
                leak = _look(task, texts)
                write_json(file, leak.model_dump(mode="json"))
            found |= {(variant.digest, task.name): leak for variant in trained}
    leaking = {task: leak for (_, task), leak in found.items() if leak.exact or leak.near}
    if strict and leaking:
        lines = [f"  {t}: {k.exact:,} exact, {k.near:,} near of {k.texts:,} texts" for t, k in leaking.items()]
        raise DataError(
            f"training texts are among the evaluation texts of {len(leaking)} tasks:\n" + "\n".join(lines) + "\n"
            "leave these tasks out, or train without these texts; without --strict they are scored and listed"
        )
    return found


def _look(task: EvaluationTask, texts: TrainingTexts) -> Leak:
    with task.loaded():
        return find_leaks(evaluation_texts(task.task), texts)


def _own_training(variant: Variant) -> Path | None:
    run = run_folder(variant.subject)
    return run if run is not None and (run / "data").is_dir() else None


def _fingerprint(path: Path) -> str:
    """Changes when a training text does."""
    if path.is_dir():
        return Prepared.open(path / "data" if (path / "data").is_dir() else path).fingerprint
    return sha256_file(path)


def _kept(file: Path) -> Leak | None:
    try:
        return Leak.model_validate(read_json(file))
    except (FileNotFoundError, ValueError):
        return None  # absent or torn: it is sought again, and replaced
