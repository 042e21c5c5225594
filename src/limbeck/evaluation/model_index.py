"""Scores as a model card holds them: the entries of the hub's `model-index`, the way mteb writes them."""

from __future__ import annotations

from huggingface_hub import EvalResult

from limbeck.evaluation.results import ModelResult, TaskResult

_HUB_TASKS = {  # mteb's type of a task → what the hub calls it, as in mteb
    "BitextMining": "translation",
    "Classification": "text-classification",
    "MultilabelClassification": "text-classification",
    "Clustering": "text-classification",
    "PairClassification": "text-classification",
    "Reranking": "text-ranking",
    "Retrieval": "text-retrieval",
    "STS": "sentence-similarity",
    "Summarization": "summarization",
    "InstructionRetrieval": "text-retrieval",
    "InstructionReranking": "text-ranking",
}


def eval_results(result: ModelResult) -> list[EvalResult]:
    """One entry a task, or one for each of its subsets where it has several."""
    return [
        _entry(task, subset, score)
        for task in result.tasks
        for subset, score in (task.subsets or {"default": task.score}).items()
    ]


def _entry(task: TaskResult, subset: str, score: float) -> EvalResult:
    return EvalResult(
        task_type=_HUB_TASKS.get(task.type, "feature-extraction"),
        task_name=task.type,
        dataset_type=task.task,
        dataset_name=task.task if subset == "default" else f"{task.task} ({subset})",
        dataset_config=subset,
        metric_type=task.metric,
        metric_name=task.metric,
        metric_value=round(score, 6),
    )
