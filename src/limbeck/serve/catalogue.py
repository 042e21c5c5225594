"""Names in requests → adapters and roles.

A model with adapters knows each adapter by its name, and retrieval by its two sides: `retrieval.query` and
`retrieval.passage` (`retrieval` alone is the passage). `query`, `document` and `passage` are short for them. A blend is
written `retrieval=0.7,clustering=0.3`, for queries `retrieval.query=0.7,clustering=0.3`. `auto`, where the model has a
router, is the blend that suits the texts of the request.

A model without adapters knows `query` and `document` (or `passage`) only. An adapter that is not there is refused: its
name never stands for the base's vectors.

A request without a task gets: what the server was told; else `text-matching`, as Jina's API does; where the model has
none, `retrieval.passage`; without adapters `document`.

A client that can only choose a model chooses an adapter by the model NAME:TASK.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limbeck.encode_file import parse_task, task_words
from limbeck.errors import ConfigError
from limbeck.serve.errors import Refusal

_HEAVIEST = 1e6  # weight of a blend: their sum stays finite
_SIDES = {"query": "query", "passage": "document", "document": "document"}  # as requests call them → role


@dataclass(frozen=True)
class Choice:
    """How texts are to be encoded."""

    task: str | Mapping[str, float] | None  # as of `Encoder.encode`
    role: str
    label: str  # as a request would name it


class Catalogue:
    """What a server knows by name."""

    def __init__(
        self,
        name: str,
        tasks: Sequence[str],
        *,
        routed: bool = False,
        aliases: Sequence[str] = (),
        default: str | None = None,
    ) -> None:
        """Take a model's name and adapters; `routed`: whether it knows "auto".

        Raises ConfigError: a default that it does not have.
        """
        self.name, self._tasks, self._names = name, list(tasks), (name, *aliases)
        self._routed = routed and bool(tasks)
        self.default: Choice | None = None
        if default is None:
            usual = ("text-matching", "retrieval") if tasks else ("document",)
            default = next((each for each in usual if not tasks or each in tasks), None)
        if default is not None:
            try:
                self.default = self.find(default)
            except Refusal as error:
                raise ConfigError(f"the default task does not fit: {error.message}") from None

    @property
    def known(self) -> list[str]:
        """Tasks that may be asked for, blends apart."""
        if not self._tasks:
            return ["query", "document"]
        sides = {"retrieval": ["retrieval.query", "retrieval.passage"]}
        found = [name for task in self._tasks for name in sides.get(task, [task])]
        return [*found, "auto"] if self._routed else found

    @property
    def models(self) -> list[str]:
        """Names that `model` may have: the model's own, and one for each task."""
        return [own if task is None else f"{own}:{task}" for own in self._names for task in (None, *self.known)]

    def find(self, asked: str | Mapping[str, float] | None) -> Choice:
        """What a task of a request means. Raises Refusal that lists the known ones."""
        if asked is None or asked == "":
            if self.default is None:
                raise self._unknown("a task is needed")
            return self.default
        if isinstance(asked, str) and "=" not in asked:
            return self._named(asked)
        return self._blend(asked)

    def settled(self, task: str | Mapping[str, float] | None, role: str) -> Choice:
        """What texts are encoded for whose task was chosen elsewhere, such as the queries of an index."""
        words = task_words(task)
        if words is None:
            return Choice(None, role, role)
        side = "query" if role == "query" else "passage"
        if isinstance(task, str):
            return Choice(task, role, f"retrieval.{side}" if task == "retrieval" else task)
        return Choice(task, role, words.replace("retrieval=", "retrieval.query=") if role == "query" else words)

    def of_model(self, model: str | None) -> Choice | None:
        """The task that a model's name chooses, if any. Raises Refusal: not a model that is served."""
        if model is None or model in self._names:
            return None
        for own in self._names:
            if model.startswith(f"{own}:"):
                return self.find(model.removeprefix(f"{own}:"))
        raise Refusal(
            404, "model_not_found", f"this model is not served here; known are {', '.join(self.models)}", param="model"
        )

    def choice(self, model: str | None, task: str | Mapping[str, float] | None) -> Choice:
        """The task of a request that may name it twice. Raises Refusal: unknown, or two that differ."""
        by_model = self.of_model(model)
        if by_model is None:
            return self.find(task)
        if task is None or task == "" or self.find(task) == by_model:
            return by_model
        raise Refusal(
            422, "invalid_task", "the model names one task and the field `task` another: leave one out", param="task"
        )

    def _named(self, asked: str) -> Choice:
        task, _, side = asked.rpartition(".")
        if asked in _SIDES and (not self._tasks or "retrieval" in self._tasks):
            task, side = ("retrieval" if self._tasks else ""), asked
        elif asked == "retrieval":
            task, side = "retrieval", "passage"
        elif task != "retrieval":
            if asked in self._tasks or (asked == "auto" and self._routed):
                return Choice(asked, "document", asked)
            raise self._unknown("this task is not known")
        if side not in _SIDES or (task and task not in self._tasks) or (not task and self._tasks):
            raise self._unknown("this task is not known")
        role = _SIDES[side]
        return Choice(task or None, role, f"retrieval.{'passage' if role == 'document' else role}" if task else role)

    def _blend(self, asked: str | Mapping[str, float]) -> Choice:
        try:
            weights = parse_task(asked) if isinstance(asked, str) else dict(asked)
        except ConfigError:
            raise self._unknown("a blend is written name=weight,name=weight") from None
        assert isinstance(weights, dict)
        sides = {name.rpartition(".")[2] for name in weights if name.rpartition(".")[0] == "retrieval"}
        if not sides <= set(_SIDES) or len({_SIDES[side] for side in sides}) > 1:
            raise self._unknown("the parts of a blend do not fit")
        role = _SIDES[sides.pop()] if sides else "document"
        plain = {name.partition(".")[0] if name.startswith("retrieval.") else name: w for name, w in weights.items()}
        valid = all(0 <= weight <= _HEAVIEST for weight in plain.values()) and any(plain.values())
        if not set(plain) <= set(self._tasks) or not valid or len(plain) != len(weights):
            raise self._unknown("a blend has adapters of the model, with weights of 0 or more that are not all 0")
        words = task_words(plain) or ""
        if role == "query":
            words = words.replace("retrieval=", "retrieval.query=")
        return Choice(plain, role, words)

    def _unknown(self, what: str) -> Refusal:
        return Refusal(422, "invalid_task", f"{what}; known tasks are {', '.join(self.known)}", param="task")
