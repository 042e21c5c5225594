"""Names on a command line → tasks to score: mteb's benchmarks and tasks, and evaluation sets in folders."""

from __future__ import annotations

import difflib
import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mteb
from mteb.abstasks.abstask import AbsTask
from mteb.get_tasks import TASK_LIST

from limbeck.errors import ConfigError, DataError, LimbeckError
from limbeck.evaluation.local_data import find_folders
from limbeck.evaluation.local_tasks import LocalTask, local_task
from limbeck.evaluation.task_contents import single_tasks
from limbeck.evaluation.task_types import use_of
from limbeck.model.tokenizer import first_line

_NEAR = 5  # names listed where one is unknown


@dataclass(frozen=True)
class EvaluationTask:
    """One task to score."""

    task: AbsTask
    name: str

    @property
    def type(self) -> str:
        """As mteb calls it."""
        return self.task.metadata.type

    @property
    def metric(self) -> str:
        """The main one, as mteb calls it."""
        return self.task.metadata.main_score

    def digest(self) -> str:
        """16 hex digits over what decides its data: the files of a folder, or names and revisions on the hub."""
        parts = [self.type, self.metric]
        for task in single_tasks(self.task):
            if isinstance(task, LocalTask):
                parts.append(task.folder.digest())
            else:
                about = task.metadata.dataset
                parts += [task.metadata.name, about["path"], str(about["revision"]), str(about.get("name"))]
                parts += [*map(str, task.eval_splits), "", *map(str, task.hf_subsets or []), ""]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def languages(self) -> list[str]:
        """Tags as "eng-Latn", or as a folder's meta.json has them."""
        found: dict[str, None] = {}
        for task in single_tasks(self.task):
            if isinstance(task, LocalTask):
                found |= dict.fromkeys(task.folder.languages())
            else:
                tags = task.metadata.hf_subsets_to_langscripts
                found |= dict.fromkeys(tag for subset in task.hf_subsets or tags for tag in tags.get(subset, ()))
        return list(found)

    def warnings(self) -> list[str]:
        """What reading its data found odd; known once it is loaded."""
        return self.task.warnings if isinstance(self.task, LocalTask) else []

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Hold the data in memory. Raises DataError: malformed files, or data that is neither cached nor to be had."""
        singles = single_tasks(self.task)
        try:
            for task in singles:
                try:
                    task.load_data()
                except LimbeckError:
                    raise
                except Exception as error:  # of datasets, the hub, its HTTP client, and of mteb's tasks
                    raise DataError(_not_loaded(task, error)) from error
            yield
        finally:
            for task in singles:
                if task.data_loaded:
                    task.unload_data()


@dataclass(frozen=True)
class Found:
    """Tasks, and what was left out of those asked for."""

    tasks: list[EvaluationTask]
    warnings: list[str] = field(default_factory=list)


def find_tasks(names: Sequence[str], *, skip_private: bool = False) -> Found:
    """The tasks that names stand for, each once.

    Args:
        names: of mteb's benchmarks and tasks, or folders, see `find_folders`. A folder of that name wins.
        skip_private: leave out tasks whose data only few may read, with a warning that counts them.

    Raises ConfigError: an unknown name, a task type that `task_types` does not know, or nothing left. DataError: a
    folder that holds no evaluation set.
    """
    folders = {folder.path: folder for name in names if Path(name).is_dir() for folder in find_folders(Path(name))}
    of_mteb = [task for name in names if not Path(name).is_dir() for task in _of_mteb(name)]
    taken = Counter([task.metadata.name for task in of_mteb] + [folder.name for folder in folders.values()])
    local = [
        # a table has each name once: a set that shares its own is called by its kind too
        local_task(folder, folder.name if taken[folder.name] == 1 else f"{folder.kind}/{folder.name}")
        for folder in folders.values()
    ]
    called = Counter(task.metadata.name for task in local)
    if twice := [name for name, count in called.items() if count > 1]:
        raise ConfigError(f"two evaluation sets are called {twice[0]}: rename one of the folders, or score them apart")
    private = list(dict.fromkeys(t.metadata.name for t in of_mteb if skip_private and not _is_public(t)))
    tasks: dict[str, EvaluationTask] = {}
    otherwise: list[str] = []  # as another benchmark has them
    for task in (EvaluationTask(task, task.metadata.name) for task in [*local, *of_mteb]):
        use_of(task.type)
        if task.name in private:
            continue
        if tasks.setdefault(task.name, task).digest() != task.digest():
            otherwise.append(task.name)
    if not tasks:
        raise ConfigError(f"no task is left to score of {', '.join(names)}")
    counted = {
        "tasks are private, and were left out": private,
        "tasks are in two benchmarks with other languages or splits, and are scored as in the first": otherwise,
    }
    return Found(list(tasks.values()), [f"{len(n)} {what}: {', '.join(n)}" for what, n in counted.items() if n])


def _of_mteb(name: str) -> list[AbsTask]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tasks in beta: whoever names a task wants it
        benchmarks = {known for b in mteb.get_benchmarks() for known in (b.name, *(b.aliases or ()))}
        if name in benchmarks:
            return list(mteb.get_benchmark(name).tasks)
        tasks = {cls.metadata.name for cls in TASK_LIST}
        if name in tasks:
            return [mteb.get_task(name)]
    lower = {known.lower(): known for known in sorted(benchmarks | tasks)}
    near = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=_NEAR, cutoff=0.5)]
    raise ConfigError(
        f"{name!r} is neither a folder here nor a benchmark or task of mteb {mteb.__version__}"
        + (f": did you mean {', '.join(near)}?" if near else "; MTEB(eng, v2) and SciFact are such names")
    )


def _is_public(task: AbsTask) -> bool:
    return all(single.metadata.is_public for single in single_tasks(task))


def _not_loaded(task: AbsTask, error: Exception) -> str:
    path, revision = task.metadata.dataset["path"], task.metadata.dataset["revision"]
    if not task.metadata.is_public:
        return (
            f"the data of {task.metadata.name} ({path}) is private, and could not be had ({first_line(error)}): ask "
            "its owners for access and set HF_TOKEN, or leave private tasks out with --skip-private"
        )
    return (
        f"the data of {task.metadata.name} ({path}, revision {revision}) is neither in the local cache nor could it be "
        f"fetched ({first_line(error)}): run this once with a network, or score a folder on this machine"
    )
