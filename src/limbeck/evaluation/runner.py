"""Tasks × variants → scores. mteb computes them; what is done is kept after each task, and is not done again.

    OUT/results.json                      all of it, as `results.Evaluation`
    OUT/<variant's digest>/<task>.json    one score, with the key of what it depends on
    OUT/leaks/                            training texts found in tasks, see `leak_checks`
    OUT/vectors/                          vectors at full width, see `vectors`

A score is kept under the variant's identity, the digest of the task's data and mteb's version: mteb's own cache would
give a local model the score of another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars

from limbeck import machine
from limbeck.evaluation.leak_checks import look_for_leaks
from limbeck.evaluation.named_tasks import EvaluationTask
from limbeck.evaluation.results import Evaluation, Leak, ModelResult, TaskResult
from limbeck.evaluation.scoring import Scored, Tell, score
from limbeck.evaluation.subjects import training_of
from limbeck.evaluation.variants import Variant
from limbeck.evaluation.vectors import Spent, VectorCache
from limbeck.files import read_json, write_json

_FORMAT = 1  # of the files of single scores
_PACKAGES = ("mteb", "scikit-learn", "scipy", "pytrec_eval-terrier", "datasets")


def evaluate(
    variants: Sequence[Variant],
    tasks: Sequence[EvaluationTask],
    out: Path,
    *,
    training: Path | None = None,
    strict: bool = False,
    curves: bool = False,
    warnings: Sequence[str] = (),
    command: str | None = None,
    tell: Tell = lambda _: None,
) -> Evaluation:
    """Score every variant on every task, and write OUT/results.json.

    Args:
        variants: all different, as `variants_of` gives them.
        tasks: all with different names, as `find_tasks` gives them.
        out: folder of results, scores and vectors.
        training: what the models were trained on, a run folder or a file of texts; None = of each bundle its own run,
            where it lies in one.
        strict: raise DataError, before anything is scored, when training texts are found in evaluation texts.
        curves: for tasks that search a corpus, also score smaller vectors (variants in full float32 only).
        warnings: about the whole, kept with the results.
        command: what was asked for, to be repeated by whoever reads the results.
        tell: called with what is being done.

    Raises DataError: a task's data does not fit or is not to be had, a score that is no number, or leaks where
    `strict`. ConfigError: `strict`, and no training texts to look for. ModelError: a vector that cannot be scored.
    StoreError: the cache of vectors is damaged, or the disk is full.
    """
    disable_progress_bars()  # of datasets, in the midst of ours
    leaks = look_for_leaks(variants, tasks, out / "leaks", training=training, strict=strict, tell=tell)
    cache = VectorCache(out / "vectors")
    scored: dict[str, list[Scored]] = {variant.digest: [] for variant in variants}
    for task in tasks:
        for variant, found in _scored(variants, task, out, cache, curves, tell):
            scored[variant.digest].append(found)
    models = []
    for variant in variants:
        # the vectors of a model are encoded for the first of its variants that needs them
        same = [f for v in variants if v.subject is variant.subject for f in scored[v.digest]]
        models.append(_model_result(variant, scored[variant.digest], leaks, _speed(same)))
    about = machine.describe()
    evaluation = Evaluation(
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        commands=[command] if command else [],
        versions={"python": about.python, **about.packages, **{name: version(name) for name in _PACKAGES}},
        machine={
            "cpu": about.cpu,
            "cores": about.cores,
            "memory_gib": about.ram_gib,
            "bf16": about.cpu_bf16,
            "gpu": about.gpu,
        },
        warnings=list(warnings),
        models=models,
    )
    evaluation.save(out / "results.json")
    return evaluation


def _scored(
    variants: Sequence[Variant], task: EvaluationTask, out: Path, cache: VectorCache, curves: bool, tell: Tell
) -> Iterator[tuple[Variant, Scored]]:
    """Every variant with its score on a task, kept or new. The data is read once, and only if a score is missing."""
    data = task.digest()
    with ExitStack() as stack:
        loaded = False
        for variant in variants:
            path, key = _file(out, variant, task), _key(variant, task, data)
            curve = curves and variant.dim == variant.subject.dim and variant.precision == "float32"
            found = _kept(path, key, curve)
            if found is None:
                if not loaded:
                    tell(f"reading {task.name}")
                    stack.enter_context(task.loaded())
                    loaded = True
                found = score(variant, task, cache, curve=curve, tell=tell)
                _keep(path, key, curve, found)
            yield variant, found


# ------------------------------------------------------------------------------------- kept scores


def _key(variant: Variant, task: EvaluationTask, data: str) -> dict[str, Any]:
    """What a score depends on. data: digest of the task's."""
    return {
        "format": _FORMAT,
        "identity": variant.identity,
        "task": task.name,
        "data": data,
        "mteb": version("mteb"),
    }


def _file(out: Path, variant: Variant, task: EvaluationTask) -> Path:
    return out / variant.digest / (re.sub(r"[^\w.()-]+", "_", task.name) + ".json")


def _keep(path: Path, key: Mapping[str, Any], curve: bool, found: Scored) -> None:
    body = {"key": key, "curve": curve, "result": found.result.model_dump(mode="json"), "spent": vars(found.spent)}
    write_json(path, body)


def _kept(path: Path, key: Mapping[str, Any], curve: bool) -> Scored | None:
    """What was kept under this key, with a curve if one is wanted; else None."""
    try:
        body = read_json(path)
        if body["key"] != key or (curve and not body["curve"]):
            return None
        return Scored(TaskResult.model_validate(body["result"]), Spent(**body["spent"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # torn or of another make: it is scored again, and replaced


# --------------------------------------------------------------------------------------- the whole


def _model_result(
    variant: Variant, scored: Sequence[Scored], leaks: Mapping[tuple[str, str], Leak], speed: float | None
) -> ModelResult:
    subject, training = variant.subject, training_of(variant.subject)
    return ModelResult(
        model=variant.label,
        identity=variant.identity,
        kind=subject.kind,
        group=_group(training[0], variant) if training else None,
        seed=training[1] if training else None,
        dim=variant.dim,
        precision=variant.precision,
        max_tokens=subject.max_tokens,
        parameters=subject.parameters,
        texts_per_second=speed,
        tasks=[f.result.model_copy(update={"leak": leaks.get((variant.digest, f.result.task))}) for f in scored],
    )


def _group(training: str, variant: Variant) -> str:
    """What the variants of several seeds have in common."""
    asked = "" if variant.subject.kind == "bundle" else f" {variant.subject.kind}"
    return f"{training} {variant.adapter} {variant.dim} {variant.precision}{asked}"


def _speed(scored: Sequence[Scored]) -> float | None:
    """Texts a second over all that was encoded; None where every vector was known."""
    texts, seconds = (sum(getattr(found.spent, part) for found in scored) for part in ("texts", "seconds"))
    return round(texts / seconds, 1) if seconds else None
