"""Near duplicates among vectors: the self-join of `limbeck dedup` against FAISS, `IndexBinaryFlat.range_search`.

    pip install faiss-cpu && python benchmarks/dedup_join.py

One thread on either side, seconds of processor time. The vectors lie about one direction, so that two at random have a
cosine of 0.4, as those of real texts do, and one in twenty is near another. FAISS finds pairs of bits alone, ours takes
the cosines too, and makes groups. Time grows with the square of the number of vectors.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from _harness import alternate, conclude, introduce

from limbeck.dedup import group, read_corpus
from limbeck.dedup.join import radius_of
from limbeck.encoding.reading import Row

DIMS = 384


class Given:
    """A model whose vectors are there already; a text is the number of its row."""

    tasks, dim, max_tokens, truncated = ("text-matching",), DIMS, 1, 0

    def __init__(self, vectors: np.ndarray) -> None:
        """vectors: [N, DIMS]."""
        self.vectors = vectors

    def encode(self, texts: list[str], **_: object) -> np.ndarray:
        """The vectors of rows."""
        return self.vectors[[int(text) for text in texts]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=40_000)
    parser.add_argument("--threshold", type=float, default=0.92)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    what = f"s of processor time, {args.vectors:,} vectors, cosine {args.threshold}, one thread"
    try:
        import faiss
    except ImportError:
        print("dedup_join: nothing to compare with: pip install faiss-cpu")
        return
    introduce("dedup_join", what)
    faiss.omp_set_num_threads(1)
    vectors = vectors_of(args.vectors)
    rows = (Row(str(i), None, "") for i in range(len(vectors)))
    with read_corpus(Given(vectors), rows) as corpus:  # type: ignore[arg-type]
        radius = radius_of(corpus.bits.shape[1] * 8, args.threshold)

        def ours() -> None:
            group(corpus, args.threshold, workers=1)

        def peer() -> None:
            index = faiss.IndexBinaryFlat(corpus.bits.shape[1] * 8)
            index.add(corpus.bits)
            for start in range(0, len(corpus), 4096):  # it holds the pairs of a call
                index.range_search(corpus.bits[start : start + 4096], radius + 1)

        sides = {"limbeck dedup": timed(ours), "FAISS": timed(peer)}
        measured = alternate(sides, rounds=args.rounds, warmup=0)
    one, other = measured.items()
    conclude("dedup_join", ours=one, peer=other, unit="s", better="less")


def timed(run):
    def seconds() -> float:
        start = time.process_time()
        run()
        return time.process_time() - start

    return seconds


def vectors_of(count: int) -> np.ndarray:
    draw = np.random.default_rng(0)
    common = draw.normal(size=DIMS)
    vectors = draw.normal(size=(count, DIMS)) + 0.82 * common
    again = draw.random(count) < 0.05
    vectors[again] = vectors[draw.integers(0, count, again.sum())] + 0.25 * draw.normal(size=(again.sum(), DIMS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
