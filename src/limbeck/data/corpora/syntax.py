"""Docstrings as they stand in a source file, read by parsing it, never importing it; each file once in a process."""

from __future__ import annotations

import ast
import gc
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

MAX_FILE_BYTES = 2_000_000  # a source larger than this is generated data: seconds to parse, nothing to read

# Files that document the members of something else than their package.
_DOCUMENTED_ELSEWHERE = {"torch._tensor_docs": "torch.Tensor"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One documented object: its qualified name, parameter names and docstring, as they stand in the source."""

    name: str
    parameters: str | None  # "a, b, *, c"; None for a module
    docstring: str
    is_class: bool = False


def entries_of(module: str, path: Path) -> tuple[tuple[Entry, ...], Counter[str]]:
    """What a file documents, in its order, and how many files (1 or 0) were left out for which reason.

    The module comes first, then its public classes and functions, each class followed by its public methods. A file is
    parsed once in a process, and again when its size or its time of change did.
    """
    return _read(module, path, file_state(path))


def file_state(path: Path) -> tuple[int, int] | None:
    """Size and time of change; None for a file that cannot be had, as a link that leads nowhere."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


@lru_cache(maxsize=1 << 15)  # files: some 50 MB of text where the standard library and 130 packages are read
def _read(module: str, path: Path, state: object) -> tuple[tuple[Entry, ...], Counter[str]]:
    skipped: Counter[str] = Counter()
    tree = _parsed(path, skipped)
    return tuple(_entries(tree, module) if tree is not None else ()), skipped


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Syntax trees hold no cycles, and looking for some in them takes as long again as parsing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _parsed(path: Path, skipped: Counter[str]) -> ast.Module | None:
    """The syntax tree of a file; None, and counted, where there is none to have or nothing to read in it."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            skipped["files too large"] += 1
            return None
        text = path.read_bytes()
        if b'"""' not in text and b"'''" not in text:
            return None  # a docstring with a body takes several lines
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            return ast.parse(text)
    except OSError:
        skipped["files unreadable"] += 1
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # another Python, another encoding, a template
        skipped["files not parsed"] += 1
    return None


def _entries(tree: ast.Module, module: str) -> Iterator[Entry]:
    """The module, its public classes and functions, their public methods, in the order of the file."""
    text = ast.get_docstring(tree, clean=False)
    if text:
        yield Entry(module, None, text)
    yield from _members(tree.body, module)
    yield from _attached(tree.body, module)


def _members(body: Iterable[ast.stmt], owner: str) -> Iterator[Entry]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("_"):
                continue  # not for users
            name = f"{owner}.{node.name}"
            text = ast.get_docstring(node, clean=False)
            if text:
                yield Entry(name, _parameters(node), text, isinstance(node, ast.ClassDef))
            if isinstance(node, ast.ClassDef):
                yield from _members(node.body, name)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for field in ("body", "handlers", "orelse", "finalbody"):
                for child in getattr(node, field, ()):
                    yield from _members(child.body if isinstance(child, ast.ExceptHandler) else [child], owner)


def _attached(body: Iterable[ast.stmt], module: str) -> Iterator[Entry]:
    """Documentation of compiled functions, attached by calls such as `add_docstr(torch.abs, "…")` in numpy's way.

    The object is named by an expression, or by strings: numpy's ("numpy._core", "ndarray", ("sort", text)) in full,
    others by the last part alone, which then belongs to the package that the file lies in.
    """
    for node in body:
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and len(node.value.args) >= 2):
            continue
        if not ast.unparse(node.value.func).rpartition(".")[2].startswith(("add_newdoc", "add_docstr")):
            continue
        *owners, last = node.value.args
        if isinstance(last, ast.Tuple) and len(last.elts) == 2:
            owners.append(last.elts[0])
            last = last.elts[1]
        text = _literal(last)
        name = ".".join(o.value if isinstance(o, ast.Constant) else ast.unparse(o) for o in owners)  # type: ignore
        if not text or not name.replace(".", "").isidentifier() or name.rpartition(".")[2].startswith("_"):
            continue
        if "." not in name:
            name = f"{_DOCUMENTED_ELSEWHERE.get(module) or module.rpartition('.')[0]}.{name}"
        yield Entry(name, None, text)


def _literal(node: ast.expr) -> str:
    """The string that an expression spells out, less what `.format(…)` would fill in; "" where there is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _literal(node.left) + _literal(node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        text = re.sub(r"(?<!\{)\{\w*\}(?!\})", "", _literal(node.func.value))
        return text.replace("{{", "{").replace("}}", "}")
    return ""


def _parameters(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """Parameter names, without types and defaults: what a caller has at hand, in few words."""
    if isinstance(node, ast.ClassDef):
        made = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        return _parameters(made[0]) if made else None
    a = node.args
    names = [p.arg for p in (*a.posonlyargs, *a.args)]
    if names and names[0] in ("self", "cls"):
        names = names[1:]
    names += [f"*{a.vararg.arg}"] if a.vararg else []
    names += [p.arg for p in a.kwonlyargs]
    names += [f"**{a.kwarg.arg}"] if a.kwarg else []
    return ", ".join(names)
