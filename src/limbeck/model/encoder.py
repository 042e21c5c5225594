"""Texts → vectors, by role, width and precision. What users import.  N: texts, T: tokens, D: dims."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from limbeck import compress
from limbeck.compress import Precision
from limbeck.data.batching import micro_batches
from limbeck.errors import ConfigError, ModelError
from limbeck.files import sha256_file
from limbeck.model import rope, runtime
from limbeck.model.bundle import MANIFEST, PROJECTION, BundleSpec, read_spec
from limbeck.model.prefixes import ROLES
from limbeck.model.pretrained import read_model
from limbeck.model.projection import Projection
from limbeck.model.student import StudentModel
from limbeck.model.tokenizer import Tokenizer, first_line, pad

_CHUNK = 16_384  # texts sorted by length at a time: enough for narrow buckets, and bounds what is tokenised at once


class Encoder:
    """A trained student, ready to encode.

    `dim` is the full width, `dims` the widths that vectors may be cut to, `max_tokens` where texts are cut,
    `truncated` how many texts the last `encode` cut.
    """

    def __init__(
        self,
        model: StudentModel,
        tokenizer: Tokenizer,
        spec: BundleSpec,
        *,
        device: torch.device | None = None,
        precision: runtime.Precision = "auto",
        folder: Path | None = None,
    ) -> None:
        """Use a model in memory; `limbeck.load` makes one from a folder."""
        self.spec, self.tokenizer, self.folder = spec, tokenizer, folder
        self.device = device or runtime.device_of()
        self.compute: Literal["fp32", "bf16"] = runtime.precision_of(precision, self.device)
        self.model = model.to(self.device).eval()
        self.truncated = 0

    @property
    def dim(self) -> int:
        """Full width of the vectors."""
        return self.spec.dims[-1]

    @property
    def dims(self) -> list[int]:
        """Widths that vectors were trained to be cut to."""
        return list(self.spec.dims)

    @property
    def max_tokens(self) -> int:
        """Longer texts are cut here."""
        return self.spec.max_tokens

    @property
    def fingerprint(self) -> str:
        """16 hex digits over everything that decides the vectors: weights, tokenizer, pooling, prefixes, theta."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(self.spec.model_dump_json(include={"pooling", "max_tokens", "prompts"}).encode())
        if self.folder is not None:
            weights = sorted(self.folder.glob("model*.safetensors"))  # several where they are large
            for file in (self.folder / "config.json", *weights, self.folder / "tokenizer.json"):
                digest.update(sha256_file(file).encode())
        else:
            backbone: Any = self.model.backbone
            digest.update(backbone.config.to_json_string().encode())
            for name, tensor in backbone.state_dict().items():
                digest.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
            digest.update(self.tokenizer.hf.backend_tokenizer.to_str().encode())
        return digest.hexdigest()[:16]

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        role: str = "document",
        task: str | None = None,
        dim: int | None = None,
        precision: Precision = "float32",
        batch_tokens: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Any:
        """Encode texts.

        Args:
            texts: one text or many. Those over `max_tokens` are cut there, and counted in `truncated`.
            role: "query" or "document"; text that is neither is a document.
            task: which adapter to use; None for a bundle that has none.
            dim: keep the first so many dims, renormalised; None = all. Best one of `dims`.
            precision: float32 [N, D]; int8 → (codes [N, D], scales [N]); binary and ubinary [N, D / 8], one bit a dim.
            batch_tokens: padded tokens of one forward pass; None = what suits the device.
            progress: called with the number of texts done since the last call.

        Returns:
            Vectors in the order of the texts; of a single text, without the first axis. Unit length in float32.

        Raises:
            ConfigError: an unknown role, task, dim or precision. ModelError: a text that is not valid Unicode.
        """
        if isinstance(texts, str):
            batch = self.encode([texts], role=role, task=task, dim=dim, precision=precision, progress=progress)
            return tuple(part[0] for part in batch) if isinstance(batch, tuple) else batch[0]
        self._check(role, task, dim, precision)
        vectors = np.empty((len(texts), dim or self.dim), dtype=np.float32)
        self.truncated = 0
        budget = batch_tokens or runtime.encode_tokens(self.device)
        # one autocast around all passes: weights are converted once
        with torch.inference_mode(), runtime.autocast(self.compute, self.device):
            for start in range(0, len(texts), _CHUNK):
                chunk = texts[start : start + _CHUNK]
                rows, cut = self.tokenizer.ids(
                    chunk, prefix=self.spec.prompts[role], max_tokens=self.max_tokens, first=start
                )
                self.truncated += cut
                for part in micro_batches(np.array([len(r) for r in rows]), budget):
                    vectors[start + part] = self._forward([rows[i] for i in part], dim)
                    if progress:
                        progress(len(part))
        return compress.compress(vectors, precision) if precision != "float32" else vectors

    @cached_property
    def projection(self) -> Projection:
        """The map into the teacher's space. Raises ModelError when the bundle was saved without it."""
        if self.model.projection is not None:
            return self.model.projection
        path = (self.folder or Path()) / PROJECTION
        if not path.exists():
            raise ModelError(f"{self.spec.name} was saved without its projection into the teacher's space")
        return Projection.load(path)

    def _check(self, role: str, task: str | None, dim: int | None, precision: str) -> None:
        if role not in ROLES:
            raise ConfigError(f"role must be one of {', '.join(ROLES)}, got {role!r}")
        if task is not None:
            known = ", ".join(self.spec.tasks) or "none: this bundle has no adapters, leave `task` out"
            raise ConfigError(f"unknown task {task!r}; known are {known}")
        if dim is not None and not 1 <= dim <= self.dim:
            raise ConfigError(f"dim must be from 1 to {self.dim}, got {dim}; trained widths are {self.dims}")
        if precision not in compress.PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(compress.PRECISIONS)}, got {precision!r}")
        if precision.endswith("binary") and (dim or self.dim) % 8:
            raise ConfigError(f"bits are packed eight to a byte: dim must be a multiple of 8, got {dim or self.dim}")

    def _forward(self, rows: list[np.ndarray], dim: int | None) -> np.ndarray:
        ids, mask = pad(rows, self.tokenizer.pad_id)
        vectors = self.model(torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device))
        return torch.nn.functional.normalize(vectors[:, :dim], dim=-1).cpu().numpy()


def load(
    model: str | Path,
    *,
    device: str | None = None,
    precision: runtime.Precision = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """Load a bundle.

    Args:
        model: a folder, or a hub id.
        device: "cpu", "cuda", "mps"; None = the best there is.
        precision: auto = bf16 where the device computes in it natively; fp32 for vectors that are equal everywhere.
        revision: of a hub id.
        trust_remote_code: run code that comes with the model. Off, and no bundle of ours needs it.

    Raises ModelError that says what is missing.
    """
    folder = _folder(model, revision)
    spec = read_spec(folder)
    where = runtime.device_of(device)
    attention = runtime.attention_of("auto", where, spec.max_tokens, runtime.precision_of(precision, where))
    backbone = read_model(folder, attn_implementation=attention, trust_remote_code=trust_remote_code)
    if backbone.config.hidden_size != spec.dims[-1]:
        raise ModelError(
            f"{folder / MANIFEST} says vectors of {spec.dims[-1]} dims, the weights beside it give "
            f"{backbone.config.hidden_size}: they do not belong together"
        )
    rope.verify(backbone, spec.inference_theta or spec.train_theta)
    student = StudentModel(backbone, pooling=spec.pooling)
    return Encoder(student, Tokenizer.load(folder), spec, device=where, precision=precision, folder=folder)


def _folder(model: str | Path, revision: str | None) -> Path:
    path = Path(model)
    if path.is_dir():
        return path
    if (path.is_absolute() or str(model).count("/") != 1) or path.exists():
        raise ModelError(f"{model} is neither a folder with {MANIFEST} nor a hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(model), revision=revision))
    except Exception as error:  # the hub and its HTTP client raise types of their own
        raise ModelError(
            f"there is no folder {model}, and the hub did not give it ({first_line(error)}): check the name, or fetch "
            f"it once with a network by `hf download {model}`"
        ) from error
