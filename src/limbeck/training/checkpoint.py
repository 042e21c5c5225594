"""Everything a run needs to go on, in a folder that is whole or absent. Tensors as safetensors, the rest as JSON."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Collection, Iterator
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

_NAME = re.compile(r"step-(\d{8})$")


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
) -> Path:
    """Write `folder/step-NNNNNNNN` and remove all but the newest `keep`.

    Args:
        folder: of all checkpoints of the run.
        module: its buffers and those of its weights that require a gradient are written; the rest never changes.
        optimizer: AdamW; its moments are stored under the names of the parameters they belong to.
        progress: see Progress.
        key: digest of what the weights depend on; a checkpoint with another key is not resumed.
        keep: newest checkpoints kept, at least 1.
        spared: steps whose checkpoints stay besides.

    Raises TrainingError naming the folder when the disk is full; earlier checkpoints stay.
    """
    target = folder / f"step-{progress.step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    with full_disk_named(target, TrainingError), replaced_folder(target) as temporary:
        _save_tensors(temporary / "weights.safetensors", _changing(module))
        _save_tensors(temporary / "optimizer.safetensors", _optimizer_tensors(module, optimizer))
        _save_tensors(temporary / "rng.safetensors", _rng())
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


def load(checkpoint: Path, module: nn.Module, optimizer: torch.optim.Optimizer, *, key: str) -> Progress:
    """Put weights, optimizer and RNG back. Raises TrainingError when it is torn or belongs to another run."""
    with _readable(checkpoint):
        state = read_json(checkpoint / "state.json")
        tensors = load_file(str(checkpoint / "weights.safetensors"))
        moments = load_file(str(checkpoint / "optimizer.safetensors"))
        rng = load_file(str(checkpoint / "rng.safetensors"))
    _check_key(checkpoint, state, key)
    module.load_state_dict(tensors, strict=False)
    if missing := set(_changing(module)) - set(tensors):
        raise TrainingError(f"{checkpoint} has no weights for {sorted(missing)[:3]}: delete it")
    _load_optimizer(module, optimizer, moments)
    torch.set_rng_state(rng["cpu"])
    if torch.cuda.is_available() and "cuda" in rng:
        torch.cuda.set_rng_state(rng["cuda"])
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
    return {name: tensor.detach().contiguous() for name, tensor in named.items()}


def _names(module: nn.Module) -> dict[int, str]:
    return {id(p): name for name, p in module.named_parameters()}


def _optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = _names(module)
    return {
        f"{names[id(parameter)]}|{part}": value.detach().clone().contiguous()
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
                    part: value.clone() if part == "step" and not group.get("fused") else value.to(parameter.device)
                    for part, value in parts.items()
                }


def _rng() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state
