"""Long documents of `python-docs`: all that is documented in a class, or in a module, one thing after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from limbeck.data.corpora.selection import one_document_a_query
from limbeck.data.corpora.syntax import Entry, entries_of, no_garbage_collection
from limbeck.data.corpora.wording import (
    asks_for_something,
    cut,
    encodable,
    gist,
    plain,
    signature,
    split_summary,
    squeeze,
)
from limbeck.data.examples import Pair

MIN_MEMBERS = 2  # with fewer it is no more than the docstring that `pairs: summary` reads


def whole_pairs(
    files: Sequence[tuple[str, Path]], whole: Literal["class", "module"], limit: int, skipped: Counter[str]
) -> list[Pair]:
    """Summary of each class (or module) → its name, the rest of its docstring, and its members' names and docstrings.

    Members are public: the methods and classes of a class, the functions, classes and their methods of a module, in the
    order of the file. Of a class or module with fewer than MIN_MEMBERS documented ones there is no pair.

    Args:
        files: (module name, file), in the order of the pairs.
        whole: what a document is made of.
        limit: characters of a document, cut at a word.
        skipped: counts what was left out, by reason.
    """
    pairs: dict[str, Pair] = {}
    with no_garbage_collection():
        for module, path in files:
            entries, left_out = entries_of(module, path)
            skipped.update(left_out)
            by_name: dict[str, Entry] = {}
            for entry in entries:
                by_name.setdefault(entry.name, entry)  # of a property and its setter, the first
            for owner in by_name.values():
                if owner.is_class if whole == "class" else owner.name == module:
                    members = [e for e in by_name.values() if e.name.startswith(owner.name + ".")]
                    if pair := _whole(owner, members, limit, skipped):
                        pairs.setdefault(pair.id, pair)
    return one_document_a_query(list(pairs.values()), gist, skipped)


def _whole(owner: Entry, members: Sequence[Entry], limit: int, skipped: Counter[str]) -> Pair | None:
    """The pair of a class or module; None, and counted, where it is not fit to use."""
    if len(members) < MIN_MEMBERS:
        skipped["fewer than two documented members"] += 1
        return None
    summary, body = split_summary(plain(owner.docstring))
    summary = summary.rstrip(" :;,")
    if not asks_for_something(summary):
        skipped["no summary"] += 1
        return None
    document = cut(_joined(owner, body, members, limit), limit)
    if not encodable(summary + document):
        skipped["not Unicode text"] += 1
        return None
    if f" {squeeze(summary)} " in f" {squeeze(document)} ":
        skipped["summary repeated in the body"] += 1  # the query would be found by its own words
        return None
    return Pair(id=owner.name, query=summary, document=document, lang="en")


def _joined(owner: Entry, body: str, members: Iterable[Entry], limit: int) -> str:
    """The whole text, or as much of it as reaches over `limit` characters."""
    parts = [signature(owner.name, owner.parameters), body] if body else [signature(owner.name, owner.parameters)]
    length = sum(map(len, parts))
    for member in members:
        if length > limit:
            break
        name = member.name.removeprefix(owner.name + ".")
        parts.append(f"{signature(name, member.parameters)}\n\n{plain(member.docstring)}")
        length += len(parts[-1])
    return "\n\n".join(parts)
