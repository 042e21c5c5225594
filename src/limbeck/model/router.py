"""Which adapter suits texts whose task nobody names: a small classifier on the base's own vectors, for task="auto".

N: texts, D: dims, K: tasks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from limbeck.errors import DataError, ModelError

PARTS = 20  # shares are counted in parts of so many; what is under one part is dropped


@dataclass(frozen=True)
class Router:
    """Multinomial logistic regression: softmax(W z + b), z a unit vector of the base, prefixed as a document."""

    tasks: tuple[str, ...]
    weight: Tensor  # [K, D], fp32
    bias: Tensor  # [K], fp32

    @classmethod
    def fit(cls, vectors: np.ndarray, tasks: Sequence[str], *, regularisation: float = 2e-4) -> Router:
        """Fit by L-BFGS, from zero and in fp64: the problem is convex, so nothing is drawn.

        Args:
            vectors: [N, D], unit vectors of the base.
            tasks: of each text; every task counts the same, however many texts it has.
            regularisation: of ½ |W|², beside a mean over texts; scikit-learn's C is 1 / (N · regularisation).

        Raises DataError: no texts, as many tasks as there are not vectors, or vectors with NaN.
        """
        if not len(tasks) or len(tasks) != len(vectors):
            raise DataError(f"a router needs texts and a task for each, got {len(vectors)} vectors, {len(tasks)} tasks")
        if not np.isfinite(vectors).all():
            raise DataError("vectors for the router hold NaN or infinity: the base is damaged")
        names = tuple(dict.fromkeys(tasks))
        inputs = torch.from_numpy(vectors).double()
        targets = torch.tensor([names.index(task) for task in tasks])
        counts = torch.bincount(targets).double()
        each = (len(targets) / len(names) / counts)[targets]
        weight = torch.zeros(len(names), inputs.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
        search = torch.optim.LBFGS(
            [weight, bias], max_iter=500, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            search.zero_grad()
            misfit = (each * F.cross_entropy(inputs @ weight.T + bias, targets, reduction="none")).mean()
            value = misfit + regularisation / 2 * weight.square().sum()
            value.backward()
            return value

        search.step(loss)  # type: ignore[arg-type]  # its type says float, its text and code a tensor
        return cls(names, weight.detach().float(), bias.detach().float())

    def shares(self, vectors: np.ndarray) -> dict[str, float]:
        """Mean probability of each task over vectors [N, D] of the base; equal ones where there are no vectors."""
        logits = torch.from_numpy(vectors).float() @ self.weight.T + self.bias
        mean = logits.softmax(dim=-1).double().mean(dim=0) if len(vectors) else torch.ones(len(self.tasks))
        return dict(zip(self.tasks, (mean / mean.sum()).tolist(), strict=True))

    def save(self, path: Path) -> None:
        """Write it as safetensors, the tasks in its metadata."""
        tensors = {"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}
        save_file(tensors, str(path), metadata={"tasks": json.dumps(self.tasks)})

    @classmethod
    def load(cls, path: Path) -> Router:
        """Read what `save` wrote. Raises ModelError when the file is absent, torn or something else."""
        try:
            with safe_open(str(path), "pt") as file:
                tasks = tuple(json.loads((file.metadata() or {})["tasks"]))
                weight, bias = (file.get_tensor(name).float() for name in ("weight", "bias"))
            if weight.ndim != 2 or not len(tasks) == len(weight) == len(bias):
                raise ValueError(f"{len(tasks)} tasks, weights {list(weight.shape)}, biases {list(bias.shape)}")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelError(f"the router {path} cannot be read ({error}): take it from the bundle again") from None
        return cls(tasks, weight, bias)


def rounded(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares in whole parts of 1 / PARTS, which sum to 1; those under one part are dropped.

    So that similar texts get the same blend, whose merged weights are at hand.
    """
    kept = {task: share for task, share in shares.items() if share * PARTS >= 1} or dict(shares)
    exact = np.array(list(kept.values())) * PARTS / sum(kept.values())
    parts = np.floor(exact)
    missing = PARTS - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:missing]] += 1  # to those that rounding down took most from
    return {task: part / PARTS for task, part in zip(kept, parts.tolist(), strict=True) if part}
