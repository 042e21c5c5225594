"""Conditions on fields: how they are typed, what they fit, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.errors import ConditionError, ConfigError, DataError
from limbeck.search.conditions import (
    OPS,
    Check,
    Condition,
    Kind,
    Selection,
    conditions,
    joined_kind,
    kind_of,
    parse_condition,
    select,
)

KINDS: dict[str, Kind] = {
    "lang": "text",
    "year": "integer",
    "price": "number",
    "draft": "boolean",
    "extra": "other",
    "a.b": "text",
}


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        ("lang=en", Condition("lang", "=", ("en",))),
        ("lang=en, de", Condition("lang", "=", ("en", "de"))),
        ("lang!=en", Condition("lang", "!=", ("en",))),
        ("year>=2020", Condition("year", ">=", ("2020",))),
        ("year < 2020", Condition("year", "<", ("2020",))),
        ("title=a=b", Condition("title", "=", ("a=b",))),
    ],
)
def test_conditions_of_a_command_line(typed: str, means: Condition) -> None:
    assert parse_condition(typed) == means


@given(
    st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.sampled_from(OPS), st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
)
def test_what_is_written_is_read_back(field: str, op: str, value: str) -> None:
    assert parse_condition(f"{field}{op}{value}") == Condition(field, op, (value,))  # type: ignore[arg-type]


@pytest.mark.parametrize("typed", ["lang", "", "=en"])
def test_what_is_no_condition_is_refused(typed: str) -> None:
    with pytest.raises(ConfigError, match="expected a condition such as lang=en"):
        parse_condition(typed)


def test_a_mapping_means_the_same_as_conditions() -> None:
    assert conditions({"lang": ["en", "de"], "year": {">=": 2020, "<": 2024}, "draft": False}) == [
        Condition("lang", "=", ("en", "de")),
        Condition("year", ">=", (2020,)),
        Condition("year", "<", (2024,)),
        Condition("draft", "=", (False,)),
    ]
    with pytest.raises(ConfigError, match="a condition on 'year' is one of = != < <= > >=, got 'gt'"):
        conditions({"year": {"gt": 1}})


def test_values_become_what_the_field_holds() -> None:
    typed = [parse_condition(c) for c in ("lang=en,de", "year>2020", "price=1.5", "draft!=yes", "a.b=x")]
    assert select(typed, KINDS) == Selection(
        must=(
            (Check("fields.lang", any=("en", "de")),),
            (Check("fields.year", bounds=(("gt", 2020.0),)),),
            (Check("fields.price", bounds=(("gte", 1.5), ("lte", 1.5))),),
            (Check('fields."a.b"', any=("x",)),),
        ),
        must_not=(Check("flags.draft", any=("true",)),),
    )


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ({"year": "xyzzy"}, "field 'year' holds integer"),
        ({"year": ["xyzzy", 1]}, "field 'year' holds integer"),
        ({"year": {"xyzzy": 1}}, "a condition is one of = != < <= > >="),
        ({"xyzzy": 1}, "no document has a field of this name to filter by; known are lang"),
        ({"year": {"<": ["xyzzy"]}}, "field 'year' holds integer"),
        ({"lang": "xyzzy \ud800"}, "field 'lang' holds text"),
        ({"lang": {">": "xyzzy"}}, "'lang' holds text, which is compared by = or !="),
        ({"year": {"=": []}}, "the condition on 'year' names no value"),
        ({"year": 2**63}, "field 'year' holds integer"),
        ({"year": None}, "field 'year' holds integer"),
        ({"year": {"=": {"xyzzy": 1}}}, "field 'year' holds integer"),
        ({"price": [[1]]}, "field 'price' holds number"),
        ({"draft": {"=": None}}, "field 'draft' holds boolean"),
    ],
)
def test_what_does_not_fit_can_be_said_without_quoting_it(where: dict[str, Any], said: str) -> None:
    with pytest.raises(ConditionError) as raised:
        select(where, KINDS)
    assert said in raised.value.unquoted and "xyzzy" not in raised.value.unquoted


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("langauge=en", r"no document has a field 'langauge' to filter by; known are lang, year, price, draft, a\.b"),
        ("year=two", "field 'year' holds integer, and is compared with 'two': give a integer"),
        ("year=2020.5", "field 'year' holds integer"),
        ("price=nan", "field 'price' holds number"),
        ("draft=maybe", "field 'draft' holds boolean"),
        ("lang>en", "'lang' holds text, which is compared by = or !=, got >"),
        ("extra=1", "'extra' holds objects or mixed lists"),
    ],
)
def test_conditions_that_do_not_fit_the_fields_are_refused(typed: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select([parse_condition(typed)], KINDS)


@pytest.mark.parametrize("where", [{"lang": 3}, {"year": True}, {"lang": []}, {"draft": 1}, {"year": {">": [1, 2]}}])
def test_values_of_another_type_are_refused(where: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        select(where, KINDS)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("a", "text"),
        (1, "integer"),
        (1.0, "number"),
        (True, "boolean"),
        (["a", "b"], "text"),
        ([1, 2.5], "number"),
        ([1, "a"], "other"),
        ([[1]], "other"),
        ({"a": 1}, "other"),
        (2**64, "other"),
        (None, None),
        ([], None),
    ],
)
def test_kinds_of_values(value: object, kind: str | None) -> None:
    assert kind_of(value) == kind


def test_a_field_keeps_its_kind() -> None:
    assert joined_kind("n", "integer", "number", "x:3") == "number"
    assert joined_kind("n", "other", "text", "x:3") == "other"
    with pytest.raises(DataError, match="x:3: field 'n' holds text, in documents before it integer"):
        joined_kind("n", "integer", "text", "x:3")
