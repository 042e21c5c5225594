"""`debian-packages`: what Debian and Ubuntu say about their packages, in the languages that `apt` keeps.

Three readings of the same lists: short → long description, translation ↔ English original, text with its section.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import logging
import lzma
import os
import re
import shutil
import subprocess
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import unquote

from limbeck.config import DebianPackagesSource
from limbeck.data.corpora.selection import one_document_a_query, stable_sample
from limbeck.data.corpora.wording import squeeze
from limbeck.data.examples import LabelledText, Pair
from limbeck.errors import DataError
from limbeck.folders import replaced_folder

log = logging.getLogger(__name__)

SYSTEM_LISTS = Path("/var/lib/apt/lists")
APT_HELPER = Path("/usr/lib/apt/apt-helper")
MIN_LONG_CHARS = 40  # a shorter description is "This is a dummy package."
# Translations that Debian or Ubuntu offer; apt skips those that a mirror has not. It has no word for "all".
KNOWN_LANGUAGES = (
    "ar ast bg bn bs ca ca@valencia cs cy da de de_DE el en en_AU en_CA en_GB eo es et eu fa fi fr gl he hi hr hu "
    "id is it ja ka kk km ko ku lt lv mk ml mr ms my nb nds ne nl nn pa pl ps pt pt_AO pt_BR ro ru si sk sl sq sr "
    "sv ta te th tl tr ug uk ur uz vi zh zh_CN zh_HK zh_TW "
).split()

_ASKED = "languages"  # file beside fetched lists: the languages that apt was asked for
_LIST = re.compile(r"_(?:Packages|i18n_Translation-(?P<lang>[\w@]+))(?:\.(?P<packed>gz|xz|bz2|lzma|lz4|zst))?$")
_OPENERS: dict[str | None, Callable[[Path], IO[bytes]]] = {
    None: lambda path: open(path, "rb"),
    "gz": lambda path: io.BufferedReader(gzip.open(path)),  # type: ignore[arg-type]
    "xz": lambda path: lzma.open(path),
    "lzma": lambda path: lzma.open(path),
    "bz2": lambda path: bz2.open(path),
}


@dataclass(frozen=True, slots=True)
class _Description:
    package: str
    short: str
    long: str

    @property
    def text(self) -> str:
        return f"{self.short}\n\n{self.long}"


@dataclass(slots=True)
class _Catalogue:
    """What the lists say. A description is known by the MD5 of its English original, as in the lists themselves."""

    sections: dict[str, str] = field(default_factory=dict)  # package → "games"
    descriptions: dict[str, dict[str, _Description]] = field(default_factory=dict)  # language → MD5 → description


def debian_packages(source: DebianPackagesSource) -> Iterator[Pair | LabelledText]:
    """Yield pairs or labelled texts, ordered by language and package.

    `source.pairs` says which: "title-text" is short → long description; "parallel" is translation ↔ English original,
    the translation being the query; "section" is the whole description with the archive section as label. With
    `teacher_reads_english`, the `teacher_*` fields of a translation hold its English original. `lang` is a BCP 47 tag.

    Raises:
        DataError: no package lists are here, apt could not fetch them, they lack the descriptions or a language that
            the source asks for, or a list cannot be read.
    """
    folder = _fetched(Path(source.fetch_into).expanduser(), source.languages) if source.fetch_into else SYSTEM_LISTS
    catalogue = _read_lists(folder, source)
    skipped: Counter[str] = Counter()
    examples: list[Pair | LabelledText] = []
    for language in sorted(source.languages if source.languages is not None else catalogue.descriptions):
        found = list(_examples(language, catalogue, source, skipped))
        if source.pairs == "title-text":
            found = one_document_a_query([e for e in found if isinstance(e, Pair)], squeeze, skipped)
        examples += found
    log.info("debian-packages: %d examples; left out: %s", len(examples), dict(sorted(skipped.items())))
    if not examples:
        raise DataError(
            f"debian-packages found no description to use in {folder} for pairs: {source.pairs} and languages "
            f"{source.languages or 'all'} (left out: {dict(skipped) or 'nothing'})"
        )
    yield from stable_sample(examples, source.max_rows, lambda e: e.document if isinstance(e, Pair) else e.text)


# ----------------------------------------------------------------------------------------- examples


def _examples(
    language: str, catalogue: _Catalogue, source: DebianPackagesSource, skipped: Counter[str]
) -> Iterator[Pair | LabelledText]:
    """What the source asks for, from every description in one language, ordered by package."""
    english = catalogue.descriptions.get("en", {})
    needs_original = source.pairs == "parallel" or source.teacher_reads_english
    for md5, found in sorted(catalogue.descriptions[language].items(), key=lambda item: item[1].package):
        original = english.get(md5) if language != "en" else None
        if original is None and language != "en" and needs_original:
            skipped["translation without its original"] += 1
            continue
        if original is not None and (found.short == original.short or found.long == original.long):
            skipped["not translated"] += 1
            continue
        name, tag = f"{found.package}/{_tag(language)}", _tag(language)
        teacher = original if source.teacher_reads_english else None
        if source.pairs == "section":
            if section := catalogue.sections.get(found.package):
                text = teacher.text if teacher else None
                yield LabelledText(id=name, text=found.text, lang=tag, labels=(section,), teacher_text=text)
            else:
                skipped["package without a section"] += 1
        elif source.pairs == "parallel":
            if original is not None:
                query = teacher.text if teacher else None
                yield Pair(id=name, query=found.text, document=original.text, lang=tag, teacher_query=query)
        elif squeeze(found.short) in squeeze(found.long):
            skipped["title repeated in the text"] += 1  # the query would be found by its own words
        else:
            yield Pair(
                id=name,
                query=found.short,
                document=found.long,
                lang=tag,
                teacher_query=teacher.short if teacher else None,
                teacher_document=teacher.long if teacher else None,
            )


def _tag(language: str) -> str:
    """BCP 47 tag of a language as apt names it: "pt_BR" → "pt-BR", "ca@valencia" → "ca-valencia"."""
    return language.replace("_", "-").replace("@", "-")


# -------------------------------------------------------------------------------------------- lists


def _lists(folder: Path, source: DebianPackagesSource) -> list[tuple[str | None, str | None, Path]]:
    """(language, packing, file) of each package list in a folder; the language is None for a list of packages.

    Translations into languages that nobody asked for are left out.
    """
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if match := _LIST.search(unquote(path.name)):  # apt writes pt_BR as pt%5fBR
            found.append((match["lang"], match["packed"], path))
    if not found:
        raise DataError(
            f"debian-packages found no package lists in {folder}: "
            + ("run `apt update`, or set `fetch_into`" if _has_apt() else "it needs Debian or Ubuntu, with apt")
        )
    wanted = {*source.languages, "en"} if source.languages is not None else None
    return [entry for entry in found if wanted is None or entry[0] is None or entry[0] in wanted]


def _read_lists(folder: Path, source: DebianPackagesSource) -> _Catalogue:
    catalogue = _Catalogue()
    for language, packed, path in _lists(folder, source):
        with _opened(path, packed) as lines:
            for stanza in _stanzas(lines):
                _note(stanza, language, catalogue)
    missing = [language for language in source.languages or [] if language not in catalogue.descriptions]
    if missing or not catalogue.descriptions:
        there = sorted({*catalogue.descriptions, *_languages_in(folder)})
        lacking = ", ".join(missing or ["any language"])
        raise DataError(
            f"debian-packages: the lists in {folder} hold no long descriptions in {lacking}"
            + (f", only in {', '.join(there)}" if there else " (images for containers leave them out)")
            + (f": delete {folder} to fetch again" if source.fetch_into else ": set `fetch_into` to fetch more")
        )
    return catalogue


def _languages_in(folder: Path) -> set[str]:
    matches = (_LIST.search(unquote(path.name)) for path in folder.iterdir())
    return {match["lang"] for match in matches if match and match["lang"]}


def _note(stanza: dict[str, str], language: str | None, catalogue: _Catalogue) -> None:
    """Enter one stanza of a list into the catalogue; of packages with the same description, the first name stays."""
    package = stanza.get("Package")
    if not package:
        return
    if section := stanza.get("Section"):
        catalogue.sections[package] = section.rpartition("/")[2]  # "contrib/games" → "games"
    written = stanza.get(f"Description-{language}" if language else "Description", "")
    short, _, rest = written.partition("\n")
    long = _paragraphs(rest)
    if len(long) < MIN_LONG_CHARS or not short.strip():
        return
    md5 = stanza.get("Description-md5") or hashlib.md5(f"{written}\n".encode(), usedforsecurity=False).hexdigest()
    known = catalogue.descriptions.setdefault(language or "en", {})
    if md5 not in known or package < known[md5].package:
        known[md5] = _Description(package, short.strip(), long)


def _paragraphs(body: str) -> str:
    """Text of a folded field: lines lose their first space, and " ." is an empty line."""
    lines = ("" if line.strip() == "." else line.strip() for line in body.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Stanzas of a deb822 file, with the fields that are read here: first line, then the folded lines as they stand."""
    stanza: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        line = line.rstrip("\n")
        if line[:1] in (" ", "\t"):
            if name:
                stanza[name].append(line)
        elif line:
            name, _, value = line.partition(":")
            if name in ("Package", "Section") or name.startswith("Description"):
                stanza[name] = [value.strip()]
            else:
                name = ""
        else:
            if stanza:
                yield {key: "\n".join(value) for key, value in stanza.items()}
            stanza, name = {}, ""
    if stanza:
        yield {key: "\n".join(value) for key, value in stanza.items()}


@contextmanager
def _opened(path: Path, packed: str | None) -> Iterator[Iterable[str]]:
    """Lines of a list; what the standard library cannot unpack (lz4, zstd) is unpacked by apt's own helper."""
    try:
        if packed in _OPENERS:
            with io.TextIOWrapper(_OPENERS[packed](path), "utf-8", errors="replace") as lines:
                yield lines
            return
        if not APT_HELPER.is_file():
            raise DataError(
                f"{path} is packed by {packed}, and {APT_HELPER}, which unpacks it, is not here: install apt"
            )
        command = [str(APT_HELPER), "cat-file", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stderr is not None
            with io.TextIOWrapper(process.stdout, "utf-8", errors="replace") as lines:
                yield lines
            complaint = process.stderr.read().decode(errors="replace").strip()
        if process.returncode:
            raise DataError(f"cannot unpack {path}: {complaint or f'{APT_HELPER} ended with {process.returncode}'}")
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}: run `apt update`, or delete the private folder") from None


# ------------------------------------------------------------------------------------------ fetching

# Read after the system's configuration. Hooks of the system need root or its own folders; of the indexes only
# packages and translations are read here.
_APT_CONFIG = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::Languages;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large;
#clear Acquire::IndexTargets::deb::CNF;
#clear Acquire::IndexTargets::deb::Contents-deb;
#clear Acquire::IndexTargets::deb-src;
Acquire::Languages {{ {languages} }};
Acquire::GzipIndexes "true";
APT::Update::Error-Mode "any";
APT::Sandbox::User "";
Dir::State::Lists "{folder}/lists/";
Dir::Cache "{folder}/cache/";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""


def _fetched(folder: Path, languages: list[str] | None) -> Path:
    """Folder of the lists that the user's own apt fetched into `folder`: now, or in an earlier run.

    A language that no earlier run asked for has all of them fetched anew, with it. apt reads the system's sources and
    keys and writes nothing outside the folder; it needs no root.
    """
    lists = folder / "lists"
    asked = {"en", *(KNOWN_LANGUAGES if languages is None else languages)}
    before = _asked_before(lists)
    if asked <= before:
        return lists
    apt = shutil.which("apt-get")
    if apt is None:
        raise DataError(f"debian-packages: cannot fetch into {folder}: no apt-get here; it needs Debian or Ubuntu")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as name:
        private = Path(name).resolve()
        for part in ("lists/partial", "cache/archives/partial"):
            (private / part).mkdir(parents=True)
        wanted = " ".join(f'"{language}";' for language in sorted(asked | before))
        config = private / "apt.conf"
        config.write_text(_APT_CONFIG.format(languages=wanted, folder=private), encoding="utf-8")
        log.info("debian-packages: apt-get update into %s", folder)
        command = [apt, "-c", str(config), "update", "-q"]
        ran = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env={**os.environ, "LC_ALL": "C"}
        )
        if ran.returncode:
            said = [line for line in ran.stderr.splitlines() if line.startswith(("E:", "W:"))] or [ran.stderr.strip()]
            raise DataError(f"apt-get could not fetch the package lists into {folder}:\n" + "\n".join(said[-10:]))
        shutil.rmtree(private / "lists" / "partial", ignore_errors=True)
        (private / "lists" / _ASKED).write_text("\n".join(sorted(asked | before)), encoding="utf-8")
        with replaced_folder(lists) as new:  # whole or not at all, also after kill −9
            for path in (private / "lists").iterdir():
                os.rename(path, new / path.name)
    return lists


def _asked_before(lists: Path) -> set[str]:
    """Languages that lists were fetched for, whether or not the mirror has them."""
    if not lists.is_dir() or not any(lists.iterdir()):
        return set()
    asked = lists / _ASKED
    return set(asked.read_text(encoding="utf-8").split()) if asked.is_file() else {"en", *_languages_in(lists)}


def _has_apt() -> bool:
    return shutil.which("apt-get") is not None
