"""What each stage of a run depends on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import limbeck
from limbeck.training.stages import WITHOUT_SPREAD, adapters_of, chooses_layers, digest, source_state, stages_of

if TYPE_CHECKING:
    from limbeck.training.pipeline import Pipeline

# settings that no weight depends on
_SILENT = {"checkpoint_every", "keep_checkpoints", "log_every", "also_without_spread"}
_DEV = {"queries", "classification", "clustering", "shots"}  # settings that the score of a checkpoint depends on
_INFERENCE = {"inference_theta", "inference_scaling"}  # of student.rope: no weight depends on them


def stage_key(run: Pipeline, name: str) -> str:
    """Digest of what a stage makes its files from: while it stays the same, the stage is not done again."""
    recipe = run.recipe
    if name == "data":
        return digest("data", recipe.digest("data"), [source_state(s) for s in recipe.data.sources])
    if name == "teach":
        instructions = [recipe.teacher.query_instruction, recipe.teacher.document_instruction]
        adapters = {t: [b.teacher_instruction, *(s.name for s in b.sources)] for t, b in run.blocks.items()}
        asked = [instructions, recipe.distill_sources, recipe.extend_sources, adapters]
        return digest("teach", run.prepared.fingerprint, run.teacher.fingerprint, asked, *_further(run))
    if name == "prune":
        asked = recipe.student.model_dump(mode="json", exclude={"rope": _INFERENCE})
        how = [recipe.seed, recipe.distill.precision]
        return digest("prune", run.prepared.fingerprint, run.teacher.fingerprint, asked, how)
    if name == "distill":
        # teachers are in the key of their vectors; where these are stored and how they were fetched changes nothing
        left_out = {"distill": _SILENT, "student": {"rope": _INFERENCE}}
        body = recipe.model_dump(mode="json", include={"student", "distill", "seed"}, exclude=left_out)
        return digest("distill", _taught_key(run), recipe.teacher.dim, body, *_chosen(run))
    if name == "extend":
        body = recipe.model_dump(mode="json", include={"extend"}, exclude={"extend": _SILENT})
        return digest("extend", stage_key(run, "distill"), recipe.short_sources, body)
    if name.startswith("adapt-"):
        task, block = adapters_of(recipe)[name.removeprefix("adapt-")]
        asks = [recipe.teacher.query_instruction, recipe.teacher.document_instruction, recipe.seed]
        chooses = block.average is not None and block.average.keep == "better"
        dev = recipe.evaluate.model_dump(include=_DEV) if chooses else None
        return digest(name, stage_key(run, run.last), task, block.model_dump(mode="json", exclude=_SILENT), asks, dev)
    if name == "router":
        sources = {t: [s.name for s in b.sources] for t, b in run.blocks.items()}
        return digest("router", stage_key(run, run.last), sources)
    if name == "bundle":
        shipped = [s for s in stages_of(recipe) if s.startswith(("adapt-", "router"))]
        keys = [stage_key(run, s) for s in shipped if not s.endswith(WITHOUT_SPREAD)]
        inference = recipe.student.rope.model_dump(mode="json", include=_INFERENCE)
        return digest("bundle", stage_key(run, run.last), recipe.name, inference, keys)
    if name == "static":
        tokens = recipe.student.model_dump(mode="json", include={"init", "model", "revision", "pruned", "tokenizer"})
        settings = recipe.static and recipe.static.model_dump(mode="json")
        return digest("static", _taught_key(run), recipe.distill_sources, tokens, settings, recipe.seed)
    if name == "evaluate":
        besides = [stage_key(run, s) for s in stages_of(recipe) if s.endswith((WITHOUT_SPREAD, "static"))]
        return digest("evaluate", stage_key(run, "bundle"), recipe.digest("evaluate"), besides)
    return digest("report", stage_key(run, "evaluate"), limbeck.__version__)


def _chosen(run: Pipeline) -> list[str]:
    """What the choice of layers depends on, where the run makes it."""
    return [stage_key(run, "prune")] if chooses_layers(run.recipe) else []


def _taught_key(run: Pipeline) -> str:
    """Of the texts and their vectors, whichever of them a stage reads: adapters do not change stage 1."""
    settings = run.recipe.teacher
    instructions = [settings.query_instruction, settings.document_instruction]
    return digest("taught", run.prepared.fingerprint, run.teacher.fingerprint, instructions, *_further(run))


def _further(run: Pipeline) -> list[Any]:
    """What the vectors of further teachers depend on besides the texts."""
    asked = ("query_instruction", "document_instruction", "dim", "sources")
    return [[t.model.fingerprint, *(getattr(t.settings, name) for name in asked)] for t in run.teachers[1:]]
