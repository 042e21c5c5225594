"""Where losses go as they come: TensorBoard, Weights & Biases, MLflow or trackio, by Accelerate's trackers."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from limbeck.config import Tracker
from limbeck.errors import ConfigError, TrainingError
from limbeck.files import read_json, write_json

logger = logging.getLogger(__name__)
_RUNS = "trackers.json"  # beside metrics.jsonl: what a stage's run is called by each tracker, to go on with it
_OFFLINE: dict[Tracker, str] = {
    "wandb": "without an account or a network, set WANDB_MODE=offline",
    "mlflow": "without a server, set MLFLOW_TRACKING_URI=sqlite:///runs/mlflow.db",
}


def check_trackers(names: Sequence[Tracker]) -> None:
    """Raise ConfigError unless every tracker is installed: now, and not after hours of teaching."""
    for name in names:
        if find_spec(name) is None:
            # the command that brings just that
            package = {"tensorboard": "'limbeck[train]'"}.get(name, name)
            raise ConfigError(
                f"track names {name}, which is not installed: pip install {package}, or leave it out of `track`"
            )


class Trackers:
    """Trackers that were started. One that fails later is left out from there on: a run does not need it."""

    def __init__(self, started: list[GeneralTracker]) -> None:
        """Take what was started."""
        self._started = started

    def log(self, row: dict[str, float], *, step: int) -> None:
        """Log one row."""
        for tracker in list(self._started):
            # where MLflow keeps files, loss cannot be both a file and the folder of loss/dim8
            named = {n.replace("/", "."): v for n, v in row.items()} if isinstance(tracker, MLflowTracker) else row
            self._try(tracker, "log", named, step=step)

    def finish(self) -> None:
        """Close all."""
        for tracker in list(self._started):
            self._try(tracker, "finish")

    def _try(self, tracker: Any, name: str, *args: Any, **kwargs: Any) -> None:
        try:
            getattr(tracker, name)(*args, **kwargs)
        except Exception as error:  # every tracker has errors of its own
            self._started.remove(tracker)
            logger.warning("%s no longer follows this stage (%s); metrics.jsonl has all of it", tracker.name, error)


def start_trackers(
    names: Sequence[Tracker],
    folder: Path,
    *,
    project: str,
    title: str,
    from_step: int,
    about: dict[str, Any],
) -> Trackers:
    """Start, or go on with, a stage's run in each tracker.

    Args:
        names: of trackers.
        folder: of the stage; TensorBoard's files and the names of runs are kept there.
        project: what stages of a recipe are grouped by.
        title: of the stage.
        from_step: the last step that stands; 0 = a new run.
        about: settings, shown beside the curves.

    Raises TrainingError that names the tracker which does not start.
    """
    runs = _runs(folder) if from_step else {}
    started: list[GeneralTracker] = []
    for name in names:
        known = runs.get(name)
        try:
            tracker = _tracker(name, folder, project, title, known or uuid.uuid4().hex[:8], from_step, new=not known)
            tracker.start()
            runs[name] = _identity(tracker)
            if not known and name != "tensorboard":  # there it would be a run of its own
                tracker.store_init_configuration({"recipe": project, "stage": title, **about})
        except Exception as error:  # every tracker has errors of its own
            Trackers(started).finish()
            raise TrainingError(
                f"{name} could not be started ({' '.join(str(error).split())}): "
                f"{_OFFLINE.get(name, 'see its documentation')}, or leave it out of `track`"
            ) from error
        started.append(tracker)
    if started:
        write_json(folder / _RUNS, runs)
    return Trackers(started)


def _tracker(
    name: Tracker, folder: Path, project: str, title: str, run: str, from_step: int, *, new: bool
) -> GeneralTracker:
    if name == "tensorboard":
        return TensorBoardTracker("tensorboard", folder, purge_step=from_step + 1)
    if name == "wandb":
        return WandBTracker(project, id=run, name=title, dir=str(folder), resume="allow")
    if name == "mlflow":
        return MLflowTracker(project, run_id=None if new else run, run_name=title)
    # trackio knows a run by its name
    return TrackioTracker(project, name=f"{title} ({run})" if new else run, resume="allow")


def _identity(tracker: GeneralTracker) -> str:
    if isinstance(tracker, MLflowTracker):
        return tracker.tracker.info.run_id
    if isinstance(tracker, WandBTracker):
        return tracker.tracker.id
    return tracker.tracker.name if isinstance(tracker, TrackioTracker) else "tensorboard"


def _runs(folder: Path) -> dict[Tracker, str]:
    try:
        return read_json(folder / _RUNS)
    except (FileNotFoundError, ValueError):
        return {}
