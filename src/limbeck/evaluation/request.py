"""From what a command line names to files: models, tasks, scores, and the page that shows them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from limbeck.evaluation.comparison import write_comparison
from limbeck.evaluation.long_text import write_named
from limbeck.evaluation.named_tasks import find_tasks
from limbeck.evaluation.results import Evaluation, VectorPrecision
from limbeck.evaluation.runner import evaluate
from limbeck.evaluation.scoring import Tell
from limbeck.evaluation.subjects import Compute, Subject, open_subject, run_folder
from limbeck.evaluation.teacher_index import TeacherIndex, check_searches
from limbeck.evaluation.variants import BY_TASK, variants_of


@dataclass(frozen=True)
class Request:
    """What is to be scored on what; the options of `limbeck evaluate`."""

    models: Sequence[str]  # see `open_subject`
    tasks: Sequence[str]  # see `find_tasks`, and `long_text.write_named`
    dims: Sequence[int] = ()  # () = the full width of each model
    precisions: Sequence[VectorPrecision] = ("float32",)
    adapter: str = BY_TASK
    out: Path | None = None  # None = as `default_out` says
    training: Path | None = None  # texts to look for in the tasks; None = of each bundle those of its own run
    strict: bool = False  # refuse tasks that hold training texts
    curves: bool = False
    compute: Compute = "fp32"
    max_tokens: int | None = None
    skip_private: bool = False
    documents_by: str | None = None  # a teacher, see `open_subject`: it encodes the documents, the models the queries
    same_teacher: bool = False  # it is the models' teacher, even under another name


def answer(request: Request, *, command: str | None = None, tell: Tell = lambda _: None) -> tuple[Evaluation, Path]:
    """Score, and write results.json, index.html and report.md. Returns the results and the folder they are in.

    `command` is kept with the results; `tell` is called with what is being done. Raises LimbeckError, see `find_tasks`,
    `open_subject`, `variants_of` and `evaluate`.
    """
    with TemporaryDirectory() as made:  # scores are kept by what is in a set, wherever it lay
        tell("looking for the tasks")  # before any model is loaded: a misspelt name costs seconds
        found = find_tasks(write_named(request.tasks, Path(made)), skip_private=request.skip_private)
        if request.documents_by is not None:
            check_searches(found.tasks)
        subjects: list[Subject] = []
        for model in request.models:
            tell(f"loading {model}")
            subjects.append(_opened(model, request))
        variants = variants_of(
            subjects, dims=request.dims, precisions=request.precisions, adapter=request.adapter, names=request.models
        )
        out = request.out or default_out(subjects)
        evaluation = evaluate(
            variants,
            found.tasks,
            out,
            training=request.training,
            strict=request.strict,
            curves=request.curves,
            warnings=found.warnings,
            command=command,
            tell=tell,
        )
    write_comparison(evaluation, out)
    return evaluation, out


def _opened(model: str, request: Request) -> Subject:
    subject = open_subject(model, compute=request.compute, max_tokens=request.max_tokens)
    if request.documents_by is None:
        return subject
    return TeacherIndex(subject, request.documents_by, compute=request.compute, same_teacher=request.same_teacher)


def default_out(subjects: Sequence[Subject]) -> Path:
    """RUN/evaluation for the one bundle of a run, else runs/evaluation/<names of the models>."""
    run = run_folder(subjects[0]) if len(subjects) == 1 else None
    if run is not None:
        return run / "evaluation"
    return Path("runs/evaluation") / "+".join(re.sub(r"[^\w.-]+", "-", s.name).strip("-.") for s in subjects)
