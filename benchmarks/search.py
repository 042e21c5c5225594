r"""Search over vectors: recall, speed, memory and size of limbeck's own search, and of engines others made.

    python benchmarks/search.py                              # 200,000 clustered vectors, and no model
    python benchmarks/search.py --synthetic 1000000          # more than an hour, to build graphs by one core
    python benchmarks/search.py MODEL... --synthetic 0       # documents of the installed Python packages
    python benchmarks/search.py MODEL... --texts FILE... --field text --queries FILE... --query-field title

Every engine is built by one process and searched by another, kept on one core, so that memory, threads and build time
are its own. All of them are asked the same queries, one at a time. In a round each is asked for --seconds, in turn; a
row's ratio is taken to the exact float32 search of the same round, the median over rounds stands first and their range
after it; then the ratio of what each did in a second of CPU, which is the honest one on a busy machine, and the share
of the core that the row had. Recall@10 is of all queries, against exact search over the float32 vectors.

- exact: a matrix product and a partition, in NumPy: what a few lines without any index give.
- float32, int8, bits: `limbeck.nearest` over vectors, codes of one grid, bits. `bits, then int8` or `float16`: the best
  10 × 10 (or 10 × 40) by bits, ordered by finer vectors in a mapped file.
- index: what `limbeck index` makes in a folder (Qdrant Edge, HNSW), at float16, int8 and bits, ordered by float16.
- FAISS IndexBinaryFlat, ordered the same way; usearch HNSW; LanceDB IVF_RQ. They
  are no dependencies of limbeck; one that is not installed is left out. LanceDB searches by one thread for computing,
  and a few for reading that take turns on the same core.

Memory is what a process holds more than after its imports once all queries were asked, allocated and pages of files
apart. Pages of files are the kernel's to take back. Bytes a vector are those of the folder on disk.

Queries without --queries: documents taken out of the texts, of which the first line is asked. With several models,
every table is made for each, and recall is compared with that of the first on the same queries (paired bootstrap). For
what the orthogonal regulariser (GOR) does to bits, the demo with and without it, on the same base; only its retrieval
adapter is trained again:

    limbeck run demo
    cp -r runs/demo runs/no-gor && rm -r runs/no-gor/adapt/retrieval
    limbeck run demo --set out=runs/no-gor --set adapters.retrieval.spread_weight=0 --stop-after bundle
    python benchmarks/search.py runs/no-gor/model runs/demo/model --synthetic 0

The last line is one JSON object, also written to --out. Reads /proc: Linux.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from _engines import EXACT, ONE_THREAD, ROWS, K, Lap, disk_bytes, memory, one_core
from _harness import introduce
from _vectors import clustered, encoded, held_out, read_texts, recalls, shape_of_space, spaced

from limbeck import machine
from limbeck.files import write_json
from limbeck.nearest import top_k

AIMS = {"recall": 0.95, "times": 15.0, "memory": 1 / 8}  # of bits that are rescored: recall@10, QPS and memory
AIMED_AT = ("bits-int8", "bits-float16", "faiss", "index-bits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="bundles that encode the texts")
    parser.add_argument("--texts", nargs="+", default=["python-docs"], help="files, or the corpus python-docs")
    parser.add_argument("--field", default="text", help="of JSON lines: the document")
    parser.add_argument("--queries", nargs="+", default=[], help="files of queries")
    parser.add_argument("--query-field", default="text", help="of JSON lines: the query")
    parser.add_argument("--max-texts", type=int, default=200_000, help="evenly spaced ones if there are more")
    parser.add_argument("--max-queries", type=int, default=1000)
    parser.add_argument("--max-tokens", type=int, default=None, help="where texts are cut (default: the model's limit)")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--synthetic", type=int, default=200_000, help="clustered vectors; 0 = leave them out")
    parser.add_argument("--synthetic-queries", type=int, default=200)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--oversampling", type=int, nargs="+", default=[10, 40], help="candidates are K times so many")
    parser.add_argument("--rounds", type=int, default=5, help="0 = only recall and sizes")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a row is asked for in a round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/search-vectors"), help="vectors of texts are kept here"
    )
    parser.add_argument("--folder", type=Path, help="where indexes are built (default: a temporary folder)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", choices=PARTS, help="what the processes of one engine are started with")
    parser.add_argument("--row", choices=ROWS)
    args = parser.parse_args()
    if args.part:
        PARTS[args.part](args)
        return
    rows = [EXACT, *(name for name in args.rows if name != EXACT and not ROWS[name].missing())]
    packages = dict.fromkeys(name for row in rows for name in ROWS[row].install.split())
    introduce("search", f"recall@{K} and queries/s on one core, {args.dim} dims", [p for p in packages if _has(p)])
    for name in args.rows:
        if ROWS[name].missing():
            print(f"{name}: left out; pip install {ROWS[name].install}")
    tables = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        if args.synthetic:
            tables.append(table_of_clusters(args, rows, Path(folder) / "clusters"))
        if args.models:
            corpus = read_corpus(args)
            for number, model in enumerate(args.models):
                tables.append(table_of_model(args, rows, model, corpus, Path(folder) / f"model-{number}"))
    result: dict[str, Any] = {"benchmark": "search", "machine": str(machine.describe()), "dims": args.dim}
    result["versions"] = {name: version(name) for name in ("numpy", *packages) if _has(name)}
    result["tables"] = [table.body for table in tables]
    of_models = [table for table in tables if table.model]
    if len(of_models) > 1:
        result["compared"] = compare(of_models)
    if args.out:
        write_json(args.out, result)
    print(json.dumps(result))


def _has(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


# -- tables ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Table:
    """One set of vectors, every row measured on it."""

    model: str | None
    body: dict[str, Any]
    recalls: dict[str, np.ndarray]  # line of the table → of each query


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts to encode."""

    name: str
    documents: list[str]
    queries: list[str]


def read_corpus(args: argparse.Namespace) -> Corpus:
    if args.texts == ["python-docs"]:
        from limbeck.search.corpus import load_corpus

        texts = load_corpus("python-docs", cache_dir=args.cache).documents
        texts = spaced(list(dict.fromkeys(texts)), args.max_texts)
    else:
        texts = read_texts(args.texts, args.field, args.max_texts)
    name = ", ".join(Path(file).name for file in args.texts)
    if args.queries:
        return Corpus(name, texts, read_texts(args.queries, args.query_field, args.max_queries))
    queries, documents = held_out(texts, min(args.max_queries, len(texts) // 10))
    return Corpus(name, documents, queries)


def table_of_clusters(args: argparse.Namespace, rows: Sequence[str], folder: Path) -> Table:
    folder.mkdir()
    vectors = clustered(folder, args.synthetic, args.synthetic_queries, args.dim, args.seed)
    return table(args, rows, "clusters", None, vectors, np.load(folder / "queries.npy"), folder)


def table_of_model(args: argparse.Namespace, rows: Sequence[str], model: str, corpus: Corpus, folder: Path) -> Table:
    import limbeck

    folder.mkdir()
    encoder = limbeck.load(model, device="cpu", precision="fp32", max_tokens=args.max_tokens)
    queries = encoded(encoder, corpus.queries, "query", args.dim, args.cache)
    vectors = encoded(encoder, corpus.documents, "document", args.dim, args.cache)
    del encoder
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", queries)
    return table(args, rows, corpus.name, model, vectors, np.asarray(queries), folder)


def table(
    args: argparse.Namespace,
    rows: Sequence[str],
    texts: str,
    model: str | None,
    vectors: np.ndarray,
    queries: np.ndarray,
    folder: Path,
) -> Table:
    """Build, ask and measure all rows on one set of vectors, and print them. Vectors and queries lie in the folder."""
    nearest = top_k(queries, vectors, K)
    space = shape_of_space(vectors, args.seed)
    tenth = float(np.median(nearest.scores[:, -1]))
    print(f"\n== {texts}{f' by {model}' if model else ''}: {len(vectors):,} × {args.dim}, {len(queries):,} queries")
    print(
        f"median cosine of the {K}th neighbour {tenth:.3f}; of random pairs, mean cosine {space['mean_cosine']:.3f}, "
        f"mean square × dims {space['second_moment_times_dims']:.2f} (both 0 and 1 where vectors lie evenly)",
        flush=True,
    )
    built, asked = {}, {}
    try:
        for name in rows:
            built[name] = build(name, folder)
            asked[name] = Asked(name, folder)
            built[name] |= asked[name].opened
        lines = [(name, how) for name in rows for how in ROWS[name].settings(args.oversampling)]
        found = {_key(*line): asked[line[0]].all(line[1]) for line in lines}
        held = {name: one.memory() for name, one in asked.items()}
        rates = measured(asked, lines, args.rounds, args.seconds)
    finally:
        for one in asked.values():
            one.end()
    shares = {key: recalls(ids, queries, vectors, nearest.scores[:, -1]) for key, ids in found.items()}
    body = []
    for name, how in lines:
        key = _key(name, how)
        allocated, files = held[name]
        line: dict[str, Any] = {"row": name, "title": ROWS[name].title, **how, "recall": float(shares[key].mean())}
        line |= built[name] | {"allocated_mib": allocated, "file_pages_mib": files} | summary(rates, key)
        body.append(line | {"bytes_a_vector": line.pop("disk_bytes") / len(vectors)})
    full = vectors.size * 4 / 2**20  # MiB as float32
    show(body, full)
    head = {"texts": texts, "model": model, "vectors": len(vectors), "queries": len(queries), "float32_mib": full}
    return Table(model, head | {"cosine_of_tenth": tenth} | space | {"rows": body}, shares)


def _key(name: str, how: dict[str, Any]) -> str:
    return name + (f" ×{how['oversampling']}" if ROWS[name].oversampled else "")


def summary(rates: dict[str, list[tuple[float, float]]], key: str) -> dict[str, float]:
    """Queries a second, as times that of exact search in the same round, and the cores that it took."""
    if not rates[key]:
        return {}
    rounds = list(zip(rates[key], rates[EXACT], strict=True))
    times = [rate / exact for (rate, _), (exact, _) in rounds]
    by_cpu = [(rate / cores) / (exact / exact_cores) for (rate, cores), (exact, exact_cores) in rounds]
    return {
        "queries_per_s": statistics.median(rate for rate, _ in rates[key]),
        "times_exact": statistics.median(times),
        "times_exact_min": min(times),
        "times_exact_max": max(times),
        "times_exact_by_cpu": statistics.median(by_cpu),
        "cores": statistics.median(cores for _, cores in rates[key]),
    }


def show(lines: Sequence[dict[str, Any]], full: float) -> None:
    print(
        f"{'':<36}{'recall@10':>10}{'queries/s':>11}{'× exact':>9}{'(min … max)':>18}{'by CPU':>8}{'cores':>7}"
        f"{'build s':>9}{'bytes/vec':>11}{'MiB own':>9}{'+ files':>9}{'of f32':>8}"
    )
    for line in lines:
        speed = f"{'':>53}"
        if "times_exact" in line:
            span = f"({line['times_exact_min']:.2f} … {line['times_exact_max']:.2f})"
            speed = f"{line['queries_per_s']:>11,.0f}{line['times_exact']:>9.2f}{span:>18}"
            speed += f"{line['times_exact_by_cpu']:>8.2f}{line['cores']:>7.2f}"
        print(
            f"{_title(line):<36}{line['recall']:>10.3f}{speed}{line['build_s']:>9.1f}{line['bytes_a_vector']:>11,.0f}"
            f"{line['allocated_mib']:>9,.0f}{line['file_pages_mib']:>9,.0f}{line['allocated_mib'] / full:>8.3f}"
        )
    for line in lines:
        if line["row"] in AIMED_AT:
            print(f"aims: {_title(line):<36}{verdict(line, full)}")
    print(f"load {', '.join(f'{x:.2f}' for x in machine.load_average() or ())}", flush=True)


def _title(line: dict[str, Any]) -> str:
    return line["title"] + (f" ×{line['oversampling']}" if ROWS[line["row"]].oversampled else "")


def verdict(line: dict[str, Any], full: float) -> str:
    """Which of the aims a line meets. full: MiB of the vectors as float32."""
    own, files = line["allocated_mib"] / full, line["file_pages_mib"] / full

    def met(what: str, held: bool) -> str:
        return f"{what} {'met' if held else 'NOT met'}"

    said = [met(f"recall@10 ≥ {AIMS['recall']}", line["recall"] >= AIMS["recall"])]
    if "times_exact" in line:
        said.append(met(f"≥ {AIMS['times']:.0f} × exact", line["times_exact"] >= AIMS["times"]))
    said.append(met("memory ≤ 1/8 of float32", own <= AIMS["memory"]))
    said.append(met("with pages of files too", own + files <= AIMS["memory"]))
    return ", ".join(said)


def compare(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Recall of every line by each model less that by the first, on the same queries."""
    from limbeck.evaluation.statistics import paired_bootstrap

    first, *others = tables
    print(f"\n== recall@{K}, against {first.model}; in brackets 95 of 100 bootstraps over queries")
    compared = []
    for key, before in first.recalls.items():
        if key == EXACT:
            continue
        for other in others:
            a, b = ({str(i): float(x) for i, x in enumerate(r)} for r in (other.recalls[key], before))
            found = paired_bootstrap(a, b)
            print(
                f"{key:<24}{before.mean():>8.4f} → {other.recalls[key].mean():.4f} by {other.model}: "
                f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
            )
            compared.append(
                {
                    "row": key,
                    "model": other.model,
                    "against": first.model,
                    "difference": found.difference,
                    "low": found.low,
                    "high": found.high,
                }
            )
    return compared


# -- processes of the engines ------------------------------------------------------------------------------------------


def build(name: str, folder: Path) -> dict[str, Any]:
    """Build a row in a process of its own. Returns seconds, seconds of CPU, and bytes on disk."""
    done = subprocess.run(_command("build", name, folder), stdout=subprocess.PIPE, text=True, env=_environment())
    if done.returncode:
        raise SystemExit(f"{name} could not be built: its process ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def build_part(args: argparse.Namespace) -> None:
    one_core()
    row, folder = ROWS[args.row], args.folder / args.row
    folder.mkdir()
    _import(row.needs)
    vectors = np.load(args.folder / "vectors.npy", mmap_mode="r")
    clock = Lap()
    row.engine.build(vectors, folder)
    wall, cpu = clock.lap()
    print(json.dumps({"build_s": wall, "build_cpu_s": cpu, "disk_bytes": disk_bytes(folder)}))


class Asked:
    """A process that has opened one row and answers."""

    def __init__(self, name: str, folder: Path) -> None:
        """Start it, and wait until it is open."""
        self._name = name
        self._process = subprocess.Popen(
            _command("serve", name, folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        self._answers = folder / f"{name}.found.npy"
        self.opened = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name}: its process ended with status {self._process.wait()}")
        return json.loads(line)

    def _ask(self, **what: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def all(self, how: dict[str, Any]) -> np.ndarray:
        """Ids of every query's hits, [Q, K]."""
        self._ask(how=how, save=str(self._answers))
        return np.load(self._answers)

    def rate(self, how: dict[str, Any], seconds: float) -> tuple[float, float]:
        """Queries a second, and seconds of CPU a second."""
        found = self._ask(how=how, seconds=seconds)
        return found["queries"] / found["wall"], found["cpu"] / found["wall"]

    def memory(self) -> tuple[float, float]:
        """MiB that it holds more than after its imports: allocated, pages of files."""
        found = self._ask(memory=True)
        return found["allocated"], found["files"]

    def end(self) -> None:
        """Let it end, and wait."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def measured(
    asked: dict[str, Asked], lines: Sequence[tuple[str, dict[str, Any]]], rounds: int, seconds: float
) -> dict[str, list[tuple[float, float]]]:
    """Rate of every line, once a round; all were asked every query before, which warmed them up."""
    found: dict[str, list[tuple[float, float]]] = {_key(*line): [] for line in lines}
    for _ in range(rounds):
        for name, how in lines:
            found[_key(name, how)].append(asked[name].rate(how, seconds))
    return found


def serve_part(args: argparse.Namespace) -> None:
    one_core()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    row = ROWS[args.row]
    queries = np.load(args.folder / "queries.npy")
    _import(row.needs)
    before = memory()

    def answer(**what: Any) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    clock = Lap()
    engine = row.engine(args.folder / args.row)
    answer(open_s=clock.lap()[0])
    place = 0
    for line in sys.stdin:
        asked = json.loads(line)
        if "memory" in asked:
            now = memory()
            answer(allocated=now[0] - before[0], files=now[1] - before[1])
        elif "save" in asked:
            found = np.full((len(queries), K), -1, np.int64)
            for ids, query in zip(found, queries, strict=True):
                hits = engine.search(query, **asked["how"])
                ids[: len(hits)] = hits
            np.save(asked["save"], found)
            answer(saved=True)
        else:
            count, clock, stop = 0, Lap(), time.perf_counter() + asked["seconds"]
            while time.perf_counter() < stop:
                engine.search(queries[place % len(queries)], **asked["how"])
                place, count = place + 1, count + 1
            wall, cpu = clock.lap()
            answer(queries=count, wall=wall, cpu=cpu)


def _import(module: str | None) -> None:
    if module:
        importlib.import_module(module)


def _command(part: str, name: str, folder: Path) -> list[str]:
    return [sys.executable, __file__, "--part", part, "--row", name, "--folder", str(folder)]


def _environment() -> dict[str, str]:
    return os.environ | ONE_THREAD


PARTS = {"build": build_part, "serve": serve_part}

if __name__ == "__main__":
    main()
