"""Which texts are the same, exactly or nearly: normalisation, and MinHash over word 5-grams.

Legend: `T` distinct texts, `S` shingles (hashes of 5 words in a row), `P` permutations of the MinHash.

The MinHash is a few lines of NumPy, not a library, for three reasons measured on 100,000 documents of 100 words on one
core: `datasketch` took 12 s for the signatures alone (one Python object a text); `rensa` took 0.1 s in Rust, but gives
its matrix back only as Python lists (1.2 s) and its bulk index only as flags, not as the pairs that must be checked;
the vectorised form here takes 0.6 s, and most of the time of any of them goes to splitting texts into words.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt
import xxhash

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

SHINGLE_WORDS = 5
PERMUTATIONS = 128
RECALL = 0.95  # of pairs exactly at the threshold, at least so many become candidates
SKETCH = 256  # shingles kept per text: Jaccard is exact for texts up to this many, and has an error of 3% beyond

_BLOCK_WORDS = 1 << 20  # words hashed at once: 8 MB
_CACHE_SHINGLES = 1 << 15  # shingles permuted at once: 256 kB, so that 128 passes over them stay in the cache
_PAIR_SHINGLES = 1 << 22  # shingles compared at once: 32 MB
_MAX_VOCABULARY = 1 << 20  # cached word hashes, about 150 MB

# Scripts that put no space between words: each character is a word of its own.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORDS = re.compile(rf"[^\W{_UNSPACED}]+|[{_UNSPACED}]")


def normalise(text: str) -> str:
    """Fold what a reader would call the same text: NFKC, case folded, white space collapsed and stripped."""
    if text.isascii():
        return " ".join(text.lower().split())
    # folding can undo the composition, hence the second NFKC: without it this would not be idempotent
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def stable_hash(normalised: str) -> int:
    """64-bit hash of a normalised text: the same on every machine and in every version. Raises UnicodeEncodeError."""
    return xxhash.xxh3_64_intdigest(normalised.encode())


@dataclass(frozen=True)
class Signatures:
    """What is kept of T texts to tell which are near each other: their LSH keys, and their smallest shingles."""

    keys: Hashes  # [T, bands]: texts that are near have one in common, with a chance of at least RECALL
    sketches: npt.NDArray[np.uint32]  # end to end, at most SKETCH of each text
    sizes: Ints  # [T] distinct shingles, SKETCH + 1 where there are more

    def __len__(self) -> int:
        """T."""
        return len(self.sizes)

    @cached_property
    def starts(self) -> Ints:
        """[T] where the sketch of each text starts."""
        stored = np.minimum(self.sizes, SKETCH)
        return np.cumsum(stored) - stored


class Signer:
    """Signs texts as they come: hashes of words are made in blocks, and no text is kept."""

    def __init__(self, threshold: float, shingle_words: int = SHINGLE_WORDS) -> None:
        """Sign for pairs with this Jaccard similarity or more, in 0 … 1, of the sets of `shingle_words` in a row."""
        self._bands, self._rows = _bands(threshold)
        self._shingle_words = shingle_words
        self._words = _WordHashes()
        self._waiting: list[list[str]] = []
        self._waiting_words = 0
        self._signed: list[Signatures] = []

    def add(self, words: list[str]) -> None:
        """Take the next text, as `words_of` cuts it. One with fewer words than a shingle is a shingle of its own."""
        self._waiting.append(words + [""] * (self._shingle_words - len(words)))
        self._waiting_words += len(self._waiting[-1])
        if self._waiting_words >= _BLOCK_WORDS:
            self._flush()

    def signatures(self) -> Signatures:
        """Of all texts so far, in their order."""
        self._flush()
        if not self._signed:
            return Signatures(np.empty((0, self._bands), np.uint64), np.empty(0, np.uint32), np.empty(0, np.int64))
        keys, sketches, sizes = zip(*((s.keys, s.sketches, s.sizes) for s in self._signed), strict=True)
        self._signed = [Signatures(np.concatenate(keys), np.concatenate(sketches), np.concatenate(sizes))]
        return self._signed[0]

    def _flush(self) -> None:
        if not self._waiting:
            return
        lengths = np.array([len(words) for words in self._waiting])
        shingles, lengths = _shingles(self._words(self._waiting), lengths, self._shingle_words)
        self._waiting, self._waiting_words = [], 0
        keys = _band_keys(_signatures(shingles, lengths), self._bands, self._rows)
        self._signed.append(Signatures(keys, *_sketch(shingles, lengths)))


def words_of(normalised: str) -> list[str]:
    """Words without punctuation; a text of nothing but punctuation is one word."""
    return _WORDS.findall(normalised) or [normalised]


class TextIndex:
    """Numbers distinct texts in order of arrival, and finds which of them nearly equal each other.

    Per text it keeps the hash, the LSH keys (18 × 8 bytes at a threshold of 0.8) and at most SKETCH shingles of 4
    bytes, not the text.
    """

    def __init__(self, near_duplicate_threshold: float | None) -> None:
        """Look for texts with this Jaccard similarity or more; None = only exact equality counts."""
        self.threshold = near_duplicate_threshold
        self.hashes: list[int] = []
        self._numbers: dict[int, int] = {}
        self._signer = Signer(near_duplicate_threshold) if near_duplicate_threshold else None

    def __len__(self) -> int:
        """T."""
        return len(self.hashes)

    def add(self, normalised: str) -> int:
        """Return the number of a normalised text, a new one (the next) when it was not seen before."""
        # 64 bits are taken for identity: among 10 million texts the chance of any collision is 3 in a million
        digest = stable_hash(normalised)
        number = self._numbers.setdefault(digest, len(self.hashes))
        if number == len(self.hashes):
            self.hashes.append(digest)
            if self._signer is not None:
                self._signer.add(words_of(normalised))
        return number

    def clusters(self) -> Ints:
        """[T] → the first text of the group that each text belongs to; itself where nothing equals it nearly.

        Groups are the connected components of the pairs whose Jaccard similarity reaches the threshold, so that no
        such pair is ever in two groups. A pair is found with a chance of at least RECALL, more above the threshold.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        groups = np.arange(len(self), dtype=np.int64)
        if self.threshold is None or self._signer is None or not len(self):
            return groups
        signed = self._signer.signatures()
        left, right = groups[:0], groups[:0]
        for keys in signed.keys.T:
            new_left, new_right = _candidates(keys)
            unknown = groups[new_left] != groups[new_right]  # most true pairs were found by an earlier band
            new_left, new_right = new_left[unknown], new_right[unknown]
            near = jaccard(signed, new_left, signed, new_right) >= self.threshold
            if near.any():
                left, right = np.concatenate([left, new_left[near]]), np.concatenate([right, new_right[near]])
                graph = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(len(self), len(self)))
                labels = connected_components(graph, directed=False)[1]
                groups = np.unique(labels, return_index=True)[1].astype(np.int64)[labels]
        return groups


class _WordHashes(dict[str, int]):
    """64-bit hash of each word, remembered: a look-up is ten times faster than a hash from Python."""

    def __missing__(self, word: str) -> int:
        digest = self[word] = xxhash.xxh3_64_intdigest(word.encode())
        return digest

    def __call__(self, texts: list[list[str]]) -> Hashes:
        if len(self) > _MAX_VOCABULARY:
            self.clear()
        words = map(self.__getitem__, chain.from_iterable(texts))
        return np.fromiter(words, np.uint64, count=sum(map(len, texts)))


def _bands(threshold: float) -> tuple[int, int]:
    """(bands, rows): the longest rows that still make a pair at the threshold a candidate with chance RECALL."""
    for rows in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return PERMUTATIONS, 1


def _mix(values: Hashes) -> Hashes:
    """Spread every input bit over the output (the finaliser of MurmurHash3)."""
    values = values ^ (values >> np.uint64(33))
    values *= np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(33)
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def _shingles(words: Hashes, lengths: Ints, size: int) -> tuple[Hashes, Ints]:
    """Word hashes of texts laid end to end, and words per text (≥ size) → shingles likewise, and shingles per text."""
    count = len(words) - size + 1
    shingles = np.zeros(count, np.uint64)
    for offset in range(size):
        shingles = _mix(shingles + words[offset : offset + count])  # mixed at each step: order counts
    inside = np.ones(count, bool)
    ends = np.cumsum(lengths)[:-1]
    for back in range(1, size):
        inside[ends - back] = False  # starts in one text and ends in the next
    return shingles[inside], lengths - size + 1


def _signatures(shingles: Hashes, lengths: Ints) -> npt.NDArray[np.uint64]:
    """[S] and shingles per text → MinHash [T, P]: the smallest of its shingles under each permutation."""
    # not from a random generator, whose stream may change with NumPy: the same texts must fall together everywhere
    constants = _mix(np.arange(1, 2 * PERMUTATIONS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    factors, shifts = constants[:PERMUTATIONS] | np.uint64(1), constants[PERMUTATIONS:]
    ends = np.cumsum(lengths)
    starts = ends - lengths
    signatures = np.empty((len(lengths), PERMUTATIONS), np.uint64)
    first = 0
    while first < len(lengths):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + _CACHE_SHINGLES, side="right")))
        block = shingles[starts[first] : ends[last - 1]]
        offsets = starts[first:last] - starts[first]
        permuted = np.empty_like(block)
        for p in range(PERMUTATIONS):
            np.multiply(block, factors[p], out=permuted)
            permuted += shifts[p]
            signatures[first:last, p] = np.minimum.reduceat(permuted, offsets)
        first = last
    return signatures


def _band_keys(signatures: npt.NDArray[np.uint64], bands: int, rows: int) -> Hashes:
    """[T, P] → [T, bands]: one hash over each band's rows."""
    banded = signatures[:, : bands * rows].reshape(-1, bands, rows)
    keys = np.zeros(banded.shape[:2], np.uint64)
    for row in range(rows):
        keys = _mix(keys + banded[:, :, row])
    return keys


def _sketch(shingles: Hashes, lengths: Ints) -> tuple[npt.NDArray[np.uint32], Ints]:
    """[S] → each text's SKETCH smallest distinct shingles (upper 32 bits), and how many distinct ones it has.

    The number returned is capped at SKETCH + 1, which says "there are more".
    """
    owner = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths)
    coded = (owner << np.uint64(32)) | (shingles >> np.uint64(32))
    coded.sort()  # np.unique hashes instead, ten times slower here
    coded = coded[_opens(coded)]
    owner = (coded >> np.uint64(32)).astype(np.int64)
    sizes = np.bincount(owner, minlength=len(lengths))
    rank = np.arange(len(coded)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    kept = coded[rank < SKETCH] & np.uint64(0xFFFFFFFF)
    return kept.astype(np.uint32), np.minimum(sizes, SKETCH + 1)


def _candidates(keys: Hashes) -> tuple[Ints, Ints]:
    """[T] keys of one band → pairs with the same key: each text with the first and with the one before it."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    opens = _opens(ordered)
    again = np.flatnonzero(~opens)
    opener = np.maximum.accumulate(np.where(opens, np.arange(len(keys)), 0))
    not_first = again[opener[again] != again - 1]  # there the one before it is the first
    return (
        np.concatenate([order[again - 1], order[opener[not_first]]]),
        np.concatenate([order[again], order[not_first]]),
    )


def _opens(ordered: Hashes) -> npt.NDArray[np.bool_]:
    """Of sorted values, which differ from the one before."""
    opens = np.ones(len(ordered), bool)
    opens[1:] = ordered[1:] != ordered[:-1]
    return opens


def jaccard(a: Signatures, left: Ints, b: Signatures, right: Ints) -> npt.NDArray[np.float64]:
    """Jaccard similarity of each pair [P]: text `left[i]` of `a` and text `right[i]` of `b`.

    Exact where both sketches are whole, else over the smallest SKETCH shingles of their union.
    """
    a_lengths, b_lengths = np.minimum(a.sizes[left], SKETCH), np.minimum(b.sizes[right], SKETCH)
    similarity = np.empty(len(left))
    ends = np.cumsum(a_lengths + b_lengths)
    first = 0
    while first < len(left):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _PAIR_SHINGLES, side="right")))
        i, j = left[first:last], right[first:last]
        pair = np.arange(last - first, dtype=np.uint64)
        owner = np.concatenate([np.repeat(pair, a_lengths[first:last]), np.repeat(pair, b_lengths[first:last])])
        of_a = a.sketches[_ranges(a.starts[i], a_lengths[first:last])]
        of_b = b.sketches[_ranges(b.starts[j], b_lengths[first:last])]
        coded = np.sort((owner << np.uint64(32)) | np.concatenate([of_a, of_b]))
        opens = _opens(coded)
        twice = ~np.append(opens[1:], True)[opens]  # the next is the same: in both texts
        coded = coded[opens]
        owner = (coded >> np.uint64(32)).astype(np.int64)
        union = np.bincount(owner, minlength=last - first)
        # of a cut sketch only the smallest SKETCH of the union are known for sure
        whole = (a.sizes[i] <= SKETCH) & (b.sizes[j] <= SKETCH)
        limit = np.where(whole, union, np.minimum(union, SKETCH))
        rank = np.arange(len(coded)) - np.repeat(np.cumsum(union) - union, union)
        shared = np.bincount(owner[twice & (rank < limit[owner])], minlength=last - first)
        similarity[first:last] = shared / limit
        first = last
    return similarity


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """Indices of the slices [start, start + length), end to end."""
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
