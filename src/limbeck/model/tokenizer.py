"""Text → token ids, with the closing token pinned and the cut made visible."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from tokenizers.processors import Sequence as ProcessorSequence
from tokenizers.processors import TemplateProcessing

from limbeck.errors import ModelError, TextError

# The Rust tokenizer uses its own threads; without a value set it warns and goes single-threaded after a fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

OnLong: TypeAlias = Literal["truncate", "error"]
"""What becomes of a text over the limit."""


@dataclass(frozen=True)
class Placed:
    """The tokens of a text, and where they are in it.

    A token starts at its first character that is no white space: some tokenizers put the space before a word into the
    word's token. Tokens before the text (special ones, the prefix) have −1, those after it the text's length.
    """

    ids: np.ndarray  # [T] int32
    starts: np.ndarray  # [T] int64, characters, ascending
    read: int  # characters before the cut: all, where the text was not cut


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
        self,
        texts: Sequence[str],
        *,
        prefix: str = "",
        max_tokens: int,
        first: int = 0,
        on_long: OnLong = "truncate",
    ) -> tuple[list[np.ndarray], int]:
        """Token ids of each text, prefix in front, closing token at the end, cut to `max_tokens`.

        Returns (ids: one int32 array a text, number of texts that were cut). The cut keeps the closing token.

        Raises TextError, counting texts from `first`: not a str, not Unicode, or, where `on_long` is "error", too long.
        """
        rows, cut = [], 0
        for _, ids, whole in self._encoded(texts, prefix, max_tokens, first, on_long, self._backend.encode_batch_fast):
            rows.append(np.asarray(ids, dtype=np.int32))
            cut += not whole
        return rows, cut

    def placed(
        self,
        texts: Sequence[str],
        *,
        prefix: str = "",
        max_tokens: int,
        first: int = 0,
        on_long: OnLong = "truncate",
    ) -> list[Placed]:
        """As `ids`, and where in its text each token starts."""
        found, tail = [], len(self._tail)
        encoded = self._encoded(texts, prefix, max_tokens, first, on_long, self._backend.encode_batch)
        for text, (encoding, ids, whole) in zip(texts, encoded, strict=True):
            read = prefix + text
            starts = [
                -1 if special else _word_start(read, *offsets) - len(prefix)
                for special, offsets in zip(encoding.special_tokens_mask, encoding.offsets, strict=True)
            ]
            kept = len(ids) - tail
            inside = np.array(starts[:kept] + tail * [len(text)], dtype=np.int64)
            found.append(
                Placed(
                    np.asarray(ids, dtype=np.int32),
                    np.maximum.accumulate(np.maximum(inside, -1)),
                    len(text) if whole else starts[kept],
                )
            )
        return found

    def _encoded(
        self,
        texts: Sequence[str],
        prefix: str,
        max_tokens: int,
        first: int,
        on_long: OnLong,
        encode_batch: Callable[[list[str]], list[Any]],
    ) -> Iterator[tuple[Any, list[int], bool]]:
        """Each text's encoding, its ids cut to fit, and whether that is all of them."""
        if max_tokens <= len(self._tail):
            raise ModelError(f"max_tokens must be at least {len(self._tail) + 1}, got {max_tokens}")
        for i, text in enumerate(texts, first):
            if not isinstance(text, str):
                raise TextError(i, f"must be a str, got {type(text).__name__}")
        try:
            encoded = encode_batch([prefix + t for t in texts] if prefix else list(texts))
        except TypeError:  # lone surrogates cannot be passed to Rust; sentence-transformers fails on them too
            bad = next(i for i, t in enumerate(texts, first) if not _is_unicode(t))
            raise TextError(bad, "is not valid Unicode (a lone surrogate): decode it with errors='replace'") from None
        for i, encoding in enumerate(encoded, first):
            ids = encoding.ids
            whole = len(ids) <= max_tokens
            if not whole and on_long == "error":
                raise TextError(
                    i, f"has {len(ids):,} tokens, over the limit of {max_tokens:,}: shorten it, or let it be cut"
                )
            yield encoding, ids if whole else ids[: max_tokens - len(self._tail)] + self._tail, whole

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
    """Right-pad token ids to a common length, a multiple of `multiple` → (ids [B, T] int64, mask [B, T] int64).

    A text alone is not padded: then attention needs no mask, which would be of T × T.
    """
    longest = max(len(r) for r in rows)
    width = -(-longest // multiple) * multiple if len(rows) > 1 else longest
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def first_line(error: BaseException) -> str:
    """The first line of an error: hub libraries append paragraphs."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _word_start(text: str, begin: int, end: int) -> int:
    """Place of the first character of text[begin:end] that is no white space; `begin` where all are."""
    return next((i for i in range(begin, end) if not text[i].isspace()), begin)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
