"""Stage 2: what a step holds, what its loss is, and what training changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_texts import TEACHER_DIM
from torch import Tensor

from limbeck.config import (
    AdapterSource,
    Average,
    ClassificationAdapter,
    ClusteringAdapter,
    Lora,
    Optimizer,
    Recipe,
    RetrievalAdapter,
    TextMatchingAdapter,
)
from limbeck.data.tokens import TokenTable
from limbeck.errors import ConfigError, TrainingError
from limbeck.model import adapters
from limbeck.model import backbone as backbones
from limbeck.model.backbone import Backbone
from limbeck.model.projection import Projection
from limbeck.model.student import StudentModel
from limbeck.objectives.contrastive import info_nce
from limbeck.objectives.distillation import cosine_distillation
from limbeck.objectives.ranking import cosent
from limbeck.objectives.relational import relational_distances
from limbeck.objectives.spread import query_document_spread
from limbeck.training import adapt as stage2
from limbeck.training import checkpoint
from limbeck.training.loop import adamw, read_metrics
from limbeck.training.task_batches import Step, TaskBatches, TaskSource

ROWS, DIM = 24, TEACHER_DIM
SOURCES = [AdapterSource(name="made-up")]


def texts(count: int, seed: int = 0) -> TokenTable:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, 20, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TokenTable(draw.integers(5, 100, offsets[-1]).astype(np.int32), offsets, truncated=0)


def source(**changes: Any) -> TaskSource:
    """Queries 0 … R-1, documents R … 2R-1, and two more documents a row as negatives."""
    each = np.arange(ROWS)
    made = TaskSource(
        name="made-up",
        weight=1.0,
        batch_size=6,
        tokens=texts(4 * ROWS),
        text_ids=np.arange(4 * ROWS) + 1000,
        first=each,
        second=each + ROWS,
        negatives=np.stack([each + 2 * ROWS, each + 3 * ROWS], axis=1),
        teacher_rows=np.arange(4 * ROWS),
    )
    return replace(made, **changes)


VECTORS = np.random.default_rng(5).standard_normal((4 * ROWS, DIM)).astype(np.float16)


def batches(*sources: TaskSource, **changes: Any) -> TaskBatches:
    place: Any = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"))
    given: dict[str, Any] = {
        "negatives": 1,
        "false_negative_margin": None,
        "tokens_per_micro_batch": 64,
        "tokens_in_memory": None,
        "pad_id": 0,
        "seed": 3,
        "accelerator": place,
    }
    return TaskBatches(list(sources), lambda rows: VECTORS[rows], **(given | changes))


def only(made: TaskBatches) -> Step:
    ((step, share),) = made.next().micro
    assert share == 1.0
    return step


@pytest.fixture
def recipe(body: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(body)


@pytest.fixture
def base(recipe: Recipe) -> Callable[[], Backbone]:
    return lambda: backbones.build(recipe.student, recipe.teacher.model, seed=0)


def passes(made: Backbone, *, dropout: float = 0.0) -> stage2.Passes:
    adapters.attach(made.model, Lora(rank=4, dropout=dropout), "retrieval", seed=1)
    torch.manual_seed(2)
    for name, parameter in made.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return stage2.Passes(StudentModel(made.model, pooling="last"), Projection([8, DIM], DIM)).train()


def others(step: Step) -> Tensor:
    """Whether a row's candidates are excluded, its own document (which never is) left out."""
    assert step.excluded is not None
    own = torch.eye(*step.excluded.shape, dtype=torch.bool)
    return step.excluded[~own]


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


# ------------------------------------------------------------------------------------------- steps


def test_a_step_names_the_texts_of_its_rows_and_one_negative_of_each() -> None:
    made = source()
    step = only(batches(made))
    assert step.second is not None and step.negatives is not None and step.documents is not None
    ids = step.text_ids
    assert len(ids) == len(ids.unique()) == sum(len(i) for i, _ in step.passes) == 18
    rows = ids[step.first] - 1000
    assert torch.equal(ids[step.second], rows + 1000 + ROWS)
    drawn = ids[step.negatives[:, 0]] - 1000
    assert all(int(d) in made.negatives[int(r)] for d, r in zip(drawn, rows, strict=True))  # type: ignore[index]
    assert set(step.documents.tolist()) == {*step.second.tolist(), *step.negatives.flatten().tolist()}


def test_every_text_of_a_step_comes_out_at_its_place(base: Callable[[], Backbone]) -> None:
    made = source()
    step = only(batches(made))
    model = passes(base()).eval()
    with torch.no_grad():
        found = model(step.passes, False)[step.order]
        for place, id_ in enumerate(step.text_ids.tolist()):
            alone = torch.from_numpy(made.tokens[id_ - 1000].astype(np.int64))[None]
            torch.testing.assert_close(found[place], model.student(alone, torch.ones_like(alone))[0], rtol=0, atol=1e-5)


def test_a_text_that_two_rows_name_is_computed_once() -> None:
    shared = np.full((ROWS, 1), 3 * ROWS)
    step = only(batches(source(negatives=shared)))
    assert step.negatives is not None
    assert len(step.negatives.unique()) == 1
    assert len(step.text_ids) == 6 + 6 + 1


def test_the_same_document_and_the_same_query_are_no_negatives_of_each_other() -> None:
    ids = np.arange(4 * ROWS) + 1000
    ids[ROWS : 2 * ROWS] = 7  # all documents are the same text
    assert others(only(batches(source(text_ids=ids, negatives=None)))).all()
    ids = np.arange(4 * ROWS) + 1000
    ids[:ROWS] = 8  # all queries are
    assert others(only(batches(source(text_ids=ids, negatives=None)))).all()
    assert not others(only(batches(source(negatives=None)))).any()


def test_a_negative_that_is_absent_or_equals_a_rows_document_is_excluded() -> None:
    negatives = np.stack([np.arange(ROWS) + ROWS, np.full(ROWS, -1)], axis=1)  # its own document, and nothing
    step = only(batches(source(negatives=negatives), negatives=2))
    assert step.excluded is not None and step.negatives is not None
    assert sorted(step.negatives[0].tolist())[0] == -1
    hard = step.excluded[:, 6:].reshape(6, 6, 2)
    absent = step.negatives < 0
    assert hard[:, absent].all()
    for row in range(6):
        own = hard[row, row]
        assert own.all()


def test_candidates_that_the_teacher_finds_nearer_than_the_document_are_excluded() -> None:
    step = only(batches(source(), false_negative_margin=0.0))
    assert step.excluded is not None and step.teacher is not None and step.second is not None
    assert step.negatives is not None
    unit = F.normalize(step.teacher, dim=-1)
    cosines = unit[step.first] @ unit[torch.cat([step.second, step.negatives.flatten()])].T
    own = cosines.diagonal()[:, None]
    nearer = cosines > own + 1e-4
    assert nearer.any() and step.excluded[nearer].all()
    further = cosines < own - 1e-4
    assert not step.excluded[further].any()


def test_texts_that_share_a_label_are_no_negatives_of_each_other() -> None:
    labels = (np.arange(4 * ROWS) % 2)[:, None]
    labels = np.concatenate([labels, np.full_like(labels, -1)], axis=1)
    step = only(batches(source(labels=labels), false_negative_margin=0.0))
    assert step.excluded is not None and step.second is not None and step.negatives is not None
    of = lambda places: (step.text_ids[places] - 1000) % 2  # noqa: E731
    candidates = of(torch.cat([step.second, step.negatives.flatten()]))
    same = of(step.first)[:, None] == candidates[None, :]
    assert torch.equal(others(step), same[~torch.eye(*same.shape, dtype=torch.bool)])


def test_sources_keep_their_own_batch_sizes_and_each_row_is_drawn_as_often() -> None:
    graded = source(name="graded", batch_size=3, scores=np.linspace(0, 1, ROWS), teacher_rows=None, negatives=None)
    made = batches(source(negatives=None), graded)
    sizes: dict[bool, list[int]] = {True: [], False: []}
    for _ in range(120):
        step = only(made)
        sizes[step.scores is not None].append(len(step.first))
    assert set(sizes[True]) == {3} and set(sizes[False]) == {6}
    # as many rows each, so twice as many of the smaller steps: 80 of 120, and 4 standard deviations
    assert 80 - 21 < len(sizes[True]) < 80 + 21


def test_a_source_of_one_row_is_refused() -> None:
    one = source(first=np.array([0]), second=np.array([ROWS]), negatives=None)
    with pytest.raises(TrainingError, match="source 'made-up' has 1 row: a batch needs at least two"):
        batches(one)


def test_a_batch_larger_than_its_source_holds_every_row_once() -> None:
    step = only(batches(source(batch_size=1000)))
    assert sorted((step.text_ids[step.first] - 1000).tolist()) == list(range(ROWS))


def test_steps_go_on_from_a_saved_position() -> None:
    made, other = batches(source()), batches(source())
    for _ in range(3):
        made.next()
    other.restore(made.state())
    for _ in range(3):
        a, b = only(made), only(other)
        assert torch.equal(a.text_ids, b.text_ids)
        assert a.negatives is not None and b.negatives is not None
        assert torch.equal(a.negatives, b.negatives)


# ----------------------------------------------------------------------------------------- objectives


def sides(step: Step) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(4)
    z = F.normalize(torch.randn(len(step.text_ids), DIM), dim=-1)
    assert step.second is not None and step.negatives is not None
    return z, z[step.first], z[step.second], z[step.negatives]


def test_the_retrieval_loss_is_the_weighted_sum_of_its_three_objectives() -> None:
    settings = RetrievalAdapter(sources=SOURCES, steps=1, nce_weight=0.5, distill_weight=2.0, spread_weight=3.0)
    step = only(batches(source()))
    z, queries, documents, negatives = sides(step)
    terms, weights = stage2.terms_of(settings)
    found = terms(z, step, lambda v: v)
    nce = info_nce(queries, documents, negatives, temperature=settings.temperature, excluded=step.excluded)
    assert step.teacher is not None and step.documents is not None and step.second is not None
    assert found["info_nce"].item() == pytest.approx(nce.item())
    assert found["distill"].item() == pytest.approx(cosine_distillation(z, step.teacher).item())
    spread = query_document_spread(
        queries,
        z[step.documents],
        query_groups=step.text_ids[step.second],
        document_groups=step.text_ids[step.documents],
    )
    assert found["spread"].item() == pytest.approx(spread.item())

    class Fixed(torch.nn.Module):
        projection = staticmethod(lambda v: v)

        def forward(self, passes: Any, recompute: bool) -> Tensor:
            return z[torch.argsort(step.order)]

    values = stage2.step_loss(terms, weights, [DIM], None)(Fixed(), step)
    assert values["loss"].item() == pytest.approx(0.5 * nce.item() + 2 * found["distill"].item() + 3 * spread.item())


def test_terms_of_weight_zero_are_not_computed() -> None:
    settings = RetrievalAdapter(sources=SOURCES, steps=1, distill_weight=0, spread_weight=0)
    step = only(batches(source(teacher_rows=None)))
    z, *_ = sides(step)
    assert list(stage2.terms_of(settings)[0](z, step, lambda v: v)) == ["info_nce"]


def test_text_matching_ranks_where_there_are_scores_and_else_contrasts_both_ways() -> None:
    settings = TextMatchingAdapter(sources=SOURCES, steps=1)
    terms, weights = stage2.terms_of(settings)
    assert weights["distill"] == 2 * weights["info_nce"]
    graded = only(batches(source(scores=np.linspace(0, 1, ROWS), teacher_rows=None)))
    z, left, right, _ = sides(graded)
    found = terms(z, graded, lambda v: v)
    assert graded.scores is not None
    assert list(found) == ["cosent"]
    assert found["cosent"].item() == pytest.approx(cosent(left, right, graded.scores).item())
    plain = only(batches(source(negatives=None)))
    z = F.normalize(torch.randn(len(plain.text_ids), DIM), dim=-1)
    found = terms(z, plain, lambda v: v)
    assert plain.second is not None
    both = info_nce(z[plain.first], z[plain.second], temperature=0.05, excluded=plain.excluded, both_directions=True)
    assert found["info_nce"].item() == pytest.approx(both.item())
    assert set(found) == {"info_nce", "distill"}


def test_clustering_distils_every_text() -> None:
    settings = ClusteringAdapter(sources=SOURCES, steps=1)
    step = only(batches(source(first=np.arange(4 * ROWS), second=None, negatives=None)))
    z = F.normalize(torch.randn(len(step.text_ids), DIM), dim=-1)
    assert step.teacher is not None
    found = stage2.terms_of(settings)[0](z, step, lambda v: v)
    assert found["distill"].item() == pytest.approx(cosine_distillation(z, step.teacher).item())


def test_classification_contrasts_both_ways_and_keeps_the_teachers_distances() -> None:
    settings = ClassificationAdapter(sources=SOURCES, steps=1)
    labels = (np.arange(4 * ROWS) % 5)[:, None]
    step = only(batches(source(labels=labels)))
    z, anchors, positives, negatives = sides(step)
    found = stage2.terms_of(settings)[0](z, step, lambda v: v)
    assert step.teacher is not None
    both = info_nce(anchors, positives, negatives, temperature=0.05, excluded=step.excluded, both_directions=True)
    assert found["info_nce"].item() == pytest.approx(both.item())
    assert found["relational"].item() == pytest.approx(relational_distances(z, step.teacher).item())


# ----------------------------------------------------------------------------------- gradient caching


def backward(model: stage2.Passes, step: Step) -> tuple[float, dict[str, Tensor]]:
    terms, weights = stage2.terms_of(RetrievalAdapter(sources=SOURCES, steps=1))
    model.zero_grad(set_to_none=True)
    values = stage2.step_loss(terms, weights, [8, DIM], None)(model, step)
    values["loss"].backward()
    return values["loss"].item(), gradients(model)


def test_recomputed_passes_give_the_gradient_of_kept_ones_dropout_included(base: Callable[[], Backbone]) -> None:
    step = only(batches(source()))
    assert len(step.passes) > 2
    model = passes(base(), dropout=0.3)
    torch.manual_seed(9)
    kept, expected = backward(model, step)
    torch.manual_seed(9)
    again, found = backward(model, replace(step, recompute=True))
    assert again == kept
    assert expected.keys() == found.keys() and any("lora_A" in n for n in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=0)
    torch.manual_seed(10)
    assert backward(model, step)[0] != kept  # dropout was there


def test_the_gradient_does_not_depend_on_how_a_step_is_cut_into_passes(base: Callable[[], Backbone]) -> None:
    model = passes(base())
    whole = only(batches(source(), tokens_per_micro_batch=10_000))
    cut = only(batches(source(), tokens_per_micro_batch=1))
    assert len(cut.passes) > len(whole.passes)
    loss, expected = backward(model, whole)
    other, found = backward(model, replace(cut, recompute=True))
    assert other == pytest.approx(loss, abs=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


def test_a_step_over_the_memory_limit_is_recomputed_and_one_within_is_not() -> None:
    assert not only(batches(source())).recompute
    assert not only(batches(source(), tokens_in_memory=10_000)).recompute
    assert only(batches(source(), tokens_in_memory=100)).recompute


# ------------------------------------------------------------------------------------------ training


def test_the_optimizer_holds_the_adapter_and_nothing_else(base: Callable[[], Backbone]) -> None:
    model = passes(base())
    model.projection.requires_grad_(False)
    held = {id(p) for group in adamw(model, Optimizer()).param_groups for p in group["params"]}
    named = {n for n, p in model.named_parameters() if id(p) in held}
    assert named == {n for n, _ in model.named_parameters() if ".lora_" in n}
    model.projection.requires_grad_(True)
    held = {id(p) for group in adamw(model, Optimizer()).param_groups for p in group["params"]}
    named = {n for n, p in model.named_parameters() if id(p) in held}
    assert named == {n for n, _ in model.named_parameters() if ".lora_" in n or n.startswith("projection.")}


BLOCKS: dict[str, Any] = {
    "retrieval": RetrievalAdapter,
    "text-matching": TextMatchingAdapter,
    "clustering": ClusteringAdapter,
    "classification": ClassificationAdapter,
}


def run(recipe: Recipe, base: Callable[[], Backbone], task: Any, folder: Path, **changes: Any) -> stage2.Adapted:
    sources = {
        "retrieval": [source()],
        "text-matching": [source(negatives=None, weight=4.0), source(name="graded", scores=np.arange(ROWS) / ROWS)],
        "clustering": [source(first=np.arange(4 * ROWS), second=None, negatives=None)],
        "classification": [source(labels=(np.arange(4 * ROWS) % ROWS)[:, None])],
    }[task]
    settings = BLOCKS[task](
        sources=SOURCES,
        steps=50,
        precision="fp32",
        lora=Lora(rank=4, dropout=0.0),
        optimizer=Optimizer(learning_rate=0.01, warmup_steps=2),
        checkpoint_every=20,
        log_every=1,
        **changes,
    )
    torch.manual_seed(0)
    projection = Projection([8, DIM], DIM)
    gather = lambda rows: VECTORS[rows]  # noqa: E731
    return stage2.adapt(recipe, task, settings, base(), projection, sources, gather, folder, key="k")


@pytest.mark.parametrize("task", list(BLOCKS))
def test_fifty_steps_lower_the_loss_and_leave_the_base_as_it_was(
    task: str, recipe: Recipe, base: Callable[[], Backbone], tmp_path: Path
) -> None:
    made = base()
    before = adapters.base_digest(made.model)
    found = run(recipe, lambda: made, task, tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "cosent" not in row]  # where a run has two kinds of steps, one of them
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
    assert any("cosent" in row for row in rows) == (task == "text-matching")
    assert found.final.base == before
    untouched = {n.replace(".base_layer.", "."): p for n, p in made.model.named_parameters() if ".lora_" not in n}
    for name, tensor in base().model.named_parameters():
        assert torch.equal(untouched[name], tensor), name
    assert all(b.abs().max() > 0 for _, b in found.final.factors.values())


def test_named_terms_are_logged(recipe: Recipe, base: Callable[[], Backbone], tmp_path: Path) -> None:
    run(recipe, base, "retrieval", tmp_path)
    row = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert {"loss", "info_nce", "distill", "spread"} <= set(row)
    assert row["loss"] == pytest.approx(row["info_nce"] + row["distill"] + row["spread"], rel=1e-5)


def test_the_final_adapter_is_averaged_with_the_checkpoint_of_the_step_asked_for(
    recipe: Recipe, base: Callable[[], Backbone], tmp_path: Path
) -> None:
    found = run(recipe, base, "clustering", tmp_path, average=Average(earlier=0.3, weight=0.25))
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"step-00000015", "step-00000040", "step-00000050"}
    saved = checkpoint.weights(tmp_path / "checkpoints", 15, key="k")
    inside = {n.removeprefix("student.backbone."): t for n, t in saved.items()}
    before = adapters.taken_from(inside, "clustering", Lora(rank=4), base=None)
    assert found.averaged is not None
    for name, mean in found.averaged.factors.items():
        for m, last, early in zip(mean, found.final.factors[name], before.factors[name], strict=True):
            torch.testing.assert_close(m, 0.75 * last + 0.25 * early)
    assert run(recipe, base, "clustering", tmp_path / "other", average=None).averaged is None


def test_a_run_in_two_parts_ends_with_the_adapter_of_one(
    recipe: Recipe, base: Callable[[], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(recipe, base, "text-matching", tmp_path / "whole")
    run(recipe, base, "text-matching", tmp_path / "parts")
    for late in ("step-00000040", "step-00000050"):
        shutil.rmtree(tmp_path / "parts" / "checkpoints" / late)
    again = run(recipe, base, "text-matching", tmp_path / "parts")  # goes on from step 25, the one that is averaged
    for name, pair in whole.final.factors.items():
        assert all(torch.equal(x, y) for x, y in zip(pair, again.final.factors[name], strict=True))


def test_a_trained_projection_comes_back_and_the_one_given_in_is_not_needed_else(
    recipe: Recipe, base: Callable[[], Backbone], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    start = Projection([8, DIM], DIM)
    found = run(recipe, base, "clustering", tmp_path / "a", train_projection=True)
    assert found.projection is not None
    assert not torch.equal(found.projection.heads["8"].weight, start.heads["8"].weight)  # type: ignore[arg-type]
    assert run(recipe, base, "clustering", tmp_path / "b").projection is None


def test_all_weights_zero_is_an_error(recipe: Recipe, base: Callable[[], Backbone], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="every term of this adapter has weight 0"):
        run(recipe, base, "retrieval", tmp_path, nce_weight=0, distill_weight=0, spread_weight=0)


def test_lora_targets_that_the_backbone_has_not_are_an_error(base: Callable[[], Backbone]) -> None:
    with pytest.raises(ConfigError, match=r"lora.targets names \['gate_proj'\]; the layers of this backbone have"):
        adapters.attach(base().model, Lora(targets=["gate_proj"]), "retrieval", seed=0)


def test_one_process_gathers_nothing() -> None:
    vectors = torch.randn(3, 4, requires_grad=True)
    assert stage2.gathered(vectors, [3]) is vectors
