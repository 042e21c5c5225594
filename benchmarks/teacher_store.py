"""Fetching the teacher's vectors of a training batch: limbeck's store against label columns of a Hugging Face dataset.

    python benchmarks/teacher_store.py

A batch is 256 texts at random, a vector 2560 wide (Qwen3-Embedding-4B). Both sides end with a float32 tensor
[256, 2560] and read from a warm cache. The peer is what sentence-transformers documents for `EmbedDistillLoss`,
`dataset.map(lambda batch: {"label": teacher.encode(...).tolist()}, batched=True)`, fetched as its trainer does: rows of
the plain dataset, their labels made a tensor by the collator. Two tuned Arrow columns are measured beside it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch
from _harness import alternate, conclude, introduce, show
from datasets import Dataset, Features, List, Value

from limbeck.teacher.store import TeacherStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--dim", type=int, default=2560)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    introduce(
        "teacher_store",
        f"ms to fetch {args.batch} random rows of {args.rows:,}, {args.dim} wide, as a float32 tensor",
        packages=("datasets", "pyarrow"),
    )
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), args)


def run(folder: Path, args: argparse.Namespace) -> None:
    texts = [f"text {i}" for i in range(args.rows)]
    store = TeacherStore.open(folder, fingerprint="random", dim=args.dim)
    rows = store.teach(texts, "", lambda texts, **_: teacher_encode(texts, args.dim))
    default = Dataset.from_dict({"sentence": texts}).map(
        lambda batch: {"label": teacher_encode(batch["sentence"], args.dim).tolist()},
        batched=True,
        cache_file_name=str(folder / "default.arrow"),
    )
    fp16 = Dataset.from_dict({"sentence": texts}).map(
        lambda batch: {"label": teacher_encode(batch["sentence"], args.dim).astype(np.float16)},
        batched=True,
        cache_file_name=str(folder / "fp16.arrow"),
        features=Features({"sentence": Value("string"), "label": List(Value("float16"), length=args.dim)}),
    )
    default, fp16 = default.select_columns("label"), fp16.select_columns("label")  # the store holds no texts either
    as_torch, fp16_as_numpy = default.with_format("torch"), fp16.with_format("numpy")

    fetch: dict[str, Callable[[list[int]], torch.Tensor]] = {
        "limbeck store": lambda batch: torch.from_numpy(store.gather(rows[batch])).float(),
        "label column, as documented": lambda batch: torch.tensor([r["label"] for r in default.__getitems__(batch)]),
        "  the same with format torch": lambda batch: as_torch[batch]["label"],
        "  fixed-width fp16 with format numpy": lambda batch: torch.from_numpy(
            np.asarray(fp16_as_numpy[batch]["label"])
        ).float(),
    }
    drawn = np.random.default_rng(0)
    some = drawn.integers(0, args.rows, args.batch).tolist()
    for name, side in fetch.items():  # the same work on every side
        torch.testing.assert_close(side(some), fetch["limbeck store"](some), atol=1e-3, rtol=0, msg=name)

    print("bytes a row")
    print(f"{'limbeck store':<44} {store.bytes_per_row:>12,}")
    for name, dataset in (("label column, as documented", default), ("  fixed-width fp16", fp16)):
        print(f"{name:<44} {dataset.data.nbytes / args.rows:>12,.0f}")
    print()

    def timed(side: Callable[[list[int]], torch.Tensor], batches: int) -> Callable[[], float]:
        def measure() -> float:
            """Median milliseconds of a batch."""
            took = []
            for _ in range(batches):
                batch = drawn.integers(0, args.rows, args.batch).tolist()
                start = time.perf_counter()
                side(batch)
                took.append(1000 * (time.perf_counter() - start))
            return float(np.median(took))

        return measure

    sides = {name: timed(side, 100 if name == "limbeck store" else 5) for name, side in fetch.items()}
    measured = alternate(sides, rounds=args.rounds)
    ours, peer, *tuned = measured.items()
    for side in tuned:
        show(*side, "ms")
    conclude("teacher_store", ours=ours, peer=peer, unit="ms", better="less")


def teacher_encode(texts: list[str], dim: int) -> np.ndarray:
    """Unit vectors, float32 [N, dim], drawn from each text: a teacher that costs nothing."""
    vectors = np.stack(
        [np.random.default_rng(int(t.rsplit(" ", 1)[-1])).standard_normal(dim, np.float32) for t in texts]
    )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
