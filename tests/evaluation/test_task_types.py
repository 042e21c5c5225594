"""The table of task types."""

from __future__ import annotations

from typing import get_args

import pytest

from limbeck.config import TASKS
from limbeck.errors import ConfigError
from limbeck.evaluation.task_types import TASK_TYPES, role_of, use_of
from limbeck.model.prefixes import PREFIXES


def test_every_type_of_mteb_that_reads_only_text_is_in_the_table() -> None:
    from mteb.get_tasks import TASK_LIST

    of_texts = {cls.metadata.type for cls in TASK_LIST if cls.metadata.modalities == ["text"]}
    assert of_texts - {"Any2AnyRetrieval"} == set(TASK_TYPES)  # that one is of another benchmark, with images beside


def test_no_type_in_the_table_is_unknown_to_mteb() -> None:
    from mteb.abstasks.task_metadata import TaskType

    assert set(TASK_TYPES) <= set(get_args(TaskType))


def test_an_adapter_of_the_table_is_a_task_that_bundles_have_and_roles_are_retrievals() -> None:
    assert {use.adapter for use in TASK_TYPES.values()} == set(TASKS)
    for use in TASK_TYPES.values():
        assert use.roles == ((use.adapter, "query") in PREFIXES)


def test_an_unknown_type_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"type 'ImageClustering'.*Retrieval, Reranking.*Regression"):
        use_of("ImageClustering")


@pytest.mark.parametrize(
    ("task_type", "prompt", "role"),
    [
        ("Retrieval", "query", "query"),
        ("Reranking", "document", "document"),
        ("Retrieval", None, None),
        ("STS", None, None),
        ("PairClassification", "query", None),
    ],
)
def test_a_text_has_a_role_only_where_one_side_asks(task_type: str, prompt: str | None, role: str | None) -> None:
    assert role_of(task_type, prompt) == role
