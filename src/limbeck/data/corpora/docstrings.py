"""`python-docs`: docstrings of the Python packages installed here, read by parsing their sources, never importing them.

Readings of the same docstrings: summary line → qualified name, parameters and the rest; text with its package, or with
the section of the package; pairs of texts, scored by how near they stand (relations.py); summary of a class or module →
all that is documented in it (whole.py). What is read depends on what
is installed, never on where: names, order and samples are the same for the same packages in another folder.
"""

from __future__ import annotations

import logging
import os
import site
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from limbeck.config import PythonDocsSource
from limbeck.data.corpora.relations import Described, graded_pairs
from limbeck.data.corpora.selection import one_document_a_query, stable_hash, stable_sample
from limbeck.data.corpora.syntax import Entry, entries_of, file_state, no_garbage_collection
from limbeck.data.corpora.whole import whole_pairs
from limbeck.data.corpora.wording import (
    MIN_SUMMARY_WORDS,
    asks_for_something,
    cut,
    encodable,
    gist,
    plain,
    question,
    signature,
    split_summary,
    squeeze,
)
from limbeck.data.examples import LabelledText, Pair, ScoredPair
from limbeck.errors import DataError

log = logging.getLogger(__name__)

T = TypeVar("T")

MIN_BODY_WORDS = 8  # a shorter rest cannot be told from its neighbours'
MIN_LABEL_TEXTS = 30  # a label with fewer cannot be learnt and scored

# Folders whose texts are about test cases, or copies of another package's.
_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "_tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    | {
        "_vendor",
        "_vendored",
        "vendor",
        "vendored",
        "_vendored_packages",
        "third_party",
        "_third_party",
        "node_modules",
    }
)
_OWN_NAME = "limbeck"


@dataclass(frozen=True, slots=True)
class _Documented:
    """One documented object, its docstring made plain and taken apart."""

    name: str
    module: str  # that documents it
    parameters: str | None  # "a, b, *, c"
    summary: str
    body: str  # at least as much of it as is kept

    def document(self, limit: int) -> str:
        """Name, parameters and body, in at most `limit` characters."""
        return cut(f"{signature(self.name, self.parameters)}\n\n{self.body}", limit)

    def text(self, limit: int) -> str:
        """Summary and body, in at most `limit` characters."""
        return cut(f"{self.summary}\n\n{self.body}", limit)


def python_docs(source: PythonDocsSource) -> Iterator[Pair | LabelledText]:
    """Yield pairs or labelled texts, ordered by qualified name of the module, then as they stand in the file.

    `source.pairs` says which: "summary" is summary → name, parameters and body, a share of the queries put as a
    question where `source.questions` says so; "package" is summary and body, with the top-level package (of the
    standard library: the top-level module) as label; "section" is the same with the first two parts of the module's
    name as label, such as torch.nn; "graded" is scored pairs of such texts, ordered by id (see `graded_pairs`); "class"
    and "module" are summary → all that is documented in a class or module (see `whole_pairs`). Of docstrings with the
    same summary all of them read one, and none where it is boilerplate (see `one_document_a_query`). Files are parsed
    once in a process, however many sources read them.

    Raises:
        DataError: a path of `source.paths` is not there, a package of `source.packages` is not installed, or no
            docstring fit to use was found.
    """
    files = _chosen(source)
    skipped: Counter[str] = Counter()
    if source.pairs == "class" or source.pairs == "module":
        whole = whole_pairs(files, source.pairs, source.max_document_chars, skipped)
        examples = stable_sample(whole, source.max_rows, lambda pair: pair.document)
        among = f"{len(files)} files"
    else:
        documented = _documented(files, source.max_document_chars, skipped)
        readings = {"summary": _pairs, "package": _labelled, "section": _labelled, "graded": _graded}
        examples = readings[source.pairs](documented, source, skipped)
        among = f"{len(documented)} docstrings" if documented else ""
    counts = dict(sorted(skipped.items()))
    log.info("python-docs: %d examples from %d files; left out: %s", len(examples), len(files), counts)
    if not examples:
        raise DataError(
            f"python-docs found nothing for pairs: {source.pairs} among {among} of {_described(source)} (left out: "
            f"{counts}): name more packages"
            if among
            else f"python-docs found no docstring with a summary and {MIN_BODY_WORDS} words more in {len(files)} files "
            f"of {_described(source)}: name other packages, or folders of sources with `paths`"
        )
    yield from examples


# ------------------------------------------------------------------------------------------ examples


def _pairs(documented: Sequence[_Documented], source: PythonDocsSource, skipped: Counter[str]) -> list[Pair]:
    pairs = [_pair(thing, source.max_document_chars) for thing in documented]
    return [_asked(p, source.questions) for p in stable_sample(pairs, source.max_rows, lambda pair: pair.document)]


def _labelled(documented: Sequence[_Documented], source: PythonDocsSource, skipped: Counter[str]) -> list[LabelledText]:
    label = _package if source.pairs == "package" else _section
    texts = [
        LabelledText(id=d.name, text=d.text(source.max_document_chars), lang="en", labels=(label(d),))
        for d in documented
    ]
    sizes = Counter(text.labels for text in texts)
    kept = [text for text in texts if sizes[text.labels] >= MIN_LABEL_TEXTS]
    skipped[f"{source.pairs} of few texts"] += len(texts) - len(kept)
    return _even_sample(kept, source.max_rows, lambda text: text.text, lambda text: text.labels)


def _package(thing: _Documented) -> str:
    return thing.name.partition(".")[0]


def _section(thing: _Documented) -> str:
    # of the module, not of the name: numpy.sum and numpy.ndarray.sum are parts of the same
    return ".".join(thing.module.split(".")[:2])


def _graded(documented: Sequence[_Documented], source: PythonDocsSource, skipped: Counter[str]) -> list[ScoredPair]:
    things = [Described(d.name, d.module, d.parameters, d.text(source.max_document_chars)) for d in documented]
    pairs = graded_pairs(things)
    skipped["without a partner"] += len(things) - 2 * len(pairs)
    return _even_sample(pairs, source.max_rows, lambda pair: pair.document, lambda pair: pair.score)


def _even_sample(
    items: Sequence[T], size: int | None, text: Callable[[T], str], group: Callable[[T], Hashable]
) -> list[T]:
    """As `stable_sample`, but in turn from each group, so that the large ones leave room for the others."""
    turns: list[int] = [0] * len(items)
    seen: Counter[Hashable] = Counter()
    order = sorted(range(len(items)), key=lambda i: stable_hash(text(items[i])))
    for i in order:
        turns[i] = seen[group(items[i])]
        seen[group(items[i])] += 1
    order.sort(key=lambda i: turns[i])  # keeps the order of the hashes within a turn
    return [items[i] for i in sorted(order[:size])]


def _pair(thing: _Documented, limit: int) -> Pair:
    return Pair(id=thing.name, query=thing.summary, document=thing.document(limit), lang="en")


def _asked(pair: Pair, share: float) -> Pair:
    """The pair with its query as a question, for a stable `share` of the pairs whose summary can be one."""
    hashed = stable_hash(pair.document)
    if (hashed >> 8) / 2**56 >= share:
        return pair
    asked = question(pair.query, hashed & 0xFF)
    return pair if asked is None else Pair(id=pair.id, query=asked, document=pair.document, lang=pair.lang)


# --------------------------------------------------------------------------------------------- files


def _chosen(source: PythonDocsSource) -> list[tuple[str, Path]]:
    """(module name, file) of every source to read, sorted by module name."""
    if source.paths is not None:
        found = [file for path in source.paths for file in _given(Path(path).expanduser())]
    else:
        found = [(name, path) for root in _installed_roots() for name, path in _modules(root, "", set())]
        if source.packages is None:
            found = [(name, path) for name, path in found if not _within(name, _OWN_NAME)]
    if source.packages is not None:
        missing = [p for p in source.packages if not any(_within(name, p) for name, _ in found)]
        if missing:
            raise DataError(
                f"python-docs: no Python sources of {', '.join(missing)} in {_places(source)}: give import names of "
                "installed packages (sklearn, not scikit-learn)"
            )
        found = [(name, path) for name, path in found if any(_within(name, p) for p in source.packages)]
    first: dict[str, Path] = {}
    for name, path in found:
        first.setdefault(name, path)  # the earlier root wins, as it does for `import`
    return sorted(first.items())


def _installed_roots() -> list[Path]:
    """The standard library and every folder that packages are installed into, in the order of `import`."""
    places = sysconfig.get_paths()
    folders = [places["stdlib"], places["purelib"], places["platlib"], *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    # Debian keeps what apt installs in dist-packages, which only sys.path knows.
    folders += [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    return list(dict.fromkeys(Path(f).resolve() for f in folders if Path(f).is_dir()))


def _given(path: Path) -> Iterator[tuple[str, Path]]:
    """Sources of a folder or file that the user names, with the package that it lies in as prefix."""
    if not path.exists():
        raise DataError(f"python-docs: {path} does not exist: `paths` takes folders of .py files")
    path = path.resolve()
    if path.is_file():
        yield _prefix(path.parent) + path.stem, path
    else:
        yield from _modules(path, _prefix(path), set())


def _prefix(folder: Path) -> str:
    """Dotted name, with a dot at its end, of the package that a folder is; "" for one that is not a package."""
    parts: list[str] = []
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        parts.append(folder.name)
        folder = folder.parent
    return "".join(part + "." for part in reversed(parts))


def _modules(folder: Path, prefix: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of the sources below a folder; a folder reached again through a link is read once."""
    try:
        state = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        log.warning("python-docs: cannot list %s: %s", folder, error)
        return
    if (state.st_dev, state.st_ino) in seen:
        return
    seen.add((state.st_dev, state.st_ino))
    for entry in entries:
        stem, dot, ending = entry.name.partition(".")
        if not stem.isidentifier():
            continue  # 1_Pooling, numpy.libs, x-y: cannot be imported by name
        if ending == "py" and dot and entry.is_file():
            if not _is_test(stem):
                yield (prefix.rstrip(".") if stem == "__init__" and prefix else prefix + stem), Path(entry.path)
        elif not dot and entry.name not in _SKIPPED_FOLDERS and entry.is_dir():
            if entry.name == "_internal" and prefix.endswith("testing."):
                continue  # torch.testing._internal: test cases that are shipped
            yield from _modules(Path(entry.path), f"{prefix}{entry.name}.", seen)


def _is_test(stem: str) -> bool:
    return stem.startswith("test_") or stem.endswith(("_test", "_tests")) or stem in ("conftest", "tests", "test")


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _described(source: PythonDocsSource) -> str:
    what = f"packages {', '.join(source.packages)}" if source.packages else "all packages"
    return f"{what} in {_places(source)}"


def _places(source: PythonDocsSource) -> str:
    return ", ".join(source.paths if source.paths is not None else (str(p) for p in _installed_roots()))


# --------------------------------------------------------------------------------------- docstrings


def _documented(files: Sequence[tuple[str, Path]], limit: int, skipped: Counter[str]) -> list[_Documented]:
    """What the files document in words fit to use, in their order; `limit` is what a reading keeps of a text."""
    reach = max(1024, 1 << (limit - 1).bit_length())  # the same for most limits, so that they share what is remembered
    by_name: dict[str, _Documented] = {}
    with no_garbage_collection():
        for module, path in files:
            things, left_out = _read(module, path, file_state(path), reach)
            skipped.update(left_out)
            for thing in things:
                if f" {squeeze(thing.summary)} " in f" {squeeze(thing.document(limit))} ":
                    skipped["summary repeated in the body"] += 1  # the query would be found by its own words
                else:
                    by_name.setdefault(thing.name, thing)  # of a property and its setter, the first
    pairs = one_document_a_query([_pair(thing, limit) for thing in by_name.values()], gist, skipped)
    return [by_name[pair.id] for pair in pairs]


@lru_cache(maxsize=1 << 15)  # files: some 30 MB of text where the standard library and 130 packages are read
def _read(module: str, path: Path, state: object, reach: int) -> tuple[list[_Documented], Counter[str]]:
    """What a file documents in words fit to use, and what of it was left out; if its state changed, it is read anew."""
    entries, left_out = entries_of(module, path)
    skipped = Counter(left_out)
    found = [_taken_apart(entry, module, reach, skipped) for entry in entries]
    return [thing for thing in found if thing is not None], skipped


def _taken_apart(entry: Entry, module: str, reach: int, skipped: Counter[str]) -> _Documented | None:
    if len(entry.docstring.split()) < MIN_SUMMARY_WORDS + MIN_BODY_WORDS:
        skipped["body too short"] += 1
        return None
    # The end of a very long docstring would be cut off anyway: only what may be kept is cleaned.
    summary, body = split_summary(plain(cut(entry.docstring, 2 * reach + 4000)))
    summary = summary.rstrip(" :;,")
    if not asks_for_something(summary):
        skipped["no summary"] += 1
        return None
    if len(body.split()) < MIN_BODY_WORDS:
        skipped["body too short"] += 1
        return None
    body = body[: reach + 1]  # one character more than is kept: it says whether a word ends there
    if not encodable(summary + body):
        skipped["not Unicode text"] += 1
        return None
    return _Documented(entry.name, module, entry.parameters, summary, body)
