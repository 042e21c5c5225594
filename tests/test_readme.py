"""Every block of the README does what it says: its commands and programs run, in order, in one folder.

A shortened run of the demo stands in for `make demo`; its model is where the README has it. A `limbeck run` in the
README is shortened likewise. Output that is shown is not compared: it is the full run's.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from limbeck.config import TASKS, load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What makes a run take seconds. The result is a real bundle, with a model that has learnt next to nothing.
SHORT = [
    "distill.steps=2",
    "distill.tokens_per_step=512",
    "distill.tokens_per_micro_batch=512",
    "distill.projection_init=random",
    "distill.compile=off",
    "evaluate.queries=5",
    "evaluate.speed_texts=0",
    "static=null",  # the teacher would read each token of its vocabulary
]
FEW_TEXTS = [
    "data.sources.0.packages=[json, argparse]",
    "data.sources.1.packages=[email, unittest]",
    "data.sources.2.packages=[asyncio, logging, http]",
    "data.sources.3.packages=[email, unittest]",
    "data.heldout_fraction=0.3",
]


def short_adapters(*tasks: str) -> list[str]:
    """Settings that make these adapters take a second each."""
    settings = {"steps": 2, "batch_size": 4, "max_tokens": 32}
    found = [f"adapters.{task}.{name}={value}" for task in tasks for name, value in settings.items()]
    return [*found, "adapters.retrieval.also_without_spread=false", "adapters.retrieval.mining.ranks=[1,10]"]


@dataclass(frozen=True)
class Block:
    """A fenced block of the README."""

    line: int  # of its first line
    kind: str  # "python", "bash", "console", "yaml", or "" for a drawing
    name: str  # of the file that it is, for "```yaml my.yaml"
    text: str

    @property
    def script(self) -> str:
        """Commands of a bash or console block."""
        if self.kind == "bash":
            return self.text
        return "".join(line.removeprefix("$ ") + "\n" for line in self.text.splitlines() if line.startswith("$ "))

    def __str__(self) -> str:
        return f"README.md:{self.line}: {self.kind}"


def blocks(text: str) -> Iterator[Block]:
    for match in re.finditer(r"^```(\S*)[ ]*(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(text.count("\n", 0, match.start()) + 2, match[1], match[2], match[3])


def shortened(script: str) -> str:
    """The script with every `limbeck run` made to take seconds."""
    short = " ".join(f"--set {setting}" for setting in [*SHORT, *short_adapters("retrieval", "clustering")])
    return re.sub(r"^(limbeck run [^\n#]*?)( *#.*)?$", rf"\1 {short}", script, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where a reader would be: `limbeck` on the path, nothing from the hub, no home that counts."""
    folder = tmp_path_factory.mktemp("bin")
    for name, arguments in (("python", ""), ("limbeck", "-m limbeck.cli")):
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        command.chmod(0o755)
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    own = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": source, "LIMBECK_DEBUG": "1"}
    return os.environ | own | {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A folder with runs/demo, as `make demo` leaves it, and the reader's own texts."""
    here = tmp_path_factory.mktemp("reader")
    rows = [{"question": f"what is the square of {n}?", "answer": f"{n} times {n} is {n * n}"} for n in range(60)]
    (here / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [word for setting in [*SHORT, *FEW_TEXTS, *short_adapters(*TASKS)] for word in ("--set", setting)]
    subprocess.run(["limbeck", "run", "demo", *settings], cwd=here, env=environment, check=True, timeout=300)
    return here


def test_the_first_screen_has_the_command_that_makes_the_table() -> None:
    first_screen = "\n".join(README.splitlines()[:40])
    assert "make demo" in first_screen
    assert "nDCG@10" in first_screen


@pytest.mark.parametrize("block", [b for b in blocks(README) if b.kind in ("bash", "console")], ids=str)
def test_every_make_target_of_the_readme_exists(block: Block) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in block.script.splitlines():
        if line.startswith("make "):
            assert set(line.partition("#")[0].split()[1:]) <= targets, str(block)


def test_every_block_is_of_a_kind_that_is_run_or_is_a_drawing() -> None:
    for block in blocks(README):
        assert block.kind in ("", "python", "bash", "console", "yaml"), str(block)
        assert block.kind != "yaml" or block.name, f"{block}: say which file it is"
    assert README.count("```") == 2 * len(list(blocks(README)))


def test_every_file_that_the_readme_names_exists() -> None:
    tree = next(block.text for block in blocks(README) if block.text.startswith("src/limbeck/\n"))
    for line in tree.splitlines()[1:]:
        name = line.split()[0]
        assert list((ROOT / "src/limbeck").glob(name)), name
        if name.endswith("/"):
            for module in re.findall(r"\w+\.py", line):
                assert (ROOT / "src/limbeck" / name / module).exists(), f"{name}{module}"
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_a_recipe_of_the_readme_is_valid(tmp_path: Path) -> None:
    for block in blocks(README):
        if block.kind == "yaml":
            (tmp_path / block.name).write_text(block.text)
            load_recipe(tmp_path / block.name)


@pytest.mark.slow
def test_every_block_of_the_readme_runs(folder: Path, environment: dict[str, str]) -> None:
    for block in blocks(README):
        if block.kind == "yaml":
            (folder / block.name).write_text(block.text)
            continue
        if block.kind == "python":
            command = ["python", "-c", block.text]
        elif block.kind in ("bash", "console") and "make " not in block.script:
            command = ["bash", "-euo", "pipefail", "-c", shortened(block.script)]
        else:
            continue
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{block}\n{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_a_run_is_shortened_wherever_it_stands_in_a_script() -> None:
    script = shortened("limbeck plan x\nlimbeck run my.yaml   # a remark\nlimbeck run my.yaml --set a=1\n")
    plain, remarked, changed = script.splitlines()
    assert plain == "limbeck plan x"
    assert re.match(r"limbeck run my\.yaml +--set distill\.steps=2 ", remarked)
    assert changed.startswith("limbeck run my.yaml --set a=1 --set distill.steps=2")
