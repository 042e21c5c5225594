"""Trackers: started by name, gone on with after a kill, and never what a run depends on."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import PartialState

from limbeck.config import Tracker
from limbeck.errors import ConfigError, TrainingError
from limbeck.training.tracking import Trackers, check_trackers, start_trackers


@dataclass
class Service:
    """What stands in for a tracker's package: runs by name, each with its settings and rows."""

    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    down: bool = False

    def init(self, *, project: str, name: str, resume: str) -> Any:
        if self.down:
            raise ConnectionError("no route to host")
        assert (project, resume) == ("tiny", "allow")
        rows = self.runs.setdefault(name, [])

        def log(row: dict[str, Any], *, step: int) -> None:
            if self.down:
                raise ConnectionError("no route to host")
            rows.append({"step": step, **row})

        return SimpleNamespace(name=name, log=log, finish=lambda: self.finished.append(name))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    found = Service()
    settings = SimpleNamespace(update=lambda values, **_: found.config.update(values))
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=found.init, config=settings))  # type: ignore[arg-type]
    return found


@pytest.fixture(autouse=True)
def state() -> None:
    PartialState(cpu=True)  # as where training has begun


def start(folder: Path, *names: Tracker, from_step: int = 0) -> Trackers:
    return start_trackers(names, folder, project="tiny", title="stage", from_step=from_step, about={"seed": 3})


def test_a_stage_is_a_run_that_a_resumed_one_goes_on_with(service: Service, tmp_path: Path) -> None:
    first = start(tmp_path, "trackio", "tensorboard")
    first.log({"loss": 2.0}, step=1)
    first.finish()
    again = start(tmp_path, "trackio", "tensorboard", from_step=1)
    again.log({"loss": 1.0}, step=2)
    again.finish()
    [(name, rows)] = service.runs.items()
    assert name.startswith("stage (") and rows == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    assert service.config == {"recipe": "tiny", "stage": "stage", "seed": 3}
    assert service.finished == [name, name]
    start(tmp_path, "trackio").finish()  # from its beginning: another run
    assert len(service.runs) == 2


def test_a_tracker_that_does_not_start_is_named_and_the_others_are_closed(service: Service, tmp_path: Path) -> None:
    service.down = True
    with pytest.raises(TrainingError, match="trackio could not be started .no route to host.*leave it out of `track`"):
        start(tmp_path, "tensorboard", "trackio")
    assert not (tmp_path / "trackers.json").exists()


def test_a_tracker_that_fails_later_is_left_out_and_the_others_go_on(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = start(tmp_path, "trackio", "tensorboard")
    for step in (1, 2, 3):
        service.down = step == 2
        found.log({"loss": float(step)}, step=step)
    found.finish()
    [rows] = service.runs.values()
    assert rows == [{"step": 1, "loss": 1.0}]
    assert ["trackio no longer follows" in r.getMessage() for r in caplog.records] == [True]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [s.value for s in board.Scalars("loss")] == [1, 2, 3]


def test_a_tracker_that_is_not_installed_is_said_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from limbeck.training import tracking

    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "mlflow" else object())
    check_trackers(["tensorboard", "trackio"])
    with pytest.raises(ConfigError, match="track names mlflow, which is not installed: pip install mlflow, or leave"):
        check_trackers(["tensorboard", "mlflow"])


def test_without_a_tracker_nothing_is_started(tmp_path: Path) -> None:
    nothing = start(tmp_path)
    nothing.log({"loss": 1.0}, step=1)
    nothing.finish()
    assert not list(tmp_path.iterdir())
