"""Evaluation sets in folders as mteb tasks: `local_data` reads and checks them, mteb scores them.

A task reads its files when mteb asks for its data; what was left out or looks odd is then in `warnings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset, DatasetDict
from mteb._evaluators.retrieval_metrics import evaluate_p_mrr_change  # mteb has no public door to p-MRR
from mteb.abstasks import (
    AbsTaskBitextMining,
    AbsTaskClassification,
    AbsTaskClustering,
    AbsTaskPairClassification,
    AbsTaskRetrieval,
    AbsTaskSTS,
)
from mteb.abstasks.abstask import AbsTask
from mteb.abstasks.task_metadata import TaskMetadata

from limbeck.evaluation.local_data import LocalFolder, read_labels, read_pairs, read_search

_SPLIT = "test"
_MAIN = {  # kind → mteb's type and main metric
    "retrieval": ("Retrieval", "ndcg_at_10"),
    "longdoc": ("Retrieval", "ndcg_at_10"),
    "reranking": ("Reranking", "map_at_1000"),
    "instruction": ("InstructionReranking", "p-MRR"),
    "sts": ("STS", "cosine_spearman"),
    "pairclf": ("PairClassification", "max_ap"),
    "classification": ("Classification", "accuracy"),
    "clustering": ("Clustering", "v_measure"),
    "bitext": ("BitextMining", "f1"),
}


class LocalTask(AbsTask):
    """What the tasks below share: they come from a folder, and mteb fetches nothing."""

    def __init__(self, folder: LocalFolder, name: str) -> None:
        """A task called `name` of the set in `folder`; nothing is read before `load_data`."""
        kind, metric = _MAIN[folder.kind]
        self.folder = folder
        self.warnings: list[str] = []
        self.metadata = TaskMetadata(
            dataset={"path": f"local/{name}", "revision": "local"},
            name=name,
            description=f"The {folder.kind} set {name}.",
            type=kind,  # pyright: ignore[reportArgumentType]  # one of mteb's literals, see _MAIN
            category="t2c" if kind in ("Classification", "Clustering") else "t2t",
            modalities=["text"],
            eval_splits=[_SPLIT],
            eval_langs=["eng-Latn"],  # mteb wants one; `LocalFolder.languages` has the set's own
            main_score=metric,
        )
        super().__init__()

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Read and check the files. Raises DataError."""
        if not self.data_loaded:
            self.dataset, self.warnings = self._read()
            self.data_loaded = True

    def unload_data(self) -> None:
        """Let go of the data; mteb's own would let go of `metadata` too."""
        self.dataset, self.data_loaded = None, False

    def _read(self) -> tuple[Any, list[str]]:
        """The data in mteb's layout, and warnings."""
        raise NotImplementedError


class LocalRetrieval(LocalTask, AbsTaskRetrieval):
    """Kinds retrieval and longdoc; reranking and instruction, where queries have candidates."""

    changed: dict[str, list[str]]

    def _read(self) -> tuple[Any, list[str]]:
        found = read_search(self.folder)
        self.changed = found.changed
        queries = {"id": list(found.queries), "text": list(found.queries.values())}
        if found.instructions:
            queries["instruction"] = list(found.instructions.values())
        titles, texts = zip(*found.documents.values(), strict=True)
        split = {
            "corpus": Dataset.from_dict({"id": list(found.documents), "title": list(titles), "text": list(texts)}),
            "queries": Dataset.from_dict(queries),
            "relevant_docs": found.grades,
            "top_ranked": found.candidates,
        }
        return {"default": {_SPLIT: split}}, found.warnings

    def task_specific_scores(
        self,
        scores: dict[str, dict[str, float]],
        qrels: Any,
        results: dict[str, dict[str, float]],
        hf_split: str,
        hf_subset: str,
    ) -> dict[str, Any]:
        """p-MRR where queries come in pairs."""
        if not self.changed:
            return {}
        return evaluate_p_mrr_change(
            qrels=qrels, results=results, changed_qrels=self.changed, k_values=list(self.k_values)
        )


class LocalSTS(LocalTask, AbsTaskSTS):
    """Kind sts. The range of the scores does not matter: correlations do not see it."""

    def _read(self) -> tuple[Any, list[str]]:
        return _pairs(self.folder, "score")


class LocalPairClassification(LocalTask, AbsTaskPairClassification):
    """Kind pairclf."""

    def _read(self) -> tuple[Any, list[str]]:
        return _pairs(self.folder, "labels")


class LocalBitext(LocalTask, AbsTaskBitextMining):
    """Kind bitext."""

    def _read(self) -> tuple[Any, list[str]]:
        return _pairs(self.folder, None)


class LocalClassification(LocalTask, AbsTaskClassification):
    """Kind classification, with mteb's protocol: 10 logistic regressions, each fitted on 8 texts a label."""

    def _read(self) -> tuple[Any, list[str]]:
        found = read_labels(self.folder, shots=self.samples_per_label)
        parts: Any = {"train": _columns(found.train, "text", "label"), _SPLIT: _columns(found.test, "text", "label")}
        return DatasetDict(parts), found.warnings


class LocalClustering(LocalTask, AbsTaskClustering):
    """Kind clustering, with mteb's protocol, but that all documents are encoded."""

    max_fraction_of_documents_to_embed = None  # mteb's 4% is for its large sets

    def _read(self) -> tuple[Any, list[str]]:
        found = read_labels(self.folder)
        return DatasetDict({_SPLIT: _columns(found.test, "sentences", "labels")}), found.warnings


_CLASSES: dict[str, type[LocalTask]] = {
    "Retrieval": LocalRetrieval,
    "Reranking": LocalRetrieval,
    "InstructionReranking": LocalRetrieval,
    "STS": LocalSTS,
    "PairClassification": LocalPairClassification,
    "BitextMining": LocalBitext,
    "Classification": LocalClassification,
    "Clustering": LocalClustering,
}


def local_task(folder: LocalFolder, name: str | None = None) -> LocalTask:
    """The mteb task of an evaluation set, called as its folder unless told otherwise."""
    kind, _ = _MAIN[folder.kind]
    return _CLASSES[kind](folder, name or folder.name)


def _pairs(folder: LocalFolder, values: str | None) -> tuple[DatasetDict, list[str]]:
    """Pairs in mteb's columns; `values` names that of scores or labels."""
    found = read_pairs(folder)
    columns: dict[str, Sequence[Any]] = {"sentence1": found.left, "sentence2": found.right}
    if values:
        columns[values] = found.values
    return DatasetDict({_SPLIT: Dataset.from_dict(columns)}), found.warnings


def _columns(rows: Sequence[tuple[str, int]], text: str, label: str) -> Dataset:
    return Dataset.from_dict({text: [t for t, _ in rows], label: [number for _, number in rows]})
