"""Whether Qdrant Edge is fit to hold an index on disk: what kill -9 loses, its size and recall, filters and updates.

    pip install qdrant-edge-py          # 0.9 or later: before it, nothing read the write-ahead log back
    python benchmarks/index_proof.py    # --points 100000 for a quick one

Kill -9: a process adds points, replaces and deletes some, sets payloads and rebuilds the index now and then. It notes
each step in a file of its own, synced to disk, before the call and once the call has returned: acknowledged. At a
random moment it is killed, and the next process opens what is left, never closed cleanly, and compares every point with
what the notes say: its vector and payload to the last bit, nothing lost, nothing deleted come back, nothing extra; then
that exact search, words, and filters find them. The points of the one step that was under way may be as before it or as
after it, nothing else; that step is done again. Every fourth kill is followed by one while the shard is being opened.
All of it twice: acknowledged after `update` and `flush`, and after `update` alone. What a killed process wrote is still
with the system; a machine that loses power may keep only what was synced, and `update` syncs nothing, `flush` all.

Size: unit vectors in clusters of 100, binary quantization, rescoring from float16; built by one process, searched by a
new one whose memory is measured. Recall@10 is against the exact neighbours by float32. A second of CPU is what this
process had of a core; on a busy machine it is the honest one. Reads /proc: Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _engines import Lap, disk_bytes, edge_bits, edge_config, memory
from _harness import introduce
from _vectors import clustered, unit

from limbeck.nearest import top_k

try:
    import qdrant_edge as edge
except ImportError:
    print("index_proof: left out; it needs qdrant-edge-py 0.9 or later: pip install qdrant-edge-py")
    raise SystemExit(0) from None

DIMS = 256
GROUPS = 10  # values of the payload field that filters ask for
BATCH = 200  # points of one step of the kill proof
INDEXES = {"hnsw": 16, "flat": 0}  # edges a point of the graph; 0 = none, the bits of all points are scanned
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000, help="vectors of the size proof; 0 = leave it out")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--index", nargs="+", choices=INDEXES, default=list(INDEXES), help="of the size proof")
    parser.add_argument("--kills", type=int, default=10, help="of each of both modes; 0 = leave them out")
    parser.add_argument("--seconds", type=float, default=4.0, help="longest time between the first write and a kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary one)")
    parser.add_argument("--part", choices=PARTS, help="do one part in this process (what the others are run by)")
    parser.add_argument("--variant", default="", help="of that part")
    args = parser.parse_args()
    if args.part:
        PARTS[args.part](args)
        return
    introduce(
        "index_proof",
        f"{args.kills} times kill -9, then {args.points:,} points × {DIMS}",
        packages=["qdrant-edge-py"],
    )
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        args.folder = Path(folder)
        result = {"benchmark": "index_proof", "behaves": behaves(args.folder / "behaves")}
        if args.kills:
            result |= {f"kept, {mode}": survives(args, mode, args.kills) for mode in ("flush", "no flush")}
            result["control loses points"] = not survives(args, "no log", 2)
        if args.points:
            result |= measure(args)
    print(json.dumps(result))
    failed = [name for name, value in result.items() if value is False]
    if failed:
        raise SystemExit(f"not proven: {', '.join(failed)}")


def config(m: int, ef_construct: int, indexing_kb: int, wal: bool = True) -> edge.EdgeConfig:
    words = {"words": edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)}
    return edge_config(
        DIMS,
        m=m,
        ef_construct=ef_construct,
        indexing_kb=indexing_kb,
        quantization=edge_bits(),
        sparse=words,
        wal=wal,
    )


def nearest(vector: np.ndarray) -> edge.Query:
    return edge.Query.Nearest(vector.tolist(), using="dense")


def in_group(group: int) -> edge.Filter:
    return edge.Filter(must=[edge.FieldCondition("group", match=edge.MatchValue(f"g{group}"))])


# -- what it does with points ------------------------------------------------------------------------------------------


def behaves(folder: Path) -> bool:
    """Small truths of adding, replacing, deleting, filtering and fusing, each printed."""
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((500, DIMS), np.float32))
    bm25 = edge.Bm25()

    def point(i: int, **payload: Any) -> edge.Point:
        words = bm25.embed_document(f"document{i} of the house")
        return edge.Point(i, {"dense": vectors[i].tolist(), "words": words}, {"group": f"g{i % GROUPS}", **payload})

    shard = edge.EdgeShard.create(str(folder), config(16, 64, 100_000))
    update, op = shard.update, edge.UpdateOperation
    update(op.create_field_index("group", edge.PayloadSchemaType.Keyword))
    update(op.upsert_points([point(i, n=i) for i in range(400)]))
    words = edge.Query.Nearest(bm25.embed_query("document7"), using="words")

    def found(**how: Any) -> list[Any]:
        return [hit.id for hit in shard.query(edge.QueryRequest(limit=K, **how))]

    def one(i: int) -> Any:
        return next(iter(shard.retrieve([i], with_payload=True, with_vector=["dense"])), None)

    checks: dict[str, bool] = {}
    checks["a vector comes back as given"] = np.array_equal(_dense(one(7)), vectors[7].astype(np.float16))
    checks["a filter by value holds"] = all(
        i % GROUPS == 3 for i in found(query=nearest(vectors[7]), filter=in_group(3))
    )
    few = edge.Filter(must=[edge.FieldCondition("n", range=edge.RangeFloat(gte=100, lt=104))])
    checks["a filter by range finds all"] = sorted(found(query=nearest(vectors[7]), filter=few)) == [100, 101, 102, 103]
    checks["words find their document"] = found(query=words)[0] == 7
    prefetches = [edge.Prefetch(limit=50, query=nearest(vectors[9])), edge.Prefetch(limit=50, query=words)]
    checks["rank fusion has the best of both first"] = set(
        found(query=edge.Fusion.Rrf(k=60), prefetches=prefetches)[:2]
    ) == {7, 9}
    update(op.upsert_points([edge.Point(7, {"dense": vectors[450].tolist()}, {"other": 1})]))
    checks["an id added again replaces vector and payload"] = one(7).payload == {"other": 1} and np.array_equal(
        _dense(one(7)), vectors[450].astype(np.float16)
    )
    checks["and its words are gone"] = 7 not in found(query=words)
    update(op.delete_points([9, 9_999]))  # the second was never there: no error
    checks["a deleted id is gone"] = one(9) is None and 9 not in found(query=nearest(vectors[9]))
    update(op.delete_points_by_filter(in_group(5)))
    checks["delete by filter"] = shard.count(edge.CountRequest(filter=in_group(5))) == 0
    checks["the count is right"] = shard.count(edge.CountRequest()) == 400 - 1 - 40
    update(op.upsert_points([point(9)]))
    checks["a deleted id can be added again"] = found(query=nearest(vectors[9]))[0] == 9
    shard.close()
    shard = edge.EdgeShard.load(str(folder))
    checks["and all is there after close and load"] = shard.count(edge.CountRequest()) == 400 - 40
    print("\n".join(f"{'ok' if held else 'FAILED':<7} {name}" for name, held in checks.items()))
    before = shard.count(edge.CountRequest())
    bad = [point(490), edge.Point(491, {"dense": [1.0, 2.0]}, {}), point(492)]
    try:
        shard.update(op.upsert_points(bad))
    except Exception as error:  # it raises no narrower class
        applied = shard.count(edge.CountRequest()) - before
        print(f"seen    one point of 2 dims among three raises {error!s}; {applied} of the others stored all the same")
    try:
        shard.update(op.upsert_points([edge.Point(493, {"dense": [float("nan")] * DIMS}, {})]))
        print("seen    a vector of NaN is stored without an error\n", flush=True)
    except Exception as error:
        print(f"seen    a vector of NaN raises {error!s}\n", flush=True)
    shard.close()
    return all(checks.values())


# -- kill -9 -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """What a point should be: row `row` of the vectors of step `step`, and the last step that set its payload."""

    step: int
    row: int
    seen: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One call of the writer: "add", "replace", "set payload", "delete" or "rebuild", and the points it is about."""

    kind: str
    ids: list[int]


State = dict[int, Stored]
ROUND = ("add", "add", "replace", "add", "set payload", "add", "delete", "add", "replace", "delete", "add", "rebuild")


def step_of(number: int, state: State, seed: int) -> Step:
    """The step with this number, given the points before it."""
    kind = ROUND[number % len(ROUND)]
    if kind == "rebuild":
        return Step(kind, [])
    if kind == "add":
        return Step(kind, list(range(number * BATCH, (number + 1) * BATCH)))
    picked = random.Random(f"{seed} {number}").sample(sorted(state), min(BATCH // 2, len(state)))
    return Step(kind, picked)


def after(number: int, step: Step, state: State) -> State:
    """The points once the step is done."""
    if step.kind == "delete":
        gone = set(step.ids)
        return {i: stored for i, stored in state.items() if i not in gone}
    if step.kind == "set payload":
        return state | {i: replace(state[i], seen=number) for i in step.ids}
    return state | {i: Stored(number, row) for row, i in enumerate(step.ids)}


def payload_of(i: int, stored: Stored) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "n": i,
        "step": stored.step,
        "group": f"g{i % GROUPS}",
        "text": f"point{i}v{stored.step}",
    }
    return payload if stored.seen is None else payload | {"seen": stored.seen}


class Vectors:
    """Vectors of the steps, made again from the seed; float16 values, which the shard stores to the bit."""

    def __init__(self, seed: int) -> None:
        """None made yet."""
        self._seed = seed
        self._made: dict[int, np.ndarray] = {}

    def of(self, step: int) -> np.ndarray:
        """Those of one step, [BATCH, DIMS]."""
        if step not in self._made:
            drawn = np.random.default_rng([self._seed, step]).standard_normal((BATCH, DIMS), np.float32)
            self._made[step] = unit(drawn).astype(np.float16)
        return self._made[step]


MODES = {
    "flush": "update and flush",
    "no flush": "update alone",
    "no log": "update alone, and no write-ahead log: a control that must lose points, or this proof sees nothing",
}


def survives(args: argparse.Namespace, mode: str, kills: int) -> bool:
    """Kill the writer again and again; True if every acknowledged step was there each time."""
    folder = args.folder / mode.replace(" ", "-")
    folder.mkdir()
    moments, chance = Counter[str](), random.Random(f"{args.seed} {mode}")
    reports: list[dict[str, Any]] = []
    opening, in_opening = 1.0, 0
    print(f"== kill -9, acknowledged after {MODES[mode]}", flush=True)
    for kill in range(kills):
        child = _start(args, folder, mode)
        report = _report(child)
        reports.append(report)
        opening = report["open_s"]
        time.sleep(chance.uniform(0.1, args.seconds))
        _kill(child)
        moment = _moment(folder)
        moments[moment] += 1
        print(f"kill {kill + 1:>3} {moment:<24} before it: {_line(report)}", flush=True)
        if kill % 4 == 3:
            child = _start(args, folder, mode)
            time.sleep(chance.uniform(0, opening))
            _kill(child)
            in_opening += 1
    for how in ("closed", "after closing"):
        child = _start(args, folder, mode, last=True)
        reports.append(_report(child))
        assert child.wait() == 0, f"{how}: the shard could not be closed"
    print(f"at the end{'':<23} {_line(reports[-1])}")
    wrong = sum(report["wrong"] for report in reports)
    steps, acknowledged = reports[-1]["steps"], reports[-1]["acknowledged"]
    done = f"{acknowledged} steps acknowledged, {steps - acknowledged} cut short"
    print(f"{kills} kills and {in_opening} while opening: {wrong} points wrong; {done}")
    print(f"moments: {', '.join(f'{n} {name}' for name, n in moments.most_common())}")
    print(f"write-ahead log {_megabytes(folder / 'shard' / 'wal'):.0f} MB on disk at the end\n", flush=True)
    shutil.rmtree(folder)
    return wrong == 0


def _start(args: argparse.Namespace, folder: Path, mode: str, last: bool = False) -> subprocess.Popen[str]:
    own = ["--part", "write", "--folder", str(folder), "--variant", f"{mode}{', last' if last else ''}"]
    command = [sys.executable, __file__, "--seed", str(args.seed), *own]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _report(child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise SystemExit(f"the shard could not be opened after a kill: its process ended with {child.wait()}")
    return json.loads(line)


def _kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


def _line(report: dict[str, Any]) -> str:
    parts = [f"{report['acknowledged']} steps acknowledged", f"{report['points']:,} points"]
    parts.append("all as they should be" if not report["wrong"] else f"WRONG: {report['what']}")
    if report["under_way"]:
        parts.append(f"step under way {report['under_way']}")
    return ", ".join([*parts, f"opened in {report['open_s']:.1f} s"])


def _moment(folder: Path) -> str:
    notes = _notes(folder)
    return f"during {notes[-1]['kind']}" if notes and "begin" in notes[-1] else "between two steps"


def _notes(folder: Path) -> list[dict[str, Any]]:
    file = folder / "notes"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def write(args: argparse.Namespace) -> None:
    """What is killed: open, compare all points with the notes, say so, and write on."""
    mode, last = args.variant.removesuffix(", last"), args.variant.endswith(", last")
    state: State = {}
    number, begun = 0, False
    notes = _notes(args.folder)
    for note in notes:
        begun = "begin" in note
        if "done" in note:
            state = after(note["done"], step_of(note["done"], state, args.seed), state)
            number = note["done"] + 1
    vectors = Vectors(args.seed)
    path = args.folder / "shard"
    start = time.perf_counter()
    if path.exists():
        shard = edge.EdgeShard.load(str(path))
    else:
        shard = edge.EdgeShard.create(str(path), config(8, 32, 1_000, wal=mode != "no log"))
        shard.update(edge.UpdateOperation.create_field_index("group", edge.PayloadSchemaType.Keyword))
        shard.flush()
    opened = time.perf_counter() - start
    under_way = step_of(number, state, args.seed) if begun else None
    report = compare(shard, state, number, under_way, vectors)
    steps = sum("begin" in note for note in notes)
    print(json.dumps(report | {"open_s": opened, "steps": steps, "acknowledged": number}), flush=True)
    if last:
        shard.close()
        return
    with (args.folder / "notes").open("a") as file:

        def note(**what: Any) -> None:
            file.write(json.dumps(what) + "\n")
            file.flush()
            os.fsync(file.fileno())

        while True:
            step = step_of(number, state, args.seed)
            note(begin=number, kind=step.kind)
            do(shard, number, step, vectors)
            if mode == "flush":
                shard.flush()
            note(done=number)
            state = after(number, step, state)
            number += 1


def do(shard: edge.EdgeShard, number: int, step: Step, vectors: Vectors) -> None:
    op, bm25 = edge.UpdateOperation, edge.Bm25()
    if step.kind == "rebuild":
        shard.optimize()
    elif step.kind == "delete":
        shard.update(op.delete_points(step.ids))
    elif step.kind == "set payload":
        shard.update(op.set_payload(step.ids, {"seen": number}))
    else:
        points = []
        for row, (i, vector) in enumerate(zip(step.ids, vectors.of(number).tolist(), strict=False)):
            payload = payload_of(i, Stored(number, row))
            points.append(edge.Point(i, {"dense": vector, "words": bm25.embed_document(payload["text"])}, payload))
        shard.update(op.upsert_points(points))


def compare(
    shard: edge.EdgeShard, state: State, number: int, under_way: Step | None, vectors: Vectors
) -> dict[str, Any]:
    """Every point of the shard against the notes.

    Returns "wrong", the number of points that are neither as the acknowledged steps left them nor, in the step under
    way, as that one would; "what" they are; and how much of the step under way is there.
    """
    new = after(number, under_way, state) if under_way else state
    touched = set(under_way.ids) if under_way else set()
    what, seen, done = Counter[str](), dict[int, str](), 0
    for record in read_all(shard):
        old_state, new_state = state.get(record.id), new.get(record.id)
        vector, payload = _dense(record), record.payload

        def is_like(
            stored: Stored | None,
            i: int = record.id,
            vector: np.ndarray = vector,
            payload: dict[str, Any] | None = payload,
        ) -> bool:
            return (
                stored is not None
                and np.array_equal(vector, vectors.of(stored.step)[stored.row])
                and payload == payload_of(i, stored)
            )

        if record.id in seen:
            what["twice there"] += 1
        seen[record.id] = payload["group"]
        if record.id in touched and is_like(new_state):
            done += 1
        elif old_state is None:
            what["not to be there"] += 1
        elif not is_like(old_state):
            what["another vector or payload"] += 1
    must = set(state) - (touched if under_way and under_way.kind == "delete" else set())
    what["lost"] += len(must - set(seen))
    if under_way and under_way.kind == "delete":
        done = len(touched - set(seen))
    what |= find(shard, seen, {i: new.get(i) or state[i] for i in seen if i in state and i not in touched}, vectors)
    amount = "" if not touched else "done" if done == len(touched) else f"done in part ({done})" if done else "not done"
    return {"points": len(seen), "wrong": sum(what.values()), "what": dict(+what), "under_way": amount}


def find(shard: edge.EdgeShard, groups: dict[int, str], settled: State, vectors: Vectors) -> Counter[str]:
    """What is there but not found: by filters, by exact search for its vector, by its words."""
    missed, bm25 = Counter[str](), edge.Bm25()
    for group, expected in Counter(groups.values()).items():
        counted = shard.count(edge.CountRequest(filter=in_group(int(group[1:]))))
        missed["not counted by a filter"] += abs(counted - expected)
    for i in random.Random(0).sample(sorted(settled), min(40, len(settled))):
        stored = settled[i]
        vector = vectors.of(stored.step)[stored.row]
        exact = edge.SearchParams(exact=True)
        hits = shard.query(edge.QueryRequest(limit=1, query=nearest(vector), params=exact))
        missed["not found by its vector"] += not hits or hits[0].id != i
        words = edge.Query.Nearest(bm25.embed_query(payload_of(i, stored)["text"]), using="words")
        hits = shard.query(edge.QueryRequest(limit=1, query=words))
        missed["not found by its words"] += not hits or hits[0].id != i
    return missed


def read_all(shard: edge.EdgeShard) -> Iterator[Any]:
    offset = None
    while True:
        request = edge.ScrollRequest(offset=offset, limit=1000, with_payload=True, with_vector=["dense"])
        records, offset = shard.scroll(request)
        yield from records
        if offset is None:
            return


# -- size, speed and recall --------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict[str, Any]:
    vectors = clustered(args.folder, args.points, args.queries, DIMS, args.seed)
    queries = np.load(args.folder / "queries.npy")
    start = time.perf_counter()
    exact = top_k(queries, vectors, K)
    rate, tenth = len(queries) / (time.perf_counter() - start), np.median(exact.scores[:, -1])
    print(
        f"== {len(vectors):,} × {DIMS} unit vectors in clusters, {len(queries)} queries; median cosine of the 10th "
        f"neighbour {tenth:.2f}; exact float32 by NumPy, all queries at once: {rate:.0f} queries/s"
    )
    np.save(args.folder / "exact.npy", exact.indices)
    np.save(args.folder / "exact_group.npy", top_k(queries, vectors[3::GROUPS], K).indices * GROUPS + 3)
    result: dict[str, Any] = {"points": args.points}
    for name in args.index:
        print(f"-- {name}")
        built = _run(args, "build", name)
        print(f"writing    {built['write_s']:,.0f} s, {built['write_cpu']:,.0f} s of CPU")
        print(f"optimizing {built['optimize_s']:,.0f} s, {built['optimize_cpu']:,.0f} s of CPU", flush=True)
        shard = args.folder / "index"
        print(f"on disk    {_megabytes(shard):,.0f} MB, of it write-ahead log {_megabytes(shard / 'wal'):,.0f} MB")
        searched = _run(args, "search", name)
        print(f"opened in  {searched['open_s']:.2f} s")
        for moment in ("imported", "opened", "searched"):
            print(f"memory     {searched[moment]} once {moment}")
        print(f"{'search':<44} recall@10   queries/s   queries/s of CPU")
        for row in searched["rows"]:
            print(f"{row['how']:<44} {row['recall']:>9.3f} {row['rate']:>11,.0f} {row['rate_cpu']:>18,.0f}")
        result[name] = built | {"rows": searched["rows"], "memory": searched["searched"], "disk_mb": _megabytes(shard)}
        shutil.rmtree(shard)
        print(flush=True)
    return result


def build(args: argparse.Namespace) -> None:
    vectors = np.load(args.folder / "vectors.npy", mmap_mode="r")
    shard = edge.EdgeShard.create(str(args.folder / "index"), config(INDEXES[args.variant], 128, 10_000))
    op = edge.UpdateOperation
    shard.update(op.create_field_index("group", edge.PayloadSchemaType.Keyword))  # before the graph, which heeds it
    clock = Lap()
    for start in range(0, len(vectors), 1000):
        rows = enumerate(vectors[start : start + 1000].tolist(), start)
        shard.update(op.upsert_points([edge.Point(i, {"dense": v}, {"group": f"g{i % GROUPS}"}) for i, v in rows]))
        if start % 10_000 == 9_000:
            shard.flush()  # also lets the write-ahead log go
    shard.flush()
    wrote = clock.lap()
    shard.optimize()
    shard.flush()
    optimized = clock.lap()
    assert shard.count(edge.CountRequest()) == len(vectors)
    shard.close()
    print(
        json.dumps(
            {"write_s": wrote[0], "write_cpu": wrote[1], "optimize_s": optimized[0], "optimize_cpu": optimized[1]}
        )
    )


def search(args: argparse.Namespace) -> None:
    queries = np.load(args.folder / "queries.npy")
    exact, exact_group = np.load(args.folder / "exact.npy"), np.load(args.folder / "exact_group.npy")
    held = {"imported": _memory()}
    start = time.perf_counter()
    shard = edge.EdgeShard.load(str(args.folder / "index"))
    opened = time.perf_counter() - start
    held["opened"] = _memory()

    def row(
        how: str, wanted: np.ndarray, filter: edge.Filter | None = None, n: int | None = None, **params: Any
    ) -> Any:
        requests = [
            edge.QueryRequest(limit=K, query=nearest(query), filter=filter, params=edge.SearchParams(**params))
            for query in queries[:n]
        ]
        shard.query(requests[0])
        clock = Lap()
        found = [shard.query(request) for request in requests]
        wall, cpu = clock.lap()
        hits = sum(len({hit.id for hit in f} & set(w.tolist())) for f, w in zip(found, wanted, strict=False))
        rate = len(requests) / wall
        return {"how": how, "recall": hits / len(requests) / K, "rate": rate, "rate_cpu": len(requests) / cpu}

    def rescored(oversampling: float) -> edge.QuantizationSearchParams:
        return edge.QuantizationSearchParams(rescore=True, oversampling=oversampling)

    rows = []
    for ef in (64, 200) if INDEXES[args.variant] else (None,):
        for over in (1.0, 4.0, 10.0, 20.0):
            how = f"oversampling {over:.0f}" + (f", ef {ef}" if ef else "")
            rows.append(row(how, exact, hnsw_ef=ef, quantization=rescored(over)))
    rows.append(row("a tenth by a filter, oversampling 10", exact_group, in_group(3), quantization=rescored(10.0)))
    held["searched"] = _memory()
    rows.append(row("float16, exact", exact, n=20, exact=True))
    print(json.dumps({"open_s": opened, "rows": rows, **held}))


def _run(args: argparse.Namespace, part: str, variant: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--part", part, "--folder", str(args.folder), "--variant", variant]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{part}, {variant}: ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def _memory() -> str:
    """Resident memory of this process: what it allocated, and pages of files that it maps."""
    allocated, file = memory()
    return f"{allocated + file:,.0f} MiB (of it {file:,.0f} MiB pages of files)"


def _megabytes(folder: Path) -> float:
    """10^6 bytes that the files of a folder take on disk."""
    return disk_bytes(folder) / 1e6


def _dense(record: Any) -> np.ndarray:
    return np.array(record.vector["dense"], np.float32)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {"write": write, "build": build, "search": search}

if __name__ == "__main__":
    main()
