"""`limbeck run --smoke`, the command; tests/smoke has what it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import typed
from limbeck.config import Recipe
from limbeck.machine import describe
from limbeck.smoke.run import Ran, Smoke

FOUND = Smoke(
    recipe="jina-v5-nano",
    out="runs/jina-v5-nano-smoke",
    machine=describe(),
    device="cpu",
    notes=["random vectors stand in"],
    stages=[
        Ran("teach", 1.0, 2**20),
        Ran("distill", 2.0, 11 * 2**30, 10 * 2**30, {"weights": 10 * 2**30}, 212_000_000, 212_000_000, 3, 123.4),
    ],
    backbone=211_766_016,
    adapters={"retrieval": 6_782_976},
    vectors={"base": [2, 768], "retrieval": [2, 768]},
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """What `run_smoke` was asked for; nothing is trained."""
    calls: list[tuple[str, str, int]] = []

    def run(recipe: Recipe, steps: int, **_: Any) -> Smoke:
        calls.append((recipe.name, recipe.student.init, steps))
        return FOUND

    monkeypatch.setattr("limbeck.smoke.run.run_smoke", run)
    return calls


RANDOM = ("--set", "student.init=random")


def test_measured_stands_beside_planned(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = typed(capsys, "run", "jina-v5-nano", *RANDOM, "--smoke", 3)
    assert code == 0 and asked == [("jina-v5-nano", "random", 3)]
    row = next(line for line in out.splitlines() if "distill" in line)
    assert row.split() == "distill 212M 212M 3 2.0 s 123 11.0 GiB 10.0 GiB 1.10".split()
    assert "211,766,016 weights, 218,548,992 with its adapters" in out
    assert "random vectors stand in" in out and "encodes by base, retrieval: 768 dims" in out


def test_as_json(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = typed(capsys, "run", "jina-v5-nano", *RANDOM, "--smoke", 3, "--json")
    assert code == 0 and asked
    body = json.loads(out)
    assert [stage["ratio"] for stage in body["stages"]] == [None, 1.1]
    assert body["adapters"] == {"retrieval": 6_782_976} and body["machine"]["cores"] >= 1


def test_options_that_do_not_go_together_are_refused(
    asked: list[Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = ("--set", f"out={tmp_path / 'run'}")
    for options in (["--json"], ["--smoke", 3, "--stop-after", "distill"], ["--smoke", 3, "--force"]):
        code, _, err = typed(capsys, "run", "jina-v5-nano", *out, *options)
        assert code == 2 and "--smoke" in err
    assert not asked and not (tmp_path / "run").exists()
