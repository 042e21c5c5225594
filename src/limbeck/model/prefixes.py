"""The one table of prefixes: (task, role) → what stands in front of the text.

Only retrieval tells its two sides apart; text without a retrieval role takes the document prefix (paper, section on
prefixes; the published models do the same).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from limbeck.errors import ConfigError

Role = Literal["query", "document"]
ROLES: tuple[str, ...] = get_args(Role)

QUERY = "Query: "
DOCUMENT = "Document: "

PREFIXES: dict[tuple[str, str], str] = {
    ("retrieval", "query"): QUERY,
    ("retrieval", "document"): DOCUMENT,
    ("text-matching", "document"): DOCUMENT,
    ("clustering", "document"): DOCUMENT,
    ("classification", "document"): DOCUMENT,
}


PROMPTS: dict[str, str] = {role: PREFIXES["retrieval", role] for role in ROLES}
"""What a bundle says of its roles unless told otherwise: retrieval has them all."""


def prefix(role: str, task: str = "retrieval", prompts: Mapping[str, str] = PROMPTS) -> str:
    """The prefix for a role in a task. Raises ConfigError that lists the known pairs.

    The table says which roles a task has; `prompts` are a bundle's words for them, unless those of the table.
    """
    if (task, role) not in PREFIXES:
        known = ", ".join(f"{t}/{r}" for t, r in PREFIXES)
        raise ConfigError(f"no prefix for task {task!r} with role {role!r}: known are {known}")
    return prompts[role]
