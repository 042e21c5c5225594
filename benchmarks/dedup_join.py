"""Near duplicates among vectors: the self-join of `limbeck dedup` against FAISS, `IndexBinaryFlat.range_search`.

    pip install faiss-cpu && python benchmarks/dedup_join.py
    python benchmarks/dedup_join.py --vectors 1000000 --alone    # no FAISS, all cores, and the memory that it takes

One thread on either side, seconds of processor time. The vectors lie about one direction, so that two at random have a
cosine of 0.4, as those of real texts do, and one in twenty is near another. FAISS finds pairs of bits alone, ours takes
the cosines too, and makes groups. Time grows with the square of the number of vectors. They are drawn block by block as
they are read, so that memory is what `limbeck dedup` itself takes, besides Python and its libraries.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from functools import cache, lru_cache

import numpy as np
from _harness import alternate, conclude, introduce

from limbeck.dedup import group, read_corpus
from limbeck.dedup.join import radius_of
from limbeck.encoding.reading import Row
from limbeck.machine import usable_cores

DIMS = 384
BLOCK = 4_096  # vectors that are drawn together


class Given:
    """A model that draws vectors; a text is the number of its row."""

    tasks, dim, max_tokens, truncated = ("text-matching",), DIMS, 1, 0

    def encode(self, texts: list[str], **_: object) -> np.ndarray:
        """The vectors of rows that follow one another."""
        if not texts:
            return np.empty((0, DIMS), np.float32)
        first, last = int(texts[0]), int(texts[-1])
        blocks = range(first // BLOCK, last // BLOCK + 1)
        vectors = np.concatenate([vectors_of(block) for block in blocks])
        return vectors[first - blocks[0] * BLOCK :][: len(texts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=40_000)
    parser.add_argument("--threshold", type=float, default=0.92)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="limbeck's side only, once, on all cores")
    args = parser.parse_args()
    if args.alone:
        alone(args.vectors, args.threshold)
        return
    what = f"s of processor time, {args.vectors:,} vectors, cosine {args.threshold}, one thread"
    try:
        import faiss
    except ImportError:
        print("dedup_join: nothing to compare with: pip install faiss-cpu")
        return
    introduce("dedup_join", what)
    faiss.omp_set_num_threads(1)
    with read_corpus(Given(), rows(args.vectors)) as corpus:  # type: ignore[arg-type]
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


def alone(count: int, threshold: float) -> None:
    """What one run takes."""
    introduce("dedup_join", f"{count:,} vectors of {DIMS} dims, cosine {threshold}, {usable_cores()} threads")
    before = peak()
    start, used = time.perf_counter(), time.process_time()
    with read_corpus(Given(), rows(count)) as corpus:  # type: ignore[arg-type]
        read, read_used = time.perf_counter(), time.process_time()
        groups = group(corpus, threshold)
    print(f"reading   {read - start:,.0f} s, {read_used - used:,.0f} s of processor time")
    wall, processor = time.perf_counter() - read, time.process_time() - read_used
    print(f"joining   {wall:,.0f} s, {processor:,.0f} s of processor time")
    print(f"found     {len(np.unique(groups.kept)):,} of {count:,} texts stay")
    print(f"memory    {peak():,.0f} MiB at most, {before:,.0f} MiB before; the vectors are {count * DIMS / 2**18:,.0f}")


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rows(count: int) -> Iterator[Row]:
    """Texts."""
    return (Row(str(i), None, "") for i in range(count))


@cache
def common() -> np.ndarray:
    """The direction about which all vectors lie."""
    return np.random.default_rng(0).normal(size=DIMS)


@lru_cache(2)
def vectors_of(block: int) -> np.ndarray:
    """Unit vectors [BLOCK, DIMS], one in twenty near another of the block."""
    draw = np.random.default_rng((1, block))
    vectors = draw.normal(size=(BLOCK, DIMS)) + 0.82 * common()
    again = draw.random(BLOCK) < 0.05
    vectors[again] = vectors[draw.integers(0, BLOCK, again.sum())] + 0.25 * draw.normal(size=(again.sum(), DIMS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    main()
