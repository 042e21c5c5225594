"""A folder of shards: each is whole or absent, so that a killed job goes on at the first that is absent.

    vectors/
      manifest.json        what made them and, once all are there, how many
      part-00000.parquet   the vectors of the first rows, part-00001.parquet of the next ones, …

All of it follows from the inputs, the model and the settings, and no forward pass holds texts of two shards: what is
made in one go and what is made in many are the same bytes, where they are made by the same software and hardware.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from limbeck import __version__
from limbeck.encoding.reading import Row
from limbeck.encoding.writing import Format
from limbeck.errors import ConfigError, DataError
from limbeck.files import read_json, write_json

MANIFEST = "manifest.json"

_HOLDS = "limbeck vectors"  # tells our manifest from those of other folders
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Sharding:
    """How a folder is cut into shards."""

    rows: int = 65_536  # of a shard: what a kill costs at most; the last shard holds what is left
    format: Format = "parquet"
    force: bool = False  # begin anew where the folder holds other vectors

    def __post_init__(self) -> None:
        """Raise ConfigError: rows < 1."""
        if self.rows < 1:
            raise ConfigError(f"a shard has at least 1 row, got {self.rows}")


@dataclass(frozen=True, slots=True)
class Written:
    """What is in a folder."""

    rows: int
    shards: int
    kept: int  # rows of shards that were there before


def write_shards(
    folder: Path,
    rows: Iterator[Row],
    key: Mapping[str, Any],
    sharding: Sharding,
    write: Callable[[Path, Iterator[Row]], int],
    *,
    kept: Callable[[int], None] | None = None,
) -> Written:
    """Write the shards that are not there yet.

    Args:
        folder: is made if it is not there.
        rows: all of them, those of finished shards included; these are read and passed over.
        key: JSON values; whatever decides the bytes of the shards.
        sharding: how to cut.
        write: writes the rows of a shard to a path, whole or not at all, and returns how many there were.
        kept: called with the number of rows of each shard that was there before.

    Raises DataError: the folder holds something else, or vectors made by another key (and what to do); another process
    is writing to it.
    """
    known = {"holds": _HOLDS, "format": _FORMAT, "limbeck": __version__, **key, "shard_rows": sharding.rows}
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        found = _begin(folder, known, force=sharding.force)
        if found.get("rows") is not None:
            whole = Written(found["rows"], found["shards"], found["rows"])
            if all(_part(folder, number, sharding).exists() for number in range(whole.shards)):
                return whole
        number = total = before = 0
        while (first := next(rows, None)) is not None:
            shard = chain([first], islice(rows, sharding.rows - 1))
            path = _part(folder, number, sharding)
            if path.exists():
                size = sum(1 for _ in shard)
                before += size
                if kept:
                    kept(size)
            else:
                size = write(path, shard)
            number, total = number + 1, total + size
        write_json(folder / MANIFEST, {**known, "rows": total, "shards": number})
        return Written(total, number, before)


def _part(folder: Path, number: int, sharding: Sharding) -> Path:
    return folder / f"part-{number:05d}.{sharding.format}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the kernel lets go when its holder dies. Raises DataError when another has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process is encoding into {folder}: wait for it, or end it") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def _begin(folder: Path, known: Mapping[str, Any], *, force: bool) -> Mapping[str, Any]:
    """The folder's manifest, which is written if there is none, or with `force` if it has another key."""
    path = folder / MANIFEST
    found = _read(path)
    if found is None:
        foreign = sorted(entry.name for entry in folder.iterdir() if not _is_left_over(entry))
        if foreign:
            raise DataError(f"{folder} holds other files ({', '.join(foreign[:3])}): give an empty folder or a new one")
    for left in folder.iterdir():
        if _is_left_over(left):
            left.unlink()
    if found is not None:
        differences = [_difference(name, found.get(name), value) for name, value in known.items()]
        differs = [text for text in differences if text]
        if not differs and not force:
            return found
        if not force:
            raise DataError(
                f"{folder} holds vectors that were made otherwise ({'; '.join(differs)}): give another folder, or "
                "begin anew with --force, which deletes them"
            )
        for part in folder.glob("part-*"):  # before the manifest, which says what they are
            part.unlink()
    write_json(path, {**known, "rows": None, "shards": None})
    return known


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(str(error)) from None
    if not isinstance(found, dict) or found.get("holds") != _HOLDS:
        raise DataError(f"{path} is not of vectors that limbeck encoded: give another folder")
    return found


def _is_left_over(entry: Path) -> bool:
    """Of a process that was killed while it wrote the file."""
    return entry.name.startswith((".part-", f".{MANIFEST}.")) and entry.suffix == ".tmp"


def _difference(name: str, before: Any, now: Any) -> str | None:
    if before == now:
        return None
    if name == "inputs" and isinstance(before, list):
        changed = [file["name"] for file in now if file not in before] + [f["name"] for f in before if f not in now]
        return f"inputs: {', '.join(list(dict.fromkeys(changed))[:3]) or 'another order'}"
    return f"{name}: {before} there, {now} now"
