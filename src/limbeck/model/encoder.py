"""Texts → vectors, by task, role, width and precision.  N: texts, T: tokens, D: dims."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from limbeck import compress
from limbeck.compress import Precision
from limbeck.errors import ConfigError, ModelError, TextError
from limbeck.model import fingerprints, passes, rope
from limbeck.model import runtime as runtimes
from limbeck.model.adapters import Adapter
from limbeck.model.bundle import ADAPTERS, PROJECTION, BundleSpec
from limbeck.model.choice import Choice, Shares, Task
from limbeck.model.copies import MergedCopies, Place
from limbeck.model.prefixes import ROLES
from limbeck.model.projection import Projection, Space, check_space
from limbeck.model.router import Router, rounded
from limbeck.model.spans import Span, check_spans
from limbeck.model.stream import CHUNK, encode_stream
from limbeck.model.student import StudentModel
from limbeck.model.tokenizer import OnLong, Tokenizer

_ROUTED = 256  # texts of a call that the router sees


class Encoder:
    """A trained student, ready to encode.

    `dim` is the full width, `dims` the widths that vectors may be cut to, `max_tokens` where texts are cut, `tasks` the
    adapters, `truncated` how many texts the last `encode` cut.

    Adapters are merged into the weights before they are used: a merged model is as fast as the base, an attached LoRA
    would cost a third of the speed. The base stays as it is, and of the merged copies the last `hold` are kept. A copy
    costs 4 bytes for each weight that its adapter changes (all else, such as the token embeddings, it shares with the
    base), and to make it takes about as long as to encode two texts of a hundred tokens. Whoever takes turns between
    more tasks than are held merges at every turn.
    """

    def __init__(
        self,
        model: StudentModel,
        tokenizer: Tokenizer,
        spec: BundleSpec,
        *,
        device: torch.device | None = None,
        precision: runtimes.Precision = "auto",
        folder: Path | None = None,
        adapters: Mapping[str, Adapter] = {},
        router: Router | None = None,
        hold: int | None = None,
        altered: str = "",
        backend: runtimes.Backend = "torch",
        compile: bool = False,
    ) -> None:
        """Use a model in memory; `limbeck.load` makes one from a folder.

        Args:
            model: the base.
            tokenizer: its tokenizer.
            spec: what there is to know beyond the weights; its tasks are those of `adapters`.
            device: None = the best there is.
            precision: as in `limbeck.load`.
            folder: of the bundle, if it has one.
            adapters: by task, trained on this base.
            router: chooses for task="auto".
            hold: as in `limbeck.load`.
            altered: how vectors differ from those that the files in `folder` make, as part of the fingerprint.
            backend: as in `limbeck.load`.
            compile: as in `limbeck.load`.

        Raises ModelError: an adapter or the router has other shapes than the base, or OpenVINO is not installed.
        ConfigError: hold < 1, or a backend that does not go with the rest.
        """
        self.spec = spec.model_copy(update={"tasks": list(adapters)})
        self.tokenizer, self.folder, self.router = tokenizer, folder, router
        self.device = device or runtimes.device_of()
        self.compute: Literal["fp32", "bf16"] = runtimes.precision_of(precision, self.device)
        runtimes.check_backend(backend, self.device, compiled=compile)
        if backend == "openvino":
            from limbeck.model import openvino

            openvino.require()  # now, not at the first text
        self._place = Place(self.device, self.compute, backend, compile, runtimes.limit_threads())
        self._copies = MergedCopies(model, adapters, self._place, pooling=spec.pooling, hold=hold)
        self.truncated, self._altered = 0, altered
        if router is not None and (not set(router.tasks) <= set(adapters) or router.weight.shape[1] != self.dim):
            raise ModelError(
                f"the router knows {', '.join(router.tasks)} and vectors of {router.weight.shape[1]} dims, the model "
                f"has {', '.join(adapters) or 'no adapters'} and {self.dim} dims: they do not belong together"
            )

    @property
    def model(self) -> StudentModel:
        """The base."""
        return self._copies.base

    @property
    def hold(self) -> int:
        """Merged copies that are kept at a time."""
        return self._copies.hold

    @property
    def dim(self) -> int:
        """Full width of the vectors."""
        return self.spec.dims[-1]

    @property
    def dims(self) -> list[int]:
        """Widths that vectors were trained to be cut to."""
        return list(self.spec.dims)

    @property
    def tasks(self) -> list[str]:
        """Adapters there are."""
        return list(self.spec.tasks)

    @property
    def max_tokens(self) -> int:
        """Longer texts are cut here."""
        return self.spec.max_tokens

    @cached_property
    def base(self) -> Encoder:
        """The same weights without any adapter; itself where there are none."""
        if not self.tasks:
            return self
        return Encoder(
            self.model,
            self.tokenizer,
            self.spec,
            device=self.device,
            precision=self.compute,
            folder=self.folder,
            altered=self._altered,
            backend=self._place.backend,
            compile=self._place.compile,
        )

    @property
    def runtime(self) -> runtimes.Runtime:
        """How it runs here."""
        backbone: Any = self.model.backbone
        attention = getattr(backbone.config, "_attn_implementation", None) or "eager"
        at = self._place
        return runtimes.Runtime(at.backend, str(at.device), at.compute, attention, at.threads, compiled=at.compile)

    @property
    def parallel(self) -> int:
        """Calls of `encode_rows` that may run at a time and gain by it: as many as there are CPU threads, else 1."""
        at = self._place
        alone = at.compile or at.backend != "torch" or rope.stretched_beyond(self.model.backbone) is not None
        return 1 if alone or at.device.type != "cpu" else at.threads

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all that decides vectors: weights, adapters, tokenizer, pooling, prefixes, theta."""
        if not self.tasks:
            return self._base_digest
        router = [] if self.router is None else [str(self.router.tasks), self.router.weight, self.router.bias]
        return fingerprints.of_parts(
            self._base_digest, *(part for item in self._adapter_digests.items() for part in item), *router
        )

    def fingerprint_of(
        self, task: str | Mapping[str, float] | None, *, space: Space = "student", dim: int | None = None
    ) -> str:
        """The same for one task or blend: it changes when vectors of that task do. Raises ConfigError.

        In the teacher's space they also depend on the projection, and on the width `dim` that they are projected from.
        """
        if space == "teacher":
            task = "retrieval" if task == "auto" else task  # which is what it means for queries
            head = self._projection_of(self._choice.shares(task)).head(dim or self.dim).state_dict()
            return fingerprints.of_parts(self.fingerprint_of(task), *(part for item in head.items() for part in item))
        if task == "auto":
            return self.fingerprint
        return self._digest_of(self._choice.shares(task))

    def _digest_of(self, shares: Shares) -> str:
        parts = [part for name, share in shares for part in (self._adapter_digests[name], str(share))]
        return fingerprints.of_parts(self._base_digest, *parts) if parts else self._base_digest

    @cached_property
    def _base_digest(self) -> str:
        return fingerprints.of_base(self.model, self.tokenizer, self.spec, self.folder, self._altered)

    @cached_property
    def _adapter_digests(self) -> dict[str, str]:
        return {task: fingerprints.of_adapter(adapter) for task, adapter in self._copies.adapters.items()}

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        role: str = "document",
        task: Task | None = None,
        dim: int | None = None,
        precision: Precision = "float32",
        space: Space = "student",
        spans: Sequence[Span] | Sequence[Sequence[Span]] | None = None,
        on_long: OnLong = "truncate",
        batch_tokens: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Any:
        """Encode texts, or spans of them.

        Args:
            texts: one text or many.
            role: "query" or "document"; text that is neither is a document. Only retrieval has queries.
            task: which adapter to use; needed where the bundle has adapters, None where it has none. One of

                - a name of `tasks`;
                - a blend such as {"retrieval": 0.7, "clustering": 0.3}: the mean of these adapters by weight (weights
                  are divided by their sum). For role "query", retrieval must be part of it;
                - "auto": the blend that `route` gives for these texts. All vectors of one call lie in one space; those
                  of two calls may not, so texts that are to be compared are encoded together, or with a task that is
                  named. With role "query" it means retrieval;
                - a list of these names, one for each text: each task's texts are encoded as by a call of their own, and
                  come back in their places.
            dim: keep the first so many dims, renormalised; None = all. Best one of `dims`.
            space: "teacher" maps the vectors into the space of the teacher, so that they can be compared with vectors
                that the teacher itself made of its documents (with `spec.teacher.document_instruction`). It goes with
                task="retrieval" and with `base`, and `dim` must be one of `dims`: each has a map of its own, and all
                lead to vectors of the teacher's width. A model with adapters has its base's vectors by `base.encode`.
            precision: float32 [N, D]; int8 → (codes [N, D], scales [N]); binary and ubinary [N, D / 8], one bit a dim.
            spans: late chunking (2409.04701). For each text, (start, end) of the spans that are wanted, in characters,
                in any order (`limbeck.spans_of` makes them): the text is read once, and each span gets a vector from
                the states of its own tokens, which know the text around it. A token belongs to the span that it starts
                in; a span that begins or ends with its text has what stands there besides (prefix, special tokens), so
                that one over the whole text has the text's vector. It is sound where a model pools by mean, whose
                vector of a text is made of just such states. A model that pools by the last token (or the first) gives
                the state of the span's last (first) token, which no training asked to stand for the span: where every
                token sees the whole text, it may as well tell of the text; in a causal model it tells of all that
                stands before the span's end. Try it on your data before you rely on it.
            on_long: texts over `max_tokens` are cut there and counted in `truncated`, or, with "error", are an error.
            batch_tokens: padded tokens of one forward pass; None = what suits the device.
            progress: called with the number of texts done since the last call.

        Returns:
            Vectors in the order of the texts; of a single text, without the first axis. Unit length in float32. With
            spans, for each text what a call for so many texts as it has spans returns: a list of arrays [S, D].

        Raises:
            ConfigError: an unknown role, task, dim or precision; a span that is not in its text, or holds no word;
            in the teacher's space: spans, or a task that does not lead there.
            ModelError: the teacher's space is asked for, and there is no projection, or none for this dim.
            TextError (a ModelError): a text is not valid Unicode or, if that is an error, too long; a span reaches over
            the cut.
        """
        if isinstance(texts, str):
            named: dict[str, Any] = {"role": role, "task": task, "dim": dim, "precision": precision}
            named |= {"space": space, "on_long": on_long, "batch_tokens": batch_tokens, "progress": progress}
            batch = self.encode([texts], spans=None if spans is None else [spans], **named)  # type: ignore[list-item]
            return tuple(part[0] for part in batch) if isinstance(batch, tuple) else batch[0]
        width = dim or self.dim
        if check_space(space, spans):
            width = self.projection.head(width).out_features
        self._check(role, dim, precision, on_long, width)
        of_texts: Any = spans
        if of_texts is not None:
            check_spans(texts, of_texts)
        bounds = passes.row_bounds(len(texts), of_texts)
        vectors = np.empty((bounds[-1], width), dtype=np.float32)
        self.truncated, choice = 0, self._choice
        for shares, places in choice.groups(texts, task, role):
            lift = self._projection_of(shares).lift if space == "teacher" else None
            settings = passes.Settings(
                choice.prefix(shares, role),
                self.max_tokens,
                on_long,
                dim or self.dim,
                batch_tokens or runtimes.encode_tokens(self.device),
                progress,
            )
            asked = None if of_texts is None else [of_texts[i] for i in places]
            try:
                found = self._vectors([texts[i] for i in places], asked, shares, settings)
            except TextError as error:
                raise TextError(places[error.index], error.reason) from None
            vectors[passes.rows_of(bounds, places)] = found if lift is None else lift(found)
        compressed = compress.compress(vectors, precision) if precision != "float32" else vectors
        return compressed if spans is None else passes.by_text(compressed, bounds)

    def encode_stream(
        self,
        texts: Iterable[str],
        *,
        chunk: int = CHUNK,
        role: str = "document",
        task: str | Mapping[str, float] | None = None,
        dim: int | None = None,
        precision: Precision = "float32",
        space: Space = "student",
        on_long: OnLong = "truncate",
        batch_tokens: int | None = None,
    ) -> Iterator[Any]:
        """Encode texts that need not fit in memory, batch after batch.

        Yields what `encode` returns for each `chunk` texts in order, and for those that are left at the end: the more
        texts in a chunk, the less padding, and the more memory. Texts are taken when their batch is asked for, by the
        thread that asks; with the iterator a generator of texts is closed. Arguments are those of `encode`, but "auto"
        is settled by the first batch and then kept, so that all vectors lie in one space, and a list of tasks is
        refused. `truncated` is that of the last batch.

        Raises ConfigError as `encode`: at once, or with "auto" at the first batch. TextError at its batch: `index`
        counts from the first text of all.
        """
        options: dict[str, Any] = {"role": role, "task": task, "dim": dim, "precision": precision, "space": space}
        return encode_stream(self, texts, chunk=chunk, on_long=on_long, batch_tokens=batch_tokens, **options)

    def chosen(
        self, task: str | Mapping[str, float] | None, *, role: str = "document", texts: Sequence[str] = ()
    ) -> tuple[Shares, str]:
        """What a task means: adapters to merge, and the prefix of texts in that role. `texts` decide what "auto" is.

        Raises ConfigError as `encode`.
        """
        self._check(role, None, "float32", "truncate", self.dim)
        shares = self._choice.shares(task, role, texts)
        return shares, self._choice.prefix(shares, role)

    def encode_rows(
        self,
        rows: Sequence[np.ndarray],
        shares: Shares,
        *,
        ranges: Sequence[np.ndarray] | None = None,
        batch_tokens: int | None = None,
    ) -> list[np.ndarray]:
        """Encode texts that `tokenizer` made tokens of, behind the prefix that `chosen` gave with the shares.

        For those who tokenise elsewhere, such as a server that mixes the texts of several requests: `encode` gives the
        same vectors, cut to `dim` and normalised. May be called from several threads, see `parallel`.

        Args:
            rows: token ids of N texts, each [T] int32, T ≤ `max_tokens`.
            shares: adapters to merge, of `chosen`.
            ranges: late chunking: of each text [S, 2], of `limbeck.model.spans.token_ranges`; None = whole texts.
            batch_tokens: as of `encode`.

        Returns N arrays, each fp32 [S, D] (S = 1 for whole texts), of any norm; of unit length where another backend
        than torch computes.
        """
        student = self._copies.student(shares)
        forward = self._copies.forward(shares, self._digest_of) if ranges is None else None
        with torch.inference_mode(), runtimes.autocast(self.compute, self.device):
            return passes.pooled_rows(
                student,
                rows,
                ranges,
                pad_id=self.tokenizer.pad_id,
                budget=batch_tokens or runtimes.encode_tokens(self.device),
                device=self.device,
                forward=forward,
            )

    def let_go_of_files(self) -> None:
        """Copy weights that are mapped from the model's files, as they are on a CPU, into memory of this process.

        For those who run for long: otherwise vectors change when somebody writes over a file, and the process ends
        when a file is cut short. It costs as much memory as the files are large.
        """
        if self.device.type != "cpu":
            return
        self._copies.let_go_of_files()
        if self.router is not None:
            self.router = replace(self.router, weight=self.router.weight.clone(), bias=self.router.bias.clone())

    def route(self, texts: Sequence[str], *, role: str = "document") -> dict[str, float]:
        """The blend that task="auto" means for texts: shares in steps of 0.05 that sum to 1.

        The base encodes up to 256 of the texts, evenly spaced, as documents; the shares are the router's mean
        probabilities, less those under 0.05. Queries are always retrieval's. Raises ConfigError without a router.
        """
        if self.router is None:
            raise ConfigError(
                f'{self.spec.name} has no router, so task="auto" cannot be had; known are {self._choice.known}'
            )
        if role == "query":
            return {"retrieval": 1.0}
        chosen = np.linspace(0, len(texts) - 1, min(len(texts), _ROUTED)).astype(int)
        return rounded(self.router.shares(self.base.encode([texts[int(i)] for i in chosen])))

    @cached_property
    def projection(self) -> Projection:
        """The map into the teacher's space. Raises ModelError when the bundle was saved without it."""
        if isinstance(self.model.projection, Projection):
            return self.model.projection
        path = (self.folder or Path()) / PROJECTION
        if not path.exists():
            raise ModelError(f"{self.spec.name} was saved without its projection into the teacher's space")
        return Projection.load(path)

    def _projection_of(self, shares: Shares) -> Projection:
        """The map for what is merged: `projection`, unless the retrieval adapter was trained with one of its own.

        Raises ConfigError: an adapter that does not lead to the teacher's vectors of documents.
        """
        if not shares:
            return self.projection
        if other := [name for name, _ in shares if name != "retrieval"]:
            raise ConfigError(
                f'space="teacher" goes with task="retrieval" and with the base, got {other[0]}, whose vectors were not '
                'trained to be compared with the teacher\'s of a document: take task="retrieval" or `base.encode`'
            )
        return self._retrieval_projection

    @cached_property
    def _retrieval_projection(self) -> Projection:
        own = self.folder and self.folder / ADAPTERS / "retrieval" / PROJECTION
        return Projection.load(own) if own and own.is_file() else self.projection

    @property
    def _choice(self) -> Choice:
        return Choice(self.spec.name, self.tasks, self.spec.prompts, self.router is not None, self.route)

    def _check(self, role: str, dim: int | None, precision: str, on_long: str, width: int) -> None:
        if role not in ROLES:
            raise ConfigError(f"role must be one of {', '.join(ROLES)}, got {role!r}")
        if dim is not None and not 1 <= dim <= self.dim:
            raise ConfigError(f"dim must be from 1 to {self.dim}, got {dim}; trained widths are {self.dims}")
        if precision not in compress.PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(compress.PRECISIONS)}, got {precision!r}")
        if precision.endswith("binary") and width % 8:
            raise ConfigError(f"bits are packed eight to a byte: dim must be a multiple of 8, got {width}")
        if on_long not in ("truncate", "error"):
            raise ConfigError(f"on_long must be one of truncate, error, got {on_long!r}")

    def _vectors(
        self,
        texts: Sequence[str],
        spans: Sequence[Sequence[Span]] | None,
        shares: Shares,
        settings: passes.Settings,
    ) -> np.ndarray:
        """Unit vectors of texts that share their task, or of their spans, text after text."""
        student = self._copies.student(shares)
        forward = self._copies.forward(shares, self._digest_of) if spans is None else None
        with torch.inference_mode(), runtimes.autocast(self.compute, self.device):
            vectors, cut = passes.unit_vectors(student, self.tokenizer, texts, spans, settings, self.device, forward)
        self.truncated += cut
        return vectors
