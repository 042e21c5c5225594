"""Everything a run needs to go on, in a folder that is whole or absent. Tensors as safetensors, the rest as JSON."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck.errors import TrainingError
from limbeck.files import read_json, write_json
from limbeck.folders import full_disk_named, replaced_folder, sync_file
from limbeck.training.sharding import brought_together, is_split, parts_like

_NAME = re.compile(r"step-(\d{8})$")
_FAR = 1_000_003  # seeds of ranks and of steps do not meet


@dataclass(frozen=True)
class Progress:
    """Where a run stands: optimizer steps and real tokens done, and the data position."""

    step: int
    tokens: int
    data: dict[str, Any]


def save(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    *,
    key: str,
    keep: int,
    spared: Collection[int] = (),
    rng: Sequence[dict[str, Tensor]] | None = None,
    writes: bool = True,
) -> Path:
    """Write `folder/step-NNNNNNNN` and remove all but the newest `keep`.

    What is written is whole, however the weights are split over processes, so that any number of them goes on from it.

    Args:
        folder: of all checkpoints of the run.
        module: its buffers and those of its weights that require a gradient are written; the rest never changes.
        optimizer: AdamW; its moments are stored under the names of the parameters they belong to.
        progress: see Progress.
        key: digest of what the weights depend on; a checkpoint with another key is not resumed.
        keep: newest checkpoints kept, at least 1.
        spared: steps whose checkpoints stay besides.
        rng: `random_state` of every process; None = this one is alone.
        writes: False on all processes but one; where weights are split, all of them must call.

    Raises TrainingError naming the folder when the disk is full; earlier checkpoints stay.
    """
    target = folder / f"step-{progress.step:08d}"
    if not writes and not is_split(module):
        return target
    changing = brought_together(_changing(module), keep=writes)
    moments = brought_together(_optimizer_tensors(module, optimizer), keep=writes)
    if not writes:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with full_disk_named(target, TrainingError), replaced_folder(target) as temporary:
        _save_tensors(temporary / "weights.safetensors", changing)
        _save_tensors(temporary / "optimizer.safetensors", moments)
        states = [random_state()] if rng is None else rng
        named = {_of_rank(name, i): state for i, states_of in enumerate(states) for name, state in states_of.items()}
        _save_tensors(temporary / "rng.safetensors", named)
        state = {"key": key, "step": progress.step, "tokens": progress.tokens, "data": progress.data}
        write_json(temporary / "state.json", state)
    for old in _all(folder)[:-keep]:
        if _step(old) not in spared:
            shutil.rmtree(old)
    return target


def weights(folder: Path, step: int, *, key: str) -> dict[str, Tensor]:
    """The weights that were trained, by name, as they were after a step. Raises TrainingError as `load`."""
    found = folder / f"step-{step:08d}"
    with _readable(found):
        state, tensors = read_json(found / "state.json"), load_file(str(found / "weights.safetensors"))
    _check_key(found, state, key)
    return tensors


def tokens(folder: Path, step: int) -> int:
    """Real tokens that were trained on up to a step. Raises TrainingError as `load`."""
    found = folder / f"step-{step:08d}"
    with _readable(found):
        return int(read_json(found / "state.json")["tokens"])


def latest(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, or None."""
    found = _all(folder)
    return found[-1] if found else None


def load(checkpoint: Path, module: nn.Module, optimizer: torch.optim.Optimizer, *, key: str, rank: int = 0) -> Progress:
    """Put weights, optimizer and RNG back. Raises TrainingError when it is torn or belongs to another run.

    A rank that the run did not have when it was saved draws on from its seed and the step.
    """
    with _readable(checkpoint):
        state = read_json(checkpoint / "state.json")
        tensors = load_file(str(checkpoint / "weights.safetensors"))
        moments = load_file(str(checkpoint / "optimizer.safetensors"))
        rng = load_file(str(checkpoint / "rng.safetensors"))
    _check_key(checkpoint, state, key)
    own = _changing(module)
    if missing := set(own) - set(tensors):
        raise TrainingError(f"{checkpoint} has no weights for {sorted(missing)[:3]}: delete it")
    named = module.state_dict()
    module.load_state_dict({n: parts_like(t, named[n]) for n, t in tensors.items() if n in named}, strict=False)
    _load_optimizer(module, optimizer, moments)
    _draw_on(rng, rank, state["step"])
    return Progress(state["step"], state["tokens"], state["data"])


@contextmanager
def _readable(checkpoint: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # safetensors raises its own types
        raise TrainingError(f"{checkpoint} cannot be read ({error}): delete it to go on from the one before") from None


def _check_key(checkpoint: Path, state: dict[str, Any], key: str) -> None:
    if state["key"] != key:
        raise TrainingError(
            f"{checkpoint} was made by another recipe, data or teacher: give the run another `out`, or delete "
            f"{checkpoint.parent} to start again"
        )


def _all(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if _NAME.match(p.name))


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, str(path))
    except SafetensorError as error:  # it hides the number of the OSError inside its text
        found = re.search(r"os error (\d+)", str(error))
        raise OSError(int(found[1]) if found else errno.EIO, str(error)) from None
    sync_file(path)


def _changing(module: nn.Module) -> dict[str, Tensor]:
    """Weights that require a gradient, tied ones once (safetensors refuses shared memory), and buffers."""
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    named |= {name: t for name, t in module.state_dict().items() if name not in parameters}
    return {name: tensor.detach() for name, tensor in named.items()}


def _names(module: nn.Module) -> dict[int, str]:
    return {id(p): name for name, p in module.named_parameters()}


def _optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = _names(module)
    return {
        f"{names[id(parameter)]}|{part}": value.detach()
        for parameter, state in optimizer.state.items()
        for part, value in state.items()
    }


def _load_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, part = key.rpartition("|")
        by_name.setdefault(name, {})[part] = value
    names = _names(module)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parts = by_name.get(names[id(parameter)])
            if parts is not None:
                optimizer.state[parameter] = {
                    # AdamW keeps its step count on the CPU unless it is fused or capturable
                    part: value.clone() if part == "step" and not group.get("fused") else _moment(value, parameter)
                    for part, value in parts.items()
                }


def _moment(value: Tensor, parameter: Tensor) -> Tensor:
    # a step count is one number, and no part of a weight
    return parts_like(value, parameter) if value.shape == parameter.shape else value.to(parameter.device)


def random_state() -> dict[str, Tensor]:
    """State of this process's generators: CPU, and the GPU that it computes on."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _of_rank(name: str, rank: int) -> str:
    return f"{name}.{rank}" if rank else name


def _draw_on(rng: dict[str, Tensor], rank: int, step: int) -> None:
    cpu, cuda = (rng.get(_of_rank(name, rank)) for name in ("cpu", "cuda"))
    if cpu is None:
        torch.manual_seed(torch.initial_seed() + _FAR * step)
        return
    torch.set_rng_state(cpu)
    if torch.cuda.is_available() and cuda is not None:
        torch.cuda.set_rng_state(cuda)
