from typing import Any

import pytest
import yaml
from fake_results import fake_model
from huggingface_hub import ModelCard, ModelCardData
from mteb.abstasks.task_metadata import TaskMetadata

from limbeck.evaluation.model_index import eval_results
from limbeck.evaluation.results import parse_evaluation
from limbeck.evaluation.task_types import TASK_TYPES

RESULT = parse_evaluation({"models": [fake_model("m", 0.9)]}).models[0]


def test_the_hub_reads_back_what_was_written():
    data = ModelCardData(model_name="m", eval_results=eval_results(RESULT))
    card: Any = ModelCard(f"---\n{data.to_yaml()}\n---\n")
    assert card.data.eval_results == eval_results(RESULT)
    [index] = yaml.safe_load(data.to_yaml())["model-index"]
    assert index["results"][0]["metrics"][0] == {
        "type": "ndcg_at_10",
        "name": "ndcg_at_10",
        "value": pytest.approx(RESULT.tasks[0].score),
    }


def test_a_task_of_several_languages_has_an_entry_for_each():
    entries = {e.dataset_config: e for e in eval_results(RESULT) if e.dataset_type == "tatoeba"}
    assert list(entries) == ["deu-eng", "fra-eng"]
    score = next(t.score for t in RESULT.tasks if t.task == "tatoeba")
    assert entries["deu-eng"].metric_value == pytest.approx(score + 0.1)
    assert entries["deu-eng"].dataset_name == "tatoeba (deu-eng)"


@pytest.mark.parametrize("kind", sorted(TASK_TYPES))
def test_a_type_of_task_is_what_mteb_says_it_is_on_the_hub(kind):
    metadata = TaskMetadata.model_construct(type=kind, modalities=["text"])
    try:
        [expected] = metadata._hf_task_type()
    except KeyError:
        expected = "feature-extraction"
    task = RESULT.tasks[0].model_copy(update={"type": kind})
    assert eval_results(RESULT.model_copy(update={"tasks": [task]}))[0].task_type == expected
