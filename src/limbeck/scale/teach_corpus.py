"""A teacher's vectors by many workers: texts without one in parts, a file of vectors for each, and then the store.

    <store>/parts/<digest>.json   texts of a part and their instruction; its name is the digest of its bytes
    <store>/parts/<digest>.npy    their vectors, float16 [N, D]; both are removed when the store has them

The parts are the chunks that one process would have encoded, and they come to the store in the same order: where
workers compute alike, its bytes are the same. Only this process writes to the store. Where it is killed, files of
vectors stay, and the next run makes what is missing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.config import Teacher
from limbeck.errors import DataError, TeacherError
from limbeck.files import atomic_write
from limbeck.folders import held
from limbeck.scale import places
from limbeck.scale.crew import Crew, Done, Shard, Work, sum_of
from limbeck.teacher.backends import TeacherModel, load_teacher
from limbeck.teacher.checks import Progress
from limbeck.teacher.keys import KeyIndex
from limbeck.teacher.store import CHUNK, CHUNK_CHARS, TeacherStore, as_fp16
from limbeck.teacher.taught import Taught

PARTS = "parts"


@dataclass(frozen=True, slots=True)
class TeachJob:
    """What workers do with a part."""

    teacher: Teacher
    fingerprint: str  # of the teacher
    parts: str  # folder that every worker reaches

    def begin(self, device: str | None) -> Work:
        """Make the teacher ready. Raises TeacherError: it is not that of the job."""
        model = load_teacher(self.teacher, device=device)
        if model.fingerprint != self.fingerprint:
            raise TeacherError(
                f"a worker found another teacher in {self.teacher.model} (fingerprint {model.fingerprint}, expected "
                f"{self.fingerprint}): give a folder that is the same on every node, or a hub id with its revision"
            )
        return partial(teach_shard, self, model)


def teach_shard(job: TeachJob, model: TeacherModel, shard: Shard) -> Done:
    """Encode the texts of one part; its file of vectors appears whole. Raises as `TeacherModel.encode`."""
    part = json.loads(Path(shard.source).read_text(encoding="utf-8"))
    texts = part["texts"]
    if Path(job.parts, shard.name).exists():
        return Done(shard.source, texts=len(texts), kept=True)
    truncated, chunked = model.truncated or 0, model.chunked
    vectors = model.encode(texts, instruction=part["instruction"])
    half = as_fp16(vectors, len(texts), dim=model.dim, teacher=model.fingerprint)
    with places.scratch(job.parts) as folder:
        np.save(folder / "vectors.npy", half)
        places.put(folder / "vectors.npy", places.joined(job.parts, shard.name))
    return Done(
        shard.source,
        texts=len(texts),
        truncated=(model.truncated or 0) - truncated,
        chunked=model.chunked - chunked,
        bytes=half.nbytes,
    )


def teach_corpus(
    parts: Iterable[tuple[Taught, Sequence[str], str]],
    crew: Crew,
    *,
    bar: Callable[[int], AbstractContextManager[Progress]] = lambda total: nullcontext(lambda done: None),
    chunk: int = CHUNK,
    chunk_chars: int = CHUNK_CHARS,
) -> Done:
    """Give a vector to every text that has none.

    Args:
        parts: teachers with their stores, texts, instructions, in the order in which one process would teach them.
        crew: who encodes; all of them reach the folders of the stores, and of the teachers.
        bar: called for each teacher with the number of texts to be encoded; gives what is called with the number of
            further ones done.
        chunk: as of `TeacherStore.teach`.
        chunk_chars: likewise.

    Returns:
        How many texts were encoded now, cut, and read in pieces.

    Raises:
        TeacherError: workers failed; what they did is kept.
        StoreError: as `TeacherStore.teach`.
        DataError: as `Crew.run`; another process is at it.
    """
    of_teacher: dict[int, tuple[Taught, list[tuple[Sequence[str], str]]]] = {}
    for taught, texts, instruction in parts:
        of_teacher.setdefault(id(taught), (taught, []))[1].append((texts, instruction))
    results = []
    for taught, asked in of_teacher.values():
        results.append(_teach(taught, asked, crew, bar, chunk, chunk_chars))
    return sum_of(results)


def _teach(
    taught: Taught,
    asked: list[tuple[Sequence[str], str]],
    crew: Crew,
    bar: Callable[[int], AbstractContextManager[Progress]],
    chunk: int,
    chunk_chars: int,
) -> Done:
    store, planned = taught.store, KeyIndex()
    folder = (store.path / PARTS).resolve()  # a worker may have another working folder
    folder.mkdir(exist_ok=True)
    with held(folder) as free:
        if not free:
            raise DataError(f"another process is teaching by way of {folder}: wait for it, or end it")
        shards, total = [], 0
        for texts, instruction in asked:
            for part in store.unknown(texts, instruction, planned, chunk=chunk, chunk_chars=chunk_chars):
                shards.append(_written(folder, part, instruction))
                total += len(part)
        done = Done("")
        if shards:
            with bar(total) as advance:
                done = _through_workers(taught, shards, folder, crew, advance)
        shutil.rmtree(folder, ignore_errors=True)  # with parts of runs whose texts the store has since learnt otherwise
    return done


def _through_workers(taught: Taught, shards: list[Shard], folder: Path, crew: Crew, advance: Progress) -> Done:
    job = TeachJob(_reachable(taught.settings), taught.model.fingerprint, str(folder))
    found: dict[str, Done] = {}
    failed: list[str] = []
    waiting = deque(shards)  # for their turn to come to the store
    try:
        with closing(crew.run(job, shards, here=partial(teach_shard, job, taught.model))) as results:
            for one in results:
                if one.error:
                    failed.append(one.error)
                    continue
                found[one.source] = one
                advance(one.texts)
                while waiting and waiting[0].source in found:
                    _add(taught.store, waiting.popleft(), folder)
    finally:
        places.clear_scratch(str(folder))
    if failed:
        raise TeacherError(
            f"{len(failed):,} of {len(shards):,} parts have no vectors, and those of the others are kept: run the same "
            f"command again, which makes what is missing. The first failed with: {failed[0]}"
        )
    return sum_of(list(found.values()))


def _reachable(settings: Teacher) -> Teacher:
    """The settings with the path of a folder as it is from everywhere."""
    path = Path(settings.model).expanduser()
    if settings.type == "sentence-transformers" and path.is_dir():
        return settings.model_copy(update={"model": str(path.resolve())})
    return settings


def _written(folder: Path, texts: list[str], instruction: str) -> Shard:
    content = json.dumps({"instruction": instruction, "texts": texts}, ensure_ascii=False).encode()
    name = hashlib.sha256(content).hexdigest()[:32]
    path = folder / f"{name}.json"
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    return Shard(str(path), "", f"{name}.npy")


def _add(store: TeacherStore, shard: Shard, folder: Path) -> None:
    part: dict[str, Any] = json.loads(Path(shard.source).read_text(encoding="utf-8"))
    vectors = folder / shard.name
    store.add(part["texts"], part["instruction"], np.load(vectors))
    vectors.unlink(missing_ok=True)
    Path(shard.source).unlink(missing_ok=True)
