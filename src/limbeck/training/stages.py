"""A stage of a run: a folder with a manifest that says what it was made from. Unchanged inputs = nothing to do."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck import __version__
from limbeck.config import Adapter, DebianPackagesSource, FileSource, HubSource, PythonDocsSource, Recipe, Source, Task
from limbeck.files import read_json, write_json
from limbeck.machine import peak_rss_mib, return_freed_memory

if TYPE_CHECKING:
    from torch import nn

MANIFEST = "stage.json"
WITHOUT_SPREAD = "retrieval-without-spread"  # the adapter that shows what the regulariser does; not shipped


def adapters_of(recipe: Recipe) -> dict[str, tuple[Task, Adapter]]:
    """Every adapter that a run trains: its name → its task and block."""
    blocks = recipe.adapters.by_task()
    found: dict[str, tuple[Task, Adapter]] = {task: (task, block) for task, block in blocks.items()}
    if recipe.adapters.retrieval and recipe.adapters.retrieval.also_without_spread:
        found[WITHOUT_SPREAD] = ("retrieval", recipe.adapters.retrieval.model_copy(update={"spread_weight": 0.0}))
    return found


def stages_of(recipe: Recipe) -> tuple[str, ...]:
    """Names of a recipe's stages, in order: one for each adapter."""
    adapt = [f"adapt-{name}" for name in adapters_of(recipe)]
    router = ["router"] if recipe.adapters.router and len(recipe.adapters.by_task()) > 1 else []
    extend = ["extend"] if recipe.extend else []
    static = ["static"] if recipe.static else []
    prune = ["prune"] if chooses_layers(recipe) else []
    return ("data", "teach", *prune, "distill", *extend, *adapt, *router, "bundle", *static, "evaluate", "report")


def chooses_layers(recipe: Recipe) -> bool:
    """Whether the recipe says how many layers the student keeps, and not which."""
    student = recipe.student
    return student.init == "pruned" and student.pruned is not None and isinstance(student.pruned.layers, int)


def digest(*parts: Any) -> str:
    """16 hex digits of SHA-256 over JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass
class Stage:
    """One step of the pipeline, its folder, and the digest of all that its result depends on."""

    name: str
    folder: Path
    key: str

    def manifest(self) -> dict[str, Any] | None:
        """What the finished stage wrote, or None when it is unfinished or was made from something else."""
        try:
            found = read_json(self.folder / MANIFEST)
        except (FileNotFoundError, ValueError):
            return None
        return found if found.get("key") == self.key else None

    def complete(self, work: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        """Do the work unless it is done. Returns the manifest; the seconds of runs that were killed are counted too."""
        if done := self.manifest():
            return done
        self.folder.mkdir(parents=True, exist_ok=True)
        with _Clock(self.folder.with_name(f".{self.name}.seconds.json"), self.key) as clock:
            facts = work() or {}
        body = {"key": self.key, "limbeck": __version__, "seconds": round(clock.seconds, 2), **facts}
        body["peak_rss_mb"] = round(peak_rss_mib(), 1)  # of the process that ended it
        write_json(self.folder / MANIFEST, body)
        clock.forget()
        return_freed_memory()
        return body

    def invalidate(self) -> None:
        """Make the next `complete` do the work again."""
        (self.folder / MANIFEST).unlink(missing_ok=True)


class _Clock:
    """Wall time of a stage over all its attempts; a kill −9 loses only its own attempt's share.

    Kept beside the stage's folder: some stages replace that as a whole, and refuse one with other things in it.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key, self.seconds = path, key, 0.0

    def __enter__(self) -> _Clock:
        try:
            before = read_json(self._path)
            self.seconds = before["seconds"] if before["key"] == self._key else 0.0
        except (FileNotFoundError, ValueError, KeyError):
            pass
        self._start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._start
        with suppress(OSError):  # on a full disk, what the stage says about it must come through
            write_json(self._path, {"key": self._key, "seconds": self.seconds})

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)


def source_state(source: Source) -> Any:
    """What the examples of a source depend on besides its settings: files' sizes and times, installed packages."""
    if isinstance(source, FileSource):
        import glob

        patterns = [source.path] if isinstance(source.path, str) else source.path
        files = sorted(f for p in patterns for f in (glob.glob(p, recursive=True) or [p]))
        return [_state_of(Path(f)) for f in files]
    if isinstance(source, PythonDocsSource):
        if source.paths:
            return [_state_of(f) for p in source.paths for f in sorted(Path(p).rglob("*.py"))]
        return _installed()
    if isinstance(source, DebianPackagesSource):
        folder = Path(source.fetch_into) if source.fetch_into else Path("/var/lib/apt/lists")
        return [_state_of(f) for f in sorted(folder.rglob("*")) if f.is_file()]
    if isinstance(source, HubSource) and Path(source.dataset).is_dir():
        return [_state_of(f) for f in sorted(Path(source.dataset).rglob("*")) if f.is_file()]
    return None  # a hub dataset is named by its revision, and a derived source depends on its own source's state


@cache
def _installed() -> list[str]:
    """Python and every installed package with its version. Read once: it takes as long as a small stage."""
    import platform

    versions = {str(d.metadata["Name"]): d.version for d in metadata.distributions()}
    return [platform.python_version(), *sorted(f"{name}=={version}" for name, version in versions.items())]


def _state_of(path: Path) -> tuple[str, int, int] | tuple[str]:
    try:
        stat = path.stat()
    except OSError:
        return (str(path),)
    return str(path), stat.st_size, stat.st_mtime_ns


def count_weights(*modules: nn.Module) -> dict[str, int]:
    """Numbers of weights, tied ones once: all of them, and those that are trained."""
    found = {id(p): p for module in modules for p in module.parameters()}.values()
    return {"all": sum(p.numel() for p in found), "trained": sum(p.numel() for p in found if p.requires_grad)}
