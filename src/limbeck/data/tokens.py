"""Token ids of many texts in one flat, memory-mapped file: tokenised once, lengths known, nothing padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.errors import DataError
from limbeck.files import atomic_write, read_json, write_json
from limbeck.model.tokenizer import Tokenizer

_CHUNK = 8192  # texts tokenised at a time: bounds memory, and is enough to keep every core of the tokenizer busy


class TokenTable:
    """Rows of int32 token ids of different lengths; row i is `flat[offsets[i] : offsets[i + 1]]`."""

    def __init__(self, flat: np.ndarray, offsets: np.ndarray, truncated: int, stem: Path | None = None) -> None:
        """Take what a table is made of.

        Args:
            flat: token ids of all N rows.
            offsets: [N + 1] int64.
            truncated: rows that were cut to fit.
            stem: of the files, where it was read from some.
        """
        self.flat, self.offsets, self.truncated, self._stem = flat, offsets, truncated, stem
        self.lengths: np.ndarray = np.diff(offsets)  # [N] tokens of each row

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        """Return the token ids of one row."""
        return self.flat[self.offsets[row] : self.offsets[row + 1]]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the place, not the tokens: another process of the run opens its own map."""
        if self._stem is not None:
            return TokenTable.open, (self._stem,)
        return TokenTable, (self.flat, self.offsets, self.truncated)

    @property
    def tokens(self) -> int:
        """Tokens of all rows together."""
        return int(self.offsets[-1])

    @classmethod
    def write(
        cls, stem: Path, parts: Sequence[tuple[Sequence[str], str]], tokenizer: Tokenizer, *, max_tokens: int
    ) -> TokenTable:
        """Tokenise (texts, prefix) parts one after the other into `stem`.tokens, .offsets.npy and .json.

        The .json is written last, so a table without it is unfinished.
        """
        stem.parent.mkdir(parents=True, exist_ok=True)
        lengths: list[np.ndarray] = []
        truncated = 0
        tokens, ends, about = _files(stem)
        with atomic_write(tokens) as temporary, open(temporary, "wb") as file:
            for texts, prefix in parts:
                for chunk in _chunks(texts):
                    rows, cut = tokenizer.ids(chunk, prefix=prefix, max_tokens=max_tokens)
                    truncated += cut
                    lengths.append(np.array([len(r) for r in rows], dtype=np.int64))
                    np.concatenate(rows).astype("<i4").tofile(file)
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
        with atomic_write(ends) as temporary, open(temporary, "wb") as file:
            np.save(file, offsets)
        write_json(about, {"rows": len(offsets) - 1, "truncated": truncated})
        return cls.open(stem)

    @staticmethod
    def finished(stem: Path) -> bool:
        """True once `write` has come to its end."""
        return _files(stem)[-1].exists()

    @classmethod
    def open(cls, stem: Path) -> TokenTable:
        """Map what `write` made. Raises DataError when it is absent, unfinished or torn."""
        tokens, ends, about_file = _files(stem)
        try:
            about = read_json(about_file)
            offsets = np.load(ends)
            flat = np.memmap(tokens, dtype="<i4", mode="r")
        except (OSError, ValueError) as error:
            raise DataError(f"token table {stem} cannot be read ({error}): delete {stem.parent}") from None
        if len(offsets) != about["rows"] + 1 or offsets[-1] != len(flat):
            raise DataError(f"token table {stem} is torn: delete {stem.parent} to have it made again")
        return cls(flat, offsets, about["truncated"], stem)


def _files(stem: Path) -> tuple[Path, Path, Path]:
    # not Path.with_suffix: a name with a dot would lose what follows it
    tokens, offsets, about = (stem.with_name(stem.name + ending) for ending in (".tokens", ".offsets.npy", ".json"))
    return tokens, offsets, about


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), _CHUNK):
        yield texts[start : start + _CHUNK]
