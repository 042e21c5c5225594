"""A folder of shards: what was made in many goes is what is made in one, and nothing is mixed into it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "model")]  # modules there that are no tests

from counting import CountingEncoder  # noqa: E402
from tiny_adapters import adapted_bundle  # noqa: E402
from tiny_models import WIDTH, save_model, student, wordpiece  # noqa: E402

import limbeck  # noqa: E402
from limbeck import encode_file as encoding  # noqa: E402
from limbeck.encode_file import Settings, Stats, encode_file  # noqa: E402
from limbeck.encoding.reading import find_inputs  # noqa: E402
from limbeck.encoding.shards import Sharding  # noqa: E402
from limbeck.errors import ConfigError, DataError  # noqa: E402
from limbeck.model.router import Router  # noqa: E402

TEXTS = [letter * n for n in range(1, 5) for letter in "abcdefgh"][:23]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_CHUNK", 3)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"t": t, "n": i}) + "\n" for i, t in enumerate(TEXTS)))
    return tmp_path / "in.jsonl"


def encode(
    source: Path, out: Path, encoder: Any = None, *, id: str | None = None, progress: Any = None, **fields: Any
) -> Stats:
    how = {name: fields.pop(name) for name in ("rows", "format", "force") if name in fields}
    return encode_file(
        encoder or CountingEncoder(),
        find_inputs([str(source)], field="t", id=id),
        f"{out}/",
        Settings(**fields),
        sharding=Sharding(**{"rows": 5, **how}),
        progress=progress,
    )


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_shards_hold_all_rows_in_order_and_no_chunk_holds_rows_of_two(source: Path, tmp_path: Path) -> None:
    encoder, told = CountingEncoder(), []
    stats = encode(source, tmp_path / "v", encoder, id="n", progress=told.append)
    names = [f"part-{n:05d}.parquet" for n in range(5)]
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == ["manifest.json", *names]
    tables = [pq.read_table(tmp_path / "v" / name) for name in names]
    assert [len(table) for table in tables] == [5, 5, 5, 5, 3]
    assert [i for table in tables for i in table["id"].to_pylist()] == list(range(23))
    vectors = np.stack([np.array(v, np.float32) for table in tables for v in table["vector"].to_pylist()])
    assert np.array_equal(vectors, CountingEncoder().encode(TEXTS))
    assert [len(call) for call in encoder.calls] == [3, 2] * 4 + [3]
    assert (stats.texts, stats.shards, stats.kept, stats.bytes) == (23, 5, 0, 23 * 32)
    assert sum(told) == 23
    manifest = json.loads((tmp_path / "v" / "manifest.json").read_text())
    assert (manifest["rows"], manifest["shards"], manifest["shard_rows"]) == (23, 5, 5)
    assert (manifest["model"], manifest["dim"], manifest["limbeck"]) == ("counting None", 8, limbeck.__version__)


@pytest.mark.parametrize("form", ["parquet", "arrow", "npy", "npz", "jsonl"])
@pytest.mark.parametrize("left", [(), (0,), (1, 3), (4,), (0, 1, 2, 3, 4)])
def test_only_shards_that_are_absent_are_made_and_all_is_as_in_one_go(
    form: Any, left: tuple[int, ...], source: Path, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"format": form, "precision": "int8" if form == "npz" else "float32"}
    encode(source, tmp_path / "whole", **fields)
    encode(source, tmp_path / "v", **fields)
    manifest = tmp_path / "v" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"rows": None, "shards": None}))
    (tmp_path / "v" / f".part-00002.{form}.abc.tmp").write_bytes(b"torn")
    for number in set(range(5)) - set(left):
        (tmp_path / "v" / f"part-{number:05d}.{form}").unlink()
    encoder, told = CountingEncoder(), []
    stats = encode(source, tmp_path / "v", encoder, progress=told.append, **fields)
    assert [text for call in encoder.calls for text in call] == [t for i, t in enumerate(TEXTS) if i // 5 not in left]
    assert bytes_of(tmp_path / "v") == bytes_of(tmp_path / "whole")
    assert (stats.texts, stats.kept) == (23, sum((5, 5, 5, 5, 3)[n] for n in left))
    assert sum(told) == 23


def test_what_is_finished_is_not_read_again_unless_a_shard_has_gone(source: Path, tmp_path: Path) -> None:
    encode(source, tmp_path / "v")
    whole = bytes_of(tmp_path / "v")
    encoder = CountingEncoder()
    stats = encode(source, tmp_path / "v", encoder)
    assert encoder.calls == []
    assert (stats.texts, stats.kept, stats.texts_per_second) == (23, 23, 0)
    assert str(stats).endswith("(5 shards); 23 of them were there before")
    (tmp_path / "v" / "part-00004.parquet").unlink()
    encode(source, tmp_path / "v", encoder)
    assert encoder.calls == [TEXTS[20:]]
    assert bytes_of(tmp_path / "v") == whole


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"encoder": CountingEncoder("other")}, r"model: counting None there, other None now"),
        ({"dim": 4}, "dim: 8 there, 4 now"),
        ({"role": "query", "precision": "int8"}, "role: document there, query now; precision: float32 there, int8 now"),
        ({"task": {"retrieval": 0.5, "clustering": 0.5}}, "task: None there, retrieval=0.5,clustering=0.5 now"),
        ({"on_long": "error"}, "on_long: truncate there, error now"),
        ({"id": "n"}, "id: None there, n now"),
        ({"rows": 4}, "shard_rows: 5 there, 4 now"),
        ({"format": "arrow"}, "shard_format: parquet there, arrow now"),
        ({"more": '{"t": "x"}'}, r"inputs: in\.jsonl"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_a_folder_made_otherwise_is_refused_until_it_is_forced(
    changed: dict[str, Any], message: str, finished: bool, source: Path, tmp_path: Path
) -> None:
    encode(source, tmp_path / "v")
    if not finished:
        (tmp_path / "v" / "part-00003.parquet").unlink()
    before = bytes_of(tmp_path / "v")
    source.write_text(source.read_text() + changed.get("more", ""))
    changed = {name: value for name, value in changed.items() if name != "more"}
    with pytest.raises(DataError, match=message) as caught:
        encode(source, tmp_path / "v", **changed)
    assert "give another folder, or begin anew with --force, which deletes them" in str(caught.value)
    assert bytes_of(tmp_path / "v") == before
    encode(source, tmp_path / "v", force=True, **changed)
    encode(source, tmp_path / "whole", **changed)
    assert bytes_of(tmp_path / "v") == bytes_of(tmp_path / "whole")


def test_the_same_work_at_another_place_is_the_same_work(source: Path, tmp_path: Path) -> None:
    encode(source, tmp_path / "v")
    (tmp_path / "elsewhere").mkdir()
    source.rename(tmp_path / "elsewhere" / source.name)
    (tmp_path / "v").rename(tmp_path / "moved")
    encoder = CountingEncoder()
    encode(tmp_path / "elsewhere" / source.name, tmp_path / "moved", encoder)
    assert encoder.calls == []


def test_auto_is_settled_by_the_first_texts_also_after_a_kill(source: Path, tmp_path: Path) -> None:
    encode(source, tmp_path / "whole", task="auto")
    encode(source, tmp_path / "v", task="auto")
    (tmp_path / "v" / "part-00003.parquet").unlink()
    encoder = CountingEncoder()
    stats = encode(source, tmp_path / "v", encoder, task="auto")
    assert encoder.routed == [TEXTS[:3]]
    assert stats.task == "clustering=1.0"
    assert bytes_of(tmp_path / "v") == bytes_of(tmp_path / "whole")


def test_files_of_others_are_left_alone(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "v"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    for force in (False, True):
        with pytest.raises(DataError, match=r"v holds other files \(thesis\.tex\): give an empty folder or a new one"):
            encode(source, out, force=force)
    for content, message in (('{"sources": 3}', "is not of vectors that limbeck encoded"), ("{", "is not valid JSON")):
        (out / "manifest.json").write_text(content)
        with pytest.raises(DataError, match=message):
            encode(source, out, force=True)
    assert (out / "thesis.tex").read_text() == "years of work"
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "thesis.tex"]


def test_a_folder_that_another_process_writes_to_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    handle = os.open(tmp_path / "v", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(DataError, match="another process is encoding into"):
        encode(source, tmp_path / "v")
    os.close(handle)
    assert encode(source, tmp_path / "v").texts == 23


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError])
def test_an_interruption_leaves_whole_shards_and_nothing_half_written(
    error: type[BaseException], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = CountingEncoder()
    real = encoder.encode

    def stops(texts: list[str], **options: Any) -> Any:
        if len(encoder.calls) == 3:  # in the midst of the second shard
            raise error
        return real(texts, **options)

    monkeypatch.setattr(encoder, "encode", stops)
    with pytest.raises(error):
        encode(source, tmp_path / "v", encoder)
    assert sorted(path.name for path in (tmp_path / "v").iterdir()) == ["manifest.json", "part-00000.parquet"]
    encode(source, tmp_path / "v")
    encode(source, tmp_path / "whole")
    assert bytes_of(tmp_path / "v") == bytes_of(tmp_path / "whole")


def test_a_text_that_cannot_be_encoded_is_named_by_its_line_also_in_a_later_shard(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"t": t}) for t in [*TEXTS[:12], "\ud800"]))
    with pytest.raises(DataError, match="^line 13 is not valid Unicode$"):
        encode(tmp_path / "in.jsonl", tmp_path / "v")
    with pytest.raises(DataError, match=r"^.*in\.jsonl:13 is not valid Unicode$"):
        encode_file(CountingEncoder(), find_inputs([str(tmp_path / "in.jsonl")] * 2, field="t"), f"{tmp_path}/w/")


def test_shards_need_what_can_be_read_again(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give files, as `find_inputs` finds them"):
        encode_file(CountingEncoder(), ["a"], f"{tmp_path}/v/")
    with pytest.raises(ConfigError, match="a shard has at least 1 row"):
        Sharding(rows=0)
    assert not (tmp_path / "v").exists()


# ------------------------------------------------------------------------------------------------ kill −9

_JOBS = textwrap.dedent(
    """
    import os, signal, sys
    import limbeck
    from limbeck import encode_file as encoding
    from limbeck.encode_file import Settings, encode_file
    from limbeck.encoding.reading import find_inputs
    from limbeck.encoding.shards import Sharding
    import pyarrow.parquet

    bundle, source, whole, killed = sys.argv[1:]
    encoder = limbeck.load(bundle, device="cpu", precision="fp32")
    encoding._CHUNK = 3

    def job(out, last):
        left = [last]
        def event(function):
            def dies(*args, **kwargs):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return function(*args, **kwargs)
            return dies
        os.replace, os.fsync = event(os.replace), event(os.fsync)  # before and after a file gets its name
        encoder.encode = event(encoder.encode)  # in the midst of a shard
        inputs = find_inputs([source], field="t", id="n")
        settings = Settings(task="auto", precision="int8", dim=16)
        encode_file(encoder, inputs, out, settings, sharding=Sharding(rows=5))

    def status(out, last):
        pid = os.fork()  # importing torch takes seconds: one process does it, and a child is killed
        if not pid:
            job(out, last)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    codes = [status(whole, -1)]
    while len(codes) == 1 or codes[-1]:
        codes.append(status(killed, len(codes) - 1))  # each time it lives for one event more
    print(*codes)
    """
)


@pytest.mark.slow
def test_a_job_that_is_killed_again_and_again_ends_with_the_bytes_of_one_that_is_not(
    source: Path, tmp_path: Path
) -> None:
    bert = save_model(tmp_path / "bert", "Bert", wordpiece())
    section = student(init="pruned", pruned={"layers": [0, 2]})
    tasks = ("retrieval", "clustering")
    router = Router(tasks, torch.ones(2, WIDTH), torch.zeros(2))
    bundle = adapted_bundle(tmp_path / "bundle", section, bert, tasks, router=router)
    done = subprocess.run(
        [sys.executable, "-c", _JOBS, str(bundle), str(source), str(tmp_path / "whole"), str(tmp_path / "killed")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    whole, *codes = map(int, done.stdout.split())
    assert whole == 0
    assert len(codes) > 5 and codes == [-signal.SIGKILL] * (len(codes) - 1) + [0]
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    assert len(bytes_of(tmp_path / "whole")) == 6
