import bz2
import gzip
import hashlib
import lzma
import os
from pathlib import Path

import pytest

from limbeck.config import DebianPackagesSource
from limbeck.data.corpora import debian, debian_packages
from limbeck.data.examples import LabelledText, Pair
from limbeck.errors import DataError

PLANTS = {
    "garden": ("keeps a list of plants", " Notes when each plant was watered.\n .\n It draws maps.", "contrib/games"),
    "herbs": ("catalogue of herbs", " Names, pictures and uses of two hundred kinds,\n  * with an index", "science"),
    "moss": ("grows very slowly indeed", " Shows a picture that becomes greener from day to day.", "games"),
}  # fmt: skip
GERMAN = {
    "garden": ("führt eine Liste der Pflanzen", " Merkt sich, wann jede Pflanze gegossen wurde.\n .\n Zeichnet Beete."),
    "herbs": ("Verzeichnis von Kräutern", " Namen, Bilder und Nutzen von zweihundert Arten, samt Register."),
}
BRAZILIAN = {"moss": ("cresce bem devagar", " Mostra uma imagem que fica mais verde de um dia para o outro.")}


def md5(package: str) -> str:
    short, long, _ = PLANTS[package]
    return hashlib.md5(f"{short}\n{long}\n".encode()).hexdigest()


def packages() -> str:
    return "\n".join(
        f"Package: {name}\nVersion: 1.0\nDepends: libc6,\n libm6\nDescription: {short}\n"
        f"Description-md5: {md5(name)}\nSection: {section}\n"
        for name, (short, _, section) in PLANTS.items()
    )


def translation(lang: str, texts: dict[str, tuple[str, ...]]) -> str:
    return "\n".join(
        f"Package: {name}\nDescription-md5: {md5(name)}\nDescription-{lang}: {text[0]}\n{text[1]}\n"
        for name, text in texts.items()
    )


PREFIX = "deb.example.org_debian_dists_stable_main_"


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "lists"
    (folder / "partial").mkdir(parents=True)
    (folder / "deb.example.org_debian_dists_stable_InRelease").write_text("Codename: stable\n")
    (folder / f"{PREFIX}binary-amd64_Packages").write_text(packages())
    (folder / f"{PREFIX}i18n_Translation-en.gz").write_bytes(gzip.compress(translation("en", PLANTS).encode()))
    (folder / f"{PREFIX}i18n_Translation-de.xz").write_bytes(lzma.compress(translation("de", GERMAN).encode()))
    (folder / f"{PREFIX}i18n_Translation-pt%5fBR.bz2").write_bytes(
        bz2.compress(translation("pt_BR", BRAZILIAN).encode())
    )
    monkeypatch.setattr(debian, "SYSTEM_LISTS", folder)
    return folder


def read(**fields: object) -> list[Pair | LabelledText]:
    return list(debian_packages(DebianPackagesSource(**fields)))  # type: ignore[arg-type]


@pytest.mark.usefixtures("lists")
def test_the_short_description_asks_for_the_long_one_in_every_language():
    pairs = read()
    assert [p.id for p in pairs] == ["garden/de", "herbs/de", "garden/en", "herbs/en", "moss/en", "moss/pt-BR"]
    assert [p.lang for p in pairs] == ["de", "de", "en", "en", "en", "pt-BR"]
    garden = pairs[2]
    assert isinstance(garden, Pair)
    assert garden.query == "keeps a list of plants"
    assert garden.document == "Notes when each plant was watered.\n\nIt draws maps."
    assert garden.teacher_query is garden.teacher_document is None


@pytest.mark.usefixtures("lists")
def test_only_the_languages_asked_for_come():
    assert {p.lang for p in read(languages=["pt_BR", "de"])} == {"de", "pt-BR"}


@pytest.mark.usefixtures("lists")
def test_the_teacher_reads_the_english_original_of_a_translation():
    german, _, english, *_ = read(languages=["de", "en"], teacher_reads_english=True)
    assert isinstance(german, Pair) and isinstance(english, Pair)
    assert german.query == "führt eine Liste der Pflanzen"
    assert (german.teacher_query, german.teacher_document) == (english.query, english.document)
    assert english.teacher_query is None


@pytest.mark.usefixtures("lists")
def test_a_translation_is_parallel_to_its_original():
    pairs = read(pairs="parallel")
    assert [p.id for p in pairs] == ["garden/de", "herbs/de", "moss/pt-BR"]
    moss = pairs[-1]
    assert isinstance(moss, Pair)
    assert moss.query == "cresce bem devagar\n\nMostra uma imagem que fica mais verde de um dia para o outro."
    assert moss.document == "grows very slowly indeed\n\nShows a picture that becomes greener from day to day."


@pytest.mark.usefixtures("lists")
def test_the_section_is_the_label_without_its_component():
    texts = read(pairs="section", languages=["en"])
    assert all(isinstance(text, LabelledText) for text in texts)
    assert {t.id: t.labels for t in texts if isinstance(t, LabelledText)} == {
        "garden/en": ("games",),
        "herbs/en": ("science",),
        "moss/en": ("games",),
    }


def test_untranslated_and_repeated_descriptions_are_left_out(lists: Path):
    copied = {
        "garden": PLANTS["garden"],
        "herbs": (GERMAN["herbs"][0], " Dieses Verzeichnis von Kräutern hat ein Register."),
    }
    (lists / f"{PREFIX}i18n_Translation-de.xz").write_bytes(lzma.compress(translation("de", copied).encode()))
    with pytest.raises(DataError, match=r"'not translated': 1, 'title repeated in the text': 1"):
        read(languages=["de"])


def test_a_package_in_two_lists_is_read_once(lists: Path):
    (lists / "deb.example.org_debian-security_dists_stable_main_i18n_Translation-en").write_text(
        translation("en", {"moss": PLANTS["moss"]})
    )
    assert len(read(languages=["en"])) == 3


def test_a_list_that_holds_the_long_descriptions_itself_needs_no_translation(lists: Path):
    for path in lists.glob("*_i18n_*"):
        path.unlink()
    (lists / "ppa.example.org_Packages").write_text(
        "Package: fern\nSection: misc\nDescription: unrolls in spring\n" + PLANTS["moss"][1]
    )
    [fern] = read()
    assert (fern.id, fern.lang) == ("fern/en", "en")


@pytest.mark.usefixtures("lists")
def test_a_sample_is_stable():
    sample = read(max_rows=3)
    assert len(sample) == 3
    assert sample == read(max_rows=3) == [example for example in read() if example in sample]


@pytest.mark.usefixtures("lists")
def test_a_language_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(DataError, match=r"no long descriptions in fi, only in de, en, pt_BR: set `fetch_into`"):
        read(languages=["de", "fi"])


def test_lists_without_long_descriptions_are_explained(lists: Path):
    for path in lists.glob("*_i18n_*"):
        path.unlink()
    with pytest.raises(DataError, match=r"no long descriptions in any language .*containers.*fetch_into"):
        read()


def test_a_damaged_list_is_named(lists: Path):
    path = lists / f"{PREFIX}i18n_Translation-en.gz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="cannot read .*Translation-en.gz"):
        read()


def test_a_list_packed_as_apt_likes_it_is_unpacked_by_its_helper(lists: Path, monkeypatch: pytest.MonkeyPatch):
    helper = executable(lists.parent / "apt-helper", '[ "$1" = cat-file ] && tail -n +2 "$2"')
    monkeypatch.setattr(debian, "APT_HELPER", helper)
    (lists / f"{PREFIX}i18n_Translation-en.gz").unlink()
    (lists / f"{PREFIX}i18n_Translation-en.lz4").write_text("packed\n" + translation("en", PLANTS))
    assert len(read(languages=["en"])) == 3


def test_a_helper_that_fails_or_is_missing_is_reported(lists: Path, monkeypatch: pytest.MonkeyPatch):
    (lists / f"{PREFIX}i18n_Translation-en.lz4").write_text("packed\n")
    monkeypatch.setattr(
        debian, "APT_HELPER", executable(lists.parent / "apt-helper", "echo E: torn file >&2; exit 100")
    )
    with pytest.raises(DataError, match="cannot unpack .*Translation-en.lz4: E: torn file"):
        read()
    monkeypatch.setattr(debian, "APT_HELPER", lists / "nowhere")
    with pytest.raises(DataError, match="packed by lz4.*install apt"):
        read()


def test_other_systems_are_told_that_it_needs_debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(debian, "SYSTEM_LISTS", tmp_path / "nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="needs Debian or Ubuntu, with apt"):
        read()
    with pytest.raises(DataError, match="no apt-get here"):
        read(fetch_into=str(tmp_path / "private"))


def test_debian_without_lists_is_told_to_fetch_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(debian, "SYSTEM_LISTS", tmp_path)
    fake_apt(tmp_path, monkeypatch, "exit 1")
    with pytest.raises(DataError, match="run `apt update`, or set `fetch_into`"):
        read()


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """An apt-get that notes each call in a file, which is returned, and then does as the script says."""
    calls = tmp_path / "calls"
    executable(tmp_path / "bin" / "apt-get", f'echo "$@" >> {calls}\n{script}')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return calls


def test_apt_fetches_into_a_private_folder_once(lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(debian, "SYSTEM_LISTS", tmp_path / "nowhere")
    calls = fake_apt(
        tmp_path,
        monkeypatch,
        f"""
        cp "$2" {tmp_path}/config
        target=$(sed -n 's/^Dir::State::Lists "\\(.*\\)";/\\1/p' "$2")
        cp {lists}/*_* "$target"
        """,
    )
    private = tmp_path / "private place"
    pairs = read(fetch_into=str(private), languages=["de"])
    assert [p.id for p in pairs] == ["garden/de", "herbs/de"]
    assert 'Acquire::Languages { "de"; "en"; };' in (tmp_path / "config").read_text()
    assert "#clear APT::Update::Post-Invoke;" in (tmp_path / "config").read_text()

    assert read(fetch_into=str(private), languages=["de"]) == pairs
    assert len(calls.read_text().splitlines()) == 1
    assert [path.name for path in private.iterdir()] == ["lists"]  # nothing else is left behind

    # a language that nobody asked for before has all of them fetched anew
    assert read(fetch_into=str(private), languages=["de", "pt_BR"]) != pairs
    assert 'Acquire::Languages { "de"; "en"; "pt_BR"; };' in (tmp_path / "config").read_text()
    assert read(fetch_into=str(private), languages=["pt_BR"])
    assert len(calls.read_text().splitlines()) == 2
    assert [path.name for path in private.iterdir()] == ["lists"]


def test_what_apt_complains_about_is_passed_on_and_tried_again_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls = fake_apt(tmp_path, monkeypatch, "echo noise >&2; echo 'E: Could not resolve deb.example.org' >&2; exit 100")
    for _ in range(2):
        with pytest.raises(
            DataError, match=r"could not fetch the package lists into .*\n.*E: Could not resolve deb.example.org"
        ):
            read(fetch_into=str(tmp_path / "private"))
    assert len(calls.read_text().splitlines()) == 2
    assert list((tmp_path / "private").iterdir()) == []
