from typing import Any

from limbeck.evaluation.columns import columns_of, tasks_of
from limbeck.evaluation.results import parse_evaluation
from limbeck.evaluation.verdicts import Verdict, verdicts

TASK = {"task": "scifact", "type": "Retrieval", "metric": "ndcg_at_10"}


def model(name: str, by_item: dict[str, float], **more: Any) -> dict[str, Any]:
    score = sum(by_item.values()) / max(1, len(by_item))
    tasks = [TASK | {"score": score, "by_item": by_item}]
    return {"model": name, "identity": name, "kind": "bundle", "dim": 8, "tasks": tasks} | more


def judge(*models: dict[str, Any], reference: int | None = None) -> list[Verdict]:
    evaluation = parse_evaluation({"models": list(models)})
    columns = columns_of(evaluation)
    return verdicts(columns, tasks_of(evaluation), None if reference is None else columns[reference])


def queries(n: int, score: float = 0.5) -> dict[str, float]:
    return {f"q{i}": score + 0.3 * (i % 2) for i in range(n)}


def test_a_model_that_is_ahead_on_every_query_by_as_much_beats_the_other_by_that():
    low = queries(1000)
    [found] = judge(model("a", low), model("b", {q: s + 0.125 for q, s in low.items()}))
    assert found.certain and found.sentence == "b beats a by 0.125 [0.125, 0.125], 1,000 queries"
    assert found.interval == "+0.125 [+0.125, +0.125]"


def test_models_that_win_as_often_as_they_lose_cannot_be_told_apart():
    a = queries(400)
    b = {q: s + (0.2 if i % 4 < 2 else -0.2) for i, (q, s) in enumerate(a.items())}
    [found] = judge(model("a", a), model("b", b))
    assert not found.certain and found.paired.low <= 0 <= found.paired.high
    assert found.sentence.startswith("a and b cannot be told apart: 0.000 [−0.0")


def test_queries_that_only_one_model_has_are_left_out_and_counted():
    [found] = judge(model("a", queries(10)), model("b", queries(8, 0.6) | {"elsewhere": 0.0}))
    assert found.paired.n == 8 and found.left_out == 3


def test_seeds_are_averaged_by_query():
    seeds = [model(f"s{i}", queries(20, 0.4 + 0.2 * i), group="s", seed=i) for i in range(2)]
    [found] = judge(model("a", queries(20)), *seeds)
    assert abs(found.paired.difference) < 1e-12 and found.paired.ties + found.paired.wins <= 20


def test_every_pair_is_compared_while_there_are_few_and_the_reference_only_where_it_is_named():
    three = [model(name, queries(10)) for name in "abc"]
    assert [{v.ahead, v.behind} for v in judge(*three)] == [{"a", "b"}, {"a", "c"}, {"b", "c"}]
    assert [{v.ahead, v.behind} for v in judge(*three, reference=1)] == [{"a", "b"}, {"b", "c"}]
    many = [model(name, queries(10)) for name in "abcde"]
    assert [{v.ahead, v.behind} for v in judge(*many)] == [{"a", x} for x in "bcde"]


def test_a_task_without_scores_by_query_has_no_verdict():
    assert judge(model("a", queries(5)), model("b", {})) == [] == judge(model("a", queries(5)))
