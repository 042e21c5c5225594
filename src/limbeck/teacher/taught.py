"""A teacher together with the store of its vectors, as a run uses it.  N: texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.config import Teacher
from limbeck.teacher.backends import TeacherModel, load_teacher
from limbeck.teacher.store import TeacherStore


@dataclass(frozen=True)
class Taught:
    """A teacher of stage 1 and the store of its vectors."""

    settings: Teacher

    @cached_property
    def model(self) -> TeacherModel:
        """The teacher; its weights are read only when a text is new to the store."""
        return load_teacher(self.settings)

    @cached_property
    def store(self) -> TeacherStore:
        """Its vectors, in a store that is made when first asked for."""
        settings = self.settings
        return TeacherStore.open(Path(settings.store), fingerprint=self.model.fingerprint, dim=settings.dim)

    def teaches(self, source: str) -> bool:
        """Whether stage 1 learns from its vectors of a source's texts."""
        return self.settings.sources is None or source in self.settings.sources

    def instruction(self, role: str) -> str:
        """What this teacher is told about a text of a role."""
        return self.settings.query_instruction if role == "query" else self.settings.document_instruction

    def rows(self, texts: Sequence[str], instruction: str, advance: Any = None) -> np.ndarray:
        """Rows [N] of texts in its store, taught now where they are new."""
        return self.store.teach(texts, instruction, self.model.encode, progress=advance)
