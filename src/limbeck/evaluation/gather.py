"""Results from several places brought together: files of `limbeck evaluate`, and the held-out scores of runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from limbeck.config import TASKS, Task
from limbeck.errors import DataError
from limbeck.evaluation.results import CurvePoint, Evaluation, ModelResult, TaskResult, read_evaluation
from limbeck.evaluation.scores import Scores, read_scores
from limbeck.files import read_json

RESULTS = "results.json"
SCORES = "scores.json"
_TYPES: dict[Task, str] = {  # as mteb names them
    "retrieval": "Retrieval",
    "text-matching": "STS",
    "clustering": "Clustering",
    "classification": "Classification",
}
_KINDS: dict[str, Any] = {"teacher": "sentence-transformers", "static": "static"}
_METRICS = {"nDCG@10": "ndcg_at_10", "Spearman": "spearman", "V-measure": "v_measure"}
_DECIDE = ("queries", "classification", "clustering", "shots")  # settings that decide what is scored
_SAME = 1e-6  # a score that was measured again differs by rounding only


def read_results(path: Path) -> Evaluation:
    """Read a results.json, a folder that holds one, or a run folder with its scores.json.

    Raises DataError when there is nothing of these, or it does not fit its schema.
    """
    if path.is_dir():
        if (path / RESULTS).is_file():
            return read_evaluation(path / RESULTS)
        if (path / SCORES).is_file():
            return evaluation_of_run(path)
        raise DataError(
            f"{path} holds neither {RESULTS} nor {SCORES}: name a file or folder that `limbeck evaluate` wrote, or the "
            "folder of a run that is done"
        )
    if not path.is_file():
        raise DataError(f"{path} does not exist: name a {RESULTS} of `limbeck evaluate`, its folder, or a run folder")
    return read_evaluation(path)


def bring_together(paths: Sequence[Path]) -> Evaluation:
    """All models of several results, in the order given. A model that several have keeps the tasks of all of them.

    Raises DataError as `read_results`, and when one model has different scores of a task in two of them.
    """
    found: dict[str, tuple[ModelResult, Path]] = {}
    evaluations = [read_results(path) for path in paths]
    for path, evaluation in zip(paths, evaluations, strict=True):
        for result in evaluation.models:
            known = found.get(result.identity)
            found[result.identity] = (result, path) if known is None else (_joined(known, (result, path)), known[1])
    return Evaluation(
        created=max((e.created for e in evaluations if e.created), default=None),
        commands=list(dict.fromkeys(command for e in evaluations for command in e.commands)),
        warnings=list(dict.fromkeys(warning for e in evaluations for warning in e.warnings)),
        versions=_facts([e.versions for e in evaluations]),
        machine=_facts([e.machine for e in evaluations]),
        models=[result for result, _ in found.values()],
    )


def _joined(known: tuple[ModelResult, Path], other: tuple[ModelResult, Path]) -> ModelResult:
    """One variant found twice. Raises DataError where the two disagree."""
    (result, path), (more, other_path) = known, other
    tasks = {t.task: t for t in result.tasks}
    for t in more.tasks:
        before = tasks.setdefault(t.task, t)
        if abs(before.score - t.score) > _SAME:
            raise DataError(
                f"{result.model} ({result.identity}) has {before.score:.6f} on {t.task} in {path} and {t.score:.6f} in "
                f"{other_path}: one of them is out of date, evaluate again or leave it out"
            )
        if t.curve and not before.curve:
            tasks[t.task] = t
    return result.model_copy(update={"tasks": list(tasks.values())})


def _facts(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Facts of all parts; where they differ, every value that occurs."""
    found = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        values = list(dict.fromkeys(value for part in parts if (value := part.get(key)) is not None))
        found[key] = ", ".join(map(str, values)) if len(values) > 1 else values[0] if values else None
    return found


# ----------------------------------------------------------------------------------------------- runs


def evaluation_of_run(folder: Path) -> Evaluation:
    """Held-out scores of a run as results: of teacher, base, student with the adapter of each task, and static model.

    The mark behind a task's name stands for its held-out texts: runs compare where their marks are equal.

    Raises DataError when scores.json does not say how wide vectors are, or holds no score.
    """
    scores = read_scores(folder / SCORES)
    mark = _heldout_mark(folder)
    name = folder.resolve().name  # two runs of one recipe have one name, but two folders
    width = scores.vector_dim
    if width is None or not width.student:
        raise DataError(f"{folder / SCORES} does not say how many dims the vectors have: run the stage report again")
    own, base, taught, static = ({t: who or t for t in scores.adapters} for who in ("", "base", "teacher", "static"))
    models = [
        _variant(scores, mark, f"{name}, student", "student", own, width.student),
        _variant(scores, mark, f"{name}, base", "base", base, width.student),
        _variant(scores, mark, scores.teacher or "teacher", "teacher", taught, width.teacher),
        _variant(scores, mark, f"{name}, static", "static", static, width.static),
    ]
    found = [model for model in models if model is not None and model.tasks]
    if not found:
        raise DataError(f"{folder / SCORES} holds no held-out score: run the stage evaluate again")
    return Evaluation(
        created=scores.created,
        commands=[scores.command] if scores.command else [],
        versions=scores.versions,
        machine=scores.machine,
        models=found,
    )


def _variant(
    scores: Scores, mark: str, name: str, who: str, speakers: dict[str, str], dim: float | None
) -> ModelResult | None:
    """One of the models of a run, or None. speakers: task → whose score of it to take.

    who: "student", "base", "teacher" or "static".
    """
    if not dim:
        return None
    found = {task: scores.adapters[task][says] for task, says in speakers.items() if says in scores.adapters[task]}
    retrieval = getattr(scores.ndcg_at_10, who, None)
    if retrieval is not None:
        found = {"retrieval": retrieval} | found
    curve = {"student": scores.dims, "teacher": scores.teacher_dims}.get(who, [])
    sizes = _side(scores.parameters, who)
    tasks = [
        _task(scores, mark, task, found[task], [d.point() for d in curve] if task == "retrieval" else [], who)
        for task in TASKS
        if task in found
    ]
    # The scores are part of it: two runs with one teacher have it once, unless it was measured in two ways.
    seal = _digest([(t.task, round(t.score, 6)) for t in tasks])
    return ModelResult(
        model=name,
        identity=f"{name}, held-out {mark}, {seal}",
        kind=_KINDS.get(who, "bundle"),
        dim=int(dim),
        max_tokens=_number(_side(scores.max_tokens, who)),
        parameters=sizes and sizes.total,
        texts_per_second=None if who == "base" else _number(_side(scores.texts_per_second, who)),
        tasks=tasks,
    )


def _task(scores: Scores, mark: str, task: Task, score: float, curve: list[CurvePoint], who: str) -> TaskResult:
    metric = scores.adapter_metrics.get(task, "nDCG@10" if task == "retrieval" else "score")
    counts = {"queries": scores.queries, "documents": scores.documents} if task == "retrieval" else {}
    adapted = who == "student" and task in scores.adapters.get(task, {})
    return TaskResult(
        task=f"held-out {task} [{mark}]",
        type=_TYPES[task],
        metric=_METRICS.get(metric, metric),
        score=score,
        counts={what: number for what, number in counts.items() if number},
        adapter=task if adapted else None,
        curve=curve,
    )


def _side(sides: Any, who: str) -> Any:
    return sides and getattr(sides, "student" if who == "base" else who)


def _number(value: Any) -> Any:
    return int(value) if value is not None and value == int(value) else value


def _heldout_mark(folder: Path) -> str:
    """Six characters that change with the held-out texts and with how many of them are scored."""
    manifest, recipe = folder / "data" / "manifest.json", folder / "recipe.yaml"
    if manifest.is_file() and recipe.is_file():
        settings = yaml.safe_load(recipe.read_text(encoding="utf-8")).get("evaluate", {})
        return _digest([read_json(manifest).get("fingerprint"), *(settings.get(key) for key in _DECIDE)])
    return _digest(read_json(folder / SCORES))  # not known: then it compares with itself only


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]
