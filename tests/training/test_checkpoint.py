"""Checkpoints: exact, whole or absent, and only ever read by the run that they belong to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from limbeck.errors import TrainingError
from limbeck.training import checkpoint
from limbeck.training.checkpoint import Progress


class Tied(nn.Module):
    """Two names for one weight, a buffer, and a weight that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 3), nn.Linear(3, 7)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids) + torch.rand(3))


def made(seed: int, *, fused: bool = True) -> tuple[Tied, torch.optim.AdamW]:
    torch.manual_seed(seed)
    module = Tied()
    trained = [p for p in module.parameters() if p.requires_grad]
    return module, torch.optim.AdamW(trained, lr=0.01, fused=fused)


def train(module: Tied, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        module(torch.arange(7)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        module.get_buffer("steps").add_(1)


def state(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    moments = [v for p in module.parameters() for _, v in sorted(optimizer.state.get(p, {}).items())]
    return [t.clone() for t in [*module.state_dict().values(), *moments, torch.get_rng_state()]]


def save(folder: Path, step: int, *, keep: int = 2, key: str = "k") -> Path:
    module, optimizer = made(0)
    train(module, optimizer, 1)
    return checkpoint.save(folder, module, optimizer, Progress(step, 10 * step, {"step": step}), key=key, keep=keep)


@pytest.mark.parametrize("fused", [True, False])
def test_weights_moments_and_rng_come_back_exactly_and_training_goes_on_as_if_never_stopped(
    tmp_path: Path, fused: bool
) -> None:
    module, optimizer = made(0, fused=fused)
    train(module, optimizer, 3)
    saved = checkpoint.save(tmp_path, module, optimizer, Progress(3, 99, {"cursors": [4]}), key="k", keep=1)
    expected = state(module, optimizer)
    train(module, optimizer, 2)
    later = state(module, optimizer)

    other, its_optimizer = made(1, fused=fused)
    assert checkpoint.load(saved, other, its_optimizer, key="k") == Progress(3, 99, {"cursors": [4]})
    assert other.head.weight is other.embedding.weight
    for a, b in zip(expected, state(other, its_optimizer), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    train(other, its_optimizer, 2)
    for a, b in zip(later, state(other, its_optimizer), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_each_rank_draws_on_as_it_would_have_and_a_new_one_from_seed_and_step(tmp_path: Path) -> None:
    def drawn_after_load(saved: Path, rank: int) -> torch.Tensor:
        module, optimizer = made(7 + rank)
        checkpoint.load(saved, module, optimizer, key="k", rank=rank)
        return torch.rand(4)

    module, optimizer = made(0)
    states, expected = [], []
    for rank in range(2):
        torch.manual_seed(rank)
        torch.rand(3)
        states.append(checkpoint.random_state())
        expected.append(torch.rand(4))
    of = {step: Progress(step, 0, {}) for step in (5, 6)}
    first, second = (checkpoint.save(tmp_path, module, optimizer, of[n], key="k", keep=2, rng=states) for n in of)
    assert all(torch.equal(drawn_after_load(first, rank), expected[rank]) for rank in range(2))
    new = [drawn_after_load(saved, rank) for saved in (first, second) for rank in (2, 3)]
    assert len({tuple(n.tolist()) for n in [*expected, *new]}) == 6  # none draws what another does
    assert torch.equal(drawn_after_load(first, 2), new[0])


def test_only_the_rank_that_writes_writes(tmp_path: Path) -> None:
    module, optimizer = made(0)
    target = checkpoint.save(tmp_path / "c", module, optimizer, Progress(1, 0, {}), key="k", keep=1, writes=False)
    assert target.name == "step-00000001" and not (tmp_path / "c").exists()


def test_the_newest_are_kept_and_the_newest_of_all_is_found(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "none") is None
    for step in (5, 10, 15, 100):
        save(tmp_path, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000015", "step-00000100"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-00000100"


def test_the_checkpoint_of_a_spared_step_stays_and_its_weights_can_be_read(tmp_path: Path) -> None:
    module, optimizer = made(0)
    first = {}
    for step in range(1, 6):
        train(module, optimizer, 1)
        progress = Progress(step, 0, {})
        checkpoint.save(tmp_path, module, optimizer, progress, key="k", keep=1, spared={2})
        if step == 2:
            first = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000005"]
    found = checkpoint.weights(tmp_path, 2, key="k")
    assert set(first) <= set(found)
    for name, tensor in first.items():
        assert torch.equal(found[name], tensor)
    with pytest.raises(TrainingError, match="another recipe"):
        checkpoint.weights(tmp_path, 2, key="other")
    with pytest.raises(TrainingError, match="cannot be read"):
        checkpoint.weights(tmp_path, 3, key="k")


def test_what_is_not_trained_is_not_written(tmp_path: Path) -> None:
    saved = save(tmp_path, 5)
    found = load_file(str(saved / "weights.safetensors"))
    assert sorted(found) == ["embedding.weight", "head.bias", "steps"]


def test_a_checkpoint_half_written_by_a_killed_process_is_not_found_and_goes_with_the_next(tmp_path: Path) -> None:
    save(tmp_path, 5)
    left = tmp_path / ".step-00000010.x.tmp"
    left.mkdir()
    (left / "weights.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) == tmp_path / "step-00000005"
    save(tmp_path, 10)
    assert not left.exists()


def test_a_checkpoint_of_another_run_is_refused_with_what_to_do(tmp_path: Path) -> None:
    saved = save(tmp_path, 5, key="one")
    with pytest.raises(TrainingError, match="another recipe, data or teacher: give the run another `out`, or delete"):
        checkpoint.load(saved, *made(0), key="two")


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    saved = save(tmp_path, 5)
    module, optimizer = made(0)
    module.add_module("new", nn.Linear(2, 2))
    with pytest.raises(TrainingError, match="no weights for .*new"):
        checkpoint.load(saved, module, optimizer, key="k")


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_torn_checkpoint_is_named(tmp_path: Path, name: str, gone: bool) -> None:
    saved = save(tmp_path, 5)
    if gone:
        (saved / name).unlink()
    else:
        (saved / name).write_bytes((saved / name).read_bytes()[:-9])
    with pytest.raises(TrainingError, match=f"{saved.name} cannot be read .*: delete it"):
        checkpoint.load(saved, *made(0), key="k")


# ----------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs the right to")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_named_and_the_checkpoint_before_stays_whole(small_disk: Path) -> None:
    before = save(small_disk, 5)
    module = nn.Linear(200, 200)
    optimizer = torch.optim.AdamW(module.parameters())
    with pytest.raises(TrainingError, match="the disk is full: .*step-00000010 could not be written"):
        checkpoint.save(small_disk, module, optimizer, Progress(10, 0, {}), key="k", keep=1)
    assert [p.name for p in small_disk.iterdir()] == [before.name]
    assert checkpoint.load(before, *made(1), key="k").step == 5


_OVER_THE_LIMIT = """
import resource, sys
from pathlib import Path
import torch
from limbeck.training import checkpoint

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
module = torch.nn.Linear(200, 200)
optimizer = torch.optim.AdamW(module.parameters())
try:
    checkpoint.save(Path(sys.argv[1]), module, optimizer, checkpoint.Progress(10, 0, {}), key="k", keep=1)
except checkpoint.TrainingError as error:
    print(error)
"""


def test_a_file_over_the_size_limit_is_a_full_disk_too(tmp_path: Path) -> None:
    before = save(tmp_path, 5)
    done = subprocess.run([sys.executable, "-c", _OVER_THE_LIMIT, tmp_path], capture_output=True, text=True)
    assert "the disk is full" in done.stdout, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == [before.name]
