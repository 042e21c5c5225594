"""Which layers of a transformer a smaller one keeps: those without which texts lie to each other as they did.

From all layers one is dropped after the other, each time the one without which the pairwise cosines of sample texts
correlate best with those under all layers. Nothing is trained, and no text needs a label or a teacher's vector.

N: texts, B: those of a pass, T: tokens, H: hidden, C: choices of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.config import Student
from limbeck.data.batching import micro_batches
from limbeck.errors import ConfigError, DataError
from limbeck.model import backbone as backbones
from limbeck.model import runtime
from limbeck.model.pooling import POOLINGS
from limbeck.model.student import StudentModel
from limbeck.model.tokenizer import pad

TOKENS = 96  # of a text: how a layer matters shows early in it, and whole texts take several times as long
_PASS_TOKENS = 4_096  # padded, of all choices of a pass, side by side


@dataclass(frozen=True, slots=True)
class Kept:
    """Layers that are left, and the correlation (Pearson, −1 … 1) of the texts' cosines with those of all layers."""

    layers: list[int]
    agreement: float


def choose_layers(
    student: Student,
    teacher: str | None,
    texts: Sequence[str],
    *,
    seed: int,
    precision: runtime.Precision = "auto",
    progress: Callable[[Kept], None] | None = None,
) -> Kept:
    """The layers to keep, `student.pruned.layers` of them, in their order.

    Args:
        student: that section of the recipe, with the number of layers to keep.
        teacher: its folder or hub id, where layers are taken from it.
        texts: what to tell the layers by, at least three different ones; each is cut at `TOKENS` tokens.
        seed: as in `limbeck.model.backbone.build`.
        precision: of the matrix products.
        progress: called with what is left after each layer that is dropped.

    Raises ConfigError: as many layers as the source has are to be kept, or more, or none can be dropped. DataError: too
    few texts. ModelError: the source cannot be read.
    """
    assert student.pruned is not None
    keep = student.pruned.depth
    if len(set(texts)) < 3:
        raise DataError(f"layers are chosen by at least three different texts, got {len(set(texts))}")
    depth = backbones.source_depth(student.pruned, teacher)
    if keep >= depth:
        raise ConfigError(f"student.pruned.layers keeps {keep} of {depth} layers: name fewer")
    # attention that averages is put into the last of the layers that are kept, whichever that is
    whole = student.pruned.model_copy(update={"layers": list(range(depth)), "pool_attention": False})
    built = backbones.build(student.model_copy(update={"pruned": whole}), teacher, seed=seed)
    pooling = "mean" if student.pruned.pool_attention else student.pooling
    device = runtime.device_of()
    stack = _Stack(built.model.to(device).eval(), pooling, runtime.precision_of(precision, device))
    rows, _ = built.tokenizer.ids(texts, max_tokens=min(student.max_tokens, TOKENS))
    stack.read(rows, built.tokenizer.pad_id, device)

    pairs = np.triu_indices(len(texts), 1)
    found = Kept(list(range(depth)), 1.0)
    target = _cosines(stack.vectors(found.layers, [depth])[0])[pairs]
    while len(layers := found.layers) > keep:
        left = {place: layers[:place] + layers[place + 1 :] for place in range(len(layers))}
        left = {place: kept for place, kept in left.items() if stack.allows(kept)}
        if not left:
            raise ConfigError(
                f"student.pruned.layers: none of the layers {layers} of {type(built.model).__name__} can be left out: "
                "name the ones to keep"
            )
        vectors = stack.vectors(layers, list(left))
        agreement = [float(np.corrcoef(target, _cosines(own)[pairs])[0, 1]) for own in vectors]
        best = int(np.argmax(agreement))
        found = Kept(list(left.values())[best], agreement[best])
        if progress is not None:
            progress(found)
    return found


def _cosines(vectors: np.ndarray) -> np.ndarray:
    return vectors @ vectors.T


class _Stack:
    """The layers of a backbone, some of which are left out."""

    def __init__(self, backbone: nn.Module, pooling: str, precision: Literal["fp32", "bf16"]) -> None:
        self._student, self._pool = StudentModel(backbone, pooling=pooling), POOLINGS[pooling]
        self._precision: Literal["fp32", "bf16"] = precision
        self._stack = backbones.layers(backbone)
        self._layers: list[nn.Module] = list(self._stack)
        self._parts = [set(layer.state_dict()) for layer in self._layers]
        self._passes: list[_Pass] = []
        self._texts = 0

    def allows(self, kept: list[int]) -> bool:
        """Whether each layer has the parts that its new place asks for: ModernBERT's first has no norm in front."""
        return all(self._parts[old] == self._parts[new] for new, old in enumerate(kept))

    def read(self, rows: Sequence[np.ndarray], pad_id: int, device: torch.device) -> None:
        """Prepare passes over texts, token ids [T] each."""
        self._texts = len(rows)
        budget = max(TOKENS, _PASS_TOKENS // len(self._layers))
        for chosen in micro_batches(np.array([len(row) for row in rows]), budget):
            ids, mask = (torch.from_numpy(part).to(device) for part in pad([rows[i] for i in chosen], pad_id))
            one = _Pass(chosen, ids, mask, [])
            with self._told(one.told):
                self._run(one)
            self._passes.append(one)

    def vectors(self, layers: list[int], places: list[int]) -> np.ndarray:
        """Unit vectors [C, N, H] of the texts under these layers, each time without the one at one of the places.

        Places ascend; at the one behind the last layer, none is left out.
        """
        found = None
        for one in self._passes:
            with self._replaced(_EachWithout(self._layers, one.told, layers, places)):
                states = self._run(one)
            pooled = self._pool(states, one.mask.repeat(len(places), 1)).float()
            units = nn.functional.normalize(pooled, dim=-1).view(len(places), len(one.texts), -1).cpu().numpy()
            if found is None:
                found = np.empty((len(places), self._texts, units.shape[-1]), np.float32)
            found[:, one.texts] = units
        assert found is not None
        return found

    @torch.inference_mode()
    def _run(self, one: _Pass) -> Tensor:
        with runtime.autocast(self._precision, one.ids.device):
            return self._student.token_states(input_ids=one.ids, attention_mask=one.mask)

    @contextmanager
    def _told(self, into: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> Iterator[None]:
        """Write down what each layer is told besides the states: its mask and positions, which may be its own."""

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            into.append((args[1:], kwargs))

        hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in self._layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _replaced(self, module: nn.Module) -> Iterator[None]:
        """One module in place of all layers."""
        before = dict(self._stack._modules)
        self._stack._modules.clear()
        self._stack._modules["0"] = module
        try:
            yield
        finally:
            self._stack._modules.clear()
            self._stack._modules.update(before)


@dataclass(frozen=True, slots=True)
class _Pass:
    """Texts of one pass, and what each layer is told in it."""

    texts: np.ndarray  # their numbers [B]
    ids: Tensor  # [B, T]
    mask: Tensor
    told: list[tuple[tuple[Any, ...], dict[str, Any]]]


class _EachWithout(nn.Module):
    """States [B, T, H] → [C · B, T, H], those after the layers, each time without the one at one of C places.

    What comes before the place is computed once for all: half of the work.
    """

    def __init__(self, stack: list[nn.Module], told: list[Any], layers: list[int], places: list[int]) -> None:
        super().__init__()
        self._held = stack, told, layers, places  # in a tuple: not as parts of this module
        self.attention_type = getattr(stack[0], "attention_type", None)  # what some backbones ask a layer for

    def forward(self, states: Tensor, *_: Any, **__: Any) -> Any:
        stack, told, layers, places = self._held

        def through(numbers: list[int], states: Tensor) -> Tensor:
            for number in numbers:
                args, kwargs = told[number]
                states = stack[number](states, *args, **kwargs)
            return states

        after, begin = [], 0
        for place in places:
            states = through(layers[begin:place], states)
            after.append(through(layers[place + 1 :], states))
            begin = place
        return torch.cat(after)
