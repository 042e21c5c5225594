"""Files of this machine, by path, and of object stores, by the URLs that fsspec knows (s3://, gs://, memory://, …).

A file is put in its place whole: by a rename here, by one upload there. Object stores show an upload when it is
complete; on other remote file systems a torn file may be seen, so that what tells of a file must be written after it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.encoding.reading import files_of, is_known, none_known
from limbeck.errors import ConfigError, DataError
from limbeck.files import sync_folder
from limbeck.folders import held, sync_file

_SCRATCH = ".work-"


class Listed(NamedTuple):
    """A file, and what changes when it does, as far as a listing tells: size and time, or what the store says of it."""

    name: str  # path or URL
    stamp: str


def is_url(name: str) -> bool:
    """Whether a name is of an object store, or of anything else that fsspec opens."""
    return "://" in name


def base_name(name: str) -> str:
    """The last part of a path or URL."""
    return name.rstrip("/").rpartition("/")[2]


def joined(folder: str, name: str) -> str:
    """The place of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def listed(sources: Sequence[str]) -> list[Listed]:
    """Files, and the files of folders that have a known ending, in the order of their names.

    Raises DataError: no such file, no known file in a folder. ConfigError: a URL that fsspec cannot open.
    """
    return [found for source in sources for found in (_remote(source) if is_url(source) else _local(source))]


@contextmanager
def scratch(out: str) -> Iterator[Path]:
    """Yield an empty folder for what is to be put in the folder `out`; it is removed at the end.

    It lies in `out`, so that a file is put by a rename, or where `out` is a URL among the system's temporary files.
    """
    if is_url(out):
        with tempfile.TemporaryDirectory(prefix="limbeck-") as name:
            yield Path(name)
        return
    Path(out).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out, prefix=_SCRATCH))
    try:
        with held(folder):  # tells it from one whose process was killed
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_scratch(out: str) -> None:
    """Remove the scratch folders of processes that were killed. Of those in an object store, nothing is left."""
    if is_url(out):
        return
    for left in Path(out).glob(f"{_SCRATCH}*"):
        with held(left) as free:
            if free:
                shutil.rmtree(left, ignore_errors=True)


def local_copy(name: str, folder: Path) -> Path:
    """A path by which a file can be read: its own, or that of a copy made in `folder`. Raises DataError: it is gone."""
    if not is_url(name):
        return Path(name)
    files, path = _opened(name)
    copy = folder / base_name(name)
    try:
        files.get_file(path, str(copy))
    except FileNotFoundError:
        raise DataError(f"no such file: {name}") from None
    return copy


def put(path: Path, to: str) -> None:
    """Move a file of a scratch folder to its place, whole or not at all."""
    if is_url(to):
        files, place = _opened(to)
        try:
            files.put_file(str(path), place)
        except FileNotFoundError:  # object stores have no folders, other remote file systems do
            files.makedirs(place.rpartition("/")[0], exist_ok=True)
            files.put_file(str(path), place)
        return
    target = Path(to)
    target.parent.mkdir(parents=True, exist_ok=True)
    sync_file(path)
    os.replace(path, target)
    sync_folder(target.parent)


def put_json(value: Any, to: str, folder: Path) -> None:
    """Write JSON by way of a scratch folder."""
    path = folder / "put.json"
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    put(path, to)


def read_bytes(name: str) -> bytes | None:
    """What a file holds; None where there is none."""
    try:
        if not is_url(name):
            return Path(name).read_bytes()
        files, path = _opened(name)
        return files.cat_file(path)
    except FileNotFoundError:
        return None


def read_folder(folder: str, ending: str) -> dict[str, bytes]:
    """What the files of a folder with an ending hold, by their names; none where there is no folder."""
    if not is_url(folder):
        return {path.name: path.read_bytes() for path in Path(folder).glob(f"*{ending}")}
    files, path = _opened(folder)
    wanted = [entry["name"] for entry in _entries(files, path) if entry["name"].endswith(ending)]
    found = files.cat(wanted, on_error="omit") if wanted else {}  # many at a time
    return {base_name(name): content for name, content in found.items()}


def sizes(folder: str) -> dict[str, int]:
    """Bytes of the files of a folder, by their names; none where there is no folder."""
    if not is_url(folder):
        entries = os.scandir(folder) if Path(folder).is_dir() else []
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    files, path = _opened(folder)
    return {base_name(entry["name"]): entry["size"] for entry in _entries(files, path)}


def size_of(name: str) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        if not is_url(name):
            return Path(name).stat().st_size
        files, path = _opened(name)
        return files.info(path)["size"]
    except FileNotFoundError:
        return None


def remove(name: str) -> None:
    """Delete a file, if it is there."""
    if not is_url(name):
        Path(name).unlink(missing_ok=True)
        return
    files, path = _opened(name)
    try:
        files.rm_file(path)
    except FileNotFoundError:
        return


def _local(source: str) -> list[Listed]:
    found = []
    for file in files_of(source):
        stat = Path(file).stat()
        found.append(Listed(file, f"{stat.st_size} {stat.st_mtime_ns}"))
    return found


def _remote(source: str) -> list[Listed]:
    files, path = _opened(source)
    try:
        about = files.info(path)
    except FileNotFoundError:
        raise DataError(f"no such file: {source}") from None
    if about["type"] != "directory":
        return [Listed(source, _stamp(about))]
    known = [entry for entry in _entries(files, path) if is_known(base_name(entry["name"]))]
    if not known:
        raise none_known(source)
    return [Listed(joined(source, base_name(entry["name"])), _stamp(entry)) for entry in known]


def _entries(files: Any, path: str) -> list[dict[str, Any]]:
    """What a file system says of the files of a folder, by name."""
    try:
        found = files.ls(path, detail=True)
    except FileNotFoundError:
        return []
    return sorted((entry for entry in found if entry["type"] == "file"), key=lambda entry: entry["name"])


def _stamp(about: dict[str, Any]) -> str:
    """A digest: what a store says of a file (size, ETag, time of change, …) has names of its own with each of them."""
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # a package that is missing, or a protocol that there is not
        raise ConfigError(f"cannot open {url}: {error}") from None
    files.invalidate_cache()  # others write there too
    return files, path
