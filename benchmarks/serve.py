"""`limbeck serve` under load: throughput beside offline `encode` and another server, overload, random requests.

    python benchmarks/serve.py runs/demo/model
    python benchmarks/serve.py runs/demo/model --overload            # 10 minutes more
    python benchmarks/serve.py runs/demo/model --fuzz 10000          # needs: pip install schemathesis
    python benchmarks/serve.py runs/demo/model --peer infinity --peer-python PEER_VENV/bin/python

Texts are docstrings of the standard library and of installed packages, all different. Offline, one process encodes all
of them in one call of `Encoder.encode`, with one adapter. The server is `limbeck serve` on the loopback interface with
the same adapter, and its clients are a process of their own: so many of them, each of which sends its next request when
it has its answer. Sides run in turn, each round all of them, after all were asked for the same vectors. Clients and
server share the cores with the model that offline has them all: what each takes of a core is printed. The second of CPU
is the honest one on a busy machine.

The peer is infinity-emb (`--peer infinity`) in an interpreter of its own, with the same weights as `limbeck export`
writes them, fp32, one process; it puts no prompt before a text, so its clients send it along. It asks for releases of
transformers that do not know every architecture: install it with --no-deps, beside the transformers and
sentence-transformers of this environment (it runs with them) and fastapi<0.116, typer<0.13, click<8.2, uvicorn<0.33,
starlette<0.47, prometheus-fastapi-instrumentator<8.

Overload: twice as many requests a second as were answered to 64 clients, at even distances, whether or not the ones
before were answered. Nothing but 200 and 429 may come; the memory of the server is read each second; afterwards a
single client asks until it is answered as fast as before. Reads /proc: Linux.

Ends with 1 where an overload or random requests met what must not be.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import _load
import numpy as np
from _harness import conclude, introduce, show

TASK = "retrieval"
ROLE = "document"
MEASURED_AT = 64  # clients: where the goals are, and what an overload is twice of
SHARE, AHEAD = 0.9, 1.5  # goals: of offline throughput, and of the peer's
RECOVERY = 1.0  # seconds: goal
GROWTH = 0.05  # share of its memory that a server may grow by during an overload, after its first tenth
STARTING = 180.0  # seconds that a server may take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="runs/demo/model")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64, 256], help="clients")
    parser.add_argument("--texts-per-request", type=int, default=1)
    parser.add_argument("--texts", type=int, default=2000, help="of a round offline, and of the clients in turn")
    parser.add_argument(
        "--chars", type=int, default=400, help="longest text; 0 = as they come, up to the model's limit"
    )
    parser.add_argument("--encoding", choices=("base64", "float"), default="base64", help="of vectors in answers")
    parser.add_argument("--seconds", type=float, default=8.0, help="that a side is measured in a round")
    parser.add_argument("--rounds", type=int, default=3, help="0 = only what else is asked for")
    parser.add_argument("--peer", choices=("infinity",), help="another server beside")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has it")
    parser.add_argument("--overload", action="store_true")
    parser.add_argument("--overload-seconds", type=float, default=600.0)
    parser.add_argument("--fuzz", type=int, default=0, metavar="N", help="random requests by schemathesis")
    parser.add_argument("--serve", default="", help='further options of `limbeck serve`, such as "--window-ms 0"')
    args = parser.parse_args()
    introduce("serve", f"texts a second, {args.texts_per_request} a request, answers as {args.encoding}", _packages())
    failed: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(limbeck_server(args, folder))
        if args.rounds or args.overload:
            clients = stack.enter_context(_process())
            offline = stack.enter_context(_process())
            loaded = offline.submit(load, args.model, args.texts, args.chars).result()
            print(f"texts     {args.texts:,}, {loaded['tokens']:.1f} tokens a text (median {loaded['median']:.0f})")
            print(f"model     {args.model}: {loaded['runtime']}\n", flush=True)
            if args.rounds:
                servers = [ours]
                if args.peer and (peer := _peer(args, folder, loaded["prompt"], stack)):
                    servers.append(peer)
                measure(args, servers, clients, offline, loaded)
            if args.overload:
                failed += overload(args, ours, clients, loaded["texts"])
        if args.fuzz:
            failed += fuzz(args, ours, folder)
    for problem in failed:
        print(f"FAILED: {problem}")
    raise SystemExit(1 if failed else 0)


def _packages() -> list[str]:
    return [name for name in ("fastapi", "uvicorn", "uvloop", "httptools", "schemathesis") if find_spec(name)]


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


@dataclass
class Server:
    """A server that runs, and how it is asked."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    path: str
    prefix: str = ""  # before each text
    also: dict[str, Any] = field(default_factory=dict)  # fields of each request

    def requests(self, texts: list[str], each: int) -> list[bytes]:
        """HTTP requests, ready to be sent, of so many texts each."""
        found = []
        for start in range(0, len(texts) - each + 1, each):
            asked = {"input": [self.prefix + text for text in texts[start : start + each]], **self.also}
            body = json.dumps(asked).encode()
            head = f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            found.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return found

    def vectors(self, texts: list[str]) -> np.ndarray:
        """What it answers, as numbers [N, D]."""
        body = json.dumps({"input": [self.prefix + text for text in texts], **self.also, "encoding_format": "float"})
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{self.path}", body.encode(), headers)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return np.array([each["embedding"] for each in json.load(answer)["data"]], np.float32)

    def cpu(self) -> float:
        """Seconds of CPU that it has had."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss(self) -> float:
        """MiB of memory that it holds."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def started(command: list[str], log: Path, running: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process, and the port that its log names behind the words `running`."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    environment |= {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        until = time.monotonic() + STARTING
        while not (found := re.search(running + r" on http://127\.0\.0\.1:(\d+)", log.read_text(errors="replace"))):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{' '.join(command)} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield process, int(found[1])
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def limbeck_server(args: argparse.Namespace, folder: Path) -> Iterator[Server]:
    """`limbeck serve` of the model."""
    command = [sys.executable, "-m", "limbeck.cli", "serve", args.model, "--port", "0", "--compute", "fp32"]
    with started([*command, *args.serve.split()], folder / "limbeck.log", "running") as (process, port):
        fields = {"encoding_format": args.encoding}
        names = [each["task"] for each in _json(port, "/v1/models")["data"]]
        if f"{TASK}.passage" in names:
            fields["task"] = f"{TASK}.passage"
        yield Server("limbeck serve", process, port, "/v1/embeddings", also=fields)


def _json(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return json.load(answer)


def _peer(args: argparse.Namespace, folder: Path, prompt: str, stack: ExitStack) -> Server | None:
    """infinity-emb with the same weights; None where the interpreter does not have it."""
    has = subprocess.run([args.peer_python, "-c", "import infinity_emb"], capture_output=True, check=False)
    if has.returncode:
        print(f"peer: left out; {args.peer_python} has no infinity-emb: pip install infinity-emb[server,torch]\n")
        return None
    shown = "from importlib.metadata import version as v; print(v('infinity_emb'), v('sentence_transformers'))"
    versions = subprocess.run([args.peer_python, "-c", shown], capture_output=True, text=True, check=True)
    print("peer      infinity-emb {}, sentence-transformers {}\n".format(*versions.stdout.split()[-2:]), flush=True)
    export = [sys.executable, "-m", "limbeck.cli", "export", args.model, "--out", str(folder / "peer")]
    export += ["--format", "sentence-transformers"]
    tasks = json.loads((Path(args.model) / "limbeck.json").read_text()).get("tasks")
    subprocess.run([*export, *(["--task", TASK] if tasks else [])], capture_output=True, check=True)
    command = [args.peer_python, "-c", "from infinity_emb.cli import cli; cli()", "v2", "--model-id"]
    command += [str(folder / "peer"), "--served-model-name", "peer", "--host", "127.0.0.1", "--port", str(_free())]
    command += ["--engine", "torch", "--device", "cpu", "--dtype", "float32", "--no-compile", "--no-bettertransformer"]
    command += ["--no-model-warmup", "--no-lengths-via-tokenize"]  # they call what transformers 5 has no more
    process, port = stack.enter_context(started(command, folder / "peer.log", "running"))
    also = {"model": "peer", "encoding_format": args.encoding}
    return Server("infinity-emb", process, port, "/embeddings", prefix=prompt, also=also)


def _free() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def load(model: str, count: int, chars: int) -> dict[str, Any]:
    """In the offline process: load the model, and say what it reads."""
    global _encoder, _texts
    import limbeck
    from limbeck.config import PythonDocsSource
    from limbeck.data.sources import read_source

    _encoder = limbeck.load(model, device="cpu", precision="fp32")
    source = PythonDocsSource(packages=["numpy", "torch", "transformers"], max_rows=4 * count)
    source = source.model_copy(update={"max_document_chars": chars or 100_000})
    examples: list[Any] = list(read_source(source))
    _texts = [example.document for example in examples][:count]
    prompt = _encoder.chosen(_task(), role=ROLE)[1]
    rows, _ = _encoder.tokenizer.ids(_texts, prefix=prompt, max_tokens=2**30)
    fits = [len(row) <= _encoder.max_tokens for row in rows]  # a server refuses the others
    _texts = [text for text, keep in zip(_texts, fits, strict=True) if keep]
    lengths = [len(row) for row, keep in zip(rows, fits, strict=True) if keep]
    facts = {"tokens": statistics.mean(lengths), "median": statistics.median(lengths)}
    return {"texts": _texts, "prompt": prompt, "runtime": str(_encoder.runtime), **facts}


_encoder: Any = None
_texts: list[str] = []


def _task() -> str | None:
    return TASK if TASK in _encoder.tasks else None


def encode(texts: list[str]) -> np.ndarray:
    """In the offline process: their vectors."""
    return _encoder.encode(texts, task=_task(), role=ROLE)


def encode_for(seconds: float) -> tuple[float, float]:
    """In the offline process: all texts again and again → texts a second, and seconds of CPU a text."""
    done, begin, used = 0, time.perf_counter(), time.process_time()
    while not done or time.perf_counter() - begin < seconds:
        encode(_texts)
        done += len(_texts)
    return done / (time.perf_counter() - begin), (time.process_time() - used) / done


def measure(
    args: argparse.Namespace,
    servers: list[Server],
    clients: ProcessPoolExecutor,
    offline: ProcessPoolExecutor,
    loaded: dict[str, Any],
) -> None:
    """All sides in turn, a round after the other; then what came of it."""
    some = loaded["texts"][:: max(1, len(loaded["texts"]) // 30)]
    exact = offline.submit(encode, some).result()
    for server in servers:
        least = float((server.vectors(some) * exact).sum(axis=1).min())
        assert least > 0.99999, f"{server.name} gives other vectors: cosine {least}"
    requests = {server.name: server.requests(loaded["texts"], args.texts_per_request) for server in servers}
    each = args.texts_per_request
    rates: dict[tuple[str, int], list[float]] = {}
    cpus: dict[tuple[str, int], list[float]] = {}
    latencies: dict[tuple[str, int], list[float]] = {}
    offline_rates: dict[int, list[float]] = {}
    offline_cpu: list[float] = []
    offline.submit(encode_for, 0.0).result()  # warm
    for round_ in range(args.rounds):
        for count in args.concurrency:
            rate, cpu = offline.submit(encode_for, args.seconds).result()
            offline_rates.setdefault(count, []).append(rate)
            offline_cpu.append(cpu)
            for server in servers:
                used = server.cpu()
                warmup = 0.25 * args.seconds if round_ else 0.5 * args.seconds
                found = clients.submit(
                    _load.closed, server.port, requests[server.name], count, args.seconds, warmup
                ).result()
                if set(found.statuses) != {"200"}:
                    raise SystemExit(f"{server.name}, {count} clients: answers were {dict(found.statuses)}")
                key = server.name, count
                rates.setdefault(key, []).append(found.rate * each)
                cpus.setdefault(key, []).append((server.cpu() - used) / (found.all * each))
                latencies.setdefault(key, []).extend(found.latencies)
                cpus.setdefault((f"{server.name}, clients", count), []).append(found.cpu / (found.rate * each))
    print("clients  side                   texts/s  of offline   p50 ms   p95 ms   p99 ms  CPU ms a text (of clients)")
    for count in args.concurrency:
        for server in servers:
            key = server.name, count
            share = statistics.median(r / o for r, o in zip(rates[key], offline_rates[count], strict=True))
            p50, p95, p99 = 1e3 * np.quantile(latencies[key], (0.5, 0.95, 0.99))
            own, theirs = statistics.median(cpus[key]), statistics.median(cpus[f"{server.name}, clients", count])
            print(
                f"{count:>7}  {server.name:<20} {statistics.median(rates[key]):>9,.1f} {share:>10.1%} "
                f"{p50:>9,.1f} {p95:>8,.1f} {p99:>8,.1f} {1e3 * own:>9.3f} ({1e3 * theirs:.3f})"
            )
    every = [rate for found in offline_rates.values() for rate in found]
    show("offline encode", every, "texts/s")
    print(f"{'offline encode, CPU a text':<44} {1e3 * statistics.median(offline_cpu):>12,.4g} ms\n")
    at = MEASURED_AT if MEASURED_AT in args.concurrency else args.concurrency[-1]
    ours = f"{servers[0].name}, {at} clients", rates[servers[0].name, at]
    against = [("offline encode", offline_rates[at], SHARE)]
    against += [(f"{peer.name}, {at} clients", rates[peer.name, at], AHEAD) for peer in servers[1:]]
    for name, values, goal in against:
        ratio = statistics.median(o / p for o, p in zip(ours[1], values, strict=True))
        print(f"goal: {goal:g} x {name.partition(',')[0]} at {at} clients: {'met' if ratio >= goal else 'not met'}")
        also = {"clients": at, "goal": goal, "tokens_a_text": loaded["tokens"]}
        also |= {f"p{p}_ms": 1e3 * float(np.quantile(latencies[servers[0].name, at], p / 100)) for p in (50, 95, 99)}
        conclude("serve", ours=ours, peer=(name, values), unit="texts/s", better="more", also=also)
        print()


def overload(args: argparse.Namespace, server: Server, clients: ProcessPoolExecutor, texts: list[str]) -> list[str]:
    """Twice what it can; then how soon it is as it was. Returns what must not be."""
    requests = server.requests(texts, args.texts_per_request)
    alone = clients.submit(_load.closed, server.port, requests, 1, args.seconds, 1.0).result()
    capacity = clients.submit(_load.closed, server.port, requests, MEASURED_AT, args.seconds, 2.0).result().rate
    normal = float(np.quantile(alone.latencies, 0.99))
    print(
        f"overload: {2 * capacity:,.0f} requests a second for {args.overload_seconds:,.0f} s, twice the capacity; ",
        end="",
    )
    print(f"a lone request took {1e3 * np.median(alone.latencies):.1f} ms, p99 {1e3 * normal:.1f} ms", flush=True)
    with sampled(server.rss) as memory:
        found = clients.submit(
            _load.offered, server.port, requests, 2 * capacity, args.overload_seconds, _CONNECTIONS
        ).result()
        recovered = clients.submit(_load.recovery, server.port, requests[0], max(1.5 * normal, normal + 0.01), 60.0)
        seconds, met = recovered.result()
    p50, p95, p99 = 1e3 * np.quantile(found.latencies or [np.nan], (0.5, 0.95, 0.99))
    statuses = dict(found.statuses)
    print(f"statuses  {statuses}; {found.unsent:,} more were due while all {_CONNECTIONS:,} connections were waiting")
    print(f"answered  {found.rate:,.1f} a second, {found.rate / capacity:.0%} of capacity; ", end="")
    print(f"p50 {p50:,.0f}, p95 {p95:,.0f}, p99 {p99:,.0f} ms; clients took {found.cpu:.0%} of a core")
    if found.refusals:
        print(f"refused   429 after {1e3 * np.median(found.refusals):,.1f} ms (median)")
    kept = np.array(memory[len(memory) // 10 :])
    slope = float(np.polyfit(np.arange(len(kept)) / 60, kept, 1)[0]) if len(kept) > 1 else 0.0
    grown = slope * len(kept) / 60
    print(f"memory    {kept.min():,.1f} to {kept.max():,.1f} MiB, {len(kept)} samples behind the first tenth; ", end="")
    print(f"{slope:+.3f} MiB a minute; each 30 s {', '.join(f'{mib:,.0f}' for mib in memory[::30])}")
    print(
        f"recovery  {found.draining:.2f} s after the last request was due, all that were accepted were answered; ",
        end="",
    )
    print(f"{seconds:.2f} s later a lone client was answered as fast as before")
    failed = []
    if other := {status for status in statuses | dict(met) if status not in ("200", "429")}:
        failed.append(f"overload: answers besides 200 and 429: {sorted(other)}")
    if grown > GROWTH * float(np.median(kept)):
        failed.append(f"overload: memory grew by {grown:,.1f} MiB")
    if (whole := found.draining + seconds) > RECOVERY:
        failed.append(f"overload: recovery took {whole:.2f} s, with {found.draining:.2f} s for what had been accepted")
    result = {
        "benchmark": "serve overload", "seconds": args.overload_seconds, "offered": 2 * capacity, "capacity": capacity,
        "answered": found.rate, "statuses": statuses, "unsent": found.unsent, "rss_min_mib": float(kept.min()),
        "rss_max_mib": float(kept.max()), "rss_mib_a_minute": slope, "draining_seconds": found.draining,
        "recovery_seconds": found.draining + seconds, "p99_ms": p99,
    }  # fmt: skip
    print(json.dumps({name: round(v, 4) if isinstance(v, float) else v for name, v in result.items()}), flush=True)
    return failed


_CONNECTIONS = 900  # of an overload: more than a server takes requests, fewer than a process may usually have files


@contextmanager
def sampled(value: Callable[[], float]) -> Iterator[list[float]]:
    """A list that a value is put into each second."""
    values, stop = [value()], threading.Event()

    def watch() -> None:
        while not stop.wait(1.0):
            values.append(value())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield values
    finally:
        stop.set()
        thread.join()


def fuzz(args: argparse.Namespace, server: Server, folder: Path) -> list[str]:
    """Random requests by what the server says of itself, as its own counters count them. Returns what must not be."""
    if not find_spec("schemathesis"):
        print("fuzz: left out; it needs schemathesis: pip install schemathesis")
        return []
    routes, seed, failed, before = _json(server.port, "/openapi.json")["paths"], 0, [], _answers(server)
    bodies = sum("post" in route for route in routes.values())
    while (sent := sum((_answers(server) - before).values())) < args.fuzz and not failed:
        examples = max(1, min(_EXAMPLES, (args.fuzz - sent) // bodies))
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{server.port}/openapi.json"]
        command += ["--max-examples", str(examples), "--seed", str(seed), "--checks", ",".join(CHECKS)]
        command += [
            "--phases",
            "examples,coverage,fuzzing",
            "--continue-on-failure",
            "--warnings",
            "off",
            "--request-timeout",
            "60",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        if done.returncode:
            failed.append(f"fuzz: seed {seed}, {examples} examples:\n{done.stdout[-6000:]}{done.stderr[-1000:]}")
        seed += 1
    found = _answers(server) - before
    statuses = Counter({status: 0 for _, status in found})
    for (_, status), number in found.items():
        statuses[status] += number
    by_status = dict(sorted(statuses.items()))
    print(f"fuzz: {sum(found.values()):,} random requests to {len(routes)} paths; statuses {by_status}")
    if wrong := {f"{route} {status}": n for (route, status), n in found.items() if status.startswith(("5", "0"))}:
        failed.append(f"fuzz: the server failed: {wrong}")
    result = {"benchmark": "serve fuzz", "requests": sum(found.values()), "statuses": dict(statuses)}
    print(json.dumps(result | {"failed": len(failed)}), flush=True)
    return failed


_EXAMPLES = 400  # of a path in one go: what was sent before is remembered, so that it does not come twice
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method", "allow_header_conformance",
)  # fmt: skip
"""Of schemathesis. Left out: that all is accepted that fits the description, which does not know the model's width and
tasks; that all is refused which does not, as 0 for false."""


def _answers(server: Server) -> Counter[tuple[str, str]]:
    """How often each route answered with each status, but for those that are asked here."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=60) as answer:
        page = answer.read().decode()
    counted = re.findall(r'^limbeck_requests_total\{route="([^"]*)",status="(\d+)"\} ([\d.e+]+)$', page, re.MULTILINE)
    return Counter(
        {(route, status): int(float(n)) for route, status, n in counted if route not in ("/metrics", "other")}
    )


if __name__ == "__main__":
    main()
