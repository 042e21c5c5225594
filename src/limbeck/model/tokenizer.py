"""Text → token ids, with the closing token pinned and the cut made visible."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers.processors import Sequence as ProcessorSequence
from tokenizers.processors import TemplateProcessing

from limbeck.errors import ModelError

# The Rust tokenizer uses its own threads; without a value set it warns and goes single-threaded after a fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


class Tokenizer:
    """A fast tokenizer that always closes a text with its EOS (or SEP) token.

    Last-token pooling reads the state of that closing token. Some tokenizers add it (BERT, Qwen3-Embedding) and some
    do not (Qwen3-Base): where it is missing it is added to the post-processor, so it is saved in `tokenizer.json` and
    every loader sees it.

    Raises ModelError when the tokenizer is not a fast one, or has no closing or padding token.
    """

    def __init__(self, hf: Any) -> None:
        """Take over a transformers tokenizer; it is changed."""
        if not getattr(hf, "is_fast", False):
            raise ModelError(f"{type(hf).__name__} is a slow tokenizer: limbeck needs a fast one (tokenizer.json)")
        self.hf: Any = hf
        if hf.pad_token_id is None:
            if hf.eos_token_id is None:
                raise ModelError("the tokenizer has neither a padding nor an EOS token: set one of them")
            hf.pad_token = hf.eos_token
        hf.padding_side = hf.truncation_side = "right"  # saved, so that every loader cuts where we cut
        self.pad_id: int = self.hf.pad_token_id
        self._backend = hf.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self.closing_id = self._pin_closing()
        self._tail = self._special_tail()

    @classmethod
    def load(cls, source: str | Path, **kwargs: Any) -> Tokenizer:
        """From a hub id or folder. Raises ModelError."""
        from transformers import AutoTokenizer

        try:
            hf = AutoTokenizer.from_pretrained(str(source), **kwargs)
        except Exception as error:  # the hub, its HTTP client, tokenizers and transformers raise types of their own
            raise ModelError(f"no tokenizer in {source}: {first_line(error)}") from error
        if len(hf) <= len(hf.all_special_ids):  # what transformers makes of a config whose vocabulary is missing
            raise ModelError(
                f"no tokenizer in {source}: it has special tokens only, the file of its vocabulary is missing"
            )
        return cls(hf)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and its companions."""
        self.hf.save_pretrained(str(folder))

    def __len__(self) -> int:
        """Return the number of tokens, added ones included."""
        return len(self.hf)

    def ids(
        self, texts: Sequence[str], *, prefix: str = "", max_tokens: int, first: int = 0
    ) -> tuple[list[np.ndarray], int]:
        """Token ids of each text, prefix in front, closing token at the end, cut to `max_tokens`.

        Returns (ids: one int32 array a text, number of texts that were cut). The cut keeps the closing token. Errors
        number the texts from `first`.
        """
        if max_tokens <= len(self._tail):
            raise ModelError(f"max_tokens must be at least {len(self._tail) + 1}, got {max_tokens}")
        for i, text in enumerate(texts, first):
            if not isinstance(text, str):
                raise ModelError(f"text {i} must be a str, got {type(text).__name__}")
        try:
            encoded = self._backend.encode_batch_fast([prefix + t for t in texts] if prefix else list(texts))
        except TypeError:  # lone surrogates cannot be passed to Rust; sentence-transformers fails on them too
            bad = next(i for i, t in enumerate(texts, first) if not _is_unicode(t))
            raise ModelError(
                f"text {bad} is not valid Unicode (a lone surrogate): decode it with errors='replace'"
            ) from None
        rows, cut = [], 0
        for e in encoded:
            ids = e.ids
            if len(ids) > max_tokens:
                cut += 1
                ids = ids[: max_tokens - len(self._tail)] + self._tail
            rows.append(np.asarray(ids, dtype=np.int32))
        return rows, cut

    def _pin_closing(self) -> int:
        closing = {i for i in (self.hf.eos_token_id, self.hf.sep_token_id) if i is not None}
        probe = self._backend.encode("a").ids
        if probe and probe[-1] in closing:
            return probe[-1]
        if self.hf.eos_token_id is None:
            raise ModelError("the tokenizer adds no closing token and has no EOS token: last-token pooling needs one")
        eos = self.hf.eos_token
        template = TemplateProcessing(
            single=f"$A:0 {eos}:0", pair=f"$A:0 $B:1 {eos}:1", special_tokens=[(eos, self.hf.eos_token_id)]
        )
        existing = self._backend.post_processor
        self._backend.post_processor = template if existing is None else ProcessorSequence([existing, template])
        probe = self._backend.encode("a").ids
        if probe[-1] != self.hf.eos_token_id:
            raise ModelError("the tokenizer's closing token could not be pinned: its post-processor overrides it")
        return probe[-1]

    def _special_tail(self) -> list[int]:
        """What the post-processor puts after a text: the closing token, in some tokenizers with others before it."""
        probe = self._backend.encode("a")
        mask = probe.special_tokens_mask[::-1]
        return probe.ids[-mask.index(0) :] if 0 in mask else probe.ids[-1:]


def pad(rows: Sequence[np.ndarray], pad_id: int, multiple: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Right-pad token ids to a common length, a multiple of `multiple` → (ids [B, T] int64, mask [B, T] int64)."""
    longest = max(len(r) for r in rows)
    width = -(-longest // multiple) * multiple
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def first_line(error: BaseException) -> str:
    """The first line of an error: hub libraries append paragraphs."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
