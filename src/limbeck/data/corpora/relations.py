"""How near two documented things stand to each other, by name and place alone: pairs of their texts, scored 0 to 1.

| score | the two things |
|---|---|
| 1 | have one name, and are of one package or have a parameter in common |
| 0.75 | stand in one module |
| 0.5 | stand in two modules of one folder |
| 0.25 | stand in two folders of one package |
| 0 | stand in two packages |

Below 1 their names differ. A sentence encoder, which knows nothing of names and places, orders such pairs the same way:
the mean cosines of all-MiniLM-L6-v2 are 0.62, 0.46, 0.28, 0.20 and 0.10 down this table, Spearman's correlation is 0.74
(600 pairs of each score, from the standard library and 130 packages).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from limbeck.data.corpora.selection import stable_hash, stable_sample
from limbeck.data.examples import ScoredPair

MAX_PLACES = 8  # a name in more places ("fit", "close") says little about what it names
_COMMON_PARAMETERS = frozenset({"x", "input", "out", "args", "kwargs"})  # of things that have nothing else in common


@dataclass(frozen=True, slots=True)
class Described:
    """A documented thing, and the text about it without its name."""

    name: str  # qualified, no other's: "numpy.linalg.norm"
    module: str  # that documents it: "numpy.linalg._linalg"
    parameters: str | None  # "a, b, *, c"
    text: str  # no other's

    @property
    def own_name(self) -> str:
        """The last part of its name."""
        return self.name.rpartition(".")[2]

    @property
    def package(self) -> str:
        """The first part of its name: a package, or a module of the standard library."""
        return self.name.partition(".")[0]

    @property
    def folder(self) -> str:
        """The package that its module lies in; "" where that is none."""
        return self.module.rpartition(".")[0]


Rule = Callable[[Described, Described], bool]


def graded_pairs(things: Sequence[Described]) -> list[ScoredPair]:
    """Pairs of texts with the scores of this module's table, ordered by id: "numpy.cumsum ~ torch.cumsum".

    No text is in two pairs, so that a split by documents tears none apart. Each score gets a tenth of the texts, fewer
    where not as many have such a partner; the order of `things` plays no part.
    """
    places = Counter(thing.own_name for thing in things)
    relations: list[tuple[float, Callable[[Described], str], Rule]] = [
        (1.0, lambda thing: thing.own_name if places[thing.own_name] <= MAX_PLACES else "", _one_name),
        (0.75, lambda thing: thing.module, lambda a, b: True),
        (0.5, lambda thing: thing.folder, lambda a, b: a.module != b.module),
        (0.25, lambda thing: thing.package, lambda a, b: a.folder != b.folder),
        (0.0, lambda thing: "all", lambda a, b: a.package != b.package),
    ]
    left = sorted(things, key=lambda thing: stable_hash(thing.text))
    most = -(-len(left) // (2 * len(relations)))
    pairs: list[ScoredPair] = []
    for score, group, rule in relations:
        found = _matched(left, group, rule if score == 1 else _other_name(rule))
        chosen = stable_sample(list(found), most, lambda pair: pair[0].text)
        for a, b in chosen:
            pairs.append(ScoredPair(id=f"{a.name} ~ {b.name}", query=a.text, document=b.text, lang="en", score=score))
        taken = {thing.name for pair in chosen for thing in pair}
        left = [thing for thing in left if thing.name not in taken]
    return sorted(pairs, key=lambda pair: pair.id)


def _matched(
    things: Sequence[Described], group: Callable[[Described], str], rule: Rule
) -> Iterator[tuple[Described, Described]]:
    """Partners of one group, other than "", that the rule allows; each thing at most once."""
    waiting: defaultdict[str, list[Described]] = defaultdict(list)
    for thing in things:
        if key := group(thing):
            others = waiting[key]
            # not all of them: what waits in a large group is mostly of one kind, which the rule keeps apart
            place = next((i for i, other in enumerate(islice(others, MAX_PLACES)) if rule(other, thing)), None)
            if place is None:
                others.append(thing)
            else:
                yield others.pop(place), thing


def _one_name(a: Described, b: Described) -> bool:
    return a.package == b.package or bool(_parameters(a) & _parameters(b))


def _other_name(rule: Rule) -> Rule:
    return lambda a, b: a.own_name != b.own_name and rule(a, b)


def _parameters(thing: Described) -> set[str]:
    return {name.strip("* ") for name in (thing.parameters or "").split(",")} - _COMMON_PARAMETERS - {""}
