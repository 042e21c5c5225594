"""A teacher behind an OpenAI-compatible `/v1/embeddings` endpoint: OpenAI itself, vLLM, TEI, llama.cpp and others.

Requests are made by `limbeck.http_client`; here are their contents, every check of an answer, and what is done about
texts over the limit. Where the recipe names a tokenizer, they are cut here. Where it does not, the server is asked to
cut them, and only the server knows which they were.

Legend: N texts; U units, which are whole texts and pieces of long ones; D the teacher's dims.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck import config
from limbeck.errors import TeacherError
from limbeck.http_client import Endpoint
from limbeck.teacher.backends import folder_digest
from limbeck.teacher.checks import Progress, shown, unit_vectors, utf8
from limbeck.teacher.pieces import Units, cutter, in_pieces, reading, say_long, token_counts, whole

if TYPE_CHECKING:
    from openai import OpenAI
    from transformers import PreTrainedTokenizerBase


class EndpointTeacher:
    """A teacher reached over HTTP. Needs the `openai` package (the `train` extra)."""

    def __init__(self, teacher: config.Teacher) -> None:
        """Take the settings; nothing is sent before the first `encode`.

        Raises:
            TeacherError: the URL holds a password.
        """
        self.dim = teacher.dim
        self.max_tokens = teacher.max_tokens
        self._cuts_here = bool(teacher.tokenizer and teacher.max_tokens)
        self.truncated: int | None = 0 if self._cuts_here else None  # None: only the server knows
        self.chunked = 0
        self._config = teacher
        self._endpoint = Endpoint(
            teacher,
            role="teacher",
            section="teacher",
            smaller="lower teacher.texts_per_request",
            error=TeacherError,
        )

    @property
    def fingerprint(self) -> str:
        """Model and where it is served, or with teacher.revision, model and revision; and how long texts are read.

        A server may serve anything under a model's name, so its address counts. Whoever sets `revision` vouches for
        what is served: the vectors then stay known when the server moves.
        """
        name = f"{self._config.model}@{self._config.revision or self._endpoint.address}{reading(self._config)}"
        return f"{name} tokenizer={self._tokenizer_name}" if self._cuts_here else name

    def encode(self, texts: Sequence[str], *, instruction: str = "", progress: Progress | None = None) -> np.ndarray:
        """Encode texts to unit vectors, teacher.texts_per_request at a time, teacher.concurrency requests in flight.

        Args:
            texts: [N], none empty.
            instruction: put in front of every text, or piece of one.
            progress: called after each request with the number of texts that it completes.

        Returns:
            float32 [N, D] in the order of `texts`.

        Raises:
            DataError: a text is not valid Unicode.
            TeacherError: no key, no connection, a refusal that retries did not cure, an answer that does not fit, or a
                long text that cannot be cut (see `limbeck.teacher.pieces.pieces`).
        """
        for i in range(len(texts)):
            utf8(texts[i], i)
        if not len(texts):
            return np.empty((0, self.dim), dtype=np.float32)
        units = self._units(texts, instruction)
        vectors = np.empty((len(units.texts), self.dim), dtype=np.float32)
        report = units.progress(progress)
        size = self._config.texts_per_request
        requests = [np.arange(start, min(start + size, len(vectors))) for start in range(0, len(vectors), size)]

        def ask(request: np.ndarray) -> np.ndarray:
            asked, owners = [units.texts[int(i)] for i in request], units.owners[request]
            found = self._answer([instruction + text for text in asked], owners)
            return unit_vectors(found, asked, positions=owners, dim=self.dim, teacher=self._config.model)

        def done(request: np.ndarray, answer: np.ndarray) -> None:
            vectors[request] = answer
            report(request)

        self._endpoint.for_each(requests, ask, done)
        return units.combine(vectors, teacher=self._config.model)

    def width(self, text: str = "How wide is a vector?") -> int:
        """D, as the endpoint answers one text, whatever teacher.dim says. Raises TeacherError."""
        return self._answer([text], [0]).shape[1]

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        name = self._config.tokenizer
        assert name
        try:
            return AutoTokenizer.from_pretrained(name, trust_remote_code=self._config.trust_remote_code)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise TeacherError(
                f"teacher.tokenizer {name} cannot be loaded ({error}): set it to a folder with a tokenizer or a hub id"
            ) from error

    @cached_property
    def _tokenizer_name(self) -> str:
        """The tokenizer, for the fingerprint: a hub id, or a folder by its contents, wherever it lies."""
        folder = Path(str(self._config.tokenizer)).expanduser()
        if not folder.is_dir():
            return str(self._config.tokenizer)
        return f"{folder.resolve().name}@sha256:{folder_digest(folder)}"

    def _units(self, texts: Sequence[str], instruction: str) -> Units:
        """What is sent of the texts; counts those over the limit, where they are cut here."""
        limit = self.max_tokens
        if not (self._cuts_here and limit):
            return whole(texts, np.ones(len(texts), dtype=np.int64))  # lengths are not known, and decide nothing here
        lengths = token_counts(texts, instruction, self._tokenizer)
        over = lengths > limit
        if over.any() and not (self.truncated or self.chunked):
            say_long(self._config, over, limit)
        cut = cutter(self._config, self._tokenizer, instruction=instruction, limit=limit)
        if self._config.long_texts == "truncate":
            self.truncated = (self.truncated or 0) + int(over.sum())
            return in_pieces(texts, lengths, over, lambda text: islice(cut(text), 1))
        self.chunked += int(over.sum())
        return in_pieces(texts, lengths, over, cut)

    def _answer(self, texts: list[str], positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """float32 [U, D] as they came. positions: [U], where each stands among all texts of the call."""
        # vLLM's way of asking for truncation; other servers may refuse it, which is why it is sent only when asked for
        extra = {"truncate_prompt_tokens": self.max_tokens} if self.max_tokens and not self._cuts_here else None

        def send(client: OpenAI) -> np.ndarray:
            answer = client.embeddings.create(model=self._config.model, input=texts, extra_body=extra)
            return self._in_order(answer.data, len(texts))

        return self._endpoint.call(send, path="/v1/embeddings", refused=self._refused(texts, positions))

    def _refused(self, texts: list[str], positions: Sequence[int] | np.ndarray) -> str:
        """What to do where the server refuses a request for what is in it."""
        longest = max(range(len(texts)), key=lambda i: len(texts[i]))
        advice = (
            "a text may be too long or empty, or the request too big; lower teacher.texts_per_request, or shorten the "
            f"texts (the longest of this request is text {positions[longest]}, {shown(texts[longest])}, "
            f"{len(texts[longest])} characters)"
        )
        if not self.max_tokens:
            return (
                f"{advice}; or set teacher.max_tokens to what the model reads and teacher.tokenizer to count it by, "
                "and longer texts are cut there, or with teacher.long_texts=chunks read in pieces"
            )
        if not self._cuts_here:
            return (
                f"{advice}; or set teacher.tokenizer, and texts are cut here, or unset teacher.max_tokens, if the "
                "server does not know truncate_prompt_tokens"
            )
        return f"{advice}; or lower teacher.max_tokens, if the server counts more tokens than teacher.tokenizer does"

    def _in_order(self, data: list[Any], expected: int) -> np.ndarray:
        """[N, D] of an answer's items, which may come in any order."""
        if len(data) != expected:
            raise ValueError(f"expected {expected} vectors, got {len(data)}")
        by_index = {item.index: item.embedding for item in data}
        if by_index.keys() != set(range(expected)):
            raise ValueError(f"expected the indices 0 to {expected - 1}, each once")
        widths = {len(vector) for vector in by_index.values()}
        if len(widths) != 1:
            raise ValueError(f"expected vectors of one width, got {sorted(widths)}")
        return np.array([by_index[i] for i in range(expected)], dtype=np.float32)
