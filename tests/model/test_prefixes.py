"""The one table of prefixes."""

from __future__ import annotations

import pytest

from limbeck.errors import ConfigError
from limbeck.model.bundle import BundleSpec
from limbeck.model.prefixes import PREFIXES, ROLES, prefix


def test_only_a_retrieval_query_is_told_apart_from_other_text() -> None:
    assert prefix("query") == "Query: "
    assert {text for pair, text in PREFIXES.items() if pair != ("retrieval", "query")} == {"Document: "}
    assert prefix("document", "clustering") == prefix("document")


def test_an_unknown_role_or_task_is_an_error_that_lists_the_known_ones() -> None:
    for arguments in (("passage",), ("query", "clustering"), ("document", "no-such")):
        with pytest.raises(ConfigError, match="known are retrieval/query, retrieval/document, text-matching/document"):
            prefix(*arguments)


def test_a_bundle_has_the_prefixes_of_the_table_unless_told_otherwise() -> None:
    spec = BundleSpec(name="x", pooling="last", dims=[8], max_tokens=8)
    assert spec.prompts == {role: prefix(role) for role in ROLES}
