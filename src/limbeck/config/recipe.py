"""A run as one frozen model, and what its parts ask of each other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, model_validator

from limbeck.config.data import Data
from limbeck.config.models import Student, Teacher
from limbeck.config.section import Section
from limbeck.config.training import Adapters, Distill, Extend, Static
from limbeck.config.yaml_values import Dumper
from limbeck.files import atomic_write


class Evaluate(Section):
    """Held-out retrieval: queries and documents of examples that training never saw."""

    queries: int = Field(default=1000, gt=0)  # at most so many held-out queries per source
    batch_tokens: int = Field(default=16384, gt=0)
    untrained: bool = True  # also score the student as it was before the first step
    speed_texts: int = Field(default=256, ge=0)  # texts timed for texts/s; 0 = no timing
    classification: list[str] | None = None  # labelled sources that classification is scored on; None = all
    clustering: list[str] | None = None  # labelled sources that clustering is scored on; None = all
    shots: int = Field(default=16, gt=0)  # training texts of each label that a held-out classifier is fitted on


Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class Recipe(Section):
    """One run, end to end."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    description: str = ""
    out: str | None = None  # None = runs/<name>
    seed: int = 0
    threads: int | None = Field(default=None, gt=0)  # CPU threads of each process; None = all cores, shared among them
    # Of many processes each holds a part of every weight, gradient and moment (FSDP2), for a student that one device
    # cannot train; False = each holds all of them (DDP), which is faster
    shard: bool = False
    track: list[Tracker] = ["tensorboard"]  # where losses go as they come, besides metrics.jsonl
    # Share of each source's training rows that the seed draws, the others are not trained on: below 1, runs of several
    # seeds differ in their texts too, not in their order alone
    train_share: float = Field(default=1.0, gt=0, le=1)
    data: Data
    teacher: Teacher
    further_teachers: list[Teacher] = []  # stage 1 learns from these as well, each through a projection of its own
    student: Student
    distill: Distill
    extend: Extend | None = None  # None = there is no long-context phase
    adapters: Adapters = Adapters()
    static: Static | None = None  # None = there is no static model to compare with
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        names = [s.name for s in self.data.sources]
        stages = {f"adapters.{task}": block for task, block in self.adapters.by_task().items()}
        stage_1 = {"distill": self.distill} | ({"extend": self.extend} if self.extend else {})
        for where, stage in {**stage_1, **stages}.items():
            weights = stage.matryoshka_weights
            if weights is not None and len(weights) != len(self.student.dims):
                raise ValueError(
                    f"{where}.matryoshka_weights has {len(weights)} values, student.dims has {len(self.student.dims)}"
                )
            asked = [s if isinstance(s, str) else s.name for s in stage.sources or []]
            if unknown := [n for n in asked if n not in names]:
                raise ValueError(f"{where}.sources names {unknown}, data.sources has {names}")
            if len(set(asked)) < len(asked):
                raise ValueError(f"{where}.sources names a source twice: {asked}")
        compiled = [where for where, stage in {**stage_1, **stages}.items() if stage.compile == "on"]
        if self.shard and compiled:
            raise ValueError(f"shard goes without compilation: set {compiled[0]}.compile to auto or off")
        teachers = 1 + len(self.further_teachers)
        if self.distill.teacher_weights is not None and len(self.distill.teacher_weights) != teachers:
            raise ValueError(
                f"distill.teacher_weights has {len(self.distill.teacher_weights)} values, there are {teachers} teachers"
            )
        if self.static and self.static.dim > self.teacher.dim:
            raise ValueError(f"static.dim is {self.static.dim}, the teacher's vectors have {self.teacher.dim} dims")
        if self.teacher.sources is not None:
            raise ValueError("teacher.sources: the first teacher teaches all sources; only further ones may leave some")
        for teacher in self.further_teachers:
            if unknown := [n for n in teacher.sources or [] if n not in names]:
                raise ValueError(f"further_teachers: {teacher.model} teaches {unknown}, data.sources has {names}")
        given = self.distill.teacher_weights or [1.0] * teachers
        for name in sorted({*self.distill_sources, *self.extend_sources}):
            taught = [t.sources is None or name in t.sources for t in (self.teacher, *self.further_teachers)]
            if not sum(w for w, teaches in zip(given, taught, strict=True) if teaches):
                raise ValueError(f"distill.teacher_weights leaves source {name} without a teacher")
        if self.further_teachers and (self.distill.objective, self.distill.projection) != ("embedding", "student-up"):
            raise ValueError("further_teachers go with distill.objective embedding and distill.projection student-up")
        if self.extend and (self.distill.objective, self.distill.projection) != ("embedding", "student-up"):
            raise ValueError("extend goes on with distill.objective embedding and distill.projection student-up")
        if self.extend and (unknown := [n for n in self.extend.short_sources or [] if n not in names]):
            raise ValueError(f"extend.short_sources names {unknown}, data.sources has {names}")
        if self.extend and (both := set(self.extend.sources) & set(self.short_sources)):
            raise ValueError(f"extend.sources and short_sources share {sorted(both)}: name each source once")
        return self

    @property
    def distill_sources(self) -> list[str]:
        """Sources of stage 1, its first phase."""
        later = self.extend.sources if self.extend else []
        return self.distill.sources or [s.name for s in self.data.sources if s.name not in later]

    @property
    def extend_sources(self) -> list[str]:
        """Sources of its long-context phase, short ones included; none without that phase."""
        return [*self.extend.sources, *self.short_sources] if self.extend else []

    @property
    def short_sources(self) -> list[str]:
        """Sources of short texts that the long-context phase mixes in."""
        if self.extend is None or not self.extend.short_share:
            return []
        return self.distill_sources if self.extend.short_sources is None else self.extend.short_sources

    @property
    def out_dir(self) -> Path:
        """Where the run writes."""
        return Path(self.out or f"runs/{self.name}")

    def digest(self, *sections: str) -> str:
        """SHA-256 (hex, 16 digits) over the named sections, or over the whole recipe: what a stage depends on."""
        body = self.model_dump(mode="json")
        body = {s: body[s] for s in sections} if sections else body
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write the resolved recipe as YAML."""
        body = yaml.dump(self.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True)
        with atomic_write(path) as temporary:
            temporary.write_text(body, encoding="utf-8")
