"""What a run takes, worked out before it runs: counts by hand, properties, and nothing fetched."""

import io
import json
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from rich.console import Console
from transformers import AutoConfig, AutoModel, BertConfig

from limbeck import machine
from limbeck.config import Recipe, load_recipe
from limbeck.errors import DataError, ModelError
from limbeck.plan import Plan, estimate, make_plan
from limbeck.plan.tables import long_duration, show
from limbeck.training import pipeline

TINY = {
    "model_type": "qwen3",
    "vocab_size": 100,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "intermediate_size": 16,
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("a plan needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def recipe(**changes: Any) -> Recipe:
    body: dict[str, Any] = {
        "name": "tiny",
        "data": {"sources": [{"type": "hub", "name": "far", "dataset": "far/away", "columns": {"text": "t"}}]},
        "teacher": {"model": "far/teacher", "dim": 6, "parameters": 5000},
        "student": {"init": "random", "config": TINY, "dims": [4, 8], "max_tokens": 64},
        "distill": {"steps": 10, "tokens_per_step": 1000, "tokens_per_micro_batch": 128, "precision": "fp32"},
        "threads": 1,
    }
    return Recipe.model_validate(body | changes)


def file_source(path: Path, rows: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"query": "q", "document": "d"}
    return {"sources": [{"type": "file", "name": "near", "path": str(path), "columns": columns, **more}]}


def printed(plan: Plan) -> str:
    console = Console(file=io.StringIO(), width=160)
    show(plan, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def by_name(plan: Plan) -> dict[str, Any]:
    return {stage.name: stage for stage in plan.stages}


# ------------------------------------------------------------------------------------- the two big recipes


@pytest.mark.parametrize(
    ("name", "weights", "embedding"),
    [("jina-v5-small", 596_049_920, 151_936 * 1024), ("jina-v5-nano", 211_766_016, 128_256 * 768)],
)
def test_the_big_recipes_are_planned_without_weights_or_network(name: str, weights: int, embedding: int) -> None:
    plan = make_plan(load_recipe(name), probe=False)
    assert (plan.student.total, plan.student.embedding) == (weights, embedding)
    assert plan.teacher is None
    assert plan.compute_ratio is not None and plan.compute_ratio < 0.13
    assert by_name(plan)["teach"].tokens is None
    assert plan.per_million_texts["store_bytes"] == 1_000_000 * (2560 * 2 + 16)
    text = printed(plan)
    assert "unknown until it is read, at most 400,000 rows" in text
    assert "a million texts of 128 tokens: 4.8 GiB of teacher vectors" in text
    assert "hours of one H100" in text
    json.dumps(plan.as_dict())


def test_the_micro_batch_of_the_big_recipes_fits_80_gb() -> None:
    for name in ("jina-v5-small", "jina-v5-nano"):
        loaded = load_recipe(name, ["distill.attention=sdpa"])  # as on a GPU
        assert sum(by_name(make_plan(loaded, probe=False))["distill"].memory.values()) < 70e9


def test_the_demo_student_does_half_of_the_teachers_arithmetic(tmp_path: Path) -> None:
    loaded = load_recipe("demo", [f"data.sources.0.paths=[{tmp_path}]"])
    body = "Any two numbers will do, and so will anything else that knows how to be added to its like."
    (tmp_path / "m.py").write_text(f'def add(a, b):\n    """Add two numbers.\n\n    {body}"""\n')
    plan = make_plan(loaded, probe=False)
    assert plan.teacher is not None
    assert plan.compute_ratio is not None
    assert plan.compute_ratio <= 0.5


# ------------------------------------------------------------------------------------------------- shapes


def test_weights_are_counted_as_by_hand() -> None:
    shape = estimate.shape_of(AutoConfig.for_model(**TINY))
    attention = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 2 * 4  # q, k and v, o, and the two norms of q and k
    layer = attention + 3 * 8 * 16 + 2 * 8
    assert (shape.embedding, shape.layers, shape.depth) == (800, 2 * layer + 8, 2)
    assert (shape.hidden, shape.attention) == (8, 8)
    assert shape.linear == ((8, 8), (8, 4), (8, 4), (8, 8), (8, 16), (8, 16), (16, 8))


def test_a_pooler_that_is_never_run_costs_nothing() -> None:
    config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = AutoModel.from_config(config)
    pooler = sum(p.numel() for p in model.pooler.parameters())
    assert estimate.shape_of(config).total == sum(p.numel() for p in model.parameters()) - pooler


def test_a_token_costs_two_operations_a_weight_and_four_a_state_that_it_attends_to() -> None:
    shape = estimate.Shape(embedding=9, layers=999, depth=3, hidden=8, attention=16, linear=((8, 16), (16, 8)))
    assert shape.forward_flops(length=0) == 3 * 2 * (8 * 16 + 16 * 8)
    assert shape.forward_flops(length=10) == shape.forward_flops(length=0) + 4 * 3 * 16 * 10


# -------------------------------------------------------------------------------------------- activations


def activations(**changes: Any) -> int:
    asked: dict[str, Any] = {
        "tokens": 256, "length": 64, "precision": "fp32", "attention": "sdpa", "checkpointing": False,
    }  # fmt: skip
    return estimate.activation_bytes(AutoConfig.for_model(**TINY), **(asked | changes))


def test_activations_grow_with_the_tokens_of_a_micro_batch() -> None:
    assert activations(tokens=512) == pytest.approx(2 * activations(), rel=0.1)


def test_activations_are_those_that_a_real_step_keeps() -> None:
    import torch

    model = AutoModel.from_config(AutoConfig.for_model(**TINY), attn_implementation="sdpa").train()
    model.config.use_cache = False
    weights = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ids = torch.zeros(4, 64, dtype=torch.long)
        mask = torch.ones_like(ids)
        mask[0, -1] = 0  # padding, as in any real batch: without it, no mask would be made
        model(input_ids=ids, attention_mask=mask)
    assert activations() == pytest.approx(sum(t.untyped_storage().nbytes() for t in kept.values()), rel=0.02)


def test_eager_attention_keeps_a_matrix_and_checkpointing_keeps_less() -> None:
    matrix = 2 * 2 * 4 * 64 * 64 * 4  # layers, heads, texts, length², bytes
    assert activations(attention="eager") > activations() + matrix / 2
    assert activations(checkpointing=True) < activations()
    assert activations(precision="bf16") < activations()


# -------------------------------------------------------------------------------------------------- texts


def test_texts_are_counted_once_and_rows_every_time(tmp_path: Path) -> None:
    rows = [{"q": "a" * 40, "d": "b" * 400}, {"q": "c" * 40, "d": "b" * 400}]
    plan = make_plan(recipe(data=file_source(tmp_path / "t.jsonl", rows)), probe=False)
    [counted] = plan.data
    assert (counted.rows, counted.texts, counted.chars) == (2, 3, 880)
    # 4 characters a token where no tokenizer is at hand, 3 for prefix and end, and no more than student.max_tokens
    assert counted.tokens == 2 * (40 // 4 + 3) + 2 * 64
    assert by_name(plan)["teach"].disk == 3 * (2 * 6 + 16)


def test_passes_count_weights_and_what_is_held_out(tmp_path: Path) -> None:
    data = file_source(tmp_path / "t.jsonl", [{"q": "a" * 40, "d": "b" * 40}], weight=2.0)
    plan = make_plan(recipe(data=data | {"heldout_fraction": 0.5}), probe=False)
    assert plan.passes == pytest.approx(10 * 1000 / (26 * 2 * 0.5))


def test_counting_stops_in_time_and_says_so(tmp_path: Path) -> None:
    rows = [{"q": f"question {n}", "d": f"answer {n}"} for n in range(600)]
    plan = make_plan(recipe(data=file_source(tmp_path / "t.jsonl", rows)), probe=False, read_seconds=0)
    [counted] = plan.data
    assert (counted.rows, counted.texts, counted.tokens) == (None, None, None)
    assert counted.note == "more than 256 rows: counting stopped after 0 s"
    assert counted.mean_tokens
    assert plan.passes is None


def test_what_the_teacher_reads_is_counted_where_it_is_another_text(tmp_path: Path) -> None:
    rows = [{"q": "eins", "d": "zwei", "en": "two"}, {"q": "un", "d": "deux", "en": "two"}]
    data = file_source(tmp_path / "t.jsonl", rows)
    data["sources"][0]["columns"]["teacher_document"] = "en"
    assert make_plan(recipe(data=data), probe=False).data[0].texts == 3


def test_a_source_that_cannot_be_read_is_an_error_before_the_run(tmp_path: Path) -> None:
    data = file_source(tmp_path / "t.jsonl", [{"q": "a", "x": "b"}])
    with pytest.raises(DataError, match="near"):
        make_plan(recipe(data=data), probe=False)


# ------------------------------------------------------------------------------------------------- stages


def test_the_stages_are_those_of_the_pipeline_in_order() -> None:
    assert tuple(by_name(make_plan(recipe(), probe=False))) == pipeline.STAGES


def test_memory_and_disk_of_training_are_those_of_adamw() -> None:
    plan = make_plan(recipe(), probe=False)
    distill = by_name(plan)["distill"]
    trained = plan.student.total + (4 + 1 + 8 + 1) * 6  # the projection has a head for each prefix
    assert distill.memory["weights"] == distill.memory["gradients"] == 4 * trained
    assert distill.memory["AdamW"] == 8 * trained
    assert distill.disk == 3 * 12 * trained  # two checkpoints are kept while a third is written
    assert distill.tokens == 10 * 1000
    assert distill.flops == 3 * plan.student.forward_flops(plan.length) * 10 * 1000


def test_an_endpoint_takes_as_long_as_its_rate_limit(tmp_path: Path) -> None:
    data = file_source(tmp_path / "t.jsonl", [{"q": f"q{n}", "d": f"d{n}"} for n in range(50)])
    teacher = {"type": "openai", "model": "m", "dim": 6, "base_url": "http://localhost:1/v1"}
    limits = {"requests_per_minute": 30, "texts_per_request": 10}
    plan = make_plan(recipe(data=data, teacher=teacher | limits), probe=False)
    assert by_name(plan)["teach"].seconds == pytest.approx(100 / 10 / 30 * 60)
    assert by_name(plan)["teach"].memory == {}


def test_without_a_probe_there_are_no_times() -> None:
    plan = make_plan(recipe(), probe=False)
    assert plan.rates == {}
    assert all(stage.seconds is None for stage in plan.stages)
    assert "no times: they need the probe" in plan.assumptions


def test_a_probe_gives_times_and_says_how(tmp_path: Path) -> None:
    data = file_source(tmp_path / "t.jsonl", [{"q": "a" * 40, "d": "b" * 40}])
    plan = make_plan(recipe(data=data), probe=True)
    assert "measured: training steps" in plan.rates["student"].how
    assert "assumed: 40% of the measured fp32 matmul rate" in plan.rates["teacher"].how or machine.computes_in_bf16()
    distill, teach = by_name(plan)["distill"], by_name(plan)["teach"]
    assert distill.seconds == pytest.approx(10_000 / plan.rates["student"].tokens_per_second)
    assert teach.seconds == pytest.approx(26 / plan.rates["teacher"].tokens_per_second)


def test_a_large_model_is_measured_by_some_of_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AutoConfig.for_model(**TINY)
    shape = estimate.shape_of(config)
    asked: dict[str, Any] = {"length": 16, "precision": "fp32", "device": "cpu", "train": True}
    monkeypatch.setattr(estimate, "PROBE_WEIGHTS", shape.layers // 2)
    assert "of 1 of its 2 layers, scaled" in estimate.measure(config, **asked).how
    monkeypatch.setattr(estimate, "PROBE_WEIGHTS", 1)
    rate = estimate.measure(config, **asked)
    assert rate.how == "assumed: 40% of the measured fp32 matmul rate"
    assert rate.flops == pytest.approx(rate.tokens_per_second * 3 * shape.forward_flops(16))


# ------------------------------------------------------------------------------------------------- models


def student_of(tmp_path: Path, student: dict[str, Any], **teacher: Any) -> estimate.Shape:
    config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=6, num_attention_heads=2, intermediate_size=16)
    config.save_pretrained(tmp_path)
    made = {"model": str(tmp_path), "dim": 6} | teacher
    return make_plan(recipe(teacher=made, student=student | {"dims": [8]}), probe=False).student


def test_a_pruned_student_has_the_chosen_layers_of_its_teacher(tmp_path: Path) -> None:
    pruned = student_of(tmp_path, {"init": "pruned", "pruned": {"layers": [0, 2, 4]}})
    assert (pruned.depth, pruned.hidden) == (3, 8)
    assert pruned.embedding == (50 + 1) * 8  # tokens and one type, no positions: they are rotary
    plain = student_of(tmp_path, {"init": "pruned", "pruned": {"layers": [0, 2], "rope": False}})
    assert (plain.depth, plain.embedding) == (2, (50 + 2 + 512) * 8)


def test_a_fresh_student_has_the_teachers_vocabulary(tmp_path: Path) -> None:
    fresh = {"hidden_size": 16, "layers": 3, "heads": 2, "kv_heads": 2, "head_dim": 8, "intermediate_size": 32}
    shape = student_of(tmp_path, {"init": "fresh", "fresh": fresh})
    assert (shape.embedding, shape.depth, shape.hidden) == (50 * 16, 3, 16)


def test_a_pretrained_student_is_read_from_its_folder(tmp_path: Path) -> None:
    AutoConfig.for_model(**TINY).save_pretrained(tmp_path / "student")
    student = {"init": "pretrained", "model": str(tmp_path / "student"), "dims": [8]}
    assert make_plan(recipe(student=student), probe=False).student == make_plan(recipe(), probe=False).student


@pytest.mark.parametrize(
    "student",
    [
        {"init": "pretrained", "model": "far/away", "dims": [8]},
        {"init": "fresh", "fresh": {}, "dims": [8]},
        {"init": "pruned", "pruned": {"layers": [0], "source": "far/away"}, "dims": [8]},
    ],
)
def test_a_student_whose_shape_is_not_known_is_an_error_that_says_what_to_do(student: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="is not on this machine: (put|fetch)"):
        make_plan(recipe(student=student), probe=False)


# ------------------------------------------------------------------------------------------------ machine


def test_a_machine_describes_itself() -> None:
    here = machine.describe()
    assert here.cores >= 1
    assert 0.1 < here.ram_gib < 1e5
    assert here.packages["torch"]
    assert json.loads(json.dumps(here.as_dict()))["python"] == ".".join(map(str, sys.version_info[:3]))
    assert str(here.cores) in str(here)
    assert machine.peak_rss_mib() > 10


@pytest.mark.parametrize(
    ("flags", "kind"),
    [("amx_bf16 avx512_bf16", "amx"), ("avx512_bf16", "avx512"), ("avx2 avx512f", "none"), ("", "none")],
)
def test_bf16_is_told_by_the_instructions_of_the_cpu(flags: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda field: flags if field == "flags" else "")
    assert machine._cpu_bf16() == kind
    assert machine.computes_in_bf16("cpu") == (kind != "none")


def test_an_arm_cpu_names_its_bf16_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda field: "fp asimd bf16" if field == "Features" else "")
    assert machine._cpu_bf16() == "arm"


def test_the_matmul_rate_is_positive_and_counts_every_product() -> None:
    assert machine.matmul_rate([(16, 8, 4), (4, 4, 4)], "fp32", seconds=0.01) > 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (90, "1 min 30 s"), (86400 * 3, "3 days"), (86400 * 365 * 10, "10.0 years")]
)
def test_long_times_are_in_units_that_mean_something(seconds: float | None, text: str) -> None:
    assert long_duration(seconds) == text
