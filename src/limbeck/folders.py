"""A folder that is either whole or absent, and what is said when the disk is full."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limbeck.errors import DataError, LimbeckError
from limbeck.files import sync_folder

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out` that takes its place on success and is removed on failure.

    Folders that a killed process left are removed too: the lock of a living one tells them apart.
    """
    out = out.resolve()  # a link stays, and what it points to is replaced
    prefix = f".{out.name}."
    for left in out.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        with held(left) as free:
            if free:
                shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=prefix, suffix=".tmp"))
    try:
        with held(folder):
            yield folder
            folder.chmod(0o755)
            sync_folder(folder)
            if out.exists():
                # a folder cannot be renamed onto one that is not empty; killed between the two, `out` is absent
                old = Path(tempfile.mkdtemp(dir=out.parent, prefix=prefix, suffix=".tmp"))
                os.replace(out, old / "old")
                os.replace(folder, out)
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(folder, out)
            sync_folder(out.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Lock a folder as long as this process lives; yields whether nobody else had."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # gone in the meantime
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held by another, or a file system without locks
            yield False
        else:
            yield True
    finally:
        os.close(handle)


@contextmanager
def full_disk_named(out: Path, error_type: type[LimbeckError] = DataError) -> Iterator[None]:
    """Turn the error of a full disk, quota or file size limit into a LimbeckError naming the folder and the room."""
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        free = shutil.disk_usage(out.parent).free
        reason = getattr(error, "strerror", None) or error
        raise error_type(
            f"the disk is full: {out} could not be written ({reason}), and nothing of it was kept; "
            f"{free:,} bytes are free in {out.parent.resolve()} now: make room, or set `out:` to another disk"
        ) from None


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    # safetensors raises a type of its own, with the number of the OSError in its text
    return type(error).__name__ == "SafetensorError" and any(f"os error {n})" in str(error) for n in _FULL)


def sync_file(path: Path) -> None:
    """Make the bytes of a file durable."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def user_cache() -> Path:
    """Where limbeck keeps what it can make again: $XDG_CACHE_HOME/limbeck, or ~/.cache/limbeck."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "limbeck"
