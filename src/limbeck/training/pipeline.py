"""A recipe from texts to bundle and report: data → teach → distill → bundle → evaluate → report.

Each stage is a folder with a manifest; one whose inputs are unchanged is skipped, one that was killed goes on.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers.utils.logging import disable_progress_bar

import limbeck
from limbeck import machine
from limbeck.config import Recipe
from limbeck.data.prepare import Prepared, prepare
from limbeck.data.tables import ExampleTable
from limbeck.data.tokens import TokenTable
from limbeck.errors import ConfigError
from limbeck.evaluation import heldout
from limbeck.evaluation.report import write_report
from limbeck.evaluation.scores import ParameterCount, Parameters, Scores, Sides, read_metrics
from limbeck.files import read_json, write_json
from limbeck.model import backbone as backbones
from limbeck.model.bundle import BundleSpec, TeacherNote, save_bundle
from limbeck.model.card import model_card
from limbeck.model.encoder import Encoder, load
from limbeck.model.student import StudentModel
from limbeck.teacher.backends import TeacherModel, load_teacher, resolve_model_folder
from limbeck.teacher.store import TeacherStore
from limbeck.training.distill import ROLE_PREFIX, TaughtSource, distill, tokenise
from limbeck.training.stages import Stage, digest, source_state

STAGES = ("data", "teach", "distill", "bundle", "evaluate", "report")


def run(recipe: Recipe, *, stop_after: str | None = None, force: bool = False, console: Console | None = None) -> Path:
    """Do what is not done yet. Returns the run's folder.

    Args:
        recipe: the run.
        stop_after: name of a stage to stop after.
        force: do every stage again; the teacher's vectors are kept, they belong to the store.
        console: where progress goes; None = nowhere.

    Raises LimbeckError.
    """
    if stop_after is not None and stop_after not in STAGES:
        raise ConfigError(f"unknown stage {stop_after!r}; the stages are {', '.join(STAGES)}")
    disable_progress_bar()  # of transformers, in the midst of ours
    torch.set_num_threads(recipe.threads or machine.usable_cores())
    this = Pipeline(recipe, console or Console(quiet=True))
    recipe.save(recipe.out_dir / "recipe.yaml")
    for name in STAGES:
        this.do(name, force=force)
        if name == stop_after:
            break
    return recipe.out_dir


class Pipeline:
    """The stages of one run. What several need (teacher, store, prepared data) is loaded once, when first needed."""

    def __init__(self, recipe: Recipe, console: Console) -> None:
        """Args: the run; where it says what it does."""
        self.recipe, self.out, self.console = recipe, recipe.out_dir, console
        self.live = console if console.is_terminal else Console(quiet=True)  # for what moves: noise in a file

    def do(self, name: str, *, force: bool = False) -> dict[str, Any]:
        """Complete one stage and say so."""
        stage = self.stage(name)
        if force:
            stage.invalidate()
            if name == "distill":
                shutil.rmtree(stage.folder / "checkpoints", ignore_errors=True)
        if done := stage.manifest():
            self.console.print(f"[dim]{name:<9} done before, {done['seconds']:.1f} s[/dim]")
            return done
        body = stage.complete(getattr(self, f"_{name}"))
        self.console.print(f"{name:<9} done in {body['seconds']:.1f} s  [dim]{_facts(body)}[/dim]")
        return body

    def stage(self, name: str) -> Stage:
        """The stage with the key of its present inputs."""
        folders = {"bundle": "model"}
        return Stage(name, self.out / folders.get(name, name), self._key(name))

    def _key(self, name: str) -> str:
        recipe = self.recipe
        if name == "data":
            return digest("data", recipe.digest("data"), [source_state(s) for s in recipe.data.sources])
        if name == "teach":
            instructions = [recipe.teacher.query_instruction, recipe.teacher.document_instruction]
            return digest("teach", self.prepared.fingerprint, self.teacher.fingerprint, instructions)
        if name == "distill":
            # the teacher is in the key of its vectors; where they are stored and how they were fetched changes nothing
            silent = {"checkpoint_every", "keep_checkpoints", "log_every"}
            body = recipe.model_dump(mode="json", include={"student", "distill", "seed"}, exclude={"distill": silent})
            return digest("distill", self._key("teach"), recipe.teacher.dim, body)
        if name == "bundle":
            return digest("bundle", self._key("distill"), recipe.name)
        if name == "evaluate":
            return digest("evaluate", self._key("bundle"), recipe.digest("evaluate"))
        return digest("report", self._key("evaluate"), limbeck.__version__)

    # ------------------------------------------------------------------------------------- shared parts

    @cached_property
    def prepared(self) -> Prepared:
        """The prepared data."""
        return Prepared.open(self.out / "data")

    @cached_property
    def teacher(self) -> TeacherModel:
        """The teacher; its weights are read only when a text is new to the store."""
        return load_teacher(self.recipe.teacher)

    @cached_property
    def store(self) -> TeacherStore:
        """The teacher's vectors."""
        settings = self.recipe.teacher
        return TeacherStore.open(Path(settings.store), fingerprint=self.teacher.fingerprint, dim=settings.dim)

    def _instruction(self, role: str) -> str:
        settings = self.recipe.teacher
        return settings.query_instruction if role == "query" else settings.document_instruction

    def _taught(self, table: ExampleTable, advance: Any = None) -> np.ndarray:
        """Store rows of all texts of a table, first role first."""
        return np.concatenate(
            [
                self.store.teach(
                    table.teacher_texts(role),
                    self._instruction(ROLE_PREFIX[role]),
                    self.teacher.encode,
                    progress=advance,
                )
                for role in table.roles
            ]
        )

    # ------------------------------------------------------------------------------------- stages

    def _data(self) -> dict[str, Any]:
        with self.live.status("reading and cleaning texts") as status:
            prepared = prepare(
                self.recipe.data,
                self.out / "data",
                progress=lambda name, rows: status.update(f"reading {name}: {rows:,} rows"),
            )
        self.__dict__["prepared"] = prepared
        totals = {k: sum(c[k] for c in prepared.counts.values()) for k in ("read", "train", "heldout")}
        return {"fingerprint": prepared.fingerprint, **totals}

    def _teach(self) -> dict[str, Any]:
        heldout.heldout_sets(self.prepared, self.recipe.evaluate.queries)  # an error now, not after hours of training
        tables = [table for split in self.prepared.sources.values() for table in (split.train, split.heldout)]
        total = sum(len(t) * len(t.roles) for t in tables)
        before = len(self.store)
        with self._bar("teach", total) as advance:
            for table in tables:
                self._taught(table, advance)
        facts: dict[str, Any] = {"texts": total, "new": len(self.store) - before, "dim": self.recipe.teacher.dim}
        return facts | {"truncated": self.teacher.truncated}

    def _distill(self) -> dict[str, Any]:
        recipe, key = self.recipe, self._key("distill")
        built = self._untrained()
        sources = []
        for name, split in self.prepared.sources.items():
            stem = self.out / "distill" / "tokens" / f"{name}-{key}"
            limit = recipe.distill.max_tokens or recipe.student.max_tokens
            with self.live.status(f"tokenising {name}"):
                table = (
                    TokenTable.open(stem)
                    if TokenTable.finished(stem)
                    else tokenise(split.train, stem, built.tokenizer, max_tokens=limit)
                )
            rows = self._taught(split.train)  # looked up by text: row numbers would not outlive their store
            sources.append(TaughtSource(name, split.train.weight, table, rows, len(split.train.roles)))
        model, tokens = distill(
            recipe, built, sources, self.store.gather, self.out / "distill", key=key, console=self.live
        )
        self.__dict__["student"] = model
        return {
            "steps": recipe.distill.steps,
            "tokens": tokens,
            "tokens_per_pass": sum(s.tokens.tokens for s in sources),
            "truncated": sum(s.tokens.truncated for s in sources),
        }

    def _bundle(self) -> dict[str, Any]:
        recipe = self.recipe
        if "student" not in self.__dict__:  # trained in an earlier process: read the last checkpoint
            self._distill()
        model: StudentModel = self.__dict__["student"]
        spec = self._spec()
        tokenizer = backbones.tokenizer_of(recipe.student, self._teacher_folder)
        save_bundle(
            self.out / "model",
            backbone=model.backbone,
            tokenizer=tokenizer,
            spec=spec,
            projection=model.projection,
            card=model_card(recipe, spec),
        )
        return {"bytes": sum(f.stat().st_size for f in (self.out / "model").rglob("*") if f.is_file())}

    def _evaluate(self) -> dict[str, Any]:
        recipe = self.recipe
        sets = heldout.heldout_sets(self.prepared, recipe.evaluate.queries)
        student = load(self.out / "model")
        dims = recipe.student.dims
        with self.live.status("scoring the teacher"):
            teacher = heldout.score(sets, self._stored, dims)
        with self.live.status("scoring the student"):
            scored = heldout.score(sets, lambda role, texts: student.encode(texts, role=role), dims)
        untrained = None
        if recipe.evaluate.untrained:
            with self.live.status("scoring the untrained student"):
                built = self._untrained()
                blank = Encoder(
                    StudentModel(built.model, pooling=recipe.student.pooling), built.tokenizer, self._spec()
                )
                untrained = heldout.score(sets, lambda role, texts: blank.encode(texts, role=role), dims[-1:])
        speed = self._speeds(sets, student) if recipe.evaluate.speed_texts else None
        means = {"teacher": teacher.means, "student": scored.means} | (
            {"untrained": untrained.means} if untrained else {}
        )
        found = {
            **{m: {who: values[m] for who, values in means.items()} for m in teacher.means},
            "queries": sum(len(s.queries) for s in sets),
            "documents": sum(len(s.documents) for s in sets),
            "dims": scored.curve,
            "teacher_dims": teacher.curve,
            "texts_per_second": speed,
            "examples": [e.model_dump() for e in heldout.examples(sets, scored)],
            **self._sizes(student),
        }
        write_json(self.out / "evaluate" / "results.json", found)
        return {"ndcg_at_10": found["ndcg_at_10"]}

    def _report(self) -> dict[str, Any]:
        recipe = self.recipe
        results = read_json(self.out / "evaluate" / "results.json")
        manifests = {name: self.stage(name).manifest() or {} for name in STAGES[:-1]}
        seconds = {name: float(body.get("seconds", 0)) for name, body in manifests.items()}
        about = machine.describe()
        scores = Scores(
            name=recipe.name,
            description=recipe.description,
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            teacher=Path(recipe.teacher.model).name,
            student=_student_words(recipe, load(self.out / "model").model.backbone.config),
            seconds=round(sum(seconds.values()), 1),
            seconds_by_stage=seconds,
            peak_rss_mb=max(
                round(machine.peak_rss_mib(), 1), *(body.get("peak_rss_mb", 0) for body in manifests.values())
            ),
            vector_dim=Sides(teacher=recipe.teacher.dim, student=recipe.student.dims[-1]),
            data={k: dict(v) for k, v in self.prepared.counts.items()},
            steps=recipe.distill.steps,
            tokens=manifests["distill"].get("tokens"),
            command=shlex.join(["limbeck", *sys.argv[1:]]),
            versions={"python": about.python, **about.packages},
            machine={
                "cpu": about.cpu,
                "cores": about.cores,
                "memory_gib": about.ram_gib,
                "bf16": about.cpu_bf16,
                "gpu": about.gpu,
            },
            **results,
        )
        scores.save(self.out / "scores.json")
        write_report(scores, read_metrics(self.out / "distill" / "metrics.jsonl"), self.out / "report")
        quality = scores.ndcg_at_10
        self.console.print(
            f"\nheld-out nDCG@10: teacher {quality.teacher:.3f}, student {quality.student:.3f} "
            f"({100 * (scores.retention or 0):.1f}% kept)"
            + (f", untrained {quality.untrained:.3f}" if quality.untrained is not None else "")
        )
        for example in scores.examples:
            self.console.print(f"\n[bold]{example.query}[/bold]", highlight=False)
            for hit in example.hits[:3]:
                self.console.print(
                    f"  {hit.score:.3f}  {hit.id}{'  <- the answer' if hit.gold else ''}", highlight=False
                )
        self.console.print(f"\nreport: {self.out / 'report' / 'index.html'}\nmodel:  {self.out / 'model'}")
        return {"retention": scores.retention}

    # ------------------------------------------------------------------------------------- helpers

    @cached_property
    def _teacher_folder(self) -> str | Path:
        return resolve_model_folder(self.recipe.teacher)

    def _untrained(self) -> backbones.Backbone:
        return backbones.build(self.recipe.student, self._teacher_folder, seed=self.recipe.seed)

    def _spec(self) -> BundleSpec:
        recipe, teacher = self.recipe, self.recipe.teacher
        train = recipe.student.rope.train_theta
        return BundleSpec(
            name=recipe.name,
            pooling=recipe.student.pooling,
            dims=recipe.student.dims,
            max_tokens=recipe.student.max_tokens,
            train_theta=train,
            inference_theta=recipe.student.rope.inference_theta or train,
            teacher=TeacherNote(
                model=teacher.model,
                revision=teacher.revision,
                dim=teacher.dim,
                query_instruction=teacher.query_instruction,
                document_instruction=teacher.document_instruction,
            ),
            recipe=recipe.digest("data", "teacher", "student", "distill", "seed"),
            limbeck=limbeck.__version__,
        )

    def _stored(self, role: str, texts: Sequence[str]) -> np.ndarray:
        """The teacher's vectors of held-out texts, which the teach stage made."""
        rows = self.store.teach(texts, self._instruction(role), self.teacher.encode)
        return self.store.gather(rows).astype(np.float32)

    def _speeds(self, sets: Sequence[heldout.HeldOut], student: Encoder) -> dict[str, float]:
        texts = sets[0].documents[: self.recipe.evaluate.speed_texts]
        sides = {"teacher": lambda: self.teacher.encode(texts), "student": lambda: student.encode(texts)}
        with self.live.status("timing both"):
            return heldout.texts_per_second(sides, len(texts))

    def _sizes(self, student: Encoder) -> dict[str, Any]:
        of_student = backbones.size(student.model.backbone)
        try:
            of_teacher = backbones.size(backbones.load_plain(self._teacher_folder))
        except (limbeck.LimbeckError, AttributeError):  # an endpoint shows no weights
            return {"parameters": Parameters(student=_count(of_student)).model_dump()}
        return {
            "parameters": Parameters(teacher=_count(of_teacher), student=_count(of_student)).model_dump(),
            "compute_per_token_ratio": of_student.layers / of_teacher.layers,
        }

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


def _count(size: backbones.Size) -> ParameterCount:
    return ParameterCount(total=size.total, without_token_embeddings=size.layers)


def _student_words(recipe: Recipe, config: Any) -> str:
    kind = "decoder" if getattr(config, "is_causal", None) and recipe.student.init == "fresh" else "transformer"
    return f"{config.num_hidden_layers} × {config.hidden_size} rotary {kind}, {recipe.student.pooling}-token pooling"


def _facts(body: dict[str, Any]) -> str:
    shown = {k: v for k, v in body.items() if k not in ("key", "limbeck", "seconds", "fingerprint", "peak_rss_mb")}
    return "  ".join(f"{k} {_short(v)}" for k, v in shown.items() if v is not None)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{k} {_short(v)}" for k, v in value.items())
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
