"""The page of all experiments."""

from pathlib import Path

import pytest
from small_results import one_seed, results

from limbeck.ablation import theta
from limbeck.ablation.evidence import write_evidence
from limbeck.ablation.results import Results
from limbeck.ablation.theta_page import status_of
from limbeck.errors import ConfigError, DataError
from limbeck.files import read_json, write_json


def finished(folder: Path, found: Results | theta.Results) -> Path:
    """A folder with results."""
    write_json(folder / "results.json", found.model_dump(mode="json"))
    return folder


def theta_results(after: float, seeds: int = 1, high: float = 0.9) -> theta.Results:
    """Passkey and needle at one length: 0.5 before the phase, `after` it, `high` with the higher theta then."""
    scores = {("before", 10.0): 0.5, ("after", 10.0): after, ("after", 40.0): high, ("swapped", 10.0): 0.5}
    cells = [
        theta.Cell.model_validate(
            {"seed": seed, "arm": arm, "theta": at, "task": f"{kind}-512", "kind": kind, "length": 512, "score": score}
            | {"first": score, "queries": 2, "documents": 2, "by_depth": {"0": score, "1": score}, "seconds": 36.0}
        )
        for (arm, at), score in scores.items()
        for kind in ("passkey", "needle")
        for seed in range(seeds)
    ]
    return theta.Results(
        recipe="r",
        low=10.0,
        high=40.0,
        cells=cells,
        tokens={},
        seconds={"before": 3600.0, "after": 7200.0, "swapped": 7200.0},
        commands=["limbeck ablate theta --tasks=/data/bench/longdoc"],
        machine={},
        versions={},
    )


def test_claim_result_and_status_stand_side_by_side_in_the_order_of_the_experiments(tmp_path: Path) -> None:
    folders = [
        finished(tmp_path / "c", theta_results(0.7)),
        finished(tmp_path / "b", one_seed().model_copy(update={"name": "averaging"})),
        finished(tmp_path / "a", results()),
    ]
    write_evidence(folders, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert rows[0] == (
        "| [stages](stages/report.md) | Big is better | “big” against “small”, held-out: +0.100 \\[+0.050, +0.150\\], "
        "needed \\> 0 | **reproduced** |"
    )
    assert rows[1].startswith("| [averaging](averaging/report.md)") and "+0.100 from one seed" in rows[1]
    assert rows[1].endswith("| **not decidable at this scale** |")
    assert rows[2].startswith("| [theta](theta/report.md)") and rows[2].endswith("| **not decidable at this scale** |")
    assert "the long-context phase 0.500 → 0.700, +0.200" in rows[2]
    assert "from one seed, which cannot tell an effect from chance" in text
    assert "Seeds 0, 1, 2; 1.25 hours" in text
    # before 1 h, two phases of 1 h on top, and 8 cells of 36 s
    assert "Seed 0; 3.08 hours" in text and "5.6 hours of computing" in text


def test_reports_results_and_pictures_lie_beside_the_page_without_the_place_of_the_tasks(tmp_path: Path) -> None:
    folders = [finished(tmp_path / "a", results()), finished(tmp_path / "c", theta_results(0.7))]
    out = tmp_path / "out"
    write_evidence(folders, out, bench=Path("/data/bench"))
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "stages/report.md",
        "stages/results.json",
        "stages/plot.svg",
        "theta/report.md",
        "theta/results.json",
    }
    assert not any("/data/bench" in path.read_text() for path in out.rglob("*") if path.is_file())
    for path in ("README.md", "stages/report.md", "stages/results.json"):
        assert "limbeck ablate stages --tasks BENCH_DIR/scifact" in (out / path).read_text()
    assert "--tasks=BENCH_DIR/longdoc" in (out / "README.md").read_text()
    copy = read_json(out / "stages" / "results.json")
    assert Results.model_validate(copy) == results(commands=["limbeck ablate stages --tasks BENCH_DIR/scifact"])


def test_a_folder_that_only_begins_like_that_of_the_tasks_keeps_its_name(tmp_path: Path) -> None:
    folder = finished(tmp_path / "a", results(commands=["limbeck ablate stages --tasks /data/bench-2/x"]))
    write_evidence([folder], tmp_path / "out", bench=Path("/data/bench"))
    assert "--tasks /data/bench-2/x" in (tmp_path / "out" / "README.md").read_text()


def test_the_page_can_be_written_from_what_it_wrote(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_evidence([finished(tmp_path / "a", results()), finished(tmp_path / "b", theta_results(0.7))], out)
    before = {path: path.read_text() for path in out.rglob("*") if path.is_file()}
    write_evidence([out / "theta", out / "stages"], out)
    assert {path: path.read_text() for path in out.rglob("*") if path.is_file()} == before


def test_what_is_unfinished_or_twice_there_is_refused(tmp_path: Path) -> None:
    one, other = finished(tmp_path / "a", results()), finished(tmp_path / "b", results())
    with pytest.raises(ConfigError, match="two folders hold the experiment stages"):
        write_evidence([one, other], tmp_path / "out")
    with pytest.raises(ConfigError, match="at least one folder"):
        write_evidence([], tmp_path / "out")
    with pytest.raises(DataError, match=r"holds no results\.json"):
        write_evidence([tmp_path], tmp_path / "out")
    write_json(tmp_path / "c" / "results.json", {"name": "stages"})
    with pytest.raises(DataError, match="not what this version writes"):
        write_evidence([tmp_path / "c"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("after", "seeds", "status"),
    [
        (0.7, 1, "not decidable at this scale"),  # one seed confirms nothing
        (0.7, 3, "reproduced"),
        (0.5, 3, "not reproduced"),  # the phase brings nothing, for sure
        (0.9, 3, "not reproduced"),  # the phase helps, the theta then does not
    ],
)
def test_theta_is_reproduced_where_the_phase_and_the_higher_theta_help_in_several_seeds(
    after: float, seeds: int, status: str
) -> None:
    assert status_of(theta_results(after, seeds)) == status
