"""Names → tasks: mteb's benchmarks and tasks, and folders; and what is said of data that is not here."""

from __future__ import annotations

from pathlib import Path

import mteb
import pytest
from evaluation_sets import write_all, write_labels, write_pairs, write_rows, write_search
from mteb.get_tasks import TASK_LIST

from limbeck.errors import ConfigError, DataError
from limbeck.evaluation.named_tasks import EvaluationTask, find_tasks


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for place in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
        monkeypatch.setattr(place, True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


def names(*asked: str) -> list[str]:
    return [task.name for task in find_tasks(asked).tasks]


def test_a_benchmark_stands_for_its_tasks_and_a_task_for_itself() -> None:
    assert len(names("NanoBEIR")) == 13
    assert names("SciFact", "STS17") == ["SciFact", "STS17"]


def test_a_task_of_two_benchmarks_is_scored_once() -> None:
    both = names("NanoBEIR", "NanoSciFactRetrieval")
    assert len(both) == 13 and "NanoSciFactRetrieval" in both


@pytest.mark.parametrize(
    "benchmark", ["MTEB(eng, v2)", "MTEB(Multilingual, v2)", "BEIR", "LongEmbed", "FollowIR", "NanoBEIR", "RTEB(beta)"]
)
def test_every_task_of_the_benchmarks_of_texts_can_be_scored(benchmark: str) -> None:
    assert set(names(benchmark)) == {task.metadata.name for task in mteb.get_benchmark(benchmark).tasks}


@pytest.mark.parametrize(
    ("wrong", "right"), [("NanoBIER", "NanoBEIR"), ("scifact", "SciFact"), ("MTEB eng v2", "MTEB")]
)
def test_an_unknown_name_is_an_error_that_lists_near_ones(wrong: str, right: str) -> None:
    with pytest.raises(ConfigError, match=f"{wrong!r} is neither a folder here nor .* did you mean .*{right}"):
        names(wrong)


def test_a_task_of_images_is_an_error_that_lists_the_types_that_can_be_scored() -> None:
    images = next(cls.metadata.name for cls in TASK_LIST if cls.metadata.type == "ImageClustering")
    with pytest.raises(ConfigError, match="tasks of type 'ImageClustering': known are Retrieval"):
        names(images)


def test_private_tasks_are_left_out_only_if_asked_and_then_counted() -> None:
    everything = find_tasks(["RTEB(beta)"])
    assert len(everything.tasks) == 30 and everything.warnings == []
    public = find_tasks(["RTEB(beta)"], skip_private=True)
    assert len(public.tasks) == 17
    assert public.warnings[0].startswith("13 tasks are private, and were left out: Code1Retrieval, ")


def test_nothing_left_to_score_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no task is left to score of Code1Retrieval"):
        find_tasks(["Code1Retrieval"], skip_private=True)


def test_data_that_is_not_here_is_an_error_that_names_task_and_data(offline: None) -> None:
    [task] = find_tasks(["SciFact"]).tasks
    with pytest.raises(
        DataError, match=r"the data of SciFact \(mteb/scifact, revision .* is neither in the local cache"
    ):
        with task.loaded():
            pass


def test_private_data_that_cannot_be_had_says_how_to_go_on(offline: None) -> None:
    [task] = find_tasks(["Code1Retrieval"]).tasks
    with pytest.raises(DataError, match=r"Code1Retrieval .* is private.*set HF_TOKEN.*--skip-private"):
        with task.loaded():
            pass


def test_a_folder_is_named_by_its_last_part_and_by_its_kind_where_two_share_it(tmp_path: Path) -> None:
    write_search(tmp_path, name="pets")
    write_pairs(tmp_path, name="SciFact")
    write_labels(tmp_path, name="topics")
    write_labels(tmp_path, "clustering", "topics")
    assert names(str(tmp_path), str(tmp_path / "retrieval"), "SciFact") == [
        *("classification/topics", "clustering/topics", "pets", "sts/SciFact"),
        "SciFact",
    ]


def test_two_sets_of_one_kind_and_name_are_an_error(tmp_path: Path) -> None:
    for root in ("a", "b"):
        write_search(tmp_path / root)
    with pytest.raises(ConfigError, match="two evaluation sets are called retrieval/pets"):
        names(str(tmp_path / "a"), str(tmp_path / "b"))


def test_a_task_that_two_benchmarks_have_in_other_languages_is_warned_of() -> None:
    found = find_tasks(["MTEB(eng, v2)", "MTEB(Multilingual, v2)"])
    assert len({task.name for task in found.tasks}) == len(found.tasks)
    [warning] = found.warnings
    assert "tasks are in two benchmarks with other languages or splits" in warning and "STS17" in warning


def test_the_digest_tells_data_apart(tmp_path: Path) -> None:
    [dev] = [EvaluationTask(mteb.get_task("STS17", hf_subsets=["en-en"]), "STS17")]
    [all_of_it] = find_tasks(["STS17"]).tasks
    assert dev.digest() != all_of_it.digest() == find_tasks(["STS17"]).tasks[0].digest()

    folder = write_pairs(tmp_path)
    [before] = find_tasks([str(folder)]).tasks
    digest = before.digest()
    write_rows(folder / "pairs.jsonl", [{"text1": "a", "text2": "b", "score": 1}])
    assert before.digest() != digest


def test_a_local_task_can_be_read_again_after_it_was_let_go(tmp_path: Path) -> None:
    for task in find_tasks([str(write_all(tmp_path))]).tasks:
        for _ in range(2):
            with task.loaded():
                assert task.task.data_loaded
            assert not task.task.data_loaded and task.type


def test_warnings_and_languages_come_from_the_folder(tmp_path: Path) -> None:
    folder = write_search(tmp_path, queries={"q0": "cats purr"}, grades={"q0": {"d0": 1}, "q1": {"d0": 1}})
    write_rows(folder / "meta.json", ['{"languages": ["eng_Latn"]}'])
    [task] = find_tasks([str(folder)]).tasks
    with task.loaded():
        assert len(task.warnings()) == 1
    assert task.languages() == ["eng-Latn"]
    assert find_tasks(["STS17"]).tasks[0].languages()[:2] == ["kor-Hang", "ara-Arab"]
