"""From a recipe to one of a few steps: the same stages, shapes and losses, with stand-ins for what is not here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.config import Recipe, Source, Teacher
from limbeck.errors import ConfigError, LimbeckError
from limbeck.machine import computes_in_bf16
from limbeck.smoke.stand_ins import kind_of, write_texts, write_tokenizer

FEWEST_STEPS = 2  # an adapter is averaged with an earlier step of its own run
_FEWEST_ROWS = 24  # of a source: some of them are held out
_WORDS = 10_000  # different ones, where the tokenizer is the student's own


@dataclass(frozen=True, slots=True)
class Sizes:
    """The most that a step is made of. None = as the recipe says.

    Weights, gradients and moments are those of a real run whatever these are; activations are theirs.
    """

    step_tokens: int | None = None  # of a step of stage 1; None = two micro-batches, so that gradients add up
    micro_tokens: int | None = None  # padded tokens of one forward pass
    max_tokens: int | None = None  # where texts are cut
    long_max_tokens: int | None = None  # where those of the long-context phase are
    rows: int | None = None  # of a step of an adapter


# A CPU takes a second for some hundred tokens of a model of 200 million weights, a GPU for a micro-batch of the recipe.
ON_CPU = Sizes(step_tokens=512, micro_tokens=256, max_tokens=64, long_max_tokens=256, rows=4)


@dataclass(frozen=True, slots=True)
class Reduced:
    """The recipe of a smoke run, and in words what differs from the one that was asked for."""

    recipe: Recipe
    notes: list[str]


def reduced(recipe: Recipe, steps: int, out: Path, *, device: str, sizes: Sizes | None = None) -> Reduced:
    """Make the recipe of a smoke run, and write the stand-ins it reads into `out`/stand-ins.

    Args:
        recipe: of the true run.
        steps: of every stage.
        out: where the smoke run writes everything, the teacher's vectors included.
        device: "cpu", "cuda", …
        sizes: what steps are cut to; None = `ON_CPU` on a CPU, else as the recipe says.

    Raises:
        ConfigError: fewer than two steps, or weights that the student starts from are not on this machine.
        ModelError: nor is its shape, which the recipe does not say either.
    """
    if steps < FEWEST_STEPS:
        raise ConfigError(f"--smoke takes at least {FEWEST_STEPS} steps, got {steps}")
    body = recipe.model_dump(mode="json")
    body |= {"name": f"{recipe.name}-smoke", "out": str(out), "static": None, "train_share": 1.0}
    notes: list[str] = []
    asked = [recipe.teacher, *recipe.further_teachers]
    found = [_teacher(teacher, out, notes) for teacher in asked]
    body["teacher"], body["further_teachers"] = found[0], found[1:]
    words = _student(recipe, body, out, notes)
    stages = _stages(recipe, body, steps, sizes or (ON_CPU if device == "cpu" else Sizes()), device, notes)
    _sources(recipe, body, stages, words, out)
    notes.append("every text is a stand-in, as long as the longest that its stage reads: memory is the most it takes")
    body["evaluate"] |= {"classification": None, "clustering": None}  # they may name sources that are left out
    return Reduced(Recipe.model_validate(body), notes)


# ------------------------------------------------------------------------------------------ models


def is_here(model: str, revision: str | None) -> bool:
    """Whether a model's config can be read without the network."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(model, revision=revision, local_files_only=True)
    except (OSError, ValueError):
        return False
    return True


def _teacher(teacher: Teacher, out: Path, notes: list[str]) -> dict[str, Any]:
    """The teacher's section: itself where it is on this machine, else random vectors of its width."""
    from limbeck.teacher.backends import resolve_model_folder

    # all sources: those that a further teacher is kept to may be left out
    body = teacher.model_dump(mode="json") | {"store": str(out / "teacher-store"), "sources": None}
    try:
        here = teacher.type != "openai" and is_here(resolve_model_folder(teacher), teacher.revision)
    except LimbeckError:
        here = False
    if here:
        return body
    notes.append(f"teacher {teacher.model} is not asked: random vectors of {teacher.dim} dims stand in for its own")
    left_out = {"revision": None, "base_url": None, "tokenizer": None, "parameters": None, "long_texts": "truncate"}
    return body | left_out | {"type": "random", "model": "random-vectors"}


def _student(recipe: Recipe, body: dict[str, Any], out: Path, notes: list[str]) -> int:
    """See to the student's weights and tokenizer. Returns how many different words texts are made of."""
    from limbeck.model.backbone import reads_teacher, student_config
    from limbeck.model.tokenizer import Tokenizer

    student = recipe.student
    if student.init == "pretrained" and not is_here(str(student.model), student.revision):
        raise ConfigError(
            f"the weights of {student.model} are not on this machine: draw them with --set student.init=random"
        )
    if reads_teacher(student) and body["teacher"]["type"] == "random":
        raise ConfigError(
            f"student.init: {student.init} copies from {recipe.teacher.model}, which is not on this machine: fetch it "
            "first, or draw the student with --set student.init=random and a student.config"
        )
    if student.init != "random":
        return _WORDS
    notes.append("the student's weights are drawn at random")
    own = student.tokenizer or student.model
    try:
        if own is not None:
            Tokenizer.load(own, local_files_only=True)
            return _WORDS
    except LimbeckError:
        pass
    vocabulary = student_config(student).vocab_size
    body["student"]["tokenizer"] = str(out / "stand-ins" / "tokenizer")
    notes.append(f"the tokenizer is a stand-in of {vocabulary:,} tokens, a word each")
    return write_tokenizer(out / "stand-ins" / "tokenizer", vocabulary)


# ------------------------------------------------------------------------------------------ stages


@dataclass(frozen=True, slots=True)
class _Reads:
    """What a stage reads of its sources."""

    sources: list[str]
    max_tokens: int  # where it cuts their texts
    rows: int  # of each
    negatives: int = 0  # of each row


def _stages(
    recipe: Recipe, body: dict[str, Any], steps: int, at_most: Sizes, device: str, notes: list[str]
) -> list[_Reads]:
    """Cut every stage in `body` to size. Returns what each then reads."""
    longest, reads = recipe.student.max_tokens, []
    kinds = {source.name: source for source in recipe.data.sources}
    blocks = [(body["distill"], recipe.distill_sources, at_most.max_tokens)]
    if recipe.extend:
        blocks.append((body["extend"], recipe.extend.sources, at_most.long_max_tokens))
        body["extend"] |= {"short_sources": None}
    for block, names, limit in blocks:
        block["sources"] = list(_one_of_each_kind(kinds[name] for name in names))
        block["max_tokens"] = _least(block["max_tokens"] or longest, limit)
        block["tokens_per_micro_batch"] = _least(block["tokens_per_micro_batch"], at_most.micro_tokens)
        two = 2 * max(block["tokens_per_micro_batch"], block["max_tokens"])
        block["tokens_per_step"] = min(block["tokens_per_step"], _least(two, at_most.step_tokens))
        rows = -(-block["tokens_per_step"] // block["max_tokens"])
        reads.append(_Reads(block["sources"], block["max_tokens"], rows))
    if recipe.extend:
        short = _least(recipe.extend.short_max_tokens or body["distill"]["max_tokens"], at_most.max_tokens)
        body["extend"]["short_max_tokens"] = short
        if recipe.extend.short_sources:
            reads.append(_Reads(list(_one_of_each_kind(kinds[n] for n in recipe.extend.short_sources)), short, 1))
            body["extend"]["short_sources"] = reads[-1].sources
    adapters = {task: body["adapters"][task] for task in recipe.adapters.by_task()}
    for task, block in adapters.items():
        names = [source["name"] for source in block["sources"]]
        chosen = list(_one_of_each_kind(kinds[name] for name in names))
        block["batch_size"] = _least(
            max(s["batch_size"] or block["batch_size"] for s in block["sources"]), at_most.rows
        )
        block["sources"] = [{"name": name} for name in chosen]
        block["max_tokens"] = _least(block["max_tokens"] or longest, at_most.max_tokens)
        block["tokens_per_micro_batch"] = _least(block["tokens_per_micro_batch"], at_most.micro_tokens)
        if block["tokens_in_memory"] is not None:
            block["tokens_in_memory"] = _least(block["tokens_in_memory"], at_most.micro_tokens)
        if block.get("mining"):
            block["mining"] |= {"negatives": 1, "ranks": [1, 2]}  # the others are in the data: no text comes up twice
        if block["average"]:
            block["average"]["keep"] = "averaged"  # no score of random weights tells which is better
        if task == "retrieval":
            block["also_without_spread"] = False
        reads.append(_Reads(chosen, block["max_tokens"], 4 * block["batch_size"], block.get("negatives", 0)))
    emulated = device == "cpu" and not computes_in_bf16("cpu")
    halved = False
    for block in [*(b for b, _, _ in blocks), *adapters.values()]:
        saved = {"checkpoint_every": steps, "keep_checkpoints": 1, "log_every": 1}
        block |= {"steps": steps, **saved}
        halved = halved or block["precision"] == "bf16"
        if emulated and block["precision"] == "bf16":
            block["precision"] = "auto"
    if emulated and halved:
        notes.append("fp32 where the recipe says bf16, which this CPU does not compute in")
    lengths = f"texts of {body['distill']['max_tokens']:,} tokens"
    if recipe.extend:
        lengths += f", long ones of {body['extend']['max_tokens']:,}"
    of = f"{body['distill']['tokens_per_step']:,} tokens a step of stage 1"
    if adapters:
        of += f", {', '.join(str(n) for n in sorted({b['batch_size'] for b in adapters.values()}))} rows of an adapter"
    notes.append(f"{of}, {lengths}")
    return reads


def _one_of_each_kind(sources: Iterable[Source]) -> Iterator[str]:
    seen = set()
    for source in sources:
        if (kind := kind_of(source)) not in seen:
            seen.add(kind)
            yield source.name


def _least(value: int, at_most: int | None) -> int:
    return value if at_most is None else min(value, at_most)


def _sources(recipe: Recipe, body: dict[str, Any], stages: list[_Reads], words: int, out: Path) -> None:
    """Put stand-ins in place of the sources that a stage reads, and leave the others out."""
    made = []
    for source in recipe.data.sources:
        readers = [stage for stage in stages if source.name in stage.sources]
        if not readers:
            continue
        written = write_texts(
            out / "stand-ins" / f"{source.name}.jsonl",
            source,
            rows=max(_FEWEST_ROWS, *(stage.rows for stage in readers)),
            words=max(stage.max_tokens for stage in readers),
            vocabulary=words,
            negatives=max(stage.negatives for stage in readers),
            seed=recipe.seed,
        )
        made.append(written.model_dump(mode="json"))
    body["data"] |= {"sources": made, "heldout_fraction": 0.15, "heldout_max": None, "near_duplicate_threshold": None}
