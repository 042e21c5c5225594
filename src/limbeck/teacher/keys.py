"""Names of texts in a store, and which row a name stands for.

Legend: N texts, R rows of a store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from limbeck.teacher.checks import utf8

KEY_BYTES = 16


def text_keys(texts: Sequence[str], instruction: str) -> np.ndarray:
    """uint64 [N, 2]: BLAKE2b-128 of (instruction, text).

    Among a billion texts two share a key with probability 10^18 / 2^129 < 10^-20. A checksum such as xxh3 is four times
    faster (0.25 against 0.9 s for a million texts), but whoever writes a text can give it the xxh3 of another, and
    texts come from the web.

    Raises:
        DataError: a text is not a string or not valid Unicode.
    """
    head = utf8(instruction, 0)
    # the length in front, so that ("ab", "c") and ("a", "bc") differ
    prefix = hashlib.blake2b(len(head).to_bytes(8, "little") + head, digest_size=KEY_BYTES, person=b"limbeck-text")
    digests = bytearray()
    for i in range(len(texts)):
        state = prefix.copy()
        state.update(utf8(texts[i], i))
        digests += state.digest()
    return keys_from_bytes(bytes(digests))


def keys_from_bytes(data: bytes) -> np.ndarray:
    """uint64 [N, 2] of N·16 bytes."""
    return np.frombuffer(data, dtype="<u8").reshape(-1, 2)


def first_of_each(keys: np.ndarray) -> np.ndarray:
    """Positions, ascending, at which a key occurs for the first time. keys: uint64 [N, 2]."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: among equal keys the first comes first
    in_order = keys[order]
    new = np.ones(len(keys), dtype=bool)
    new[1:] = (in_order[1:] != in_order[:-1]).any(axis=1)
    return np.sort(order[new])


class KeyIndex:
    """Keys → rows, for many keys at once: sorted by their first half, so that a lookup is one binary search.

    24 bytes of memory a row. A million keys are looked up among a million in about half a second.
    """

    def __init__(self) -> None:
        """An index of no rows."""
        self._first = np.empty(0, dtype=np.uint64)
        self._second = np.empty(0, dtype=np.uint64)
        self._rows = np.empty(0, dtype=np.int64)

    def add(self, keys: np.ndarray, first_row: int) -> None:
        """Rows first_row, first_row + 1, … have these keys. keys: uint64 [N, 2]."""
        order = np.argsort(keys[:, 0], kind="stable")
        keys, rows = keys[order], first_row + order
        if not len(self._first):  # a whole store is read at once: no merging
            self._first, self._second, self._rows = keys[:, 0].copy(), keys[:, 1].copy(), rows
            return
        at = np.searchsorted(self._first, keys[:, 0])
        self._first = np.insert(self._first, at, keys[:, 0])
        self._second = np.insert(self._second, at, keys[:, 1])
        self._rows = np.insert(self._rows, at, rows)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """int64 [N]: the row of each key, −1 where there is none. keys: uint64 [N, 2]."""
        found = np.full(len(keys), -1, dtype=np.int64)
        place = np.searchsorted(self._first, keys[:, 0])
        left = np.arange(len(keys))
        while len(left):  # once, but for keys that share their first half with another
            left = left[place[left] < len(self._first)]
            left = left[self._first[place[left]] == keys[left, 0]]
            hit = self._second[place[left]] == keys[left, 1]
            found[left[hit]] = self._rows[place[left[hit]]]
            left = left[~hit]
            place[left] += 1
        return found
