"""What a run would do, before it does it: texts, weights, memory, disk and time.

Reads local files and nothing else: where a data set or a model is not on this machine, a count is None and the plan
gives the cost of a million texts instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from limbeck.config import Recipe
from limbeck.machine import Machine, Precision, describe, load_average, matmul_rate, usable_cores
from limbeck.plan import estimate
from limbeck.plan.estimate import Rate, Shape
from limbeck.plan.models import student_config_of, teacher_config_of
from limbeck.plan.stages import (
    TYPICAL_LENGTH,
    Models,
    Running,
    Stage,
    stages,
    store_bytes,
    teach_seconds,
    teacher_flops,
)
from limbeck.plan.texts import Texts, count_texts

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MILLION = 1_000_000
# A measure that means the same to everybody: dense bf16 peak of one H100, at the share of it that training reaches.
REFERENCE_GPU, REFERENCE_FLOPS = "H100", 989e12 * estimate.ASSUMED_UTILISATION


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
    passes: float | None  # of stage 1 over its texts
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
        ConfigError: settings that do not fit the student or the sources.
    """
    import torch

    from limbeck.model import runtime

    torch.set_num_threads(recipe.threads or usable_cores())
    device = runtime.device_of()
    teacher_config = teacher_config_of(recipe)
    student_config = student_config_of(recipe, teacher_config)
    longest = recipe.distill.max_tokens or recipe.student.max_tokens
    precision = runtime.precision_of(recipe.distill.precision, device)
    attention = runtime.attention_of(recipe.distill.attention, device, longest, precision, trains=True)
    pooled = recipe.student.pooling == "last" and attention in ("eager", "sdpa", runtime.EAGER_OR_SDPA)
    student = estimate.shape_of(student_config, pooled=pooled)
    teacher = estimate.shape_of(teacher_config) if teacher_config else None
    limits = [longest, *([recipe.extend.max_tokens or recipe.student.max_tokens] if recipe.extend else [])]
    limits += [b.max_tokens or recipe.student.max_tokens for b in recipe.adapters.by_task().values()]
    data = count_texts(recipe, list(dict.fromkeys(limits)), read_seconds)
    means = [d.mean_tokens[longest] for d in _distilled(recipe, data) if d.mean_tokens]
    length = min(longest, round(sum(means) / len(means) if means else TYPICAL_LENGTH))
    how = Running(
        device=device.type,
        precision=precision,
        teacher_precision=runtime.precision_of(recipe.teacher.precision, device),
        attention="eager" if attention == "eager" else "sdpa",
        length=length,
        longest=longest,
    )
    teachers = recipe.teacher.dim + sum(t.dim for t in recipe.further_teachers)
    projection = sum(d + 1 for d in recipe.student.dims) * teachers  # a head for each prefix
    models = Models(student_config, student, teacher, projection)
    rates = _rates(recipe, models, teacher_config, how) if probe else {}
    made = stages(recipe, models, data, rates, how)
    flops = [s.flops for s in made if s.flops]
    flops_of_teacher = teacher_flops(recipe, teacher, length)
    return Plan(
        recipe=recipe.name,
        out=str(recipe.out_dir),
        machine=describe(),
        device=how.device,
        precision=how.precision,
        student=student,
        teacher=teacher,
        teacher_layers=teacher.layers if teacher else recipe.teacher.parameters,
        compute_ratio=student.forward_flops(length) / flops_of_teacher if flops_of_teacher else None,
        length=length,
        data=data,
        passes=_passes(recipe, data),
        stages=made,
        rates=rates,
        per_million_texts=_per_million(recipe, rates, length),
        reference_gpu_hours=sum(flops) / REFERENCE_FLOPS / 3600 if flops else None,
        assumptions=_assumptions(recipe, teacher, data, length, probe, device.type),
    )


def _distilled(recipe: Recipe, data: Sequence[Texts]) -> list[Texts]:
    """The sources of stage 1."""
    return [d for d in data if d.source in recipe.distill_sources]


def _passes(recipe: Recipe, data: Sequence[Texts]) -> float | None:
    # rows drawn in one pass, as a share of a source's rows
    drawn = {s.name: s.weight * (1 - recipe.data.heldout_of(s)) for s in recipe.data.sources}
    read = _distilled(recipe, data)
    if any(d.tokens is None for d in read):
        return None
    kept = sum((d.tokens or 0) * drawn[d.source] for d in read)
    return recipe.distill.steps * recipe.distill.tokens_per_step / kept if kept else None


def _rates(recipe: Recipe, models: Models, teacher: PretrainedConfig | None, how: Running) -> dict[str, Rate]:
    """Tokens a second of the student and an adapter learning and the teacher reading, of which it may not be known."""
    common: dict[str, Any] = {"length": how.length, "device": how.device}
    learning = common | {"precision": how.precision, "attention": how.attention, "pooled": models.student.pooled}
    rates = {"student": estimate.measure(models.config, train=True, **learning)}
    for block in list(recipe.adapters.by_task().values())[:1]:
        rates["adapter"] = estimate.measure(models.config, train=True, lora=block.lora, **learning)
    flops = teacher_flops(recipe, None, how.length)
    if teacher:
        rates["teacher"] = estimate.measure(teacher, precision=how.teacher_precision, train=False, **common)
    elif flops and recipe.teacher.type != "openai":
        products = [(estimate.PROBE_TOKENS, i, o) for _, i, o in models.student.linear]
        rate = matmul_rate(products, how.teacher_precision, device=how.device)
        rates["teacher"] = estimate.assumed(flops, rate, how.teacher_precision)
    return rates


def _per_million(recipe: Recipe, rates: dict[str, Rate], length: int) -> dict[str, float | None]:
    return {
        "store_bytes": store_bytes(recipe, MILLION),
        "teach_seconds": teach_seconds(recipe, rates, MILLION, MILLION * length),
    }


def _assumptions(
    recipe: Recipe, teacher: Shape | None, data: list[Texts], length: int, probe: bool, device: str
) -> list[str]:
    said = ["a step is timed uncompiled and without the optimizer; loading, cleaning and evaluation are not timed"]
    if not probe:
        said = ["no times: they need the probe"]
    on_top = "freed memory that the C library keeps, and the process itself" if device == "cpu" else "scratch space"
    said.append(f"memory is that of tensors: {on_top} comes on top")
    load = load_average()
    if probe and load and load[0] > usable_cores():
        said.append(f"this machine is busy (load {load[0]:.1f} on {usable_cores()} cores): the times are too long")
    if not any(d.mean_tokens for d in _distilled(recipe, data)):
        said.append(f"texts of {length} tokens on average, until they are read")
    if teacher is None and recipe.teacher.parameters:
        said.append(
            "the teacher's files are not here: its weights are teacher.parameters, attention scores not counted"
        )
    if teacher is None and not recipe.teacher.parameters:
        said.append("the teacher's size is not known: set teacher.parameters to have its compute counted")
    if recipe.further_teachers:
        said.append(f"what {len(recipe.further_teachers)} further teachers read and store is not counted")
    if recipe.train_share < 1:
        said.append(f"texts are counted whole, and a run trains on {recipe.train_share:.0%} of them (train_share)")
    if recipe.adapters.by_task():
        said.append(
            "an adapter's tokens are estimated: texts of its sources' mean length, without padding, so activations too"
            + ("; its time is that of its operations at the rate of the adapter probed" if probe else "")
        )
    if any(d.note for d in data):
        said.append("where one source is not counted, sums over all sources are not known")
    return said
