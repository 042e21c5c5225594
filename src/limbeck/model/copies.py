"""The base with adapters merged in: made when first asked for, and the last few kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Literal

import torch
from torch import nn

from limbeck.errors import ConfigError
from limbeck.model import passes
from limbeck.model import runtime as runtimes
from limbeck.model.adapters import Adapter, halve, merged
from limbeck.model.choice import Shares
from limbeck.model.student import StudentModel

HELD_BYTES = 2**30  # merged copies kept at a time, unless told otherwise


@dataclass(frozen=True)
class Place:
    """What a copy runs on, and how."""

    device: torch.device
    compute: Literal["fp32", "bf16"]  # of matrix products
    backend: runtimes.Backend
    compile: bool
    threads: int


class MergedCopies:
    """Copies of one base, each with a blend of adapters; `student` may be asked by several threads."""

    def __init__(
        self,
        base: StudentModel,
        adapters: Mapping[str, Adapter],
        place: Place,
        *,
        pooling: str,
        hold: int | None,
    ) -> None:
        """Take the base to its device.

        Args:
            base: it stays as it is: adapters are always merged into its own weights, and what came before never
                matters.
            adapters: by task.
            place: where and how they run.
            pooling: of the base.
            hold: copies kept; None = as many as fit in a gibibyte, at least one.

        Raises ModelError: an adapter has other shapes than the base. ConfigError: hold < 1.
        """
        for task, adapter in adapters.items():
            adapter.check_fits(base.backbone, name=task)
        if hold is not None and hold < 1:
            raise ConfigError(f"hold must be at least 1, the copy in use; got {hold}")
        self.place, self._pooling = place, pooling
        self.base = self._ready(base)
        self.adapters = {task: _on(place.device, adapter) for task, adapter in adapters.items()}
        # matrices that autocast would convert for every call; another backend converts what it is given itself
        self._halves = place.compute == "bf16" and place.backend == "torch"
        self.hold = hold or max(1, HELD_BYTES // max(1, self._copy_bytes()))
        self._half_base: StudentModel | None = None
        self.held: OrderedDict[Shares, StudentModel] = OrderedDict()  # the one used last is last
        self._merging = Lock()  # a copy is made once, whoever asks
        self._stand_ins: OrderedDict[Shares, passes.Forward] = OrderedDict()  # of another backend, likewise

    def student(self, shares: Shares) -> StudentModel:
        """The base with these shares of its adapters, to compute with."""
        if not shares and not self._halves:
            return self.base
        with self._merging:
            if not shares:
                self._half_base = self._half_base or self._copy(())
                return self._half_base
            if shares not in self.held:
                while len(self.held) >= self.hold:  # before the next is made, so that there are never more
                    self.held.popitem(last=False)
                self.held[shares] = self._copy(shares)
            self.held.move_to_end(shares)
            return self.held[shares]

    def _copy(self, shares: Shares) -> StudentModel:
        backbone = merged(self.base.backbone, [(self.adapters[name], share) for name, share in shares])
        if self._halves:
            halve(backbone)
        return self._ready(StudentModel(backbone, pooling=self._pooling))

    def forward(self, shares: Shares, digest: Callable[[Shares], str]) -> passes.Forward | None:
        """The same student's forward pass in another backend, None where torch computes.

        digest: names what the vectors depend on, for what the backend keeps on disk.
        """
        if self.place.backend == "torch":
            return None
        if shares not in self._stand_ins:
            from limbeck.model.openvino import OpenVinoStudent

            while len(self._stand_ins) >= self.hold:
                self._stand_ins.popitem(last=False)
            how: dict[str, Any] = {"precision": self.place.compute, "threads": self.place.threads}
            self._stand_ins[shares] = OpenVinoStudent(self.student(shares), key=digest(shares), **how)
        self._stand_ins.move_to_end(shares)
        return self._stand_ins[shares]

    def let_go_of_files(self) -> None:
        """Copy what is mapped from files into memory of this process; copies that share it are made anew."""
        for tensor in (*self.base.parameters(), *self.base.buffers()):
            tensor.data = tensor.data.clone()
        self.adapters = {
            task: replace(adapter, factors={name: (a.clone(), b.clone()) for name, (a, b) in adapter.factors.items()})
            for task, adapter in self.adapters.items()
        }
        self.held.clear()
        self._half_base = None

    def _ready(self, student: StudentModel) -> StudentModel:
        """On the device, and compiled (at its first pass, for texts of any number and length) if that was asked for."""
        student = student.to(self.place.device).eval()
        if self.place.compile:
            student.backbone.compile(dynamic=True)
        return student

    def _copy_bytes(self) -> int:
        """What one merged copy costs."""
        backbone: Any = self.base.backbone
        if self._halves:  # all linear layers, those too that no adapter changes
            linears = (m for m in backbone.modules() if isinstance(m, nn.Linear))
            return sum(2 * p.numel() for linear in linears for p in linear.parameters(recurse=False))
        changed = {name for adapter in self.adapters.values() for name in adapter.factors}
        weights = [backbone.get_submodule(name).weight for name in changed]
        return sum(w.numel() * w.element_size() for w in weights)


def _on(device: torch.device, adapter: Adapter) -> Adapter:
    """The adapter with its weights on a device, where they are merged."""
    return replace(adapter, factors={n: (a.to(device), b.to(device)) for n, (a, b) in adapter.factors.items()})
