"""What can be scored, behind one protocol: bundles, jina-v5 folders, sentence-transformers, static models, endpoints.

Legend: N texts, D the full width of a model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from limbeck import config
from limbeck.encode_file import parse_task
from limbeck.errors import ConfigError, ModelError
from limbeck.files import read_json
from limbeck.model import jina_v5
from limbeck.model.bundle import MANIFEST
from limbeck.model.encoder import Encoder
from limbeck.model.loading import load
from limbeck.model.prefixes import Role
from limbeck.model.projection import Space
from limbeck.model.tokenizer import first_line
from limbeck.teacher.backends import folder_digest, load_teacher, resolve_model_folder
from limbeck.teacher.endpoint import EndpointTeacher

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Kind = Literal["bundle", "jina-v5", "sentence-transformers", "openai", "static", "teacher-index"]
Compute = Literal["auto", "fp32", "bf16"]

_PROBE = "How wide is a vector?"
_WIDTHS = (32, 64, 128, 256, 512, 768, 1024, 2048)
_OTHER_FORMATS = ["*.onnx", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.gguf", "onnx/*", "openvino/*", "coreml/*"]


class Subject(Protocol):
    """A model that can be scored."""

    @property
    def name(self) -> str:
        """What a table calls it."""
        ...

    @property
    def kind(self) -> Kind:
        """Where its vectors come from."""
        ...

    @property
    def folder(self) -> Path | None:
        """Where it lies, if on this machine."""
        ...

    @property
    def dim(self) -> int:
        """D."""
        ...

    @property
    def dims(self) -> Sequence[int]:
        """Widths worth looking at, ascending; the last is D."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """Longer texts are cut here; None = not known."""
        ...

    @property
    def parameters(self) -> int | None:
        """Weights; None = not known."""
        ...

    @property
    def adapters(self) -> Sequence[str]:
        """Names of its task adapters."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of its scores must know."""
        ...

    def fingerprint(self, adapter: str | None) -> str:
        """Changes with whatever changes the vectors of an adapter, or, for None, of the model without one.

        Raises ConfigError: an unknown adapter.
        """
        ...

    def encode(self, texts: Sequence[str], *, role: Role | None, adapter: str | None) -> np.ndarray:
        """Encode texts to float32 [N, D] of any norm. role: None = neither query nor document."""
        ...


def open_subject(model: str, *, compute: Compute = "fp32", max_tokens: int | None = None) -> Subject:
    """Load what a command line names.

    Args:
        model: a bundle or a folder like the published jina-v5 models; any folder or hub id of a sentence-transformers
            model; "package:NAME", one that comes as a Python package; "openai:MODEL@BASE_URL", an endpoint; a folder or
            hub id of a static model of model2vec, which "static:" in front insists on.
        compute: what the forward pass computes in. fp32 gives the same scores on every machine; auto = bf16 where the
            device does it fast. Of no concern to an endpoint.
        max_tokens: texts are cut here; None = where the model cuts them.

    Raises ConfigError, ModelError or TeacherError that says what is missing.
    """
    if model.startswith("openai:"):
        return EndpointSubject(model, max_tokens=max_tokens)
    if model.startswith("package:"):
        name = model.removeprefix("package:")
        section = _section("package", name, max_tokens)
        folder = Path(resolve_model_folder(section))
        return SentenceTransformerSubject(folder, name, section, compute=compute)
    asked = model.removeprefix("static:")
    folder = _folder(asked)
    name = asked if folder != Path(asked) else folder.resolve().name
    if model.startswith("static:") or is_static(folder):
        return StaticSubject(folder, name, max_tokens=max_tokens)
    if (folder / MANIFEST).is_file() or jina_v5.is_published(folder):
        return BundleSubject(folder, compute=compute, max_tokens=max_tokens)
    section = _section("sentence-transformers", str(folder), max_tokens)
    return SentenceTransformerSubject(folder, name, section, compute=compute)


class BundleSubject:
    """A bundle, or a folder laid out like the published jina-v5 models."""

    notes: Sequence[str] = ()

    def __init__(self, folder: Path, *, compute: Compute = "fp32", max_tokens: int | None = None) -> None:
        """Load it, as `encoder`. Raises ModelError."""
        self.folder: Path | None = folder
        self.kind: Kind = "bundle" if (folder / MANIFEST).is_file() else "jina-v5"
        self.encoder = load(folder, precision=compute)
        if max_tokens is not None:
            self.encoder.spec = self.encoder.spec.model_copy(update={"max_tokens": max_tokens})

    @property
    def name(self) -> str:
        """As limbeck.json says."""
        return self.encoder.spec.name

    @property
    def dim(self) -> int:
        """D."""
        return self.encoder.dim

    @property
    def dims(self) -> Sequence[int]:
        """Widths that it was trained to be cut to."""
        return self.encoder.dims

    @property
    def max_tokens(self) -> int | None:
        """Longer texts are cut here."""
        return self.encoder.max_tokens

    @property
    def parameters(self) -> int | None:
        """Weights of the base; a merged adapter adds none."""
        return sum(p.numel() for p in self.encoder.model.backbone.parameters())

    @property
    def adapters(self) -> Sequence[str]:
        """Tasks that it has an adapter for."""
        return self.encoder.tasks

    def fingerprint(self, adapter: str | None, *, space: Space = "student") -> str:
        """Weights, tokenizer, pooling, prefixes and length, with those of one adapter or blend."""
        digest = self._of(adapter).fingerprint_of(_parsed(adapter), space=space)
        return f"{self.name}@{digest} {self.encoder.compute}"

    def encode(
        self, texts: Sequence[str], *, role: Role | None, adapter: str | None, space: Space = "student"
    ) -> np.ndarray:
        """Encode texts to unit vectors. Only retrieval has queries: another adapter reads them as documents."""
        asks = adapter is None or "retrieval" in _names(adapter)
        read_as = (role if asks else None) or "document"
        return self._of(adapter).encode(list(texts), role=read_as, task=_parsed(adapter), space=space)

    def _of(self, adapter: str | None) -> Encoder:
        return self.encoder.base if adapter is None else self.encoder


class SentenceTransformerSubject:
    """Any sentence-transformers model, with the prompts that it brings along."""

    kind: Kind = "sentence-transformers"
    adapters: Sequence[str] = ()

    def __init__(self, folder: Path, name: str, section: config.Teacher, *, compute: Compute = "fp32") -> None:
        """Load it.

        Args:
            folder: with modules.json, or of a plain transformer, which is then mean-pooled.
            name: what a table calls it.
            section: where it comes from and how long its texts may be.
            compute: as in `open_subject`.

        Raises ModelError.
        """
        import torch
        from sentence_transformers import SentenceTransformer

        self.folder: Path | None = folder
        self.name = name
        dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "auto": "auto"}
        try:
            self._model: SentenceTransformer = SentenceTransformer(
                str(folder), model_kwargs={"dtype": dtypes[compute]}, local_files_only=True
            )
        except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
            raise ModelError(f"{name} cannot be loaded by sentence-transformers from {folder}: {error}") from error
        width = self._model.get_embedding_dimension()
        self.dim = width or int(self._model.encode([_PROBE], show_progress_bar=False).shape[1])
        if section.max_tokens:
            self._model.max_seq_length = section.max_tokens
        found = load_teacher(section.model_copy(update={"dim": self.dim})).fingerprint
        self._fingerprint = f"{found} {compute}"

    @property
    def dims(self) -> Sequence[int]:
        """Powers of two, and D."""
        return widths(self.dim)

    @property
    def max_tokens(self) -> int | None:
        """Longer texts are cut here."""
        return self._model.max_seq_length

    @property
    def parameters(self) -> int | None:
        """Weights."""
        return sum(p.numel() for p in self._model.parameters())

    @property
    def notes(self) -> Sequence[str]:
        """Whether it was made for another similarity than the cosine."""
        made_for = self._model.similarity_fn_name
        same = made_for == "dot" and any(type(module).__name__ == "Normalize" for module in self._model)
        if same or made_for in (None, "cosine"):
            return ()
        return (f"{self.name} was made for {made_for} similarity, and is scored by the cosine",)

    def fingerprint(self, adapter: str | None) -> str:
        """Every file of the model, its length and what it computes in."""
        _refuse(self.name, adapter)
        return self._fingerprint

    def encode(self, texts: Sequence[str], *, role: Role | None, adapter: str | None) -> np.ndarray:
        """Encode texts as sentence-transformers does for this role, with the prompt that the model has for it."""
        _refuse(self.name, adapter)
        model = self._model
        encode = {"query": model.encode_query, "document": model.encode_document, None: model.encode}[role]
        return np.asarray(encode(list(texts), show_progress_bar=False), dtype=np.float32)


class EndpointSubject:
    """A model behind an OpenAI-compatible `/v1/embeddings` endpoint; it tells no roles apart."""

    kind: Kind = "openai"
    folder: Path | None = None
    parameters: int | None = None
    adapters: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __init__(self, model: str, *, max_tokens: int | None = None) -> None:
        """Ask for one vector, to learn its width. model: "openai:MODEL@BASE_URL". Raises ConfigError, TeacherError."""
        section = teacher_section(model, max_tokens)
        self.name = section.model
        self.max_tokens = max_tokens
        self.dim = EndpointTeacher(section).width()
        self._teacher = EndpointTeacher(section.model_copy(update={"dim": self.dim}))

    @property
    def dims(self) -> Sequence[int]:
        """Powers of two, and D."""
        return widths(self.dim)

    def fingerprint(self, adapter: str | None) -> str:
        """Model and address."""
        _refuse(self.name, adapter)
        return self._teacher.fingerprint

    def encode(self, texts: Sequence[str], *, role: Role | None, adapter: str | None) -> np.ndarray:
        """Encode texts to unit vectors."""
        _refuse(self.name, adapter)
        return self._teacher.encode(texts)


class StaticSubject:
    """A static model, a vector for each token, run by model2vec; texts are read without prefixes."""

    kind: Kind = "static"
    adapters: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __init__(self, folder: Path, name: str | None = None, *, max_tokens: int | None = None) -> None:
        """Load it. name: what a table calls it; None = the folder's. Raises ModelError."""
        from model2vec import StaticModel  # in the `eval` extra
        from safetensors import SafetensorError

        self.folder: Path | None = folder
        self.name = name or folder.resolve().name
        try:
            self._model = StaticModel.from_pretrained(folder)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ModelError(f"{folder} is no static model that model2vec reads: {first_line(error)}") from error
        if max_tokens is not None:
            self._model.max_length = max_tokens

    @property
    def dim(self) -> int:
        """D."""
        return int(self._model.dim)

    @property
    def dims(self) -> Sequence[int]:
        """Powers of two, and D."""
        return widths(self.dim)

    @property
    def max_tokens(self) -> int | None:
        """Longer texts are cut here."""
        return self._model.max_length

    @property
    def parameters(self) -> int | None:
        """Numbers in its table."""
        return int(self._model.embedding.size)

    def fingerprint(self, adapter: str | None) -> str:
        """Every file of the model, and its length."""
        _refuse(self.name, adapter)
        assert self.folder is not None
        return f"static {self.name}@{folder_digest(self.folder)} max_tokens={self.max_tokens}"

    def encode(self, texts: Sequence[str], *, role: Role | None, adapter: str | None) -> np.ndarray:
        """Encode texts to unit vectors, the same in every role."""
        _refuse(self.name, adapter)
        vectors = np.asarray(self._model.encode(list(texts), normalize=True), dtype=np.float32)
        vectors[~vectors.any(axis=1), 0] = 1.0  # a text without a known token would have no cosine to anything
        return vectors


def is_static(folder: Path) -> bool:
    """Whether a folder holds a static model, as its config says."""
    try:
        found = read_json(folder / "config.json")
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("model_type") == "model2vec"


def run_folder(subject: Subject) -> Path | None:
    """The run that a bundle lies in, told by the recipe that made it."""
    if subject.kind not in ("bundle", "teacher-index") or subject.folder is None:
        return None
    run = subject.folder.resolve().parent
    return run if (run / "recipe.yaml").is_file() else None


def training_of(subject: Subject) -> tuple[str, int] | None:
    """(what the runs of several seeds have in common, seed) of a bundle in its run folder; None elsewhere."""
    run = run_folder(subject)
    if run is None:
        return None
    recipe = config.load_recipe(run / "recipe.yaml")
    same = recipe.model_dump_json(
        exclude={"seed": True, "name": True, "description": True, "out": True, "teacher": {"store"}}
    )
    return hashlib.sha256(same.encode()).hexdigest()[:16], recipe.seed


def teacher_section(model: str, max_tokens: int | None = None) -> config.Teacher:
    """A teacher's section for a model as `open_subject` knows it; its width is to be learnt from the model.

    Raises ConfigError, ModelError.
    """
    if model.startswith("openai:"):
        name, url = _endpoint(model)
        return _section("openai", name, max_tokens, base_url=url)
    if model.startswith("package:"):
        return _section("package", model.removeprefix("package:"), max_tokens)
    return _section("sentence-transformers", str(_folder(model)), max_tokens)


def _section(
    kind: Literal["sentence-transformers", "package", "openai"],
    model: str,
    max_tokens: int | None,
    base_url: str | None = None,
) -> config.Teacher:
    """A teacher's section, for what `limbeck.teacher` resolves; its width is learnt from the model."""
    return config.Teacher(type=kind, model=model, dim=1, max_tokens=max_tokens, base_url=base_url)


def _endpoint(model: str) -> tuple[str, str]:
    """Name and address of "openai:MODEL@BASE_URL"."""
    name, at, url = model.removeprefix("openai:").rpartition("@")
    if not (at and name and re.match(r"https?://", url)):
        raise ConfigError(f"expected openai:MODEL@BASE_URL, e.g. openai:bge-m3@http://localhost:8080/v1; got {model}")
    return name, url


def _folder(model: str) -> Path:
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1 or path.exists():
        raise ModelError(
            f"{model} is neither a folder of a model nor a hub id (owner/name); others are package:NAME, "
            "openai:MODEL@BASE_URL and static:FOLDER"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, ignore_patterns=_OTHER_FORMATS))
    except Exception as error:  # the hub and its HTTP client raise types of their own
        raise ModelError(
            f"there is no folder {model}, and the hub did not give it ({first_line(error)}): check the name, or fetch "
            f"it once with a network by `hf download {model}`"
        ) from error


def _parsed(adapter: str | None) -> str | dict[str, float] | None:
    return parse_task(adapter) if adapter is not None else None


def _names(adapter: str) -> list[str]:
    return list(parse_task(adapter)) if "=" in adapter else [adapter]


def _refuse(name: str, adapter: str | None) -> None:
    if adapter is not None:
        raise ConfigError(f"{name} has no adapters, so {adapter!r} cannot be asked of it")


def widths(dim: int) -> list[int]:
    """Widths worth looking at of a model that was not made to be cut: powers of two, and its own."""
    return [*(w for w in _WIDTHS if w < dim), dim]
