"""The one table of task types: what mteb calls a type → which adapter encodes it, and whether its sides have roles.

A type that is not here is an error: another model's tasks must not fall through to an adapter unnoticed.
"""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.config import Task
from limbeck.errors import ConfigError
from limbeck.model.prefixes import Role


@dataclass(frozen=True, slots=True)
class TaskUse:
    """How the texts of a task type are encoded."""

    adapter: Task  # of a model that has adapters
    roles: bool = False  # one side asks and the other answers; else a text has no role and is read as a document


TASK_TYPES: dict[str, TaskUse] = {
    "Retrieval": TaskUse("retrieval", roles=True),
    "Reranking": TaskUse("retrieval", roles=True),
    "InstructionRetrieval": TaskUse("retrieval", roles=True),
    "InstructionReranking": TaskUse("retrieval", roles=True),
    "STS": TaskUse("text-matching"),
    "PairClassification": TaskUse("text-matching"),
    "BitextMining": TaskUse("text-matching"),
    "Summarization": TaskUse("text-matching"),
    "Clustering": TaskUse("clustering"),
    "Classification": TaskUse("classification"),
    "MultilabelClassification": TaskUse("classification"),
    "Regression": TaskUse("classification"),
}


def use_of(task_type: str) -> TaskUse:
    """The row of a task type. Raises ConfigError that lists the known types."""
    if task_type not in TASK_TYPES:
        raise ConfigError(
            f"no adapter is known for tasks of type {task_type!r}: known are {', '.join(TASK_TYPES)}; leave the task "
            "out, or add its type to limbeck.evaluation.task_types"
        )
    return TASK_TYPES[task_type]


def role_of(task_type: str, prompt_type: str | None) -> Role | None:
    """Which side of a search a text is on. prompt_type: mteb's "query" or "document"; None = neither.

    None for types without roles, whatever mteb says of a text. Raises ConfigError: an unknown type.
    """
    if not use_of(task_type).roles or prompt_type is None:
        return None
    return "query" if prompt_type == "query" else "document"
