"""Arms × seeds of an experiment: trained and scored side by side, then compared. What is done is not done again.

OUT/seed-0/ARM/recipe.yaml    the arm's resolved recipe; its stages beside it, shared ones as links
OUT/seed-0/ARM/scores.json    its scores, with the key of all that they depend on
OUT/results.json              all of it, as `results.Results`
OUT/index.html, report.md     the same to read
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from limbeck import machine
from limbeck.ablation import arms, scoring
from limbeck.ablation.answers import answers_of, status_of, uneven_tokens, verdict
from limbeck.ablation.experiments import TOPICS, Arm, Experiment
from limbeck.ablation.results import ArmResult, ArmScores, Results
from limbeck.ablation.schedule import Done, Workers, run_all, workers
from limbeck.ablation.work import Job, key_of, known
from limbeck.config import load_recipe
from limbeck.errors import ConfigError, TrainingError
from limbeck.files import write_json
from limbeck.training.pipeline import Pipeline

RESULTS = "results.json"


@dataclass(frozen=True)
class Settings:
    """How an experiment is run.

    seeds: of each arm; tasks: to score besides the run's own held-out queries, see `find_tasks`; jobs: arms at a time,
    None = one a GPU, or one a core; shared: folder of finished stages, None = OUT/stages; workers: who does it, where
    they are started already.
    """

    seeds: Sequence[int] = (0, 1, 2)
    tasks: Sequence[str] = ()
    jobs: int | None = None
    shared: Path | None = None
    workers: Workers | None = None


def ablate(
    experiment: Experiment,
    out: Path,
    settings: Settings,
    *,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    command: str = "",
    console: Console | None = None,
) -> Results:
    """Train and score every arm with every seed, and write OUT/results.json.

    Args:
        experiment: see `experiments.EXPERIMENTS`.
        out: folder of the experiment.
        settings: see Settings.
        recipe: shipped name or file; None = the experiment's.
        overrides: of the recipe, for all arms, as `--set` takes them; an arm's own go on top.
        command: that the results name.
        console: where progress goes; None = nowhere.

    Raises ConfigError: no seed. TrainingError: an arm failed, or a worker was killed; arms that are done are kept.
    Others as `limbeck.training` does.
    """
    console = console or Console(quiet=True)
    seeds = list(dict.fromkeys(settings.seeds))
    if not seeds:
        raise ConfigError("an experiment needs at least one seed, and three to tell chance from effect")
    started = time.monotonic()
    this = _Arms(
        experiment, out, replace(settings, seeds=seeds), recipe or experiment.recipe, tuple(overrides), console
    )
    scores = this.scored()
    return _results(this, scores, command, time.monotonic() - started)


class _Arms:
    """The arms of one experiment as jobs."""

    def __init__(
        self,
        experiment: Experiment,
        out: Path,
        settings: Settings,
        recipe: str,
        overrides: tuple[str, ...],
        console: Console,
    ) -> None:
        self.experiment, self.out, self.settings, self.console = experiment, out, settings, console
        self.recipe, self.overrides = recipe, (*experiment.changes, *overrides)
        self.shared = settings.shared or out / arms.STAGES
        self.runs: dict[tuple[str, int], Pipeline] = {}
        self._arms = {arm.name: arm for arm in experiment.arms}
        self.jobs = [self._job(arm, seed) for seed in settings.seeds for arm in experiment.arms]

    def scored(self) -> dict[tuple[str, int], ArmScores]:
        """Scores of every arm and seed."""
        found: dict[tuple[str, int], ArmScores] = {}
        for job in self.jobs:
            arm = self._arms[job.arm]
            matched = found.get((arm.as_many_tokens_as or "", job.seed))
            if arm.as_many_tokens_as and matched is None:
                continue
            self._begin(job, matched)
            if done := known(job, key_of(self.runs[job.arm, job.seed], job)):
                found[job.arm, job.seed] = done
        left = [job for job in self.jobs if (job.arm, job.seed) not in found]
        self.console.print(
            f"[bold]{self.experiment.name}[/bold]: {len(self.experiment.arms)} arms × {len(self.settings.seeds)} "
            f"seeds, {len(found)} done before"
        )
        failed = []
        with nullcontext(self.settings.workers) if self.settings.workers else workers(self.settings.jobs) as by:
            for done in run_all(left, by, ready=lambda job: self._ready(job, found), claims=self._claims):
                failed += self._told(done, found)
        if failed:
            raise TrainingError(
                f"{len(failed)} of {len(self.jobs)} arms of {self.experiment.name} failed, the others are kept:\n"
                + "\n".join(failed)
            )
        return found

    def _told(self, done: Done, found: dict[tuple[str, int], ArmScores]) -> list[str]:
        """Keep and say what a job came to; a line of what went wrong, if something did."""
        name = f"{done.job.arm}, seed {done.job.seed}"
        if done.scores is None:
            self.console.print(f"{name} [red]failed[/red]: {done.error}", highlight=False)
            return [f"  {name}: {done.error}"]
        found[done.job.arm, done.job.seed] = done.scores
        scores = done.scores.scores
        shown = ", ".join(f"{m} {scores[m]:.3f}" for m in self.experiment.metrics if m in scores)
        self.console.print(f"{name}: {shown}  [dim]{done.scores.tokens:,} tokens[/dim]", highlight=False)
        return []

    def _job(self, arm: Arm, seed: int) -> Job:
        folder = self.out / f"seed-{seed}" / re.sub(r"[^A-Za-z0-9.]+", "-", arm.name)
        stages = ("data", "teach", "distill", *([] if arm.stage == "distill" else [arm.stage]))
        topics, curve = TOPICS in self.experiment.metrics, bool(self.experiment.curve)
        return Job(arm.name, seed, folder, stages, self.shared, curve, topics, tuple(self.settings.tasks))

    def _begin(self, job: Job, matched: ArmScores | None) -> None:
        """Write the arm's recipe, and have its texts taught, so that the keys of its other stages can be told."""
        arm = self._arms[job.arm]
        changes = [*self.overrides, *arm.changes, f"seed={job.seed}"]
        settings = load_recipe(self.recipe, tuple(changes)).distill
        if matched is not None:
            settings = settings.model_copy(update={"steps": max(1, round(matched.tokens / settings.tokens_per_step))})
            changes.append(f"distill.steps={settings.steps}")
        if job.curve:
            every = max(1, settings.steps // self.experiment.curve)
            changes += [f"distill.checkpoint_every={every}", f"distill.keep_checkpoints={settings.steps // every + 1}"]
        run = arms.arm(self.recipe, job.folder, changes, Console(quiet=True))
        for name in job.stages[:2]:
            if arms.unfinished(run, [name], self.shared):
                self.console.print(f"{job.arm}, seed {job.seed}: {name}")
            arms.do_shared(run, name, self.shared)
        self.runs[job.arm, job.seed] = run

    def _ready(self, job: Job, found: dict[tuple[str, int], ArmScores]) -> bool:
        """Whether the arm that it takes its tokens from is done; then its recipe is written."""
        if (job.arm, job.seed) in self.runs:
            return True
        matched = found.get((self._arms[job.arm].as_many_tokens_as or "", job.seed))
        if matched is None:
            return False
        self._begin(job, matched)
        return True

    def _claims(self, job: Job) -> set[str]:
        return arms.unfinished(self.runs[job.arm, job.seed], [n for n in job.stages if n not in job.own], self.shared)


def _results(this: _Arms, scores: dict[tuple[str, int], ArmScores], command: str, seconds: float) -> Results:
    experiment, seeds = this.experiment, list(this.settings.seeds)
    by_arm = {arm.name: [scores[arm.name, seed] for seed in seeds] for arm in experiment.arms}
    answers = answers_of(experiment.contrasts, by_arm)
    first = this.runs[experiment.arms[0].name, seeds[0]]
    about = machine.describe()
    names = {name for found in by_arm.values() for one in found for name in one.scores}
    status = status_of(experiment, answers)
    results = Results(
        name=experiment.name,
        question=experiment.question,
        claim=experiment.claim,
        fixed=list(experiment.fixed),
        caveat=experiment.caveat,
        recipe=first.recipe.name,
        description=first.recipe.description,
        metrics=list(experiment.metrics),
        units={name: scoring.metric_of(name) for name in sorted(names)},
        seeds=seeds,
        arms=[_arm(arm, by_arm[arm.name]) for arm in experiment.arms],
        references=_references(first, topics=TOPICS in experiment.metrics),
        answers=answers,
        status=status,
        verdict=verdict(experiment, status, answers),
        leaks={task: max(s.leaks.get(task, 0) for s in scores.values()) for task in _tasks(scores)},
        warnings=uneven_tokens(by_arm),
        counts=_counts(first),
        hours=round(_computed(this) / 3600, 2),
        commands=[command] if command else [],
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        machine={"cpu": about.cpu, "cores": about.cores, "memory_gib": about.ram_gib, "gpu": about.gpu},
        versions={"python": about.python, **about.packages},
    )
    write_json(this.out / RESULTS, results.model_dump(mode="json"))
    this.console.print(f"{results.verdict}  [dim]{seconds:.0f} s[/dim]", highlight=False)
    return results


def _references(run: Pipeline, *, topics: bool) -> dict[str, dict[str, float]]:
    """Every teacher's own scores."""
    names = [Path(taught.settings.model).name for taught in run.teachers]
    called = names if len(names) > 1 else ["teacher"]
    return {
        name: scoring.teacher_scores(taught, run, topics=topics)
        for name, taught in zip(called, run.teachers, strict=True)
    }


def _tasks(scores: dict[tuple[str, int], ArmScores]) -> list[str]:
    return sorted({task for one in scores.values() for task in one.leaks})


def _arm(arm: Arm, found: Sequence[ArmScores]) -> ArmResult:
    names = [name for name in found[0].scores if all(name in one.scores for one in found)]
    return ArmResult(
        name=arm.name,
        changes=list(arm.changes),
        dims=found[0].dims,
        scores={name: [one.scores[name] for one in found] for name in names},
        curves=[one.curve for one in found if one.curve],
        tokens=[one.tokens for one in found],
        steps=[one.steps for one in found],
        seconds=[one.seconds for one in found],
    )


def _counts(run: Pipeline) -> dict[str, int]:
    """Held-out queries and documents, and the training rows that there are and that a seed has."""
    sets = scoring.short_sets(run)
    sources = [run.prepared.sources[name] for name in run.recipe.distill_sources]
    return {
        "queries": sum(len(s.queries) for s in sets),
        "documents": sum(len(s.documents) for s in sets),
        "training rows of a seed": sum(len(s.train) for s in sources),
    }


def _computed(this: _Arms) -> float:
    """Seconds of all stages that were made for the arms, each once."""
    seconds: dict[Path, float] = {}
    for job in this.jobs:
        run = this.runs[job.arm, job.seed]
        for name in job.stages:
            stage = run.stage(name)
            seconds[stage.folder.resolve()] = float((stage.manifest() or {}).get("seconds", 0.0))
    return sum(seconds.values())
