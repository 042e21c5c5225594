"""`limbeck teach` as it is typed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules there that are no tests

from commands import typed  # noqa: E402
from limbeck.scale.crew import Crew  # noqa: E402
from limbeck.training import pipeline  # noqa: E402


@pytest.mark.parametrize(
    ("options", "crew"),
    [
        ([], Crew()),
        (["--workers", 8], Crew("local", 8)),
        (["--engine", "ray"], Crew("ray")),
        (["--engine", "ray", "--workers", 4, "--worker-gpus", 0.5, "--worker-cpus", 2], Crew("ray", 4, 2.0, 0.5)),
    ],
)
def test_the_run_stops_after_teaching_and_workers_are_those_asked_for(
    options: list[object], crew: Crew, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(pipeline, "run", lambda recipe, **how: asked.append({"name": recipe.name, **how}))
    assert typed(capsys, "teach", "demo", "--set", "name=mine", *options)[0] == 0
    [how] = asked
    assert (how["name"], how["stop_after"], how["crew"]) == ("mine", "teach", crew)


def test_a_crew_of_nobody_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = typed(capsys, "teach", "demo", "--worker-gpus", 1)
    assert code == 1 and "cores and GPUs of a worker are for a Ray cluster" in err
    assert typed(capsys, "teach", "demo", "--workers", 0)[0] == 2
