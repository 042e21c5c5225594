"""A recipe from texts to bundle and report, stage by stage.

data → teach → prune → distill → extend → adapters → router → bundle → static → evaluate → report

Each stage is a folder with a manifest; one whose inputs are unchanged is skipped, one that was killed goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers.utils.logging import disable_progress_bar

import limbeck
from limbeck.config import Adapter, Recipe, Scaling, Task
from limbeck.data.prepare import Prepared, prepare
from limbeck.data.tables import ExampleTable, Split
from limbeck.errors import ConfigError
from limbeck.evaluation import heldout
from limbeck.evaluation.tasks import heldout_tasks
from limbeck.model import backbone as backbones
from limbeck.model.adapters import Adapter as LoraAdapter
from limbeck.model.bundle import PROJECTION, ROUTER, BundleSpec, TeacherNote, save_bundle
from limbeck.model.card import model_card
from limbeck.model.encoder import Encoder
from limbeck.model.loading import load
from limbeck.model.pretrained import read_model
from limbeck.model.projection import Projection
from limbeck.model.router import Router
from limbeck.model.tokenizer import Tokenizer
from limbeck.teacher.backends import TeacherModel, teacher_files
from limbeck.teacher.store import TeacherStore
from limbeck.teacher.taught import Taught
from limbeck.training.distill import ROLE_PREFIX, UNTAUGHT
from limbeck.training.keys import stage_key
from limbeck.training.measure import evaluate, report
from limbeck.training.prune import choose_student_layers, with_chosen_layers
from limbeck.training.ranks import Ranks
from limbeck.training.stage_1 import distill_base, extend_base
from limbeck.training.stage_2 import train_adapter, train_router
from limbeck.training.stages import Stage, chooses_layers, stages_of
from limbeck.training.static import distill_static
from limbeck.training.task_sources import parts_of
from limbeck.training.tracking import check_trackers

if TYPE_CHECKING:
    from limbeck.scale.crew import Crew


def run(
    recipe: Recipe,
    *,
    stop_after: str | None = None,
    force: bool = False,
    console: Console | None = None,
    command: str = "",
    crew: Crew | None = None,
) -> Path:
    """Do what is not done yet. Returns the run's folder.

    In the processes of a launcher, stages that train are done by all of them, the others by the main one.

    Args:
        recipe: the run.
        stop_after: name of a stage to stop after.
        force: do every stage again; the teacher's vectors are kept, they belong to the store.
        console: where progress goes; None = nowhere.
        command: that the report names; "" = `limbeck run` with the resolved recipe.
        crew: workers that teach; None = this process does.

    Raises LimbeckError.
    """
    stages = stages_of(recipe)
    if stop_after is not None and stop_after not in stages:
        raise ConfigError(f"unknown stage {stop_after!r}; the stages of this recipe are {', '.join(stages)}")
    disable_progress_bar()  # of transformers, in the midst of ours
    ranks = Ranks.join()
    with ranks.together():
        torch.set_num_threads(recipe.threads or ranks.threads)
        shown = console if console and ranks.main else Console(quiet=True)
        this = Pipeline(recipe, shown, command, ranks, crew)
        ranks.from_main(this.begin)
        for name in stages:
            this.do(name, force=force)
            if name == stop_after:
                break
    return recipe.out_dir


class Pipeline:
    """The stages of one run. What several need (teacher, store, prepared data) is loaded once, when first needed."""

    def __init__(
        self,
        recipe: Recipe,
        console: Console,
        command: str = "",
        ranks: Ranks | None = None,
        crew: Crew | None = None,
    ) -> None:
        """Args: the run; where it says what it does; the command that its report names; its processes; who teaches."""
        self.crew = crew
        self.recipe, self.out, self.console = recipe, recipe.out_dir, console
        self.command = command or f"limbeck run {self.out / 'recipe.yaml'}"
        self.ranks = ranks or Ranks.alone()
        self.live = console if console.is_terminal else Console(quiet=True)  # for what moves: noise in a file

    def begin(self) -> None:
        """Write the resolved recipe. Raises ConfigError: a tracker that is not installed."""
        check_trackers(self.recipe.track)
        self.recipe.save(self.out / "recipe.yaml")

    def do(self, name: str, *, force: bool = False) -> dict[str, Any]:
        """Complete one stage and say so. Returns its manifest; on ranks that only helped to train, an empty one."""
        adapter = name.removeprefix("adapt-")
        trains = name in ("distill", "extend") or adapter != name
        work = partial(train_adapter, self, adapter) if adapter != name else getattr(self, f"_{name}")
        if not trains:
            return self.ranks.from_main(lambda: self._found(name, force) or self._complete(name, work))
        if done := self.ranks.from_main(lambda: self._found(name, force)):
            return done
        if self.ranks.main:
            return self._complete(name, work)
        work()
        return {}

    def _found(self, name: str, force: bool) -> dict[str, Any] | None:
        """The manifest of a stage that is done."""
        stage = self.stage(name)
        if force:
            stage.invalidate()
            shutil.rmtree(stage.folder / "checkpoints", ignore_errors=True)
        if done := stage.manifest():
            self.console.print(f"[dim]{name:<9} done before, {done['seconds']:.1f} s[/dim]")
        return done

    def _complete(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        body = self.stage(name).complete(work)
        self.console.print(f"{name:<9} done in {body['seconds']:.1f} s  [dim]{_facts(body)}[/dim]")
        return body

    def stage(self, name: str) -> Stage:
        """The stage with the key of its present inputs."""
        folder = "model" if name == "bundle" else name.replace("adapt-", "adapt/", 1)
        return Stage(name, self.out / folder, self.key(name))

    def key(self, name: str) -> str:
        """Digest of the present inputs of a stage."""
        return stage_key(self, name)

    # ------------------------------------------------------------------------------------- shared parts

    @property
    def blocks(self) -> dict[Task, Adapter]:
        """The adapters of the recipe."""
        return self.recipe.adapters.by_task()

    @cached_property
    def prepared(self) -> Prepared:
        """The prepared data."""
        return self._sampled(Prepared.open(self.out / "data"))

    def _sampled(self, prepared: Prepared) -> Prepared:
        return prepared.sampled(self.recipe.train_share, seed=self.recipe.seed)

    @property
    def teacher(self) -> TeacherModel:
        """The teacher; its weights are read only when a text is new to the store."""
        return self.teachers[0].model

    @property
    def store(self) -> TeacherStore:
        """The teacher's vectors."""
        return self.teachers[0].store

    @cached_property
    def teachers(self) -> list[Taught]:
        """The teacher, and the further ones of stage 1."""
        return [Taught(settings) for settings in (self.recipe.teacher, *self.recipe.further_teachers)]

    def instruction(self, role: str, task: Task = "retrieval") -> str:
        """What the teacher is told about a text of a role in a task."""
        settings, block = self.recipe.teacher, self.blocks.get(task)
        told = block.teacher_instruction if block else None
        if task == "retrieval":
            asked = settings.query_instruction if told is None else told
            return asked if role == "query" else settings.document_instruction
        return settings.document_instruction if told is None else told

    def teach_texts(self, texts: Sequence[str], instruction: str, advance: Any = None) -> np.ndarray:
        """Rows of texts in the teacher's store."""
        return self.teachers[0].rows(texts, instruction, advance)

    def taught_rows(self, name: str, table: ExampleTable) -> np.ndarray:
        """Store rows [N, K] of all texts of a source's table as stage 1 reads them, first role first, by K teachers.

        A teacher that does not teach the source has UNTAUGHT in place of rows.
        """
        columns = []
        for taught in self.teachers:
            if not taught.teaches(name):
                columns.append(np.full(len(table) * len(table.roles), UNTAUGHT))
                continue
            parts = [taught.rows(table.teacher_texts(r), taught.instruction(ROLE_PREFIX[r])) for r in table.roles]
            columns.append(np.concatenate(parts))
        return np.stack(columns, axis=1)

    def gather_all(self, rows: np.ndarray) -> np.ndarray:
        """Vectors [B, D] of store rows [B, K] of the K teachers of stage 1, side by side; zeros for UNTAUGHT."""
        return np.concatenate(
            [_vectors(taught, own) for taught, own in zip(self.teachers, rows.T, strict=True)], axis=1
        )

    @property
    def distilled(self) -> dict[str, Split]:
        """The sources of stage 1, its first phase."""
        return {name: self.prepared.sources[name] for name in self.recipe.distill_sources}

    def _extended(self) -> dict[str, Split]:
        """The sources of its long-context phase, short ones included."""
        return {name: self.prepared.sources[name] for name in self.recipe.extend_sources}

    def _to_teach(self) -> Iterator[tuple[Taught, list[str], str]]:
        """Every text that a later stage reads a teacher's vector of: the teacher, texts, instruction."""
        for taught in self.teachers:
            for name, split in (self.distilled | self._extended()).items():
                for role in split.train.roles if taught.teaches(name) else ():
                    yield taught, split.train.teacher_texts(role), taught.instruction(ROLE_PREFIX[role])
        first = self.teachers[0]
        for split in self.prepared.sources.values():
            for role in split.heldout.roles:
                task: Task = "text-matching" if split.heldout.kind == "scored_pair" else "retrieval"
                yield first, split.heldout.teacher_texts(role), self.instruction(ROLE_PREFIX[role], task)
        for task, block in self.blocks.items():
            for source in block.sources:
                for part in parts_of(self.recipe, task, block, self.prepared.sources[source.name].train):
                    if part.taught:
                        yield first, part.teacher_texts, part.instruction

    @property
    def last(self) -> str:
        """The stage that trains the base last."""
        return "extend" if self.recipe.extend else "distill"

    def trained_with(self, stage: str) -> tuple[float | None, Scaling | None]:
        """RoPE theta and scaling of a phase of stage 1."""
        first, later = self.recipe.student.rope, self.recipe.extend
        if stage == "distill" or later is None:
            return first.train_theta, first.train_scaling
        return later.theta or first.train_theta, later.scaling or first.train_scaling

    @property
    def student_folder(self) -> Path:
        """The trained base, with its training theta."""
        return self.out / self.last / "student"

    def base(self, folder: Path | None = None) -> backbones.Backbone:
        """A trained base (None = the last) with its training theta, ready to be trained on."""
        folder = folder or self.student_folder
        model = read_model(folder)
        return backbones.Backbone(model, Tokenizer.load(folder), model.config)

    # ------------------------------------------------------------------------------------- stages

    def _data(self) -> dict[str, Any]:
        with self.live.status("reading and cleaning texts") as status:
            prepared = prepare(
                self.recipe.data,
                self.out / "data",
                progress=lambda name, rows: status.update(f"reading {name}: {rows:,} rows"),
            )
        self.__dict__["prepared"] = self._sampled(prepared)
        totals = {k: sum(c[k] for c in prepared.counts.values()) for k in ("read", "train", "heldout")}
        return {"fingerprint": prepared.fingerprint, **totals}

    def _teach(self) -> dict[str, Any]:
        heldout.heldout_sets(self.prepared, self.recipe.evaluate.queries)  # an error now, not after hours of training
        heldout_tasks(self.prepared, self.recipe.evaluate, part="test")
        if self.recipe.static:
            import model2vec  # noqa: F401  # likewise, where the extra is not installed
        parts = list(self._to_teach())
        total = sum(len(texts) for _, texts, _ in parts)
        before = sum(len(taught.store) for taught in self.teachers)
        apart = self._taught_apart(parts)
        with self._bar("teach", total) as advance:
            for taught, texts, instruction in parts:
                taught.rows(texts, instruction, advance)
        new = sum(len(taught.store) for taught in self.teachers) - before
        facts: dict[str, Any] = {"texts": total, "new": new, "dim": self.recipe.teacher.dim}
        cut = [taught.model.truncated for taught in self.teachers]
        truncated = sum(c for c in cut if c is not None) + apart[0] if cut != [None] else None
        chunked = sum(taught.model.chunked for taught in self.teachers) + apart[1]
        return facts | {"truncated": truncated, "chunked": chunked}

    def _taught_apart(self, parts: list[tuple[Taught, list[str], str]]) -> tuple[int, int]:
        """Let the workers teach what is unknown, if there are any. Returns how many texts were cut, and in pieces."""
        if self.crew is None or self.crew.is_alone:
            return 0, 0
        from limbeck.scale.teach_corpus import teach_corpus

        done = teach_corpus(parts, self.crew, bar=partial(self._bar, "teach, by workers"))
        return done.truncated, done.chunked

    def encoder_with(self, adapters: dict[str, LoraAdapter]) -> Encoder:
        """The distilled student with adapters in memory."""
        base = load(self.student_folder)
        return Encoder(base.model, base.tokenizer, base.spec, device=base.device, adapters=adapters)

    def _prune(self) -> dict[str, Any]:
        return choose_student_layers(self)

    def _distill(self) -> dict[str, Any]:
        return distill_base(self)

    def _extend(self) -> dict[str, Any]:
        return extend_base(self)

    def _router(self) -> dict[str, Any]:
        return train_router(self)

    def _bundle(self) -> dict[str, Any]:
        recipe = self.recipe
        base, spec = self.base(), self.spec()
        adapters = {task: self.out / "adapt" / task / "adapter" for task in self.blocks}
        save_bundle(
            self.out / "model",
            backbone=base.model,
            tokenizer=base.tokenizer,
            spec=spec,
            projection=Projection.load(self.student_folder / PROJECTION),
            card=model_card(recipe, spec),
            adapters={task: LoraAdapter.load(folder) for task, folder in adapters.items()},
            projections={
                task: Projection.load(folder / PROJECTION)
                for task, folder in adapters.items()
                if (folder / PROJECTION).is_file()
            },
            router=Router.load(self.out / "router" / ROUTER) if "router" in stages_of(recipe) else None,
        )
        return {"bytes": sum(f.stat().st_size for f in (self.out / "model").rglob("*") if f.is_file())}

    def _static(self) -> dict[str, Any]:
        return distill_static(self)

    def _evaluate(self) -> dict[str, Any]:
        return evaluate(self)

    def _report(self) -> dict[str, Any]:
        return report(self)

    # ------------------------------------------------------------------------------------- helpers

    @cached_property
    def teacher_folder(self) -> str | None:
        """Where the teacher's files are; an endpoint shows none."""
        return None if self.recipe.teacher.type in ("openai", "random") else teacher_files(self.recipe.teacher)

    def untrained(self) -> backbones.Backbone:
        """The student before its first step."""
        student = self.recipe.student
        copied = self.teacher_folder if backbones.reads_teacher(student) else None
        if chooses_layers(self.recipe):
            student = with_chosen_layers(student, self.stage("prune"))
        return backbones.build(student, copied, seed=self.recipe.seed)

    def spec(self) -> BundleSpec:
        """What the bundle says about itself."""
        recipe, teacher = self.recipe, self.recipe.teacher
        asked, (theta, scaling) = recipe.student.rope, self.trained_with(self.last)
        return BundleSpec(
            name=recipe.name,
            pooling=recipe.student.pooling,
            dims=recipe.student.dims,
            max_tokens=recipe.student.max_tokens,
            train_theta=theta,
            inference_theta=asked.inference_theta or theta,
            train_scaling=scaling,
            inference_scaling=asked.inference_scaling or scaling,
            teacher=TeacherNote(
                model=teacher.model,
                revision=teacher.revision,
                dim=teacher.dim,
                query_instruction=teacher.query_instruction,
                document_instruction=teacher.document_instruction,
            ),
            recipe=recipe.digest("data", "teacher", "student", "distill", "extend", "adapters", "seed"),
            tasks=list(self.blocks),
            limbeck=limbeck.__version__,
        )

    def _bar(self, title: str, total: int) -> Any:
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=self.live, transient=True)
        task = bar.add_task(title, total=total)

        class _Context:
            def __enter__(self) -> Any:
                bar.start()
                return lambda n: bar.update(task, advance=n)

            def __exit__(self, *_: object) -> None:
                bar.stop()

        return _Context()


def _vectors(taught: Taught, rows: np.ndarray) -> np.ndarray:
    """Vectors [B, D] of store rows [B]; a step's texts are of one source, which a teacher teaches whole or not."""
    if (rows == UNTAUGHT).all():
        return np.zeros((len(rows), taught.settings.dim), np.float32)
    return taught.store.gather(rows)


def _facts(body: dict[str, Any]) -> str:
    hidden = ("key", "limbeck", "seconds", "fingerprint", "peak_rss_mb", "weights")
    shown = {k: v for k, v in body.items() if k not in hidden}
    return "  ".join(f"{k} {_short(v)}" for k, v in shown.items() if v is not None)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{k} {_short(v)}" for k, v in value.items())
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
