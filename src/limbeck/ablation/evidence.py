"""Finished experiments on one page: what the paper claims, what came out with its interval, and what that says."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from limbeck.ablation import theta, theta_page, wording
from limbeck.ablation.experiments import EXPERIMENTS
from limbeck.ablation.page import write_experiment_report
from limbeck.ablation.results import Answer, Results, Status
from limbeck.ablation.run import RESULTS
from limbeck.errors import ConfigError, DataError
from limbeck.evaluation.page import write_page
from limbeck.files import read_json, write_json

THETA = "theta"
_THETA_CLAIM = (
    "A low theta in training and a higher one at inference help long texts, and the long-context phase lifts them a lot"
)
_LEGEND: dict[Status, str] = {
    "reproduced": "all that the claim says holds: each interval lies above what is needed",
    "not reproduced": "some of it does not hold: an interval lies below, or too low to matter",
    "not decidable at this scale": "none of it is refuted, but some is open: chance, or one seed, may be all there is",
    "answered": "the paper claims nothing, it asks",
}


@dataclass(frozen=True)
class Entry:
    """An experiment on the page. found: each result with its interval; why: of the status; write: its report."""

    name: str
    claim: str
    status: Status
    found: Sequence[str]
    why: Sequence[str]
    seeds: Sequence[int]
    hours: float
    commands: Sequence[str]
    results: BaseModel
    write: Callable[[Path], None]


def write_evidence(folders: Sequence[Path], out: Path, *, bench: Path | None = None) -> None:
    """Write `out`/README.md, and of each experiment its report, picture and results into `out`/NAME.

    Args:
        folders: of finished experiments; each holds results.json.
        out: folder to write; other experiments in it are left, but not on the page.
        bench: folder of task folders, that commands are to name BENCH_DIR.

    Raises ConfigError: no folder, or two of one experiment. DataError: a folder without readable results.
    """
    entries = [_entry(folder, bench) for folder in folders]
    names = [entry.name for entry in entries]
    if not names:
        raise ConfigError("expected at least one folder of a finished experiment: run one with `limbeck ablate NAME`")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two folders hold the experiment {twice[0]}: give one of each")
    order = [*EXPERIMENTS, THETA]
    entries.sort(key=lambda entry: order.index(entry.name) if entry.name in order else len(order))
    for entry in entries:
        write_json(out / entry.name / RESULTS, entry.results.model_dump(mode="json"))
        entry.write(out / entry.name)
    known = {status: text for status, text in _LEGEND.items() if any(e.status == status for e in entries)}
    hours = sum(entry.hours for entry in entries)
    write_page(out, {"README.md": "evidence.md.j2"}, {"entries": entries, "legend": known, "hours": f"{hours:.1f}"})


def _entry(folder: Path, bench: Path | None) -> Entry:
    path = folder / RESULTS
    try:
        found = read_json(path)
        if isinstance(found, dict) and "cells" in found:
            return _of_theta(theta.Results.model_validate(_without_paths(found, bench)))
        return _of_experiment(Results.model_validate(_without_paths(found, bench)))
    except FileNotFoundError:
        raise DataError(f"{folder} holds no {RESULTS}: finish the experiment first, or leave it out") from None
    except ValidationError as error:
        raise DataError(f"{path} is not what this version writes ({error.errors()[0]['msg']}): run it again") from None
    except ValueError as error:
        raise DataError(str(error)) from None


def _of_experiment(results: Results) -> Entry:
    return Entry(
        results.name,
        results.claim,
        results.status,
        [_found(a) for a in results.answers],
        wording.reasons(results),
        results.seeds,
        results.hours,
        results.commands,
        results,
        partial(write_experiment_report, results),
    )


def _found(a: Answer) -> str:
    """“both stages” against “distillation only”, held-out: +0.021 [+0.010, +0.031], needed > 0."""
    said = wording.contrast(a)
    if math.isnan(a.estimate):
        return said
    return f"{said}{' from one seed' if math.isnan(a.low) else ''}, needed {wording.needed(a)}"


def _of_theta(results: theta.Results) -> Entry:
    said = theta_page.verdicts(results)
    seeds = sorted({cell.seed for cell in results.cells})
    alone = "One seed: its intervals are over texts alone, and cannot tell an effect of training from chance."
    several = "The claim needs both changes to help on every kind of task: intervals above 0."
    return Entry(
        THETA,
        _THETA_CLAIM,
        theta_page.status_of(results),
        [text for text in said if text.startswith("nDCG@10 of")] or said,
        [alone if len(seeds) == 1 else several],
        seeds,
        # the arms share all stages before the phase, and `before` is nothing else
        round(sum(_own_seconds(results).values()) / 3600 + sum(c.seconds for c in results.cells) / 3600, 2),
        results.commands,
        results,
        partial(theta_page.write_theta_report, results),
    )


def _own_seconds(results: theta.Results) -> dict[str, float]:
    shared = results.seconds.get("before", 0.0)
    return {arm: s if arm == "before" else s - shared for arm, s in results.seconds.items()}


def _without_paths(found: dict[str, Any], bench: Path | None) -> dict[str, Any]:
    """The same with `bench` in commands as BENCH_DIR, however it was written."""
    if bench is None:
        return found
    forms = {str(bench), str(bench.resolve()), os.path.abspath(bench), os.path.relpath(bench)}
    either = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    path = re.compile(rf"(?<![\w./-])(?:{either})(?=/|[\s'\"]|$)")
    return found | {"commands": [path.sub("BENCH_DIR", command) for command in found.get("commands", [])]}
