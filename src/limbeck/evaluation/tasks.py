"""Held-out scores of the four tasks, each with the metric that MTEB has for it (arXiv 2210.07316).

What is held out is cut in two parts, by a hash of the text: "test" is what reports show, "dev" picks between
checkpoints. No query, pair or text is in both. Each text is encoded once for a score.  N: texts, D: dims.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from limbeck.compress import FloatArray, truncate
from limbeck.config import Evaluate, Task
from limbeck.data.dedup import normalise, stable_hash
from limbeck.data.prepare import Prepared
from limbeck.data.tables import ExampleTable, Split
from limbeck.errors import DataError
from limbeck.evaluation.heldout import HeldOut, Part, Vectors, retrieval_sets
from limbeck.evaluation.retrieval import evaluate_retrieval

logger = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]

METRICS: dict[Task, str] = {
    "retrieval": "nDCG@10",
    "text-matching": "Spearman",
    "clustering": "V-measure",
    "classification": "accuracy",
}
# At most so much of each source is scored, a stable sample: a task takes a minute on two cores, not ten.
MOST_PAIRS = 2000
MOST_TEXTS = 2000
MOST_LABELS = 100  # of a classification, those with the most held-out texts
DEV_SHARE = 4  # one in so many pairs and texts is dev, the others are test
DRAWS = 5  # classifiers of a source, each fitted on other training texts as far as there are any
CLUSTERING_SEEDS = (0, 1, 2, 3, 4)
CLUSTERING_STARTS = 4  # of each k-means, the best of which counts


class SourceTest(Protocol):
    """What is scored of one source."""

    @property
    def texts(self) -> list[str]:
        """The held-out texts that are scored."""
        ...

    @property
    def counts(self) -> dict[str, int]:
        """How much of what, e.g. {"pairs": 512}."""
        ...

    def score(self, vectors: Vectors) -> float:
        """The task's metric, higher = better."""
        ...


@dataclass(frozen=True)
class TaskSet:
    """The held-out data of one task."""

    task: Task
    metric: str
    sources: dict[str, SourceTest]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Source → how much of what is scored."""
        return {name: test.counts for name, test in self.sources.items()}

    def score(self, vectors: Vectors) -> float:
        """Mean over the sources, each with equal weight.

        Raises DataError when a vector has no direction (NaN, infinity, all zeros).
        """
        return float(np.mean([test.score(vectors) for test in self.sources.values()]))


@dataclass(frozen=True)
class Searches:
    """Queries, each of which has documents that answer it: nDCG@10."""

    held: HeldOut

    @property
    def texts(self) -> list[str]:
        """Queries and documents."""
        return [*self.held.queries, *self.held.documents]

    @property
    def counts(self) -> dict[str, int]:
        """Queries and documents."""
        return {"queries": len(self.held.queries), "documents": len(self.held.documents)}

    def score(self, vectors: Vectors) -> float:
        """Mean nDCG@10 of the queries."""
        queries, documents = vectors("query", self.held.queries), vectors("document", self.held.documents)
        return evaluate_retrieval(queries, documents, self.held.relevant).means()["ndcg_at_10"]


@dataclass(frozen=True)
class GradedPairs:
    """Two texts and how alike they are: Spearman's rank correlation of cosine and grade."""

    texts: list[str]
    left: Ints  # [P] of each pair, its first text
    right: Ints  # [P]
    grades: npt.NDArray[np.float64]  # [P]

    @property
    def counts(self) -> dict[str, int]:
        """Pairs."""
        return {"pairs": len(self.grades)}

    def score(self, vectors: Vectors) -> float:
        """−1 … 1; 0 when all cosines are equal. Both sides are documents: the relation has no direction."""
        from scipy.stats import spearmanr

        z = _directions(vectors("document", self.texts))
        cosines = np.einsum("nd,nd->n", z[self.left], z[self.right])
        if np.ptp(cosines) == 0:
            return 0.0
        correlation: Any = spearmanr(cosines, self.grades)
        return float(np.clip(correlation.statistic, -1, 1))


@dataclass(frozen=True)
class Topics:
    """Texts and the topic of each: V-measure (Rosenberg & Hirschberg 2007) of a k-means told only their number."""

    texts: list[str]
    topics: Ints  # [N] numbers of the labels

    @property
    def counts(self) -> dict[str, int]:
        """Texts and labels."""
        return {"texts": len(self.texts), "labels": len(np.unique(self.topics))}

    def score(self, vectors: Vectors) -> float:
        """Mean over seeds, of k-means on unit vectors."""
        from sklearn.cluster import KMeans  # in the `eval` extra
        from sklearn.metrics import v_measure_score

        z = _directions(vectors("document", self.texts))
        count, starts = len(np.unique(self.topics)), CLUSTERING_STARTS
        scores = []
        for seed in CLUSTERING_SEEDS:
            kmeans = KMeans(count, n_init=starts, random_state=seed)  # type: ignore[arg-type]  # its default is a word
            scores.append(v_measure_score(self.topics, kmeans.fit_predict(z)))
        return float(np.mean(scores))


@dataclass(frozen=True)
class FewShots:
    """Texts and their labels: accuracy of a logistic regression fitted on a few training texts of each label."""

    shots: list[str]  # training texts
    shot_labels: Ints
    draws: list[Ints]  # of each classifier, indices into `shots`
    texts: list[str]  # held out
    labels: Ints  # [N]

    @property
    def counts(self) -> dict[str, int]:
        """Held-out texts, labels, and training texts."""
        return {"texts": len(self.texts), "labels": len(np.unique(self.labels)), "training texts": len(self.shots)}

    def score(self, vectors: Vectors) -> float:
        """Mean accuracy of the classifiers, on unit vectors."""
        from sklearn.linear_model import LogisticRegression  # in the `eval` extra

        z = _directions(vectors("document", [*self.shots, *self.texts]))
        known, asked = z[: len(self.shots)], z[len(self.shots) :]
        right = [
            LogisticRegression(max_iter=1000).fit(known[draw], self.shot_labels[draw]).score(asked, self.labels)
            for draw in self.draws
        ]
        return float(np.mean(right))


def heldout_tasks(prepared: Prepared, settings: Evaluate, *, part: Part) -> dict[Task, TaskSet]:
    """What each task is scored on; a task that the data has no source for is absent.

    - retrieval: sources of pairs or triplets, see `heldout.retrieval_sets`. Dev has the queries beyond the first
      `settings.queries`; where every source has fewer, retrieval has no dev part.
    - text-matching: sources of scored pairs.
    - clustering and classification: sources of labelled texts, those that `settings` names or all. The first label of
      a text counts. Classification leaves out labels with fewer than two training texts or none held out.

    A source with fewer than two grades or labels to tell apart is left out, and the log says so.

    Raises DataError when `settings` names a source that is not there, that has no labels, or (test only) that is left
    out.
    """
    graded = {n: split.heldout for n, split in prepared.sources.items() if split.heldout.kind == "scored_pair"}
    topics = _labelled(prepared, settings.clustering, "clustering")
    classes = _labelled(prepared, settings.classification, "classification")
    tests: dict[Task, Mapping[str, SourceTest | None]] = {
        "retrieval": {h.source: Searches(h) for h in retrieval_sets(prepared, settings.queries, part)},
        "text-matching": {n: _graded(table, part) for n, table in graded.items()},
        "clustering": {n: _topics(split.heldout, part) for n, split in topics.items()},
        "classification": {n: _few_shots(split, settings.shots, part) for n, split in classes.items()},
    }
    named = {"clustering": settings.clustering, "classification": settings.classification}
    found: dict[Task, TaskSet] = {}
    for task, of_task in tests.items():
        if kept := _kept(task, part, named.get(task) is not None, of_task):
            found[task] = TaskSet(task, METRICS[task], kept)
    return found


def _kept(task: Task, part: Part, named: bool, tests: Mapping[str, SourceTest | None]) -> dict[str, SourceTest]:
    for name in (name for name, test in tests.items() if test is None):
        lack = f"source {name!r} has fewer than two grades or labels among its held-out examples ({part} part)"
        if named and part == "test":
            raise DataError(
                f"evaluate.{task}: {lack}: raise data.heldout_fraction or data.heldout_max, or name another source"
            )
        logger.warning("%s: it is not scored for %s", lack, task)
    return {name: test for name, test in tests.items() if test is not None}


def _labelled(prepared: Prepared, named: Sequence[str] | None, setting: str) -> dict[str, Split]:
    """Sources of labelled texts: those named, or all."""
    sources = prepared.sources
    having = [name for name, split in sources.items() if split.heldout.kind == "labelled_text"]
    for name in named or []:
        if name not in having:
            is_what = f"holds {sources[name].heldout.kind} examples, no labels" if name in sources else "is not there"
            raise DataError(
                f"evaluate.{setting} names source {name!r}, which {is_what}: "
                f"name sources of labelled texts, here {', '.join(having) or 'there are none'}"
            )
    return {name: sources[name] for name in (having if named is None else named)}


def _graded(table: ExampleTable, part: Part) -> GradedPairs | None:
    left, right = table.texts("query"), table.texts("document")
    # one key for both orders: the cosine knows none
    keys = ["\n".join(sorted((normalise(a), normalise(b)))) for a, b in zip(left, right, strict=True)]
    rows = _chosen(keys, part)[:MOST_PAIRS]
    if len(np.unique(table.scores[rows])) < 2:
        return None
    place = {text: i for i, text in enumerate(dict.fromkeys(t for r in rows for t in (left[r], right[r])))}
    first, second = (np.array([place[side[r]] for r in rows]) for side in (left, right))
    return GradedPairs(list(place), first, second, table.scores[rows])


def _topics(table: ExampleTable, part: Part) -> Topics | None:
    texts, labels = table.texts("text"), _first_labels(table)
    rows = _chosen(map(normalise, texts), part)[:MOST_TEXTS]
    numbers = _numbers([labels[r] for r in rows])
    return Topics([texts[r] for r in rows], numbers) if len(np.unique(numbers)) > 1 else None


def _few_shots(split: Split, shots: int, part: Part) -> FewShots | None:
    texts, labels = split.heldout.texts("text"), _first_labels(split.heldout)
    by_label: defaultdict[str, list[str]] = defaultdict(list)
    for text, label in zip(split.train.texts("text"), _first_labels(split.train), strict=True):
        by_label[label].append(text)
    rows = [r for r in _chosen(map(normalise, texts), part) if len(by_label[labels[r]]) > 1][:MOST_TEXTS]
    sizes = Counter(labels[r] for r in rows)
    number = {label: n for n, label in enumerate(sorted(sizes, key=lambda label: (-sizes[label], label))[:MOST_LABELS])}
    if len(number) < 2:
        return None
    rows = [r for r in rows if labels[r] in number]
    known: list[str] = []
    known_labels: list[int] = []
    draws: list[list[int]] = [[] for _ in range(DRAWS)]
    most = max(shots, min(DRAWS * shots, MOST_TEXTS // len(number)))
    for label, n in number.items():
        own = sorted(by_label[label], key=stable_hash)[:most]
        for d, draw in enumerate(draws):  # one after the other, from the front again where a label has too few
            draw += [len(known) + (d * shots + i) % len(own) for i in range(min(shots, len(own)))]
        known += own
        known_labels += [n] * len(own)
    return FewShots(
        known,
        np.array(known_labels),
        [np.array(draw) for draw in draws],
        [texts[r] for r in rows],
        np.array([number[labels[r]] for r in rows]),
    )


def _chosen(keys: Iterable[str], part: Part) -> list[int]:
    """Indices of the keys that are of a part, in the order of their hash."""
    # the lowest bits: who is held out was decided by the highest
    hashes = [(stable_hash(key), i) for i, key in enumerate(keys)]
    return [i for digest, i in sorted(hashes) if (digest % DEV_SHARE == 0) == (part == "dev")]


def _first_labels(table: ExampleTable) -> list[str]:
    return [labels[0] for labels in table.labels]


def _numbers(labels: Sequence[str]) -> Ints:
    return np.unique(np.array(labels, dtype=np.str_), return_inverse=True)[1].astype(np.int64)


def _directions(vectors: np.ndarray) -> FloatArray:
    return truncate(vectors, vectors.shape[1])
