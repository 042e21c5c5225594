"""Stage 1 within a run: what it reads from the stages before, and what it leaves to those behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.data.tokens import TokenTable
from limbeck.files import atomic_write
from limbeck.model.backbone import Backbone
from limbeck.model.bundle import PROJECTION, save_bundle
from limbeck.model.projection import Projection
from limbeck.model.student import StudentModel
from limbeck.model.tokenizer import Tokenizer
from limbeck.training.distill import TaughtSource, distill, tokenise
from limbeck.training.extend import extend
from limbeck.training.signals import learn_scores
from limbeck.training.stages import count_weights
from limbeck.training.task_sources import text_ids

if TYPE_CHECKING:
    from limbeck.training.pipeline import Pipeline


def distill_base(run: Pipeline) -> dict[str, Any]:
    """Train the student on short texts. Returns the facts of the stage's manifest."""
    recipe, key = run.recipe, run.key("distill")
    built = run.untrained()
    limit = recipe.distill.max_tokens or recipe.student.max_tokens
    limits = dict.fromkeys(run.distilled, limit)
    sources = run.ranks.from_main(lambda: _sources(run, "distill", built.tokenizer, limits))
    about: dict[str, Any] = {"key": key, "console": run.live}
    if recipe.distill.objective == "embedding":
        model, tokens = distill(recipe, built, sources, run.gather_all, run.out / "distill", **about)
    else:
        ids = [text_ids(run.prepared.sources[s.name].train) for s in sources]
        model, tokens = learn_scores(recipe, built, sources, ids, run.gather_all, run.out / "distill", **about)
    return _trained(run, "distill", model, built, sources, tokens)


def extend_base(run: Pipeline) -> dict[str, Any]:
    """Train it on, on long texts. Returns the facts of the stage's manifest."""
    recipe, settings = run.recipe, run.recipe.extend
    assert settings is not None
    folder = run.out / "distill" / "student"
    base = run.base(folder)
    short = settings.short_max_tokens or recipe.distill.max_tokens or recipe.student.max_tokens
    limits = dict.fromkeys(settings.sources, settings.max_tokens or recipe.student.max_tokens)
    limits |= dict.fromkeys(recipe.short_sources, short)
    sources = run.ranks.from_main(lambda: _sources(run, "extend", base.tokenizer, limits))
    model, tokens = extend(
        recipe,
        base,
        Projection.load(run.out / "distill" / PROJECTION if recipe.further_teachers else folder / PROJECTION),
        sources,
        run.gather_all,
        run.out / "extend",
        key=run.key("extend"),
        console=run.live,
    )
    return _trained(run, "extend", model, base, sources, tokens)


def _sources(run: Pipeline, stage: str, tokenizer: Tokenizer, limits: dict[str, int]) -> list[TaughtSource]:
    """Sources of a phase of stage 1, tokenised; limits: name → tokens that its texts are cut to."""
    found = []
    for name, limit in limits.items():
        train = run.prepared.sources[name].train
        stem = run.out / stage / "tokens" / f"{name}-{run.key(stage)}"
        with run.live.status(f"tokenising {name}"):
            finished = TokenTable.finished(stem)
            table = TokenTable.open(stem) if finished else tokenise(train, stem, tokenizer, max_tokens=limit)
        rows = run.taught_rows(name, train)  # looked up by text: row numbers would not outlive their store
        found.append(TaughtSource(name, train.weight, table, rows, len(train.roles)))
    return found


def _trained(
    run: Pipeline, stage: str, model: StudentModel, base: Backbone, sources: list[TaughtSource], tokens: int
) -> dict[str, Any]:
    """Save what a phase of stage 1 trained; returns the facts of its manifest."""
    if not run.ranks.main:
        return {}
    # what is trained on top trains under the theta that this was trained under
    theta, scaling = run.trained_with(stage)
    trained = {"train_theta": theta, "train_scaling": scaling}
    spec = run.spec().model_copy(update=trained | {"inference_theta": None, "inference_scaling": None})
    projection = model.projection
    assert isinstance(projection, Projection)
    if run.recipe.further_teachers:  # a later phase goes on with all; a bundle leads to the first
        with atomic_write(run.out / stage / PROJECTION) as temporary:
            projection.save(temporary)
        projection = projection.first(run.recipe.teacher.dim)
    save_bundle(
        run.out / stage / "student",
        backbone=model.backbone,
        tokenizer=base.tokenizer,
        spec=spec,
        projection=projection,
    )
    settings = run.recipe.distill if stage == "distill" else run.recipe.extend
    return {
        "steps": settings.steps if settings else 0,
        "tokens": tokens,
        "tokens_per_pass": sum(s.tokens.tokens for s in sources),
        "truncated": sum(s.tokens.truncated for s in sources),
        "weights": count_weights(model),
    }
