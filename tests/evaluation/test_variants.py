"""Variants: what they are called, what adapter encodes what, and that no two share an identity."""

from __future__ import annotations

from itertools import product

import pytest
from evaluation_sets import WordCounts

from limbeck.config import TASKS
from limbeck.errors import ConfigError
from limbeck.evaluation.variants import BASE, Variant, variants_of


def test_every_variant_has_an_identity_of_its_own() -> None:
    one, other = WordCounts(adapters=TASKS), WordCounts("other", adapters=TASKS)
    adapters = ["by-task", BASE, *TASKS, "retrieval=0.7,clustering=0.3"]
    variants = [
        Variant(subject, dim, precision, adapter)
        for subject, dim, precision, adapter in product((one, other), (8, 64), ("float32", "int8", "binary"), adapters)
    ]
    assert len({v.digest for v in variants}) == len(variants)


def test_the_identity_changes_with_any_adapter_that_a_task_may_use_and_with_the_length() -> None:
    class Trained(WordCounts):
        def fingerprint(self, adapter: str | None) -> str:
            return super().fingerprint(adapter) + (" again" if adapter == "clustering" else "")

    before, after = WordCounts(adapters=TASKS), Trained(adapters=TASKS)
    assert Variant(before, 64).identity != Variant(after, 64).identity
    assert Variant(before, 64, adapter="retrieval").identity == Variant(after, 64, adapter="retrieval").identity
    longer = WordCounts(adapters=TASKS)
    longer.max_tokens = 8192
    assert Variant(before, 64).identity != Variant(longer, 64).identity


@pytest.mark.parametrize(
    ("adapter", "retrieval", "clustering"),
    [("by-task", "retrieval", None), (BASE, None, None), ("retrieval", "retrieval", "retrieval")],
)
def test_a_task_goes_to_its_adapter_or_to_the_one_that_was_named(
    adapter: str, retrieval: str | None, clustering: str | None
) -> None:
    variant = Variant(WordCounts(adapters=["retrieval", "text-matching"]), 64, adapter=adapter)
    assert variant.adapter_of("Reranking") == retrieval
    assert variant.adapter_of("Clustering") == clustering  # there is none for it


def test_a_model_without_adapters_is_asked_for_none() -> None:
    assert Variant(WordCounts(), 64, adapter="retrieval").adapter_of("STS") is None


def test_labels_say_only_what_differs_from_the_plain_model() -> None:
    subject = WordCounts("demo", adapters=TASKS)
    assert Variant(subject, 64).label == "demo"
    assert Variant(subject, 32, "binary", "retrieval").label == "demo · retrieval · 32 · binary"


def test_models_of_the_same_name_are_called_as_they_were_asked_for() -> None:
    subjects = [WordCounts("demo", 64), WordCounts("demo", 32), WordCounts("other")]
    found = variants_of(subjects, names=["runs/a/model", "runs/b/model", "other"])
    assert [v.label for v in found] == ["runs/a/model", "runs/b/model", "other"]


def test_every_width_goes_with_every_precision() -> None:
    found = variants_of([WordCounts()], dims=[64, 8], precisions=["float32", "binary"])
    assert [(v.dim, v.precision) for v in found] == [(64, "float32"), (64, "binary"), (8, "float32"), (8, "binary")]


def test_what_a_model_cannot_do_is_refused_before_anything_is_scored() -> None:
    with pytest.raises(ConfigError, match=r"words has 64 dims, and 65 were asked for: ask for 1 … 64"):
        variants_of([WordCounts()], dims=[65])
    with pytest.raises(ConfigError, match=r"cannot be binary at 12 dims, ask for 8"):
        variants_of([WordCounts()], dims=[12], precisions=["binary"])
    with pytest.raises(ConfigError, match="none of the models has adapters, so 'retrieval'"):
        variants_of([WordCounts()], adapter="retrieval")
    with pytest.raises(ConfigError, match="the same model is asked for twice"):
        variants_of([WordCounts(), WordCounts()])


def test_auto_is_refused_since_it_depends_on_how_texts_are_cut_into_calls() -> None:
    with pytest.raises(ConfigError, match="auto routes by the texts of one call"):
        variants_of([WordCounts(adapters=TASKS)], adapter="auto")
