"""Queries that a language model writes for documents that have none, each asked for once and kept.

    <cache>/<model>-<hash>.jsonl     the hash is that of all settings that an answer depends on
        {"document": hash of a document, "answer": what the model said, as it came}

A line is appended in one write as soon as its answer is there, so kill −9 costs the requests in flight, and processes
that write at the same time never mix. A line that is torn all the same is left out, and its document asked for again.
Answers are kept as they came and cleaned when they are read: better cleaning needs no further request.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.config import QueryModel
from limbeck.data.corpora.wording import cut
from limbeck.data.dedup import normalise
from limbeck.errors import DataError
from limbeck.http_client import Endpoint

if TYPE_CHECKING:
    from openai import OpenAI

MAX_QUERY_CHARS = 400

logger = logging.getLogger(__name__)

_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.S)  # of reasoning models whose server leaves them in
# A list sign or number, or "Question:", in bold or not: what small models put in front
_LABEL = r"(?:(?:search|user|the) )?(?:question|query|frage|pregunta|вопрос|问题|質問)(?: ?\d+)?"
_LEAD = re.compile(rf"^(?:(?:[-*+•>#]+|\d{{1,2}}[.)])\s+|(?:\*\*)?{_LABEL}(?:\*\*)?\s*[:：](?:\*\*)?\s*)", re.I)
_WRAPPED = re.compile(
    r"(?P<sign>\*\*|[\"'`*_])(?P<same>(?:(?!(?P=sign)).)+)(?P=sign)|[“„«「『‘](?P<pair>[^“”„«»「」『』]+)[”“»」』’]"
)


def write_queries(
    documents: Sequence[str], settings: QueryModel, progress: Callable[[int], None] | None = None
) -> list[str | None]:
    """Have a query written for every document; only those that the cache does not know are asked for, each once.

    Args:
        documents: [N], repeats allowed.
        settings: the model, where it is, what it is asked and where its answers are kept.
        progress: called with the number of further documents done, at once with those already known.

    Returns:
        [N], the query of each document; None where the answer is of no use (empty, over MAX_QUERY_CHARS, or the
        document itself), or the document is blank. Answers of no use are kept too: the same question would bring the
        same answer. They are counted in the log.

    Raises:
        DataError: no key, no connection, a refusal that retries did not cure, a document that is not valid Unicode, or
            a cache that cannot be written. What was answered before is kept: run again to go on.
    """
    endpoint = Endpoint(
        settings,
        role="query writer",
        section="the source's model",
        smaller="lower its max_chars",
        error=DataError,
    )
    cache = cache_file(settings)
    answers = _read(cache)
    keys = [_key(document, i) for i, document in enumerate(documents)]
    unknown = {k: d for k, d in zip(keys, documents, strict=True) if k not in answers and d.strip()}
    copies = Counter(keys)
    report = progress or (lambda _: None)
    report(len(documents) - sum(copies[key] for key in unknown))

    def write(item: tuple[str, str]) -> str:
        """Ask for one document, and keep the answer at once: here and not in `done`, which an error ends early."""
        key, document = item
        answer = _ask(endpoint, settings, document)
        _keep(cache, key, answer)
        return answer

    def done(item: tuple[str, str], answer: str) -> None:
        answers[item[0]] = answer
        report(copies[item[0]])

    if unknown:
        endpoint.for_each(unknown.items(), write, done)
    queries = [_query(answers.get(key, ""), document) for key, document in zip(keys, documents, strict=True)]
    if unusable := queries.count(None):
        logger.warning("%s wrote nothing usable for %d of %d documents", settings.model, unusable, len(documents))
    return queries


def cache_file(settings: QueryModel) -> Path:
    """Where the answers to these settings are kept: another model, prompt, cut or temperature has another file."""
    asked = settings.model_dump(mode="json", include={"model", "prompt", "max_chars", "max_tokens", "temperature"})
    digest = hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=8).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", settings.model).strip("-.")[:80]
    return Path(settings.cache) / f"{name}-{digest}.jsonl"


def _ask(endpoint: Endpoint, settings: QueryModel, document: str) -> str:
    """The model's answer as it came, "" where it says nothing."""
    shown = cut(document, settings.max_chars)

    def send(client: OpenAI) -> str:
        answer = client.chat.completions.create(
            model=settings.model,
            messages=[{"role": "user", "content": settings.prompt.replace("{document}", shown)}],
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
        )
        if not answer.choices:
            raise ValueError("expected one choice, got none")
        return answer.choices[0].message.content or ""

    refused = (
        f"the text may be too long for the model (it begins {ascii(shown[:40])} and has {len(shown):,} characters): "
        "lower max_chars of the source's model; the answers so far are kept"
    )
    return endpoint.call(send, path="/v1/chat/completions", refused=refused)


def _key(document: str, index: int) -> str:
    """What a document is known by. Raises DataError."""
    try:
        return hashlib.blake2b(document.encode(), digest_size=16).hexdigest()
    except UnicodeEncodeError as error:
        raise DataError(
            f"document {index} ({ascii(document[:40])}) is not valid Unicode: half of a surrogate pair at character "
            f"{error.start}; remove it, e.g. with text.encode(errors='ignore').decode()"
        ) from None


def _read(cache: Path) -> dict[str, str]:
    """Hash of a document → answer. A line that does not parse was torn when its writer died."""
    if not cache.exists():
        return {}
    answers: dict[str, str] = {}
    torn = 0
    for line in filter(None, cache.read_bytes().split(b"\n")):
        try:
            entry = json.loads(line)
            answers[entry["document"]] = entry["answer"]
        except (ValueError, TypeError, KeyError):
            torn += 1
    if torn:
        logger.warning("%s: %d torn lines are left out, their documents are asked for again", cache, torn)
    return answers


def _keep(cache: Path, key: str, answer: str) -> None:
    """Append a line. Raises DataError.

    The line break comes first: what a writer that died left unfinished then stays a line of its own.
    """
    line = b"\n" + json.dumps({"document": key, "answer": answer}).encode()
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with open(cache, "ab", buffering=0) as file:
            written = file.write(line)
        if written != len(line):
            raise OSError(f"{written} of {len(line)} bytes written")
    except OSError as error:
        raise DataError(
            f"cannot keep an answer in {cache} ({error.strerror or error}): free some space or set `cache` of the "
            "source's model elsewhere, and run again; the answers so far are kept"
        ) from None


def _query(answer: str, document: str) -> str | None:
    """The query in an answer: its first line of words, bare, but for "Here is a question:". None = of no use."""
    whole = answer.encode(errors="ignore").decode()  # half a character, which some servers send, cannot be stored
    lines = (_bare(line) for line in _THOUGHTS.sub("", whole).splitlines())
    query = next((line for line in lines if re.search(r"\w", line) and line[-1] not in ":："), "")
    repeated = len(document) <= 2 * len(query) and normalise(document) == normalise(query)
    return query if query and len(query) <= MAX_QUERY_CHARS and not repeated else None


def _bare(line: str) -> str:
    """Without the list signs, labels, quotes and bold marks around it."""
    while True:
        wrapped = _WRAPPED.fullmatch(line.strip())
        bare = _LEAD.sub("", (wrapped["same"] or wrapped["pair"]) if wrapped else line.strip())
        if bare == line:
            return line
        line = bare
