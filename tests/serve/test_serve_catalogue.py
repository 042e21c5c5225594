"""Which adapter and role a name in a request means, and what is said of names that mean none."""

from __future__ import annotations

from typing import Any

import pytest

from limbeck.config import TASKS
from limbeck.errors import ConfigError
from limbeck.serve.catalogue import Catalogue
from limbeck.serve.errors import Refusal


def full(**options: Any) -> Catalogue:
    return Catalogue("m", TASKS, routed=True, **options)


@pytest.mark.parametrize(
    ("asked", "task", "role", "label"),
    [
        ("retrieval.query", "retrieval", "query", "retrieval.query"),
        ("query", "retrieval", "query", "retrieval.query"),
        ("retrieval.passage", "retrieval", "document", "retrieval.passage"),
        ("retrieval", "retrieval", "document", "retrieval.passage"),
        ("document", "retrieval", "document", "retrieval.passage"),
        ("text-matching", "text-matching", "document", "text-matching"),
        ("clustering", "clustering", "document", "clustering"),
        ("classification", "classification", "document", "classification"),
        ("auto", "auto", "document", "auto"),
        (None, "text-matching", "document", "text-matching"),
    ],
)
def test_a_task_is_an_adapter_and_a_role(asked: str | None, task: str, role: str, label: str) -> None:
    found = full().find(asked)
    assert (found.task, found.role, found.label) == (task, role, label)


@pytest.mark.parametrize(
    "asked",
    ["nope", "retrieval.nope", "clustering.query", "text-matching.", ".query", "nope=1", "retrieval=x", "retrieval=-1",
     "retrieval=0", "retrieval.query=1,retrieval.passage=1", "retrieval.nope=1", "retrieval=nan", "retrieval=inf",
     "retrieval=1e308,clustering=1e308"],
)  # fmt: skip
def test_an_unknown_task_is_refused_with_a_list_of_the_known_ones(asked: str) -> None:
    with pytest.raises(Refusal) as refusal:
        full().find(asked)
    assert refusal.value.status == 422
    for task in ("retrieval.query", "retrieval.passage", *TASKS[1:], "auto"):
        assert task in refusal.value.message


@pytest.mark.parametrize("tasks", [TASKS, ()])
def test_a_task_that_was_settled_elsewhere_is_called_as_a_request_calls_it(tasks: Any) -> None:
    catalogue = Catalogue("m", tasks)
    blends = ["retrieval=0.7,clustering=0.3", "retrieval.query=0.7,clustering=0.3"] if tasks else []
    for asked in [*catalogue.known, *blends]:
        found = catalogue.find(asked)
        assert catalogue.settled(found.task, found.role) == found


def test_a_blend_has_the_role_of_its_retrieval_part() -> None:
    found = full().find("retrieval.query=0.7,clustering=0.3")
    assert (found.task, found.role) == ({"retrieval": 0.7, "clustering": 0.3}, "query")
    assert full().find(found.label) == found
    assert full().find({"retrieval": 0.7, "clustering": 0.3}).role == "document"


def test_without_adapters_there_are_two_sides_and_no_adapter_s_name_stands_for_the_base() -> None:
    plain = Catalogue("m", [])
    assert plain.known == ["query", "document"]
    assert (plain.find("query").task, plain.find("query").role) == (None, "query")
    assert plain.find(None) == plain.find("passage") == plain.find("document")
    for asked in (*TASKS, "retrieval.query", "auto", "retrieval=1"):
        with pytest.raises(Refusal, match="known tasks are query, document"):
            plain.find(asked)


def test_an_adapter_that_is_missing_is_refused_and_so_are_its_sides() -> None:
    some = Catalogue("m", ["clustering"])
    for asked in ("retrieval", "retrieval.query", "query", "document", "auto", "text-matching"):
        with pytest.raises(Refusal, match="known tasks are clustering$"):
            some.find(asked)
    with pytest.raises(Refusal, match="a task is needed"):
        some.find(None)


def test_the_default_can_be_said_and_must_be_known() -> None:
    assert full(default="retrieval.query").find(None).role == "query"
    assert Catalogue("m", ["retrieval", "clustering"]).find(None).label == "retrieval.passage"
    with pytest.raises(ConfigError, match="default task does not fit.*known tasks are"):
        full(default="nope")


def test_every_model_that_is_listed_is_known_and_chooses_its_task() -> None:
    catalogue = full(aliases=["text-embedding-3-small"])
    for name in catalogue.models:
        own, _, task = name.partition(":")
        assert own in ("m", "text-embedding-3-small")
        assert catalogue.choice(name, None) == catalogue.find(task or None)


@pytest.mark.parametrize(("model", "status"), [("other", 404), ("m2", 404), ("other:clustering", 404), ("m:nope", 422)])
def test_an_unknown_model_is_refused_with_a_list(model: str, status: int) -> None:
    with pytest.raises(Refusal) as refusal:
        full().choice(model, None)
    assert refusal.value.status == status and "retrieval.query" in refusal.value.message


def test_a_task_that_is_named_twice_is_named_alike() -> None:
    assert full().choice("m:query", "retrieval.query").role == "query"
    with pytest.raises(Refusal, match="leave one out"):
        full().choice("m:retrieval.query", "clustering")
