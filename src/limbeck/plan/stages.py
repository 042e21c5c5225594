"""The steps of a run in order, and what each takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from limbeck.config import Adapter, Recipe, Stage1, Task
from limbeck.evaluation.formatting import short_count
from limbeck.machine import Precision
from limbeck.plan import estimate
from limbeck.plan.estimate import Rate, Shape
from limbeck.plan.texts import Texts

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Attention = Literal["eager", "sdpa"]  # sdpa stands for every kernel that keeps no attention matrix

TYPICAL_LENGTH = 128  # tokens of a text, where the texts are not at hand
_STORE_KEY_BYTES = 16  # of each stored vector
_WORDS = {
    "info_nce": "InfoNCE",
    "distill": "distillation",
    "spread": "spread",
    "cosent": "CoSENT of scored pairs",
    "relational": "relational distances",
}  # of the terms that an adapter is trained with


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the run. Bytes, seconds and operations; None = not known until the data is read."""

    name: str
    does: str
    writes: str
    tokens: int | None = None
    memory: dict[str, int] = field(default_factory=dict)  # bytes by what holds them
    disk: int | None = None
    flops: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """How the models run on this machine."""

    device: str
    precision: Precision
    teacher_precision: Precision
    attention: Attention
    length: int  # mean tokens of a text of stage 1
    longest: int  # tokens that stage 1 truncates a text to


@dataclass(frozen=True, slots=True)
class Models:
    """The student and the teacher."""

    config: PretrainedConfig  # of the student
    student: Shape
    teacher: Shape | None  # None = its files are not here
    projection: int  # weights


def stages(recipe: Recipe, models: Models, data: Sequence[Texts], rates: dict[str, Rate], how: Running) -> list[Stage]:
    """Work out every stage of `limbeck run`, in its order."""
    from limbeck.training.stages import adapters_of, stages_of

    blocks = {f"adapt-{name}": found for name, found in adapters_of(recipe).items()}
    weights = models.student.total + models.projection
    shipped = sum(models.student.lora_weights(block.lora) for block in recipe.adapters.by_task().values())
    chars = total(data, "chars")
    read = ", ".join(d.source for d in data[:4]) + (f" and {len(data) - 4} more" if len(data) > 4 else "")
    scored = f"up to {recipe.evaluate.queries:,} held-out queries a source: teacher, student"
    scored += ", untrained student" if recipe.evaluate.untrained else ""
    known = [
        Stage("data", f"read {read}; clean, drop duplicates, split", "data/", tokens=total(data, "tokens"), disk=chars),
        _teach(recipe, models, data, rates, how),
        Stage(
            "prune",
            f"which {models.student.depth} layers to keep, from texts of each source",
            "prune/",
            memory={"weights": 4 * models.teacher.total} if models.teacher and not _own_source(recipe) else {},
        ),
        _distill(recipe, models, rates, how),
        *([_extend(recipe, models, data, rates)] if recipe.extend else []),
        Stage(
            "router",
            "which adapter suits a text, from texts of each source",
            "router/",
            memory={"weights": 4 * models.student.total},
        ),
        Stage(
            "bundle",
            "the student as a folder that loads",
            "model/",
            memory={"weights": 4 * (weights + shipped)},
            disk=4 * (weights + shipped),
        ),
        Stage("static", "one vector a token, the floor to beat; on texts that the teacher has read", "static/"),
        Stage(
            "evaluate",
            scored + ("; every task by every adapter" if blocks else ""),
            "scores.json",
            memory={"weights": 4 * models.student.total},
        ),
        Stage("report", "tables and plots", "report/"),
    ]
    by_name = {stage.name: stage for stage in known}
    return [
        _adapt(recipe, name, *blocks[name], models, data, rates) if name in blocks else by_name[name]
        for name in stages_of(recipe)
    ]


def _own_source(recipe: Recipe) -> bool:
    """Whether the student's layers are those of another model than the teacher."""
    return recipe.student.pruned is not None and recipe.student.pruned.source is not None


def total(data: Sequence[Texts], name: str) -> int | None:
    """Sum over sources; None as soon as one is not known."""
    values = [getattr(d, name) for d in data]
    return None if None in values else sum(values)


def store_bytes(recipe: Recipe, texts: int) -> int:
    """Bytes of the teacher's vectors of texts."""
    return texts * (2 * recipe.teacher.dim + _STORE_KEY_BYTES)


def teach_seconds(recipe: Recipe, rates: dict[str, Rate], texts: int | None, tokens: int | None) -> float | None:
    """Seconds that the teacher takes to read texts; None = not known."""
    teacher = recipe.teacher
    if teacher.type == "openai" and teacher.requests_per_minute and texts is not None:
        return texts / teacher.texts_per_request / teacher.requests_per_minute * 60
    if tokens is None or "teacher" not in rates:
        return None
    return tokens / rates["teacher"].tokens_per_second


def teacher_flops(recipe: Recipe, teacher: Shape | None, length: int) -> int | None:
    """Operations of the teacher for one token."""
    if teacher:
        return teacher.forward_flops(length)
    return 2 * recipe.teacher.parameters if recipe.teacher.parameters else None


def _teach(recipe: Recipe, models: Models, data: Sequence[Texts], rates: dict[str, Rate], how: Running) -> Stage:
    texts = total(data, "texts")
    tokens = None
    if texts is not None:
        tokens = round(sum((d.texts or 0) * d.mean_tokens.get(how.longest, how.length) for d in data))
    flops = teacher_flops(recipe, models.teacher, how.length)
    weights = models.teacher.total if models.teacher else recipe.teacher.parameters
    width = 2 if how.teacher_precision == "bf16" else 4
    told = any(block.teacher_instruction is not None for block in recipe.adapters.by_task().values())
    return Stage(
        "teach",
        f"{recipe.teacher.model} reads every text once" + (" under each instruction" if told else ""),
        recipe.teacher.store + "/",
        tokens=tokens,
        memory={"weights": weights * width} if weights and recipe.teacher.type != "openai" else {},
        disk=store_bytes(recipe, texts) if texts is not None else None,
        flops=flops * tokens if flops and tokens is not None else None,
        seconds=teach_seconds(recipe, rates, texts, tokens),
    )


def _distill(recipe: Recipe, models: Models, rates: dict[str, Rate], how: Running) -> Stage:
    settings = recipe.distill
    stage = _stage_1("distill", settings, models, how.length, how.longest, how.precision, how.attention)
    seconds = (stage.tokens or 0) / rates["student"].tokens_per_second if "student" in rates else None
    return replace(stage, seconds=seconds)


def _extend(recipe: Recipe, models: Models, data: Sequence[Texts], rates: dict[str, Rate]) -> Stage:
    from limbeck.model import runtime

    settings, device = recipe.extend, runtime.device_of()
    assert settings is not None
    longest = settings.max_tokens or recipe.student.max_tokens
    precision = runtime.precision_of(settings.precision, device)
    attention = runtime.attention_of(settings.attention, device, longest, precision, trains=True)
    known = [d.mean_tokens[longest] for d in data if d.source in settings.sources and d.mean_tokens]
    length = round(sum(known) / len(known)) if known else longest  # where it is not known, as long as may be
    kind: Attention = "eager" if attention == "eager" else "sdpa"
    stage = _stage_1("extend", settings, models, length, longest, precision, kind)
    does = f"{stage.does} of texts of up to {longest:,}; {settings.short_share:.0%} short"
    seconds = (stage.flops or 0) / rates["student"].flops if "student" in rates else None
    return replace(stage, does=does, seconds=seconds)


def _stage_1(
    name: str, settings: Stage1, models: Models, length: int, longest: int, precision: Precision, attention: Attention
) -> Stage:
    """A phase of stage 1, without its seconds. length: mean tokens of a text; longest: where texts are cut."""
    student = models.student
    weights = student.total + models.projection
    trained = weights - (0 if settings.train_token_embeddings else student.token_table)
    tokens = settings.steps * settings.tokens_per_step
    activations = estimate.activation_bytes(
        models.config,
        tokens=max(settings.tokens_per_micro_batch, longest),  # a text is never divided
        length=longest,  # at worst, every text is that long
        precision=precision,
        attention=attention,
        checkpointing=settings.gradient_checkpointing,
        pooled=student.pooled,
    )
    memory = {"weights": 4 * weights, "gradients": 4 * trained, "AdamW": 8 * trained, "activations": activations}
    if settings.tokens_per_step > settings.tokens_per_micro_batch:
        # From the second forward pass of a step on, each gradient is made beside the one that it is added to. The last
        # of them is the token table's, when activations are no longer needed and their place is free.
        matrices = [i * o for _, i, o in student.linear]
        largest = 4 * (student.token_table if settings.train_token_embeddings else max(matrices))
        memory |= {"a gradient to add": largest - activations} if largest > activations else {}
    return Stage(
        name,
        f"{settings.steps:,} steps of {settings.tokens_per_step:,} tokens",
        f"{name}/",
        tokens=tokens,
        memory=memory,
        disk=4 * weights + _checkpoints(trained, settings.keep_checkpoints),
        flops=3 * student.forward_flops(length) * tokens,
    )


def _checkpoints(trained: int, kept: int) -> int:
    """Bytes of weights and both moments of AdamW; one more than is kept, while the newest is written."""
    return 12 * trained * (kept + 1)


def _adapt(
    recipe: Recipe,
    name: str,
    task: Task,
    settings: Adapter,
    models: Models,
    data: Sequence[Texts],
    rates: dict[str, Rate],
) -> Stage:
    from limbeck.model import runtime
    from limbeck.training.adapt import terms_of

    student, lora, device = models.student, settings.lora, runtime.device_of()
    longest = settings.max_tokens or recipe.student.max_tokens
    precision = runtime.precision_of(settings.precision, device)
    attention = runtime.attention_of(settings.attention, device, longest, precision, trains=True)
    drawn = _drawn(recipe, task, settings, data)
    trained = student.lora_weights(lora) + (models.projection if settings.train_projection else 0)
    still = student.frozen_bytes(precision) + (0 if settings.train_projection else 4 * models.projection)
    largest = max(drawn, key=lambda d: (d.kept, d.length))
    activations = estimate.activation_bytes(
        models.config,
        tokens=largest.kept,
        length=largest.length,
        precision=precision,
        attention="eager" if attention == "eager" else "sdpa",
        checkpointing=settings.gradient_checkpointing,
        pooled=student.pooled,
        lora=lora,
    )
    flops = sum(d.steps * d.tokens * student.adapter_flops(lora, d.length, recomputed=d.recomputed) for d in drawn)
    rows = " to ".join(f"{n:,}" for n in sorted({s.batch_size or settings.batch_size for s in settings.sources}))
    terms = " + ".join(_WORDS[term] for term, weight in terms_of(settings)[1].items() if weight)
    averaged = settings.average is not None and settings.steps > 1  # its earlier checkpoint is kept as well
    return Stage(
        name,
        f"{settings.steps:,} steps of {rows} rows: {terms}; LoRA of rank {lora.rank}, {short_count(trained)} weights",
        name.replace("adapt-", "adapt/", 1) + "/",
        tokens=round(sum(d.steps * d.tokens for d in drawn)),
        memory={"frozen weights": still, "adapter with AdamW": 16 * trained, "activations": activations},
        disk=_checkpoints(trained, settings.keep_checkpoints + averaged),
        flops=flops,
        seconds=flops / rates["adapter"].flops if "adapter" in rates else None,
    )


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The steps of an adapter that come from one source."""

    steps: float
    length: int  # mean tokens of a text
    tokens: int  # of a step
    kept: int  # tokens whose activations are in memory at once
    recomputed: bool


def _drawn(recipe: Recipe, task: Task, settings: Adapter, data: Sequence[Texts]) -> list[_Drawn]:
    found, weights = {d.source: d for d in data}, {s.name: s.weight for s in recipe.data.sources}
    limit = settings.max_tokens or recipe.student.max_tokens
    texts_of_row = 1 if task == "clustering" else 2 + getattr(settings, "negatives", 0)
    # a source has as many steps as its rows fill, times its weight; where rows are not known, as many as any other
    counted = all(found[s.name].rows for s in settings.sources)
    sizes = {s.name: s.batch_size or settings.batch_size for s in settings.sources}
    filled = {
        s.name: s.weight * weights[s.name] * (found[s.name].rows or 0) / sizes[s.name] if counted else 1.0
        for s in settings.sources
    }
    drawn = []
    for name, size in sizes.items():
        length = round(found[name].mean_tokens.get(limit, min(limit, TYPICAL_LENGTH)))
        tokens, held = size * texts_of_row * length, settings.tokens_in_memory
        recomputed = held is not None and tokens > held
        kept = min(tokens, max(held, settings.tokens_per_micro_batch)) if held is not None else tokens
        steps = settings.steps * filled[name] / sum(filled.values())
        drawn.append(_Drawn(steps, length, tokens, kept, recomputed))
    return drawn
