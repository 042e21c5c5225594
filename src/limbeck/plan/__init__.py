"""What a run would do, before it does it: texts, weights, memory, disk and time.

Reads local files and nothing else: where a data set or a model is not on this machine, a count is None and the plan
gives the cost of a million texts instead.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from limbeck.config import Recipe
from limbeck.machine import Machine, Precision, describe, load_average, matmul_rate, usable_cores
from limbeck.plan import estimate
from limbeck.plan.estimate import Rate, Shape
from limbeck.plan.models import student_config_of, teacher_config_of
from limbeck.plan.texts import Texts, count_texts

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MILLION = 1_000_000
TYPICAL_LENGTH = 128  # tokens of a text, where the texts are not at hand
_STORE_KEY_BYTES = 16  # of each stored vector
# A measure that means the same to everybody: dense bf16 peak of one H100, at the share of it that training reaches.
REFERENCE_GPU, REFERENCE_FLOPS = "H100", 989e12 * estimate.ASSUMED_UTILISATION


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
    attention: str  # "eager" or "sdpa", which stands for every kernel that keeps no attention matrix
    length: int  # mean tokens of a text
    longest: int  # tokens that training truncates a text to


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that `limbeck plan` prints."""

    recipe: str
    out: str
    machine: Machine
    device: str
    precision: Precision
    student: Shape
    teacher: Shape | None  # None = its files are not here
    teacher_layers: int | None  # weights outside the token table, from its files or from the recipe
    compute_ratio: float | None  # student / teacher, operations for a token of a text of `length` tokens
    length: int
    data: list[Texts]
    passes: float | None  # over the training texts
    stages: list[Stage]
    rates: dict[str, Rate]
    per_million_texts: dict[str, float | None]  # disk bytes and seconds of teaching
    reference_gpu_hours: float | None
    assumptions: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def make_plan(recipe: Recipe, *, probe: bool = True, read_seconds: float = 10.0) -> Plan:
    """Work out what `limbeck run` would do with this recipe on this machine.

    Args:
        recipe: as `load_recipe` gives it.
        probe: measure the speed of the student and the teacher here (some seconds); else no times are given.
        read_seconds: how long a local source may be read to count texts; what is left uncounted is said.

    Raises:
        ModelError: the student's shape is neither in the recipe nor on this machine.
        DataError: a local source cannot be read.
    """
    import torch

    from limbeck.model import runtime

    torch.set_num_threads(recipe.threads or usable_cores())
    device = runtime.device_of()
    teacher_config = teacher_config_of(recipe)
    student_config = student_config_of(recipe, teacher_config)
    student = estimate.shape_of(student_config)
    teacher = estimate.shape_of(teacher_config) if teacher_config else None
    longest = recipe.distill.max_tokens or recipe.student.max_tokens
    data = count_texts(recipe, longest, read_seconds)
    length = min(longest, round(_mean_tokens(data) or TYPICAL_LENGTH))
    how = Running(
        device=device.type,
        precision=runtime.precision_of(recipe.distill.precision, device),
        teacher_precision=runtime.precision_of(recipe.teacher.precision, device),
        attention="eager" if runtime.attention_of(recipe.distill.attention, device, longest) == "eager" else "sdpa",
        length=length,
        longest=longest,
    )
    rates = _rates(recipe, student_config, teacher_config, student, how) if probe else {}
    stages = _stages(recipe, student_config, student, teacher, data, rates, how)
    flops = [s.flops for s in stages if s.flops]
    teacher_flops = _teacher_flops(recipe, teacher, length)
    return Plan(
        recipe=recipe.name,
        out=str(recipe.out_dir),
        machine=describe(),
        device=how.device,
        precision=how.precision,
        student=student,
        teacher=teacher,
        teacher_layers=teacher.layers if teacher else recipe.teacher.parameters,
        compute_ratio=student.forward_flops(length) / teacher_flops if teacher_flops else None,
        length=length,
        data=data,
        passes=_passes(recipe, data),
        stages=stages,
        rates=rates,
        per_million_texts=_per_million(recipe, rates, length),
        reference_gpu_hours=sum(flops) / REFERENCE_FLOPS / 3600 if flops else None,
        assumptions=_assumptions(recipe, teacher, data, length, probe),
    )


def _teacher_flops(recipe: Recipe, teacher: Shape | None, length: int) -> int | None:
    """Operations of the teacher for one token."""
    if teacher:
        return teacher.forward_flops(length)
    return 2 * recipe.teacher.parameters if recipe.teacher.parameters else None


def _mean_tokens(data: list[Texts]) -> float | None:
    means = [d.mean_tokens for d in data if d.mean_tokens]
    return sum(means) / len(means) if means else None


def _total(data: list[Texts], name: str) -> int | None:
    """Sum over the sources; None as soon as one is not known."""
    values = [getattr(d, name) for d in data]
    return None if None in values else sum(values)


def _passes(recipe: Recipe, data: list[Texts]) -> float | None:
    if _total(data, "tokens") is None:
        return None
    weighted = sum((d.tokens or 0) * s.weight for d, s in zip(data, recipe.data.sources, strict=True))
    kept = weighted * (1 - recipe.data.heldout_fraction)
    return recipe.distill.steps * recipe.distill.tokens_per_step / kept if kept else None


def _rates(
    recipe: Recipe,
    student_config: PretrainedConfig,
    teacher_config: PretrainedConfig | None,
    student: Shape,
    how: Running,
) -> dict[str, Rate]:
    """Tokens a second of the teacher reading and the student learning; without the teacher where nothing is known."""
    common: dict[str, Any] = {"length": how.length, "device": how.device}
    rates = {
        "student": estimate.measure(
            student_config, precision=how.precision, train=True, attention=how.attention, **common
        )
    }
    flops = _teacher_flops(recipe, None, how.length)
    if teacher_config:
        rates["teacher"] = estimate.measure(teacher_config, precision=how.teacher_precision, train=False, **common)
    elif flops and recipe.teacher.type != "openai":
        products = [(estimate.PROBE_TOKENS, i, o) for i, o in student.linear]
        rate = matmul_rate(products, how.teacher_precision, device=how.device)
        rates["teacher"] = estimate.assumed(flops, rate, how.teacher_precision)
    return rates


def _stages(
    recipe: Recipe,
    student_config: PretrainedConfig,
    student: Shape,
    teacher: Shape | None,
    data: list[Texts],
    rates: dict[str, Rate],
    how: Running,
) -> list[Stage]:
    texts, tokens, chars = (_total(data, name) for name in ("texts", "tokens", "chars"))
    teacher_flops = _teacher_flops(recipe, teacher, how.length)
    taught = texts * how.length if texts is not None else None  # tokens: a text that many rows share is taught once
    taught_in = _teach_seconds(recipe, rates, texts, taught)
    projection = sum(d + 1 for d in recipe.student.dims) * recipe.teacher.dim  # a head for each prefix
    trained = student.total + projection
    step_tokens = recipe.distill.steps * recipe.distill.tokens_per_step
    step_flops = 3 * student.forward_flops(how.length) * step_tokens
    activations = estimate.activation_bytes(
        student_config,
        tokens=recipe.distill.tokens_per_micro_batch,
        length=min(how.longest, recipe.distill.tokens_per_micro_batch),  # at worst, every text is that long
        precision=how.precision,
        attention=how.attention,
        checkpointing=recipe.distill.gradient_checkpointing,
    )
    teacher_weights = teacher.total if teacher else recipe.teacher.parameters
    width = 2 if how.teacher_precision == "bf16" else 4
    read = ", ".join(d.source for d in data[:4]) + (f" and {len(data) - 4} more" if len(data) > 4 else "")
    return [
        Stage("data", f"read {read}; clean, drop duplicates, split", "data/", tokens=tokens, disk=chars),
        Stage(
            "teach",
            f"{recipe.teacher.model} reads every text once",
            recipe.teacher.store + "/",
            tokens=taught,
            memory={"weights": teacher_weights * width} if teacher_weights and recipe.teacher.type != "openai" else {},
            disk=_store_bytes(recipe, texts) if texts is not None else None,
            flops=teacher_flops * taught if teacher_flops and taught is not None else None,
            seconds=taught_in,
        ),
        Stage(
            "distill",
            f"{recipe.distill.steps:,} steps of {recipe.distill.tokens_per_step:,} tokens",
            "distill/",
            tokens=step_tokens,
            memory={
                "weights": 4 * trained,
                "gradients": 4 * trained,
                "AdamW": 8 * trained,
                "activations": activations,
            },
            # weights and both moments of AdamW; one checkpoint more than is kept, while the newest is written
            disk=12 * trained * (recipe.distill.keep_checkpoints + 1),
            flops=step_flops,
            seconds=step_tokens / rates["student"].tokens_per_second if "student" in rates else None,
        ),
        Stage("bundle", "the student as a folder that loads", "model/", disk=4 * trained),
        Stage(
            "evaluate",
            f"up to {recipe.evaluate.queries:,} held-out queries a source: teacher, student"
            + (", untrained student" if recipe.evaluate.untrained else ""),
            "scores.json",
            memory={"weights": 4 * student.total},
        ),
        Stage("report", "tables and plots", "report/"),
    ]


def _store_bytes(recipe: Recipe, texts: int) -> int:
    return texts * (2 * recipe.teacher.dim + _STORE_KEY_BYTES)


def _teach_seconds(recipe: Recipe, rates: dict[str, Rate], texts: int | None, tokens: int | None) -> float | None:
    teacher = recipe.teacher
    if teacher.type == "openai" and teacher.requests_per_minute and texts is not None:
        return texts / teacher.texts_per_request / teacher.requests_per_minute * 60
    if tokens is None or "teacher" not in rates:
        return None
    return tokens / rates["teacher"].tokens_per_second


def _per_million(recipe: Recipe, rates: dict[str, Rate], length: int) -> dict[str, float | None]:
    return {
        "store_bytes": _store_bytes(recipe, MILLION),
        "teach_seconds": _teach_seconds(recipe, rates, MILLION, MILLION * length),
    }


def _assumptions(recipe: Recipe, teacher: Shape | None, data: list[Texts], length: int, probe: bool) -> list[str]:
    said = ["a step is timed uncompiled and without the optimizer; loading, cleaning and evaluation are not timed"]
    if not probe:
        said = ["no times: they need the probe"]
    load = load_average()
    if probe and load and load[0] > usable_cores():
        said.append(f"this machine is busy (load {load[0]:.1f} on {usable_cores()} cores): the times are too long")
    if _mean_tokens(data) is None:
        said.append(f"texts of {length} tokens on average, until they are read")
    if teacher is None and recipe.teacher.parameters:
        said.append(
            "the teacher's files are not here: its weights are teacher.parameters, attention scores not counted"
        )
    if teacher is None and not recipe.teacher.parameters:
        said.append("the teacher's size is not known: set teacher.parameters to have its compute counted")
    if any(d.note for d in data):
        said.append("where one source is not counted, sums over all sources are not known")
    return said
