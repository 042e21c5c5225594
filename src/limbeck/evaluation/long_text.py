"""Passkey and needle retrieval at many lengths, made on the fly: how much of a long text does a vector hold?

In the manner of LongEmbed (arXiv 2404.12096): every document of a length is filler text with one sentence hidden in
it, at a known depth. In `passkey` that is the pass key of a person, and the filler a few plain sentences over and over;
in `needle` it is a fact about a shop, and the filler an essay. A query asks for one of them, among all documents of its
length. A model that reads only the first part of a text fails on what is hidden deeper, one that averages over
everything loses the sentence in the filler, and chance is a mean nDCG@10 of 4.54 / documents.

Depth 0 is the beginning, 1 the end. All text is generated here, from the seed alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Literal, TypeVar

from limbeck.errors import ConfigError
from limbeck.files import write_json
from limbeck.folders import replaced_folder

Kind = Literal["passkey", "needle"]
KINDS: tuple[Kind, ...] = ("passkey", "needle")
LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)

_DEPTH = "-depth-"  # between the number of a query and the depth of what it asks for

Item = TypeVar("Item")


@dataclass(frozen=True)
class LongTextTask:
    """One retrieval task: all documents have one length, and each query has one document that answers it."""

    name: str  # "passkey-1024"
    kind: Kind
    length: int  # tokens, or words where no tokenizer was given; no document is longer
    depths: dict[str, float]  # document id → where its sentence is hidden
    corpus: dict[str, str]  # document id → text
    queries: dict[str, str]  # query id → text; the id ends with the depth of its answer
    qrels: dict[str, str]  # query id → document id


def count_words(text: str) -> int:
    """Words between white space."""
    return len(text.split())


def long_text_tasks(
    lengths: Sequence[int] = LENGTHS,
    *,
    kinds: Sequence[Kind] = KINDS,
    documents: int = 100,
    queries: int = 50,
    depths: Sequence[float] = DEPTHS,
    seed: int = 0,
    count: Callable[[str], int] = count_words,
) -> list[LongTextTask]:
    """Make one task of each kind and length.

    Args:
        lengths: of all documents of a task; each is filled as far as whole sentences go.
        kinds: of tasks.
        documents: of a task, in an order that tells nothing.
        queries: of a task; documents that none asks for hide a sentence too.
        depths: where sentences are hidden, 0 … 1; queries take them in turn.
        seed: the same seed gives the same texts.
        count: text → tokens, as in `lambda text: len(tokenizer(text).input_ids)`.

    Raises ConfigError: more queries than documents, more documents than there are different sentences to hide, a depth
    outside 0 … 1, or a length that a hidden sentence does not fit in.
    """
    most = min(len(_PEOPLE), len(_SHOPS))
    if not 1 <= queries <= documents <= most:
        raise ConfigError(
            f"expected 1 ≤ queries ≤ documents ≤ {most} different sentences to hide, got {queries} queries and "
            f"{documents} documents"
        )
    if not depths or not all(0 <= depth <= 1 for depth in depths):
        raise ConfigError(f"depths must lie in 0 … 1, from beginning to end, got {list(depths)}")
    return [_task(kind, length, documents, queries, depths, seed, count) for kind in kinds for length in lengths]


def write_folder(task: LongTextTask, folder: Path) -> Path:
    """Write a task as the evaluation set FOLDER/longdoc/<name>, replacing one that is there; returns its path."""
    out = Path(folder) / "longdoc" / task.name
    out.parent.mkdir(parents=True, exist_ok=True)
    with replaced_folder(out) as temporary:
        for name, texts in (("corpus", task.corpus), ("queries", task.queries)):
            rows = (json.dumps({"id": identity, "text": text}) + "\n" for identity, text in texts.items())
            with open(temporary / f"{name}.jsonl", "w", encoding="utf-8") as lines:
                lines.writelines(rows)
        pairs = "".join(f"{query}\t{document}\t1\n" for query, document in task.qrels.items())
        (temporary / "qrels.tsv").write_text(pairs, encoding="utf-8")
        about = {"task": "longdoc", "languages": ["eng-Latn"], "kind": task.kind, "length": task.length}
        counts = {"corpus": len(task.corpus), "queries": len(task.queries), "qrels": len(task.qrels)}
        write_json(temporary / "meta.json", about | {"counts": counts})
    return out


def write_named(names: Sequence[str], folder: Path) -> list[str]:
    """Task names with "passkey" and "needle" (every length of LENGTHS), "passkey-4096" … replaced by sets in `folder`.

    Names of anything else, and of folders that are there, stay as they are. Lengths are in words. Raises ConfigError.
    """
    found: list[str] = []
    for name in names:
        match = re.fullmatch(r"(passkey|needle)(?:-(\d+))?", name)
        if match is None or Path(name).is_dir():
            found.append(name)
            continue
        kind: Kind = "passkey" if match[1] == "passkey" else "needle"
        lengths = [int(match[2])] if match[2] else LENGTHS
        found += [str(write_folder(task, folder)) for task in long_text_tasks(lengths, kinds=[kind])]
    return list(dict.fromkeys(found))


def mean_by_depth(by_item: Mapping[str, float]) -> dict[float, float]:
    """Scores by query id → mean at each depth, from the beginning to the end of the documents.

    Raises ConfigError for an id that names no depth.
    """
    scores: dict[float, list[float]] = {}
    for query, score in by_item.items():
        _, separator, depth = query.rpartition(_DEPTH)
        if not separator:
            raise ConfigError(f"query id {query!r} names no depth: only queries of `long_text_tasks` do")
        scores.setdefault(float(depth), []).append(score)
    return {depth: fmean(scores[depth]) for depth in sorted(scores)}


# ------------------------------------------------------------------------------------ one task


def _task(
    kind: Kind,
    length: int,
    documents: int,
    queries: int,
    depths: Sequence[float],
    seed: int,
    count: Callable[[str], int],
) -> LongTextTask:
    random = Random(f"{kind} {length} {seed}")  # a text, so that no two tasks share a stream
    make = _passkey if kind == "passkey" else _needle
    about = _shuffled(random, _PEOPLE if kind == "passkey" else _SHOPS)[:documents]
    hidden = [make(random, number, subject) for number, subject in enumerate(about)]
    names = _shuffled(random, [f"d{number}" for number in range(documents)])
    corpus: dict[str, str] = {}
    depth_of: dict[str, float] = {}
    for name, (sentence, _), depth in zip(names, hidden, cycle(depths), strict=False):
        filler = cycle(_shuffled(random, _PLAIN)) if kind == "passkey" else _essay(random)
        corpus[name], depth_of[name] = _document(length, sentence, depth, filler, count), depth
    asked = {f"q{i}{_DEPTH}{depth_of[names[i]]:g}": i for i in range(queries)}
    return LongTextTask(
        name=f"{kind}-{length}",
        kind=kind,
        length=length,
        depths=dict(sorted(depth_of.items())),
        corpus=dict(sorted(corpus.items())),
        queries={query: hidden[i][1] for query, i in asked.items()},
        qrels={query: names[i] for query, i in asked.items()},
    )


def _document(length: int, hidden: str, depth: float, sentences: Iterator[str], count: Callable[[str], int]) -> str:
    """Filler with a sentence hidden at a depth: at most `length` tokens, and another sentence would be too much."""
    filler: list[str] = []

    def text() -> str:
        place = round(depth * len(filler))
        return " ".join([*filler[:place], hidden, *filler[place:]])

    if count(hidden) > length:
        raise ConfigError(f"{length} tokens are too few for what is hidden, {count(hidden)} tokens: {hidden!r}")
    special = count("")  # tokens that every text has, which a sentence inside one does not
    # the parts of a text need not have as many tokens as the whole: fill by parts, count the whole, and fill again
    filled = -1
    while filled < len(filler):
        filled, room = len(filler), length - count(text())
        while (needs := count(sentence := next(sentences)) - special) <= room:
            filler.append(sentence)
            room -= max(needs, 1)
    while count(text()) > length:
        filler.pop()
    return text()


def _passkey(random: Random, number: int, person: tuple[str, str]) -> tuple[str, str]:
    """Sentence and query. The number makes keys differ: no two people have one."""
    name, key = " ".join(person), 10_000 + 173 * number + int(random.random() * 173)
    return (
        f"The pass key of {name} is {key}, remember that {name} has the key {key}.",
        f"What is the pass key of {name}?",
    )


def _needle(random: Random, number: int, shop: tuple[str, str]) -> tuple[str, str]:
    """Sentence and query, about one of several things."""
    where = f"the {shop[0]} in {shop[1]} Lane"
    fact, question = _FACTS[number % len(_FACTS)]
    answer = _pick(random, _ANSWERS[number % len(_FACTS)])
    return _capital(fact.format(where=where, answer=answer)), question.format(where=where)


def _essay(random: Random) -> Iterator[str]:
    while True:
        words = {part: _pick(random, choices) for part, choices in _PARTS.items()}
        yield _capital(_pick(random, _SENTENCES).format(**words))


# `random()` is the one method whose stream Python promises not to change.


def _pick(random: Random, items: Sequence[Item]) -> Item:
    return items[int(random.random() * len(items))]


def _shuffled(random: Random, items: Sequence[Item]) -> list[Item]:
    keys = [random.random() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


# -------------------------------------------------------------------------------------- words

_FIRST = "Ada Bela Cora Dario Edda Falk Gita Hugo Ilse Jonas Kira Linus Mara Nils Olga Pavel Quint Rosa Sven Tilda"
_LAST = (
    "Abendroth Birkholm Corvin Dallmeyer Eklund Farrow Grimshaw Hartwell Isaksen Jorvik Kessler Lindqvist Marlowe "
    "Novak Ostrander Pemberton Quillfeather Rademaker Sandoval Thornquist"
)
_PEOPLE = list(product(_FIRST.split(), _LAST.split()))

_TRADES = (
    "bakery tailor bookbinder florist clockmaker locksmith cobbler apothecary brewery gallery saddler chandler pottery "
    "stationer glazier cooper tannery dairy fishmonger hatter"
)
_LANES = (
    "Alder Bramble Candle Drover Elmwood Foundry Garnet Heron Ivory Juniper Kiln Lantern Mallard Nettle Orchard Pewter "
    "Quarry Rowan Saffron Tinder"
)
_SHOPS = list(product(_TRADES.split(), _LANES.split()))

_FACTS = (
    ("{where} keeps its spare key {answer}.", "Where does {where} keep its spare key?"),
    ("{where} closes early {answer}.", "When does {where} close early?"),
    ("the sign above {where} was painted by {answer}.", "Who painted the sign above {where}?"),
    ("the owner of {where} once won a prize for {answer}.", "What did the owner of {where} win a prize for?"),
)
_ANSWERS = (
    ("under the third flowerpot", "behind the loose brick", "inside an old violin case", "on top of the rain barrel"),
    ("on the first Tuesday of May", "before a full moon", "on the eve of a race", "whenever the river floods"),
    ("a retired sailor", "two sisters from Porto", "the schoolmaster's nephew", "an unknown prisoner"),
    ("growing a purple cabbage", "whistling backwards", "the tallest sandcastle", "folding paper swans"),
)

_PLAIN = (
    "The road is long and the hills are low.",
    "Clouds come in from the west and leave again.",
    "A cart goes by, and then another one.",
    "The water is cold, the stones are round.",
    "Somebody opens a window and closes it.",
    "There is a field, and behind it a wood.",
    "It rains a little, then the sun is back.",
    "Leaves fall, and the wind takes them along.",
)

_SENTENCES = (
    "{who} {often} {does} {thing} because {reason}.",
    "{when}, {who} {does} {thing} and hopes that {reason}.",
    "it is easy to say that {reason}, but {who} {often} {does} {thing}.",
    "what matters about {thing} is that {reason}.",
    "if {who} {does} {thing} {when}, it follows that {reason}.",
    "some would add that {reason}, and that nobody {does} {thing} {when}.",
)
_PARTS = {
    "who": (
        "a careful reader",
        "anyone who builds tools",
        "the patient student",
        "a young founder",
        "an honest critic",
        "the average committee",
        "whoever writes for a living",
        "a good teacher",
    ),
    "often": ("seldom", "usually", "sooner or later", "at first", "quietly", "without noticing", "almost always"),
    "does": ("mistrusts", "defends", "rewrites", "forgets", "simplifies", "measures", "borrows", "admires"),
    "thing": (
        "a plan that sounds clever",
        "the shortest argument",
        "work done in small steps",
        "an idea nobody asked for",
        "the habit of asking why",
        "a rule without exceptions",
        "the first draft",
        "other people's certainty",
        "a slow but steady method",
        "the question behind the question",
    ),
    "reason": (
        "most mistakes are cheap when they are found early",
        "attention is scarcer than money",
        "nothing teaches as well as a deadline",
        "simple things are hard to improve",
        "surprise is a form of evidence",
        "effort is a poor measure of progress",
        "people copy what they see rewarded",
        "the obvious answer has rarely been tried",
        "taste grows by comparison",
        "memory is kinder than a diary",
    ),
    "when": (
        "in a quiet year",
        "after a long silence",
        "when budgets are tight",
        "at the end of a project",
        "on a slow afternoon",
        "before the crowd arrives",
        "under pressure",
    ),
}
