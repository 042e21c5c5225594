"""A local Ray of two workers does what one process does, and outlives the death of a worker.

Ray is not part of what tests install: `pip install 'limbeck[scale]'` lets these run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ray = pytest.importorskip("ray")

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "model"), str(HERE.parent / "training")]  # for the modules there that are no tests

from tiny_adapters import adapted_bundle  # noqa: E402
from tiny_models import save_model, student, wordpiece  # noqa: E402
from tiny_run import teacher_folder  # noqa: E402, F401
from tiny_texts import TEACHER_DIM, WORDS  # noqa: E402

import limbeck  # noqa: E402
from limbeck.config import Teacher  # noqa: E402
from limbeck.encode_file import Settings  # noqa: E402
from limbeck.errors import ModelError  # noqa: E402
from limbeck.scale import encode_corpus as module  # noqa: E402
from limbeck.scale import on_ray  # noqa: E402
from limbeck.scale.crew import Crew, Done, Shard  # noqa: E402
from limbeck.scale.encode_corpus import Corpus, CorpusStats, EncodeJob, ModelPlace, encode_corpus  # noqa: E402
from limbeck.scale.teach_corpus import teach_corpus  # noqa: E402
from limbeck.teacher.taught import Taught  # noqa: E402

pytestmark = pytest.mark.slow

TWO = Crew("ray", workers=2)


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    ray.init(address="local", include_dashboard=False, num_cpus=2, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    bert = save_model(folder / "bert", "Bert", wordpiece())
    return adapted_bundle(folder / "model", student(init="pruned", pruned={"layers": [0]}), bert, ("retrieval",))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, letter in enumerate("abcde"):
        rows = [{"t": f"{letter} {WORDS[n]}"} for n in range(number + 2)]
        (folder / f"{letter}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@dataclass(frozen=True)
class Fatal:
    """A job that kills its worker in the midst of one shard, once."""

    job: EncodeJob
    marker: str

    def begin(self, device: str | None) -> Callable[[Shard], Done]:
        work = self.job.begin(device)

        def mortal(shard: Shard) -> Done:
            if shard.name == "c" and not os.path.exists(self.marker):
                half = Path(self.job.corpus.out, ".work-of-the-killed")
                half.mkdir()
                (half / "vectors.parquet").write_bytes(b"half")
                Path(self.marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return work(shard)

        return mortal


def encode(bundle: Path, source: Path, out: Path, crew: Crew) -> CorpusStats:
    encoder = limbeck.load(bundle, device="cpu")
    return encode_corpus(
        encoder, ModelPlace(str(bundle)), Corpus((str(source),), str(out), "t"), Settings(task="retrieval"), crew=crew
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_cluster_makes_the_bytes_that_one_process_makes_and_only_what_is_missing(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    bad = source / "d.jsonl"
    good = bad.read_bytes()
    bad.write_bytes(good + b"\xff\n")
    stats = encode(bundle, source, tmp_path / "v", TWO)
    assert [failure["error"].partition(" (")[0] for failure in stats.failures] == [f"{bad}:6: not UTF-8"]
    assert (stats.files, stats.kept) == (4, 0)
    bad.write_bytes(good)
    assert encode(bundle, source, tmp_path / "v", TWO).kept == 4
    encode(bundle, source, tmp_path / "one", Crew())
    assert tree(tmp_path / "v") == tree(tmp_path / "one")


def test_a_worker_that_dies_is_replaced_and_its_shard_made(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(bundle, source, tmp_path / "one", Crew())
    marker, run = tmp_path / "marker", Crew.run
    monkeypatch.setattr(Crew, "run", lambda self, job, *rest, **how: run(self, Fatal(job, str(marker)), *rest, **how))
    stats = encode(bundle, source, tmp_path / "v", TWO)
    assert marker.exists()
    assert (stats.files, stats.failures) == (5, [])
    assert tree(tmp_path / "v") == tree(tmp_path / "one")


def test_a_cluster_teaches_what_one_process_teaches(
    teacher_folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, draw.integers(1, 12))) for _ in range(40)]
    stores: dict[str, dict[str, bytes]] = {}
    for name in ("one", "many"):
        settings = Teacher(model=str(teacher_folder), dim=TEACHER_DIM, precision="fp32", store=str(tmp_path / name))
        taught = Taught(settings)
        if name == "one":
            taught.store.teach(texts, "query: ", taught.model.encode, chunk=7)
        else:
            assert teach_corpus([(taught, texts, "query: ")], TWO, chunk=7).texts == len(set(texts))
        stores[name] = {file: (taught.store.path / file).read_bytes() for file in ("vectors.f16", "keys.bin")}
    assert stores["one"] == stores["many"]


def test_another_model_or_another_limbeck_on_a_node_is_refused(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        key = module._key
        patch.setattr(module, "_key", lambda *rest: {**key(*rest), "model": "0123456789abcdef"})
        stats = encode(bundle, source, tmp_path / "v", TWO)
    assert len(stats.failures) == 5
    assert "expected 0123456789abcdef): give a folder that is the same on every node" in stats.failures[0]["error"]
    with pytest.raises(ModelError, match=r"a worker has limbeck 0\.1, this is 0\.2: install the same on every node"):
        on_ray._Other("0.1", "0.2").begin(None)
