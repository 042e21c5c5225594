"""A student whose queries are searched in an index that its teacher built: `limbeck evaluate --documents-by`.

Documents are encoded as the teacher encoded them for the run, queries by the student, projected into its space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from limbeck.config import load_recipe
from limbeck.errors import ConfigError, ModelError
from limbeck.evaluation.named_tasks import EvaluationTask
from limbeck.evaluation.subjects import (
    BundleSubject,
    Compute,
    Kind,
    Subject,
    open_subject,
    run_folder,
    teacher_section,
    widths,
)
from limbeck.evaluation.task_types import use_of
from limbeck.model.bundle import TeacherNote
from limbeck.model.prefixes import Role
from limbeck.teacher.backends import load_teacher
from limbeck.teacher.packages import KNOWN_PACKAGES

OWN = "teacher"  # stands for the one that a bundle was distilled from


class TeacherIndex:
    """Queries by a student, documents by its teacher. Widths are those of the teacher's space."""

    kind: Kind = "teacher-index"
    notes: Sequence[str] = ()

    def __init__(
        self, student: Subject, teacher: str, *, compute: Compute = "fp32", same_teacher: bool = False
    ) -> None:
        """Bring both together.

        Args:
            student: a bundle with its projection.
            teacher: as `open_subject` knows a model; or "teacher", the one that the student was distilled from.
            compute: what the teacher computes in, unless it is an endpoint.
            same_teacher: it is the student's teacher, even if limbeck.json calls that by another name.

        Raises ConfigError: the student is no bundle, or the teacher is not its own. ModelError: the bundle has no
        projection, or the teacher's vectors have other dims than it leads to. TeacherError.
        """
        if not isinstance(student, BundleSubject):
            raise ConfigError(f"{student.name} is no bundle, and only bundles have a map into their teacher's space")
        encoder = student.encoder
        self.dim = encoder.projection.teacher_dim
        note = encoder.spec.teacher
        if note is None:
            raise ModelError(f"{student.name} does not say which teacher it was distilled from")
        teacher = own_teacher(student, note) if teacher == OWN else teacher
        section = teacher_section(teacher)
        asked = teacher if section.type == "sentence-transformers" else section.model  # a hub id, not its folder
        if not (same_teacher or is_named(note, asked)):
            raise ConfigError(
                f"{student.name} was distilled from {note.model}, and {teacher} is to make its documents: name that "
                "teacher, or add --same-teacher if it is the same model under another name"
            )
        width = open_subject(teacher, compute=compute).dim  # loaded twice, one after the other, for a clear message
        if width != self.dim:
            raise ModelError(
                f"{teacher} gives vectors of {width} dims, the projection of {student.name} leads to {self.dim}: it is "
                "another model than the student's teacher"
            )
        self._teacher = load_teacher(section.model_copy(update={"dim": self.dim, "precision": compute}))
        self._student, self._instruction, self._compute = student, note.document_instruction, compute
        self.name = f"{student.name} asking {Path(asked).name}"
        self.folder = student.folder
        self.dims = widths(self.dim)
        self.max_tokens = student.max_tokens
        self.parameters = student.parameters
        self.adapters = [name for name in student.adapters if name == "retrieval"]

    def fingerprint(self, adapter: str | None) -> str:
        """What the vectors of both sides depend on."""
        asked = self._student.fingerprint(adapter, space="teacher")
        return f"{asked} in the index of {self._teacher.fingerprint} {self._compute} {self._instruction!r}"

    def encode(self, texts: Sequence[str], *, role: Role | None, adapter: str | None) -> np.ndarray:
        """Queries by the student, documents by the teacher, all in its space.

        Raises ConfigError: text that is neither.
        """
        if role is None:
            raise ConfigError(f"{self.name} has queries and documents alone, and no vector for other text")
        if role == "query":
            return self._student.encode(texts, role=role, adapter=adapter, space="teacher")
        return self._teacher.encode(texts, instruction=self._instruction)


def check_searches(tasks: Sequence[EvaluationTask]) -> None:
    """Raise ConfigError unless every task searches documents for queries."""
    if other := [f"{task.name} ({task.type})" for task in tasks if not use_of(task.type).roles]:
        raise ConfigError(
            f"--documents-by is for tasks with queries and documents, and these have none: {', '.join(other)}; leave "
            "them out, or score them without it"
        )


def own_teacher(student: BundleSubject, note: TeacherNote) -> str:
    """A bundle's teacher as `open_subject` knows it. The bundle says what it is called, its run where an endpoint is.

    Raises ConfigError: the run's recipe cannot be read.
    """
    run = run_folder(student)
    section = load_recipe(run / "recipe.yaml").teacher if run else None
    if section is not None and section.type == "openai":
        return f"openai:{section.model}@{section.base_url}"
    return f"package:{note.model}" if note.model in KNOWN_PACKAGES else note.model


def is_named(note: TeacherNote, model: str) -> bool:
    """Whether a model is the teacher that a bundle names: by the same name, or in the same folder."""
    return note.model == model or (Path(model).is_dir() and Path(note.model).resolve() == Path(model).resolve())
