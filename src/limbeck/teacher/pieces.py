"""Texts longer than a teacher reads: cut at token boundaries, read apart, and put together again.

A piece is a stretch of the text itself, so that it goes the same way as a whole text, with the instruction in front. It
holds as many tokens as the teacher reads. Where it ends is found by tokenising from its beginning on, so that of the
longest text only a stretch at a time is held as tokens with their places.

Legend: N texts; U units, which are whole texts and pieces of long ones; T tokens; D the teacher's dims.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from limbeck import config
from limbeck.errors import TeacherError
from limbeck.teacher.checks import Progress, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_AT_ONCE = 4096  # texts, and
_CHARS_AT_ONCE = 1_000_000  # characters, whose tokens are held as Python integers meanwhile
_CHARS_PER_TOKEN = 8  # looked at for a piece at first: more than most texts take
_CANCELLED = 1e-6  # length of a mean of unit vectors below which its direction is a matter of rounding


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a text."""

    begin: int  # characters
    end: int
    tokens: int  # with the instruction and special tokens
    new: int  # tokens that the piece before does not hold


@dataclass(frozen=True, slots=True)
class Units:
    """What a teacher is given for N texts: each whole, or in pieces that follow each other."""

    texts: Sequence[str]  # [U]
    lengths: np.ndarray  # int64 [U], tokens with the instruction and special tokens
    owners: np.ndarray  # int64 [U], ascending: the text that each is of
    weights: np.ndarray  # int64 [U]: new tokens of a piece; of no meaning for a whole text

    def combine(self, vectors: np.ndarray, *, teacher: str) -> np.ndarray:
        """The vector of each text: its own, or the mean of its pieces', each counting by its new tokens, renormalised.

        Args:
            vectors: float32 [U, D], unit length.
            teacher: its name, for messages.

        Returns:
            float32 [N, D].

        Raises:
            TeacherError: the pieces of a text cancel each other out.
        """
        starts = np.flatnonzero(np.diff(self.owners, prepend=-1))
        if len(starts) == len(vectors):
            return vectors
        ends = np.append(starts[1:], len(self.owners))
        combined = vectors[starts]
        for i in np.flatnonzero(ends - starts > 1):
            part = slice(starts[i], ends[i])
            mean = np.average(vectors[part], axis=0, weights=self.weights[part])
            length = np.linalg.norm(mean)
            if not length > _CANCELLED:
                raise TeacherError(
                    f"teacher {teacher}: the vectors of the {ends[i] - starts[i]} pieces of text {i}, "
                    f"{shown(self.texts[int(starts[i])])}, cancel each other out: leave the text out, or set "
                    "teacher.long_texts=truncate"
                )
            combined[i] = mean / length
        return combined

    def progress(self, report: Progress | None) -> Callable[[np.ndarray], None]:
        """A function that takes the units just read, int64 [any], and reports the texts that they complete."""
        left = np.bincount(self.owners)

        def read(units: np.ndarray) -> None:
            owners, counts = np.unique(self.owners[units], return_counts=True)
            left[owners] -= counts
            if report and (complete := int((left[owners] == 0).sum())):
                report(complete)

        return read


def whole(texts: Sequence[str], lengths: np.ndarray) -> Units:
    """Every text as it is. lengths: int64 [N]."""
    return Units(texts, lengths, np.arange(len(texts)), np.ones(len(texts), dtype=np.int64))


def in_pieces(
    texts: Sequence[str], lengths: np.ndarray, long: np.ndarray, cut: Callable[[str], Iterable[Piece]]
) -> Units:
    """Every text as it is, but the long ones as `cut` cuts them. lengths: int64 [N], long: bool [N]."""
    units: list[str] = []
    rows: list[tuple[int, int, int]] = []  # length, owner, weight
    for i, text in enumerate(texts):
        for piece in cut(text) if long[i] else (Piece(0, len(text), int(lengths[i]), 1),):
            units.append(text[piece.begin : piece.end])
            rows.append((piece.tokens, i, piece.new))
    return Units(units, *np.array(rows, dtype=np.int64).T)


def token_counts(texts: Sequence[str], instruction: str, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """int64 [N]: tokens of each text with the instruction in front, special tokens included."""
    counts = np.empty(len(texts), dtype=np.int64)
    for part in portions(np.arange(len(texts)), texts, _AT_ONCE, _CHARS_AT_ONCE):
        spoken = [instruction + texts[int(i)] for i in part]
        ids = tokenizer(spoken, return_attention_mask=False, return_token_type_ids=False, verbose=False)["input_ids"]
        counts[part] = [len(i) for i in ids]  # type: ignore[arg-type]
    return counts


def cutter(
    teacher: config.Teacher, tokenizer: PreTrainedTokenizerBase, *, instruction: str, limit: int
) -> Callable[[str], Iterator[Piece]]:
    """`pieces` as the recipe has them."""
    return partial(
        pieces,
        instruction=instruction,
        tokenizer=tokenizer,
        limit=limit,
        overlap=teacher.chunk_overlap,
        teacher=teacher.model,
    )


def pieces(
    text: str, *, instruction: str, tokenizer: PreTrainedTokenizerBase, limit: int, overlap: int, teacher: str
) -> Iterator[Piece]:
    """Cut a text into pieces that the tokenizer, given each alone, finds to be within the limit.

    Args:
        text: any text.
        instruction: stands in front of every piece, and counts.
        tokenizer: the teacher's.
        limit: tokens of a piece, the instruction and special tokens included.
        overlap: tokens of the text that a piece shares with the one before; fewer where a character would be cut, or
            where what comes next needs the room.
        teacher: its name, for messages.

    Raises:
        TeacherError: the tokenizer does not say where its tokens are, the instruction leaves no room for more than the
            overlap, or a single character takes more tokens than there is room for.
    """
    if not tokenizer.is_fast:
        raise TeacherError(
            f"teacher {teacher}: its tokenizer, a {type(tokenizer).__name__}, does not say where in a text its tokens "
            "are, so that long texts cannot be cut"
        )

    def spans_of(begin: int, end: int) -> tuple[np.ndarray, int]:
        return _spans(text[begin:end], instruction, tokenizer)

    begin, covered = 0, 0  # characters: where the piece begins, how far those before it reach
    widest = window = _CHARS_PER_TOKEN * limit  # characters looked at
    while covered < len(text):
        end = min(begin + window, len(text))
        spans, around = spans_of(begin, end)
        room = limit - around
        if room <= overlap:
            raise TeacherError(
                f"teacher {teacher} reads {limit} tokens, {around} of them are the instruction and special tokens, and "
                f"pieces share {overlap}: raise teacher.max_tokens, or lower teacher.chunk_overlap"
            )
        if len(spans) <= room and end < len(text):  # tokens of many characters each
            window *= 2
            continue
        if len(spans) > room:
            ends = begin + spans[_boundaries(spans[: room + 1]), 0]
            for end in map(int, ends[ends > covered][::-1]):
                spans, around = spans_of(begin, end)
                # tokenised with what comes next they fitted; alone, the end of it may take more tokens
                if len(spans) + around <= limit:
                    break
            else:
                if begin == covered:
                    raise TeacherError(
                        f"teacher {teacher} reads {limit} tokens, too few for the character at the beginning of "
                        f"{shown(text[begin:])}: raise teacher.max_tokens"
                    )
                begin = covered  # the overlap took the room
                continue
        new = int((begin + spans[:, 0] >= covered).sum())
        yield Piece(begin, end, len(spans) + around, max(1, new))
        again = [int(spans[i, 0]) for i in _boundaries(spans) if i >= len(spans) - overlap]
        window = min(widest, max(limit, 2 * (end - begin)))  # what comes next is likely to be as dense
        begin, covered = begin + again[0] if again else end, end


def say_long(teacher: config.Teacher, over: np.ndarray, limit: int) -> None:
    """Log what happens to the texts over the limit. over: bool [N]."""
    cut = teacher.long_texts == "truncate"
    log.log(
        logging.WARNING if cut else logging.INFO,
        "%d of %d texts are longer than the %d tokens that teacher %s reads, and are %s",
        *(over.sum(), len(over), limit, teacher.model, "cut there" if cut else "read in pieces"),
    )


def reading(teacher: config.Teacher) -> str:
    """How a teacher reads long texts, as the end of a fingerprint: empty where the recipe leaves it to the model."""
    limit = "" if teacher.max_tokens is None else f" max_tokens={teacher.max_tokens}"
    if teacher.long_texts == "truncate":
        return limit
    return f"{limit} long_texts=chunks chunk_overlap={teacher.chunk_overlap}"


def portions(which: np.ndarray, texts: Sequence[str], most: int, most_chars: int) -> Iterator[np.ndarray]:
    """Cut positions into parts of at most so many texts and, but for a single longer text, so many characters."""
    start, chars = 0, 0
    for place, i in enumerate(which):
        length = len(texts[int(i)])
        if place > start and (place - start == most or chars + length > most_chars):
            yield which[start:place]
            start, chars = place, 0
        chars += length
    if start < len(which):
        yield which[start:]


def _spans(text: str, instruction: str, tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, int]:
    """Where each token of the text begins and ends in it, int64 [T, 2], and how many other tokens there are."""
    encoded = tokenizer(
        instruction + text,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    found = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2) - len(instruction)
    own = found[found[:, 1] > 0]  # special tokens lie at 0 to 0
    return np.maximum(own, 0), len(found) - len(own)


def _boundaries(spans: np.ndarray) -> np.ndarray:
    """Tokens, but the first, that share no character with a token before them. spans: int64 [T, 2]."""
    starts, reached = spans[1:, 0], np.maximum.accumulate(spans[:-1, 1])
    return 1 + np.flatnonzero((starts >= reached) & (starts > 0))
