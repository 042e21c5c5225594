"""A run from the command line: what is done is skipped, what changed is done again, and what is wrong is said."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killable import Outcome, Zygote
from tiny_texts import TEACHER_DIM, WORDS, write_pairs

from limbeck.training.loop import read_metrics

Write = Callable[[dict[str, Any]], Path]


@pytest.fixture(scope="session")
def finished_before() -> list[tuple[Outcome, Path]]:
    """The run of the plain recipe, once there is one."""
    return []


@pytest.fixture
def finished(
    finished_before: list[tuple[Outcome, Path]],
    zygote: Zygote,
    body: dict[str, Any],
    write_recipe: Write,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Outcome:
    """What a whole run of the recipe printed; its folder and store are in their places."""
    if not finished_before:
        outcome = zygote.run(["run", write_recipe(body)])
        assert outcome.code == 0, outcome.stderr
        kept = tmp_path_factory.mktemp("finished")
        for name in ("run", "store"):
            shutil.copytree(tmp_path / name, kept / name)
        finished_before.append((outcome, kept))
    outcome, kept = finished_before[0]
    for name in ("run", "store"):
        shutil.copytree(kept / name, tmp_path / name, dirs_exist_ok=True)
    return outcome


@pytest.fixture
def run(zygote: Zygote, body: dict[str, Any], write_recipe: Write) -> Callable[..., Outcome]:
    """Run the recipe as it now is."""

    def go(*arguments: str, **how: Any) -> Outcome:
        return zygote.run(["run", write_recipe(body), *arguments], **how)

    return go


def stages(outcome: Outcome) -> dict[str, str]:
    """Stage → "before" or "now", as the run printed it."""
    assert outcome.code == 0, outcome.stderr
    found = re.findall(r"^(\w+) +done (before|in)", outcome.stderr, re.M)
    return {name: "now" if word == "in" else "before" for name, word in found}


def model_bytes(out: Path) -> list[bytes]:
    return [(out / "model" / name).read_bytes() for name in ("model.safetensors", "projection.safetensors")]


# ------------------------------------------------------------------------------------------ a whole run


def test_a_run_leaves_its_bundle_scores_and_report_and_lowers_the_loss(
    finished: Outcome, tmp_path: Path, body: dict[str, Any]
) -> None:
    import limbeck

    out = tmp_path / "run"
    assert set(stages(finished).values()) == {"now"}
    model = limbeck.load(out / "model")
    assert model.encode(["sort a list"], role="query").shape == (1, TEACHER_DIM)
    scores = json.loads((out / "scores.json").read_text())
    assert set(scores["ndcg_at_10"]) == {"teacher", "student", "untrained", "static"}
    assert scores["seconds"] > 0 and scores["peak_rss_mb"] > 0
    assert {(row["precision"], row["rescored_by"]) for row in scores["dims"]} == {
        ("float32", None),
        ("int8", None),
        ("binary", None),
        ("binary", "int8"),
        ("binary", "float32"),
    }
    # the split leaves no held-out text in training, exactly or nearly
    [leak] = scores["leaks"].values()
    assert leak["exact"] == leak["near"] == 0 and leak["texts"] > 0
    assert scores["training"]["pairs"]["examples"] == scores["data"]["pairs"]["train"]
    assert "ndcg_at_10" in (out / "model" / "README.md").read_text()
    assert "<html" in (out / "report" / "index.html").read_text()
    rows = read_metrics(out / "distill" / "metrics.jsonl")
    assert rows[-1]["step"] == body["distill"]["steps"] and rows[-1]["loss"] < rows[0]["loss"]
    assert list((out / "distill" / "tensorboard").iterdir())


def test_a_file_gets_plain_lines_and_no_bars(finished: Outcome) -> None:
    assert finished.stdout == ""
    assert not re.search(r"\x1b|\r|━|it/s|%\|", finished.stderr)
    assert finished.stderr.startswith("data ")


def test_a_second_run_skips_every_stage_and_writes_nothing(
    finished: Outcome, run: Callable[..., Outcome], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run()  # writes the recipe with this folder in it
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.name != "recipe.yaml"}
    assert set(stages(run()).values()) == {"before"}
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.name != "recipe.yaml"} == before


def test_other_settings_of_the_evaluation_redo_only_that_and_the_report(
    finished: Outcome, run: Callable[..., Outcome], tmp_path: Path
) -> None:
    training = tmp_path / "run" / "distill" / "stage.json"
    facts = json.loads(training.read_text())
    training.write_text(json.dumps(facts | {"peak_rss_mb": 9e6}))
    found = stages(run("--set", "evaluate.queries=5"))
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["peak_rss_mb"] == 9e6  # of all stages
    assert [name for name, when in found.items() if when == "now"] == ["evaluate", "report"]


def test_settings_that_change_no_weight_redo_nothing(
    finished: Outcome, run: Callable[..., Outcome], body: dict[str, Any]
) -> None:
    body["teacher"] |= {"batch_tokens": 64, "timeout_seconds": 1.0}
    body["distill"] |= {"log_every": 1, "checkpoint_every": 7, "keep_checkpoints": 1}
    assert set(stages(run()).values()) == {"before"}


def test_more_steps_are_another_run_and_need_no_further_teaching(
    finished: Outcome, run: Callable[..., Outcome], tmp_path: Path
) -> None:
    here = run("--set", "distill.steps=12")
    assert here.code == 1
    assert re.search(r"made by another recipe.*give the run another `out`, or delete \S+checkpoints", here.stderr)
    elsewhere = run("--set", "distill.steps=12", "--set", f"out={tmp_path / 'longer'}")
    assert set(stages(elsewhere).values()) == {"now"}
    assert re.search(r"^teach .* new 0", elsewhere.stderr, re.M)
    forced = run("--set", "distill.steps=12", "--force")
    assert set(stages(forced).values()) == {"now"}
    assert model_bytes(tmp_path / "run") == model_bytes(tmp_path / "longer")


def test_force_trains_again_from_the_start_to_the_same_weights(
    finished: Outcome, run: Callable[..., Outcome], tmp_path: Path
) -> None:
    before = model_bytes(tmp_path / "run")
    forced = run("--force")
    assert set(stages(forced).values()) == {"now"}
    assert forced.events.count("distill:before schedule") > 0
    assert model_bytes(tmp_path / "run") == before


def test_a_run_stops_after_the_stage_asked_for_and_goes_on_later(run: Callable[..., Outcome], tmp_path: Path) -> None:
    assert list(stages(run("--stop-after", "teach"))) == ["data", "teach"]
    assert not (tmp_path / "run" / "distill").exists()
    found = stages(run("--stop-after", "bundle"))
    assert found == {"data": "before", "teach": "before", "distill": "now", "bundle": "now"}
    unknown = run("--stop-after", "cook")
    assert unknown.code == 1 and "unknown stage 'cook'; the stages of this recipe are data, teach" in unknown.stderr


def test_a_store_that_was_made_anew_in_between_gives_the_same_weights(
    finished: Outcome, run: Callable[..., Outcome], body: dict[str, Any], zygote: Zygote, tmp_path: Path
) -> None:
    expected = model_bytes(tmp_path / "run")
    for name in ("run", "store"):
        shutil.rmtree(tmp_path / name)
    run("--stop-after", "teach")
    shutil.rmtree(tmp_path / "store")
    other = {**body, "out": str(tmp_path / "other"), "data": {**body["data"]}}
    other["data"]["sources"] = [
        {**body["data"]["sources"][0], "path": str(write_pairs(tmp_path / "other.jsonl", 30, seed=9))}
    ]
    import yaml

    recipe = tmp_path / "other.yaml"
    recipe.write_text(yaml.safe_dump(other))
    assert zygote.run(["run", recipe, "--stop-after", "teach"]).code == 0  # its texts have the first rows now
    assert stages(run())["teach"] == "before"
    assert model_bytes(tmp_path / "run") == expected


def test_sources_of_every_shape_train_together(
    run: Callable[..., Outcome], body: dict[str, Any], tmp_path: Path
) -> None:
    code = tmp_path / "code" / "pack"
    code.mkdir(parents=True)
    for i, word in enumerate(WORDS[:40]):
        text = (
            f'"""The {word} of a {WORDS[i + 1]}.\n\nIt will {WORDS[-i]} and {WORDS[-i - 1]} the {word} in order.\n"""\n'
        )
        (code / f"m{i}.py").write_text(text)
    long = tmp_path / "texts.jsonl"
    lines = [{"t": f"{word} {other}"} for word, other in zip(WORDS, WORDS[7:], strict=False)]
    long.write_text(
        "".join(json.dumps(line) + "\n" for line in [*lines, {"t": "vector " * 14_286}])
    )  # 100,000 characters
    body["data"]["sources"] += [
        {"type": "python-docs", "name": "docs.python", "paths": [str(tmp_path / "code")], "weight": 2.0},
        {"type": "file", "name": "docs.texts", "path": str(long), "columns": {"text": "t"}},
    ]
    body["distill"] |= {"steps": 30, "log_every": 1}
    assert set(stages(run()).values()) == {"now"}
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert set(scores["data"]) == {"pairs", "docs.python", "docs.texts"}
    losses = [row["loss"] for row in read_metrics(tmp_path / "run" / "distill" / "metrics.jsonl")]
    # steps are of one source each, and sources differ: a single step says little
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_layers_that_are_a_number_are_chosen_once_and_a_student_with_them_named_is_the_same(
    run: Callable[..., Outcome], body: dict[str, Any], tmp_path: Path
) -> None:
    body["student"]["pruned"] |= {"layers": 2, "pool_attention": False}
    found = stages(run("--stop-after", "bundle"))
    assert list(found) == ["data", "teach", "prune", "distill", "bundle"]
    chosen = json.loads((tmp_path / "run" / "prune" / "stage.json").read_text())
    assert len(chosen["layers"]) == 2 and -1 < chosen["agreement"] < 1
    by_number = model_bytes(tmp_path / "run")
    assert set(stages(run("--stop-after", "bundle")).values()) == {"before"}

    body["student"]["pruned"]["layers"] = chosen["layers"]
    body["out"] = str(tmp_path / "named")
    assert "prune" not in stages(run("--stop-after", "bundle"))
    assert model_bytes(tmp_path / "named") == by_number

    body["student"]["pruned"]["layers"] = 1
    body["out"] = str(tmp_path / "run")
    again = stages(run("--stop-after", "prune"))
    assert again == {"data": "before", "teach": "before", "prune": "now"}


def test_as_many_layers_as_there_are_is_an_error(run: Callable[..., Outcome], body: dict[str, Any]) -> None:
    body["student"]["pruned"]["layers"] = 3
    assert "student.pruned.layers keeps 3 of 3 layers: name fewer" in error(run("--stop-after", "prune"))


def test_two_runs_in_one_process_may_differ_in_precision(body: dict[str, Any], tmp_path: Path) -> None:
    import torch

    from limbeck.config import Recipe
    from limbeck.training import pipeline

    threads = torch.get_num_threads()
    try:
        for precision in ("bf16", "fp32"):
            body["distill"] |= {"precision": precision, "steps": 2}
            body["out"] = str(tmp_path / precision)
            out = pipeline.run(Recipe.model_validate(body), stop_after="bundle")
            assert (out / "model" / "limbeck.json").exists()
    finally:
        torch.set_num_threads(threads)


# ----------------------------------------------------------------------------------------------- trouble


def error(outcome: Outcome) -> str:
    assert outcome.code == 1, outcome.stderr
    assert "Traceback" not in outcome.stderr
    return outcome.stderr[outcome.stderr.index("limbeck: ") :]


def test_a_malformed_row_stops_the_run_and_once_mended_the_run_goes_on(
    run: Callable[..., Outcome], body: dict[str, Any], tmp_path: Path
) -> None:
    path = write_pairs(tmp_path / "mine.jsonl", 40)
    whole = path.read_text()
    path.write_text(whole + "{torn\n")
    body["data"]["sources"][0]["path"] = str(path)
    assert "mine.jsonl:41" in error(run("--stop-after", "data"))
    path.write_text(whole)
    assert stages(run("--stop-after", "data")) == {"data": "now"}


def test_an_empty_corpus_is_an_error(run: Callable[..., Outcome], body: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    body["data"]["sources"][0]["path"] = str(tmp_path / "empty.jsonl")
    assert "empty.jsonl gives no rows" in error(run())


def test_a_teacher_with_another_dimension_is_an_error_that_says_both(
    run: Callable[..., Outcome], body: dict[str, Any]
) -> None:
    body["teacher"]["dim"] = 32
    message = error(run())
    assert "32" in message and str(TEACHER_DIM) in message and "teacher.dim" in message


def test_dims_that_do_not_end_in_the_students_width_are_an_error(
    run: Callable[..., Outcome], body: dict[str, Any]
) -> None:
    body["student"]["dims"] = [8, 16]
    assert f"student.dims must end with the backbone's width {TEACHER_DIM}, got [8, 16]" in error(run())


def test_an_unreadable_store_is_named(run: Callable[..., Outcome], body: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    body["teacher"]["store"] = str(tmp_path / "file")
    assert "set teacher.store elsewhere" in error(run())


def test_a_store_that_was_cut_short_is_named_and_deleting_it_is_enough(
    run: Callable[..., Outcome], body: dict[str, Any], tmp_path: Path
) -> None:
    run("--stop-after", "teach")
    [vectors] = (tmp_path / "store").rglob("vectors.f16")
    vectors.write_bytes(vectors.read_bytes()[:-100])
    message = error(run("--stop-after", "distill"))
    assert "was cut short" in message and f"delete {vectors.parent}" in message
    shutil.rmtree(vectors.parent)
    assert stages(run("--stop-after", "distill"))["distill"] == "now"


def test_nothing_held_out_is_an_error_before_anything_is_taught(
    run: Callable[..., Outcome], body: dict[str, Any], tmp_path: Path
) -> None:
    body["data"]["heldout_fraction"] = 0.0
    assert "raise data.heldout_fraction" in error(run())
    assert not (tmp_path / "run" / "distill").exists()


def test_a_full_disk_is_named_and_with_room_the_run_goes_on_to_the_same_weights(
    finished: Outcome, run: Callable[..., Outcome], tmp_path: Path
) -> None:
    expected = model_bytes(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    assert "the disk is full" in error(run(file_limit=60_000))  # the optimizer's moments are larger
    assert stages(run())["distill"] == "now"
    assert model_bytes(tmp_path / "run") == expected
