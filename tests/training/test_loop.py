"""The step loop: its schedule, groups, sums over micro-batches, and what it does when a loss goes wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn

from limbeck.config import Optimizer
from limbeck.errors import TrainingError
from limbeck.training.loop import Batch, Run, adamw, read_metrics, schedule, train

Loss = Callable[[nn.Module, Tensor], dict[str, Tensor]]


@dataclass
class Rows:
    """Endless steps over rows of a regression, each cut into passes of the given sizes."""

    rows: Tensor  # [N, F]
    cuts: Sequence[int]
    step: int = 0

    def next(self) -> Batch[Tensor]:
        start = self.step * sum(self.cuts) % len(self.rows)
        step = self.rows[start : start + sum(self.cuts)]
        self.step += 1
        return Batch([(part, len(part) / len(step)) for part in step.split(list(self.cuts))], tokens=len(step))

    def state(self) -> dict[str, Any]:
        return {"step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]


def data() -> Tensor:
    return torch.randn(64, 5, generator=torch.Generator().manual_seed(0))


def squared(model: nn.Module, rows: Tensor) -> dict[str, Tensor]:
    loss = (model(rows).squeeze(-1) - rows.sum(dim=1) - 2).square().mean()
    return {"loss": loss, "loss/half": loss / 2}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))


def run_of(folder: Path, **changes: Any) -> Run:
    settings = {"learning_rate": 0.05, "warmup_steps": 0} | changes.pop("optimizer", {})
    body = {"steps": 4, "checkpoint_every": 2, "keep_checkpoints": 1, "log_every": 1, "key": "k", "seed": 0}
    return Run(folder=folder, optimizer=Optimizer(**settings), **(body | changes))


def trained(
    folder: Path, cuts: Sequence[int] = (16,), loss: Loss = squared, console: Console | None = None, **changes: Any
) -> tuple[nn.Module, int]:
    model = network()
    tokens = train(model, loss, Rows(data(), cuts), run_of(folder, **changes), Accelerator(cpu=True), console=console)
    return model, tokens


# --------------------------------------------------------------------------------- schedule and groups


def test_the_learning_rate_warms_up_linearly_and_falls_along_a_cosine() -> None:
    settings = Optimizer(warmup_steps=4, final_fraction=0.1)
    share = [schedule(step, 12, settings) for step in range(13)]
    assert share[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert share[8] == pytest.approx(0.1 + 0.9 * 0.5)  # half way down
    assert share[6] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    assert share[12] == pytest.approx(0.1)
    assert schedule(0, 1, Optimizer(warmup_steps=500)) == 1.0  # a run shorter than its warm-up


def test_only_matrices_decay_and_the_projection_has_its_own_rate() -> None:
    model = nn.Module()
    model.backbone, model.projection, model.frozen = nn.Linear(3, 3), nn.Linear(3, 4), nn.Linear(2, 2)
    model.norm = nn.LayerNorm(3)
    model.frozen.requires_grad_(False)
    groups = adamw(model, Optimizer(learning_rate=0.1, projection_learning_rate=0.2, weight_decay=0.3)).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    found = {(g["lr"], g["weight_decay"]): sorted(names[id(p)] for p in g["params"]) for g in groups}
    assert found == {
        (0.1, 0.3): ["backbone.weight"],
        (0.1, 0.0): ["backbone.bias", "norm.bias", "norm.weight"],
        (0.2, 0.3): ["projection.weight"],
        (0.2, 0.0): ["projection.bias"],
    }


def test_a_model_with_nothing_to_train_is_an_error() -> None:
    with pytest.raises(TrainingError, match="nothing to train"):
        adamw(nn.Linear(2, 2).requires_grad_(False), Optimizer())


# ----------------------------------------------------------------------------------------------- steps


def test_a_step_in_many_passes_has_the_gradient_of_one_in_a_single_pass(tmp_path: Path) -> None:
    norms = {}
    for name, cuts in {"one": (16,), "many": (1, 3, 7, 5)}.items():
        model, _ = trained(tmp_path / name, cuts, steps=3)
        norms[name] = [row["grad_norm"] for row in read_metrics(tmp_path / name / "metrics.jsonl")], model.state_dict()
    assert norms["one"][0] == pytest.approx(norms["many"][0], rel=1e-6)
    for one, many in zip(norms["one"][1].values(), norms["many"][1].values(), strict=True):
        torch.testing.assert_close(one, many, rtol=0, atol=1e-6)


def test_gradients_are_clipped_to_the_norm_of_the_recipe(tmp_path: Path) -> None:
    seen = []

    class Watched(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            seen.append(math.sqrt(sum(float(p.grad.square().sum()) for g in self.param_groups for p in g["params"])))
            return super().step(closure)

    original, torch.optim.AdamW = torch.optim.AdamW, Watched  # type: ignore[misc]
    try:
        trained(tmp_path, optimizer={"clip_norm": 0.01}, steps=2)
    finally:
        torch.optim.AdamW = original  # type: ignore[misc]
    assert seen == pytest.approx([0.01, 0.01], rel=1e-4)
    assert all(row["grad_norm"] > 0.1 for row in read_metrics(tmp_path / "metrics.jsonl"))  # before clipping


def test_fifty_steps_lower_the_loss_and_tokens_are_counted(tmp_path: Path) -> None:
    _, tokens = trained(tmp_path, steps=50, log_every=10)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"] and rows[-1]["loss/half"] == pytest.approx(rows[-1]["loss"] / 2)
    assert tokens == rows[-1]["tokens"] == 50 * 16


# ---------------------------------------------------------------------------------------------- resuming


def test_a_resumed_run_drops_the_rows_that_it_makes_again_and_ends_the_same(tmp_path: Path) -> None:
    whole, _ = trained(tmp_path / "whole", steps=6)

    class Stop(Exception):
        pass

    calls = 0

    def interrupted(model: nn.Module, rows: Tensor) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise Stop
        return squared(model, rows)

    part = tmp_path / "part"
    with pytest.raises(Stop):
        trained(part, loss=interrupted, steps=6)
    assert [row["step"] for row in read_metrics(part / "metrics.jsonl")] == [1, 2, 3, 4, 5]  # saved last after step 4
    with open(part / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # torn by a kill
    resumed, tokens = trained(part, steps=6)
    rows = {name: read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "part")}
    for row in rows["whole"] + rows["part"]:
        del row["tokens_per_second"]
    assert rows["part"] == rows["whole"] and tokens == 6 * 16
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_finished_run_trains_no_further_and_gives_its_weights(tmp_path: Path) -> None:
    done, _ = trained(tmp_path)

    def never(model: nn.Module, rows: Tensor) -> dict[str, Tensor]:
        raise AssertionError

    again, tokens = trained(tmp_path, loss=never)
    assert tokens == 4 * 16
    for a, b in zip(done.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_is_drawn_in_training_depends_on_the_seed_alone(tmp_path: Path) -> None:
    def noisy(model: nn.Module, rows: Tensor) -> dict[str, Tensor]:
        return squared(model, nn.functional.dropout(rows, 0.5))

    def drawn(name: str, seed: int) -> list[Tensor]:
        model = network()
        torch.rand(len(name))  # whatever was drawn before
        train(model, noisy, Rows(data(), (16,)), run_of(tmp_path / name, seed=seed), Accelerator(cpu=True))
        return list(model.parameters())

    one, same, other = drawn("a", 1), drawn("bcd", 1), drawn("e", 2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# ------------------------------------------------------------------------------------------------ trouble


@pytest.mark.parametrize("log_every", [1, 100])
@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path: Path, bad: str, log_every: int) -> None:
    calls = 0

    def breaks(model: nn.Module, rows: Tensor) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        loss = squared(model, rows)["loss"]
        if calls < 4:
            return {"loss": loss}
        # the square root of zero is 0, its gradient infinite
        return {"loss": loss * math.nan if bad == "loss" else loss + (loss - loss.detach()).abs().sqrt()}

    with pytest.raises(TrainingError, match="at step 4.*lower optimizer.learning_rate"):
        trained(tmp_path, loss=breaks, log_every=log_every)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    trained(tmp_path)  # goes on from there
    assert all(math.isfinite(row["loss"]) for row in read_metrics(tmp_path / "metrics.jsonl"))


# ------------------------------------------------------------------------------------------------- output


def test_metrics_are_json_lines_and_tensorboard_files(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"step", "loss", "loss/half", "lr", "grad_norm", "tokens", "tokens_per_second"} == set(rows[0])
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [s.value for s in board.Scalars("loss")] == pytest.approx([row["loss"] for row in rows])


def test_the_bar_goes_to_a_terminal_and_nowhere_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    terminal, file = StringIO(), StringIO()
    trained(tmp_path / "a", console=Console(file=terminal, force_terminal=True, width=100), title="stage 1")
    trained(tmp_path / "b", console=Console(file=file))
    trained(tmp_path / "c")
    assert "stage 1" in terminal.getvalue() and "tokens/s" in terminal.getvalue()
    assert file.getvalue() == ""
    assert capfd.readouterr() == ("", "")
