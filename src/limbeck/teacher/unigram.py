"""A fast tokenizer from what a SentencePiece unigram model consists of: pieces, scores, and a table of characters.

`tokenizers` reads such a table in the form that SentencePiece compiles it to, a double-array trie over UTF-8.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

_BOUNDARY = "\x01"  # a control character: no grapheme reaches across it


@dataclass(frozen=True)
class Unigram:
    """A vocabulary; a piece's id is its place."""

    pieces: Sequence[str]
    scores: Sequence[float]  # log probabilities
    characters: Mapping[str, str]  # character → what it becomes first; all others stay
    bos: int
    eos: int
    pad: int
    unk: int
    mask: int

    def special(self) -> dict[str, str]:
        """Special tokens by transformers' names: a text is put between `<s>` and `</s>`."""
        ids = {"bos": self.bos, "eos": self.eos, "unk": self.unk, "sep": self.eos, "pad": self.pad, "cls": self.bos}
        return {f"{name}_token": self.pieces[i] for name, i in (ids | {"mask": self.mask}).items()}


def fast_tokenizer(vocabulary: Unigram) -> Tokenizer:
    """Make the tokenizer: characters mapped one by one, spaces joined, best path, `<s>` … `</s>` around the text.

    Every character that no piece holds is an `<unk>` of its own.
    """
    special = vocabulary.special()
    bos, eos = special["bos_token"], special["eos_token"]
    tokenizer = Tokenizer(
        models.Unigram(list(zip(vocabulary.pieces, vocabulary.scores, strict=True)), unk_id=vocabulary.unk)
    )
    tokenizer.normalizer = _normalizer(vocabulary.characters)
    known = {piece for piece in vocabulary.pieces if len(piece) == 1}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            # the unigram model would join neighbours into one <unk>
            pre_tokenizers.Split(Regex(f"[^{_ranges(known)}]"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[bos, "$A", eos],
        pair=[bos, "$A", eos, eos, "$B", eos],
        special_tokens=[(bos, vocabulary.bos), (eos, vocabulary.eos)],
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in dict.fromkeys(special.values())])
    return tokenizer


def _normalizer(characters: Mapping[str, str]) -> normalizers.Normalizer:
    assert characters.get(_BOUNDARY) == "", "the boundary between characters must vanish"
    return normalizers.Sequence(
        [
            # `Precompiled` looks up graphemes and takes the first match inside: "ﬁ́" would lose its accent
            normalizers.Replace(Regex(f"(?<=[{_ranges(characters)}])"), _BOUNDARY),
            normalizers.Precompiled(charsmap(characters)),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )


def _ranges(characters: Iterable[str]) -> str:
    """Characters, as the inside of a regular expression's brackets."""
    points = np.array(sorted(map(ord, characters)))
    runs = np.split(points, np.flatnonzero(np.diff(points) > 1) + 1)
    return "".join(rf"\x{{{run[0]:x}}}-\x{{{run[-1]:x}}}" for run in runs)


def charsmap(characters: Mapping[str, str]) -> bytes:
    """Compile a table of single characters as SentencePiece does: size of the trie, the trie, the outputs.

    A unit of the trie (Darts-clone) is 32 bits: the byte that leads here, bit 8 = a key ends here, and from bit 10 the
    offset that, XORed with the unit's place, gives its base; the child for byte b is at base ^ b. The value of a key
    stands at the base itself, with bit 31 set: where its output starts, which a NUL ends.
    """
    outputs, places = bytearray(), {}
    for text in characters.values():
        if text not in places:
            places[text] = len(outputs)
            outputs += text.encode() + b"\0"
    units = _trie({character.encode(): places[text] for character, text in characters.items()})
    return struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + bytes(outputs)


def _trie(values: Mapping[bytes, int]) -> list[int]:
    """A double array of keys of which none is the beginning of another."""
    children: dict[bytes, set[int]] = {}
    for key in values:
        for length in range(len(key)):
            children.setdefault(key[:length], set()).add(key[length])
    units: list[int] = [0] * 256
    taken = {0}  # places in use
    bases: set[int] = set()  # two nodes with one base would see each other's children
    queue = [(b"", 0)]
    while queue:
        key, place = queue.pop()
        labels = [0] if key in values else sorted(children[key])
        base = next(
            base
            for base in range(max(1, len(units) - 512), len(units) + 256)  # older blocks are nearly full
            if base not in bases and taken.isdisjoint(base ^ label for label in labels)
        )
        bases.add(base)
        taken.update(base ^ label for label in labels)
        while len(units) <= base | 255:  # whole blocks: a look-up of any byte stays inside
            units += [0] * 256
        units[place] |= (place ^ base) << 10
        if key in values:
            units[place] |= 1 << 8
            units[base] = values[key] | 1 << 31
        else:
            for label in labels:
                units[base ^ label] = label
                queue.append((key + bytes([label]), base ^ label))
    return units
