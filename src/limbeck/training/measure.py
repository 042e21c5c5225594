"""The last stages of a run: what the student is worth, and the page that says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck import machine
from limbeck.config import Recipe, Task
from limbeck.data.dedup import stable_hash
from limbeck.errors import LimbeckError
from limbeck.evaluation import heldout
from limbeck.evaluation.gather import evaluation_of_run
from limbeck.evaluation.leakage import find_leaks, training_texts_of
from limbeck.evaluation.model_index import eval_results
from limbeck.evaluation.report import write_report
from limbeck.evaluation.scores import ParameterCount, Parameters, Scores, Sides, VectorMap, read_metrics
from limbeck.evaluation.subjects import StaticSubject
from limbeck.evaluation.tasks import heldout_tasks
from limbeck.evaluation.training_data import training_sources
from limbeck.evaluation.vector_map import MOST_POINTS, vector_map
from limbeck.files import atomic_write, read_json, write_json
from limbeck.model import backbone as backbones
from limbeck.model.adapters import Adapter
from limbeck.model.card import model_card
from limbeck.model.encoder import Encoder
from limbeck.model.loading import load
from limbeck.model.student import StudentModel
from limbeck.training.stages import WITHOUT_SPREAD, stages_of

if TYPE_CHECKING:
    from limbeck.training.pipeline import Pipeline

_WORDS = {"base": "base", "retrieval": "retrieval adapter"}


def evaluate(run: Pipeline) -> dict[str, Any]:
    """Score every model of the run on held-out retrieval, and every adapter on every task; results go to evaluate/."""
    recipe = run.recipe
    sets = heldout.heldout_sets(run.prepared, recipe.evaluate.queries)
    student = load(run.out / "model")
    dims = recipe.student.dims
    task = "retrieval" if "retrieval" in student.spec.tasks else None
    with run.live.status("scoring the teacher"):
        teacher = heldout.score(sets, partial(_stored, run, "retrieval"), dims)
    with run.live.status("scoring the student"):
        scored = heldout.score(sets, partial(vectors_of, student.base if task is None else student, task), dims)
    untrained = None
    if recipe.evaluate.untrained:
        with run.live.status("scoring the untrained student"):
            built = run.untrained()
            blank = Encoder(StudentModel(built.model, pooling=recipe.student.pooling), built.tokenizer, run.spec())
            untrained = heldout.score(sets, lambda role, texts: blank.encode(texts, role=role), dims[-1:])
    static = StaticSubject(run.out / "static") if recipe.static else None
    searched = {task or "base": scored, "teacher": teacher}
    if static is not None:
        with run.live.status("scoring the static model"):
            searched["static"] = heldout.score(sets, partial(_plain, static), [])
    speed = _speeds(run, sets, student, static) if recipe.evaluate.speed_texts else None
    means = {"teacher": teacher.means, "student": scored.means} | ({"untrained": untrained.means} if untrained else {})
    means |= {"static": searched["static"].means} if static else {}
    indexes = _indexes(run, sets, student, searched)  # before the matrix, which has no need to score these again
    found = {
        **{m: {who: values[m] for who, values in means.items()} for m in teacher.means},
        "queries": sum(len(s.queries) for s in sets),
        "documents": sum(len(s.documents) for s in sets),
        "dims": [row.model_dump() for row in scored.curve],
        "teacher_dims": [row.model_dump() for row in teacher.curve],
        "texts_per_second": speed,
        "examples": [e.model_dump() for e in heldout.examples(sets, scored)],
        **_sizes(run, student, static),
        **_matrix(run, student, static, searched),
        "indexes": indexes,
        "spread": _spreads(run, sets, scored),
        "leaks": _leaks(run),
        "map": found_map.model_dump() if (found_map := _map(run, student)) else None,
    }
    write_json(run.out / "evaluate" / "results.json", found)
    return {"ndcg_at_10": found["ndcg_at_10"]}


def _indexes(
    run: Pipeline, sets: Sequence[heldout.HeldOut], student: Encoder, searched: dict[str, heldout.Scored]
) -> list[dict[str, Any]]:
    """Held-out nDCG@10 by who encodes queries and who documents. searched: as `heldout` scored each alone, added to."""
    retrieval = run.recipe.adapters.retrieval
    asks = ["base", *(["retrieval"] if retrieval and retrieval.distill_weight else [])]  # others left the projection
    found = [("teacher", "teacher", searched["teacher"])]
    for who in asks:
        encoder, task = (student.base, None) if who == "base" else (student, "retrieval")
        with run.live.status(f"scoring queries of the {who} in the teacher's index"):
            if who not in searched:
                searched[who] = heldout.score(sets, partial(vectors_of, encoder, task), [])
            found += [
                (who, who, searched[who]),
                (who, "teacher", heldout.score(sets, partial(_across, run, encoder, task), [])),
            ]
    return [
        {"queries": queries, "documents": documents, "ndcg_at_10": scored.means["ndcg_at_10"]}
        for queries, documents, scored in found
    ]


def _across(run: Pipeline, encoder: Encoder, task: str | None, role: str, texts: Sequence[str]) -> np.ndarray:
    """Documents by the teacher, queries by the student in its space."""
    if role == "document":
        return _stored(run, "retrieval", role, texts)
    return encoder.encode(texts, role=role, task=task, space="teacher")


def _matrix(
    run: Pipeline, student: Encoder, static: StaticSubject | None, searched: dict[str, heldout.Scored]
) -> dict[str, Any]:
    """Score of every task by every adapter, the base and all else of SPEAKERS. searched: retrieval that is known."""
    if not student.spec.tasks:
        return {}
    speakers: dict[str, Any] = {"base": partial(vectors_of, student.base, None)}
    speakers |= {t: partial(vectors_of, student, t) for t in student.spec.tasks}
    if student.router is not None:
        speakers["auto"] = partial(vectors_of, student, "auto")
    if static is not None:
        speakers["static"] = partial(_plain, static)
    tests = heldout_tasks(run.prepared, run.recipe.evaluate, part="test")
    scores: dict[str, dict[str, float]] = {}
    for task, test in tests.items():
        scores[task] = {}
        for name, vectors in (speakers | {"teacher": partial(_stored, run, task)}).items():
            if task == "retrieval" and name in searched:
                scores[task][name] = searched[name].means["ndcg_at_10"]
                continue
            with run.live.status(f"scoring {task} by {name}"):
                scores[task][name] = test.score(vectors)
    return {"adapters": scores, "adapter_metrics": {task: test.metric for task, test in tests.items()}}


def _spreads(run: Pipeline, sets: Sequence[heldout.HeldOut], scored: heldout.Scored) -> list[dict[str, Any]]:
    """The retrieval adapter with and without the orthogonal regulariser, at every width and precision."""
    if f"adapt-{WITHOUT_SPREAD}" not in stages_of(run.recipe):
        return []
    other = run.encoder_with({"retrieval": Adapter.load(run.out / "adapt" / WITHOUT_SPREAD / "adapter")})
    with run.live.status("scoring the adapter without the regulariser"):
        without = heldout.score(sets, partial(vectors_of, other, "retrieval"), run.recipe.student.dims)
    return [
        {"regularised": with_it, **row.model_dump(include={"precision", "dim", "ndcg_at_10"})}
        for with_it, found in ((True, scored), (False, without))
        for row in found.curve
        if row.rescored_by is None
    ]


def _leaks(run: Pipeline) -> dict[str, Any]:
    """Training texts among the held-out texts of each task, by task or, where it has several, by task and source."""
    training = training_texts_of(run.out)
    tests = heldout_tasks(run.prepared, run.recipe.evaluate, part="test")
    with run.live.status("looking for training texts in what is held out"):
        return {
            (task if len(of_task.sources) == 1 else f"{task}, {name}"): find_leaks(test.texts, training).model_dump()
            for task, of_task in tests.items()
            for name, test in of_task.sources.items()
        }


def _map(run: Pipeline, student: Encoder) -> VectorMap | None:
    """Held-out labelled texts in the plane, by the clustering adapter where there is one."""
    settings = run.recipe.evaluate
    labelled = [n for n, s in run.prepared.sources.items() if s.heldout.kind == "labelled_text"]
    names = settings.clustering or settings.classification or labelled
    if not names:
        return None
    table = run.prepared.sources[names[0]].heldout
    every = table.texts("text")
    rows = sorted(range(len(every)), key=lambda i: stable_hash(every[i]))[:MOST_POINTS]  # rows stand by label
    texts, labels = [every[i] for i in rows], [table.labels[i][0] for i in rows]
    if not texts:
        return None
    task = "clustering" if "clustering" in student.tasks else None
    with run.live.status("drawing a map"):
        return vector_map(texts, labels, vectors_of(student if task else student.base, task, "document", texts))


def report(run: Pipeline) -> dict[str, Any]:
    """Write scores.json and the report, and say what matters."""
    recipe = run.recipe
    results = read_json(run.out / "evaluate" / "results.json")
    manifests = {name: run.stage(name).manifest() or {} for name in stages_of(recipe)[:-1]}
    averaging: Any = {
        task: {**body["dev"], "kept": body["kept"]}
        for task in run.blocks
        if "dev" in (body := manifests[f"adapt-{task}"])
    }
    phases = [name for name in ("distill", "extend") if name in manifests]
    seconds = {name: float(body.get("seconds", 0)) for name, body in manifests.items()}
    about = machine.describe()
    scores = Scores(
        name=recipe.name,
        description=recipe.description,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        teacher=Path(recipe.teacher.model).name,
        student=_student_words(recipe, load(run.out / "model").model.backbone.config),
        seconds=round(sum(seconds.values()), 1),
        seconds_by_stage=seconds,
        peak_rss_mb=max(round(machine.peak_rss_mib(), 1), *(body.get("peak_rss_mb", 0) for body in manifests.values())),
        vector_dim=Sides(
            teacher=recipe.teacher.dim,
            student=recipe.student.dims[-1],
            static=recipe.static.dim if recipe.static else None,
        ),
        data={k: dict(v) for k, v in run.prepared.counts.items()},
        steps=sum(manifests[phase].get("steps", 0) for phase in phases),
        tokens=sum(manifests[phase].get("tokens") or 0 for phase in phases),
        command=run.command,
        versions={"python": about.python, **about.packages},
        machine={
            "cpu": about.cpu,
            "cores": about.cores,
            "memory_gib": about.ram_gib,
            "bf16": about.cpu_bf16,
            "gpu": about.gpu,
        },
        averaging=averaging,
        training=training_sources(run.prepared, recipe.data.sources),
        **results,
    )
    scores.save(run.out / "scores.json")
    _write_card(run, scores)
    logs = {task: read_metrics(run.out / "adapt" / task / "metrics.jsonl") for task in run.blocks}
    metrics = one_log([read_metrics(run.out / phase / "metrics.jsonl") for phase in phases])
    write_report(scores, metrics, run.out / "report", adapter_metrics_log=logs)
    quality = scores.ndcg_at_10
    run.console.print(
        f"\nheld-out nDCG@10: teacher {quality.teacher:.3f}, student {quality.student:.3f} "
        f"({100 * (scores.retention or 0):.1f}% kept)"
        + (f", static {quality.static:.3f}" if quality.static is not None else "")
        + (f", untrained {quality.untrained:.3f}" if quality.untrained is not None else "")
    )
    for index in scores.indexes:
        if index.queries != index.documents == "teacher":
            run.console.print(
                f"  queries of the {_WORDS[index.queries]}, documents of the teacher {index.ndcg_at_10:.3f}"
            )
    for example in scores.examples:
        run.console.print(f"\n[bold]{example.query}[/bold]", highlight=False)
        for hit in example.hits[:3]:
            run.console.print(f"  {hit.score:.3f}  {hit.id}{'  <- the answer' if hit.gold else ''}", highlight=False)
    run.console.print(f"\nreport: {run.out / 'report' / 'index.html'}\nmodel:  {run.out / 'model'}")
    return {"retention": scores.retention}


def one_log(logs: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of phases that follow each other: steps and tokens go on where the phase before ended."""
    rows: list[dict[str, Any]] = []
    for log in logs:
        before = {name: rows[-1].get(name, 0) if rows else 0 for name in ("step", "tokens")}
        rows += [row | {name: row[name] + ended for name, ended in before.items() if name in row} for row in log]
    return rows


def _write_card(run: Pipeline, scores: Scores) -> None:
    """The bundle's README.md, now with its held-out scores."""
    student = evaluation_of_run(run.out).models[0]
    languages = [tag for source in scores.training.values() for tag in source.languages]
    card = model_card(run.recipe, load(run.out / "model").spec, results=eval_results(student), languages=languages)
    with atomic_write(run.out / "model" / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")


def _stored(run: Pipeline, task: Task, role: str, texts: Sequence[str]) -> np.ndarray:
    """The teacher's vectors of texts, which the teach stage made where they are held out."""
    return run.store.gather(run.teach_texts(texts, run.instruction(role, task))).astype(np.float32)


def _plain(static: StaticSubject, role: str, texts: Sequence[str]) -> np.ndarray:
    """A static model's vectors, which know no roles."""
    return static.encode(texts, role=None, adapter=None)


def _speeds(
    run: Pipeline, sets: Sequence[heldout.HeldOut], student: Encoder, static: StaticSubject | None
) -> dict[str, float]:
    texts = sets[0].documents[: run.recipe.evaluate.speed_texts]
    task = "retrieval" if "retrieval" in student.spec.tasks else None
    spoken = student if task else student.base
    sides: dict[str, Callable[[], Any]] = {
        "teacher": lambda: run.teacher.encode(texts),
        "student": lambda: spoken.encode(texts, task=task),
    }
    if static is not None:
        sides["static"] = lambda: _plain(static, "document", texts)
    with run.live.status("timing them"):
        return heldout.texts_per_second(sides, len(texts))


def _sizes(run: Pipeline, student: Encoder, static: StaticSubject | None) -> dict[str, Any]:
    of_student = backbones.size(student.model.backbone)
    known: dict[str, Any] = {"student": _count(of_student)}
    if static is not None:
        known["static"] = ParameterCount(total=static.parameters or 0)
    try:
        of_teacher = backbones.size(backbones.load_plain(run.teacher_folder)) if run.teacher_folder else None
    except (LimbeckError, AttributeError):  # no transformer: static embeddings, say
        of_teacher = None
    if of_teacher is None:
        return {"parameters": Parameters(**known).model_dump()}
    return {
        "parameters": Parameters(teacher=_count(of_teacher), **known).model_dump(),
        "compute_per_token_ratio": of_student.layers / of_teacher.layers,
    }


def vectors_of(encoder: Encoder, task: str | None, role: str, texts: Sequence[str]) -> np.ndarray:
    """Vectors of a role; by an adapter that knows no queries, those of documents."""
    asks = task is None or task == "retrieval" or (task == "auto" and "retrieval" in encoder.tasks)
    return encoder.encode(texts, task=task, role=role if asks else "document")


def _count(size: backbones.Size) -> ParameterCount:
    return ParameterCount(total=size.total, without_token_embeddings=size.layers)


def _student_words(recipe: Recipe, config: Any) -> str:
    kind = "decoder" if getattr(config, "is_causal", None) and recipe.student.init == "fresh" else "transformer"
    return f"{config.num_hidden_layers} × {config.hidden_size} rotary {kind}, {recipe.student.pooling}-token pooling"
