"""From nothing to the first vector: limbeck and sentence-transformers, each in new processes, in turn.

    python benchmarks/cold_start.py runs/demo/model

Three moments of limbeck: `import limbeck`; that, `limbeck.load` and one vector; and the same by the command line,
`limbeck encode`. The peer imports sentence-transformers, loads the same folder and encodes the same text. The clock
runs from the start of the process until it prints the vector; what it takes to end is not in it. Files are in the page
cache: a warm-up round has read them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from _harness import alternate, conclude, introduce, show

LIMBECK = (
    "import limbeck; model = limbeck.load({model!r}, device='cpu', precision='fp32'); "
    "print(model.encode('a first text', task=model.tasks[0] if model.tasks else None)[0], flush=True)"
)
PEER = (
    "from sentence_transformers import SentenceTransformer; "
    "print(SentenceTransformer({model!r}, device='cpu').encode('a first text')[0], flush=True)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="runs/demo/model")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    introduce("cold_start", "seconds of a new process, until its first vector")
    cli = [sys.executable, "-m", "limbeck.cli", "encode", args.model, "--task", "retrieval"]
    found = alternate(
        {
            "nothing: python -c pass": seconds([sys.executable, "-c", "pass"]),
            "import limbeck": seconds([sys.executable, "-c", "import limbeck"]),
            "limbeck, first vector": seconds([sys.executable, "-c", LIMBECK.format(model=args.model)]),
            "limbeck encode": seconds(cli, "a first text\n"),
            "sentence-transformers, first vector": seconds([sys.executable, "-c", PEER.format(model=args.model)]),
        },
        rounds=args.rounds,
    )
    for name, values in found.items():
        show(name, values, "s")
    print(f"goals: import limbeck under 0.5 s ({_met(found['import limbeck'], 0.5)}), ", end="")
    print(f"first vector under 5 s ({_met(found['limbeck, first vector'], 5)})\n")
    peer = "sentence-transformers, first vector"
    ours = "limbeck, first vector"
    conclude("cold_start", ours=(ours, found[ours]), peer=(peer, found[peer]), unit="s", better="less")


def seconds(command: Sequence[str], given: str = "") -> Callable[[], float]:
    """How long a process takes to its first output, or to its end if it has none."""

    def once() -> float:
        start = time.perf_counter()
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, env=environment, **pipes) as process:
            assert process.stdin and process.stdout
            process.stdin.write(given.encode())
            process.stdin.close()
            process.stdout.read(1)
            found = time.perf_counter() - start
            process.stdout.read()
        assert process.returncode == 0, command
        return found

    return once


def _met(values: Sequence[float], goal: float) -> str:
    return "met" if statistics.median(values) < goal else "not met"


if __name__ == "__main__":
    main()
