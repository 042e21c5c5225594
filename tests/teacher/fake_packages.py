"""A package of the index that is not installed, and a cache that is not the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.teacher import packages
from limbeck.teacher.packages import KnownPackage


class Spec:
    """What `find_spec` finds of a package."""

    def __init__(self, folder: Path) -> None:
        self.submodule_search_locations = [str(folder)]


def installed(monkeypatch: pytest.MonkeyPatch, name: str, known: KnownPackage, folder: Path, *, cache: Path) -> None:
    """Make a package known and found in `folder`, and `cache` the user's cache."""
    monkeypatch.setitem(packages.KNOWN_PACKAGES, name, known)
    monkeypatch.setattr(packages, "find_spec", lambda module: Spec(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
