"""Files of texts → files of vectors, one for each, by many workers; on this machine's disks or in object stores.

    vectors/
      manifest.json         what made them: model, task, dims, precision, …
      manifest/a.json       of a.jsonl.gz: its SHA-256, and what was made of it. Written when a.parquet is in its place
      a.parquet             the vectors of a.jsonl.gz: the bytes that `limbeck encode` gives for that file alone

A file whose entry is there, with the digest of the bytes that the input now has, is not made again. Nobody locks
anything: each file has one entry, and two workers that make the same one write the same.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from limbeck import __version__
from limbeck.compress import vector_bytes
from limbeck.encode_file import Progress, Settings, encode_file, task_words
from limbeck.encoding.reading import check_name, find_inputs, read_rows
from limbeck.encoding.writing import Format, format_of
from limbeck.errors import ConfigError, DataError, ModelError
from limbeck.files import sha256_file
from limbeck.model.stream import CHUNK, TextEncoder
from limbeck.scale import places
from limbeck.scale.crew import Crew, Done, Shard, Work

MANIFEST = "manifest.json"
ENTRIES = "manifest"

_HOLDS = "limbeck vectors, a file for each input"
_FORMAT = 1
_SHOWN = 5  # failures in a message


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is read, and where to."""

    sources: tuple[str, ...]  # files and folders, paths or URLs
    out: str  # folder, likewise
    field: str | None = None  # as of `find_inputs`
    id: str | None = None
    format: Format = "parquet"
    force: bool = False  # begin anew where the folder holds other vectors


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """How workers load the model, by `limbeck.load`: a folder that all of them reach, or a hub id."""

    model: str
    backend: str = "torch"
    precision: str = "auto"
    compile: bool = False

    def load(self, device: str | None) -> TextEncoder:
        """Load it."""
        import limbeck

        how: dict[str, Any] = {"backend": self.backend, "precision": self.precision, "compile": self.compile}
        return limbeck.load(self.model, device=device, **how)

    def load_to_ask(self) -> TextEncoder:
        """Load it for its fingerprint, and leave GPUs to the workers."""
        return replace(self, backend="torch", compile=False).load("cpu")


@dataclass(frozen=True, slots=True)
class CorpusStats:
    """What was done."""

    texts: int  # in the output
    files: int
    kept: int  # files that were there before
    numbers: int  # in a row of the output: the dims, or an eighth of them at one bit each
    precision: str
    task: str | None  # as on the command line; of "auto", what it chose
    bytes: int  # of all vectors
    seconds: float  # all of it but loading the model here
    texts_per_second: float  # of those that were encoded now
    out: str
    truncated: int  # texts that were cut, of those that were encoded now, at
    max_tokens: int
    failures: list[dict[str, str]]  # "file" and "error"

    def __str__(self) -> str:
        """One line for people."""
        size = f"{self.bytes / 2**20:.1f} MiB" if self.bytes >= 2**20 else f"{self.bytes:,} bytes"
        task = f" for {self.task}" if self.task else ""
        kept = f"; {self.kept:,} of them were there before" if self.kept else ""
        cut = f"; {self.truncated:,} texts cut at {self.max_tokens:,} tokens" if self.truncated else ""
        speed = f", {self.texts_per_second:,.0f} texts/s" if self.kept < self.files else ""
        return (
            f"{self.texts:,} texts × {self.numbers} {self.precision} ({size}){task} in {self.seconds:.1f} s{speed} → "
            f"{self.out} ({self.files:,} files{kept}){cut}"
        )

    def check(self) -> None:
        """Raise DataError that names files without vectors, if there are any."""
        if not self.failures:
            return
        shown = [f"\n  {failure['error']}" for failure in self.failures[:_SHOWN]]
        more = len(self.failures) - len(shown)
        raise DataError(
            f"{len(self.failures):,} of {self.files + len(self.failures):,} files have no vectors, the others have. "
            f"Mend them and run the same command again, which makes these alone:{''.join(shown)}"
            + (f"\n  and {more:,} more" if more else "")
        )


def encode_corpus(
    encoder: TextEncoder,
    model: ModelPlace,
    corpus: Corpus,
    settings: Settings | None = None,
    *,
    crew: Crew | None = None,
    progress: Progress | None = None,
) -> CorpusStats:
    """Encode each file to one of the same name, but for the ending; those that are there already are passed over.

    A file that cannot be encoded is in `failures`, and the others are made all the same (`CorpusStats.check` raises).

    Args:
        encoder: the model of `model`; with one worker here it encodes, else it is asked for the fingerprint alone.
        model: how workers load it.
        corpus: what to read, and where to.
        settings: how to encode. The task "auto" is settled by the first 16,384 texts of the first file.
        crew: who does it; None = this process.
        progress: called with the number of texts of each file that is done.

    Raises:
        ConfigError: two inputs that would become one output, a format or setting that does not fit, an unknown URL.
        DataError: no such input; the folder holds something else, or vectors made otherwise (and what to do); a worker
            was killed, or file after file failed.
    """
    settings, crew, start = settings or Settings(), crew or Crew(), time.perf_counter()
    if "-" in corpus.sources:
        raise ConfigError("standard input cannot be a shard: write it to a file, or leave workers and URLs out")
    form = format_of(f"*.{corpus.format}", settings.precision, ids=corpus.id is not None)
    found = places.listed(corpus.sources)
    if not found:
        raise ConfigError("there is nothing to read: name files or folders, by paths or URLs")
    shards = _shards(found, corpus)
    places.clear_scratch(corpus.out)
    settings = _settled(encoder, found[0].name, corpus, settings)
    job = EncodeJob(model, corpus, settings, form, _key(encoder, corpus, settings, form))
    _begin(job)
    done, todo = _known(job, shards)
    failures: list[dict[str, str]] = []
    counts: Counter[str] = Counter(texts=sum(one.texts for one in done), files=len(done), kept=len(done))
    if progress and done:
        progress(counts["texts"])
    try:
        with closing(crew.run(job, todo, here=partial(encode_shard, job, encoder))) as results:
            for one in results:
                if one.error:
                    failures.append({"file": one.source, "error": _named(one)})
                    continue
                counts.update(texts=one.texts, files=1, kept=one.kept, truncated=one.truncated)
                counts["now"] += 0 if one.kept else one.texts
                if progress:
                    progress(one.texts)
    finally:
        places.clear_scratch(corpus.out)  # of workers that were stopped
    seconds = time.perf_counter() - start
    dim = _width(encoder, settings)
    return CorpusStats(
        texts=counts["texts"],
        files=counts["files"],
        kept=counts["kept"],
        numbers=dim // 8 if settings.precision.endswith("binary") else dim,
        precision=settings.precision,
        task=task_words(settings.task),
        bytes=counts["texts"] * vector_bytes(dim, settings.precision),
        seconds=round(seconds, 3),
        texts_per_second=round(counts["now"] / seconds, 1),
        out=corpus.out,
        truncated=counts["truncated"],
        max_tokens=encoder.max_tokens,
        failures=failures,
    )


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """What workers do with an input file."""

    model: ModelPlace
    corpus: Corpus
    settings: Settings  # the task is settled
    format: Format
    key: Mapping[str, Any]  # what decides the vectors of a text, and how they are written

    def begin(self, device: str | None) -> Work:
        """Load the model. Raises ModelError: it is not that of the job."""
        encoder = self.model.load(device)
        found = _key(encoder, self.corpus, self.settings, self.format)["model"]
        if found != self.key["model"]:
            raise ModelError(
                f"a worker found another model in {self.model.model} (fingerprint {found}, expected "
                f"{self.key['model']}): give a folder that is the same on every node"
            )
        return partial(encode_shard, self, encoder)

    def target(self, shard: Shard) -> str:
        """Where the vectors go."""
        return places.joined(self.corpus.out, f"{shard.name}.{self.format}")

    def entry(self, shard: Shard) -> str:
        """Where it is told of them."""
        return places.joined(self.corpus.out, f"{ENTRIES}/{shard.name}.json")


def encode_shard(job: EncodeJob, encoder: TextEncoder, shard: Shard) -> Done:
    """Encode one input file: its vectors are put in their place, whole, and then the entry that tells of them.

    Raises DataError as `encode_file`; it names the file.
    """
    with places.scratch(job.corpus.out) as folder:
        path = places.local_copy(shard.source, folder)
        digest = sha256_file(path)
        entry = _read_entry(places.read_bytes(job.entry(shard)))
        whole = entry is not None and places.size_of(job.target(shard)) == entry.get("size")
        if entry and whole and _same(entry, job, digest):
            kept = {**entry, "input": {**entry["input"], "name": shard.source, "stamp": shard.stamp}}
            places.put_json(kept, job.entry(shard), folder)  # the next run need not read the input to know
            return Done(shard.source, texts=entry["texts"], kept=True)
        out = folder / f"vectors.{job.format}"
        try:
            inputs = replace(find_inputs([str(path)], field=job.corpus.field, id=job.corpus.id), of_many=True)
            stats = encode_file(encoder, inputs, str(out), job.settings)
        except (ConfigError, DataError) as error:
            raise DataError(str(error).replace(str(path), shard.source)) from None
        size = out.stat().st_size
        places.put(out, job.target(shard))
        body = {
            "input": {"name": shard.source, "sha256": digest, "stamp": shard.stamp},
            "key": job.key,
            "texts": stats.texts,
            "truncated": stats.truncated,
            "size": size,
            "limbeck": __version__,
            "runtime": f"{encoder.runtime.backend} {encoder.runtime.precision} on {encoder.runtime.device}",
        }
        places.put_json(body, job.entry(shard), folder)
        return Done(shard.source, texts=stats.texts, truncated=stats.truncated, bytes=stats.bytes)


def _shards(found: Sequence[places.Listed], corpus: Corpus) -> list[Shard]:
    names: dict[str, str] = {}
    shards = []
    for file in found:
        check_name(file.name, field=corpus.field, id=corpus.id)
        base = places.base_name(file.name)
        name = Path(base[:-3] if base.lower().endswith(".gz") else base).stem
        if name in names:
            raise ConfigError(
                f"{names[name]} and {file.name} would both become {name}.{corpus.format}: rename one, or encode them "
                "into folders of their own"
            )
        names[name] = file.name
        shards.append(Shard(file.name, file.stamp, name))
    return shards


def _settled(encoder: TextEncoder, first: str, corpus: Corpus, settings: Settings) -> Settings:
    """The settings, checked, and with what "auto" means for the first file."""
    if settings.task == "auto":
        with places.scratch(corpus.out) as folder:
            path = places.local_copy(first, folder)
            rows = read_rows(find_inputs([str(path)], field=corpus.field, id=corpus.id))
            texts = [row.text for row in islice(rows, CHUNK)]
        settings = replace(settings, task=encoder.route(texts, role=settings.role))
    encoder.encode([], **asdict(settings), progress=None)  # for what it raises
    return settings


def _width(encoder: TextEncoder, settings: Settings) -> int:
    return encoder.projection.teacher_dim if settings.space == "teacher" else settings.dim or encoder.dim


def _key(encoder: TextEncoder, corpus: Corpus, settings: Settings, form: Format) -> dict[str, Any]:
    return {
        "model": encoder.fingerprint_of(settings.task, space=settings.space, dim=settings.dim),
        **asdict(settings),
        "task": task_words(settings.task),
        "dim": settings.dim or encoder.dim,
        "format": form,
        "field": corpus.field,
        "id": corpus.id,
    }


def _begin(job: EncodeJob) -> None:
    """Write the folder's manifest, or see that it is of this job."""
    out = job.corpus.out
    path = places.joined(out, MANIFEST)
    known = {"holds": _HOLDS, "version": _FORMAT, **job.key}
    content = places.read_bytes(path)
    found = _read_entry(content)
    if content is None:
        foreign = sorted(places.sizes(out))
        if foreign:
            raise DataError(f"{out} holds other files ({', '.join(foreign[:3])}): give an empty folder or a new one")
    elif found is None or found.get("holds") != _HOLDS:
        raise DataError(f"{path} is not of vectors that limbeck made file by file: give another folder")
    if found == known and not job.corpus.force:
        return
    if found is not None and not job.corpus.force:
        names = dict.fromkeys((*known, *found))
        differs = [f"{n}: {found.get(n)} there, {known.get(n)} now" for n in names if found.get(n) != known.get(n)]
        raise DataError(
            f"{out} holds vectors that were made otherwise ({'; '.join(differs)}): give another folder, or begin anew "
            "with --force, which deletes them"
        )
    if found is not None:
        for name in places.read_folder(places.joined(out, ENTRIES), ".json"):
            places.remove(places.joined(out, f"{ENTRIES}/{name}"))
            places.remove(places.joined(out, f"{name.removesuffix('.json')}.{found.get('format')}"))
    with places.scratch(out) as folder:
        places.put_json(known, path, folder)


def _known(job: EncodeJob, shards: Sequence[Shard]) -> tuple[list[Done], list[Shard]]:
    """Shards that are done, as far as can be told without reading an input; and those to be looked at."""
    entries = places.read_folder(places.joined(job.corpus.out, ENTRIES), ".json")
    sizes = places.sizes(job.corpus.out)
    done, todo = [], []
    for shard in shards:
        entry = _read_entry(entries.get(f"{shard.name}.json"))
        if (
            entry is not None
            and _same(entry, job, None)
            and entry["input"].get("name") == shard.source
            and entry["input"].get("stamp") == shard.stamp
            and sizes.get(f"{shard.name}.{job.format}") == entry.get("size")
        ):
            done.append(Done(shard.source, texts=entry["texts"], kept=True))
        else:
            todo.append(shard)
    return done, todo


def _same(entry: Mapping[str, Any], job: EncodeJob, digest: str | None) -> bool:
    """Whether an entry is of this job and, unless that is not known, of these bytes."""
    return entry.get("key") == job.key and digest in (None, entry["input"].get("sha256"))


def _read_entry(content: bytes | None) -> dict[str, Any] | None:
    """A JSON object; None where there is none, or it is torn."""
    try:
        found = json.loads(content or b"")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _named(done: Done) -> str:
    return done.error if done.source in done.error else f"{done.source}: {done.error}"
