"""Which documents a search may find: conditions on their fields, and what they mean for an engine."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from limbeck.errors import ConditionError, ConfigError, DataError

Value: TypeAlias = str | int | float | bool
Kind: TypeAlias = Literal["text", "integer", "number", "boolean", "other"]
"""What a field holds, or a list of it. "other" (objects, mixed lists) is kept with the document, not filtered by."""
KINDS: tuple[Kind, ...] = get_args(Kind)
Op: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">="]
OPS: tuple[Op, ...] = get_args(Op)

Where: TypeAlias = "Mapping[str, Any] | Sequence[Condition]"
"""{"lang": "en"}, {"lang": ["en", "de"]} for any of them, {"year": {">=": 2020, "<": 2024}}; all must hold."""

_TYPED = re.compile(r"(.+?)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_NAMES = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Condition:
    """`=`: the field, or one of a list in it, is one of the values; `!=`: none is (nor need the field be there)."""

    field: str
    op: Op
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One question to an engine about the payload: is it one of `any`, or within bounds (gt, gte, lt, lte)."""

    key: str
    any: tuple[Any, ...] = ()  # words or whole numbers
    bounds: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """Of each row of `must` one test holds; none of `must_not` does."""

    must: tuple[tuple[Check, ...], ...] = ()
    must_not: tuple[Check, ...] = ()


def parse_condition(text: str) -> Condition:
    """Read a condition of a command line: lang=en, lang=en,de (any of them), lang!=en, year>=2020.

    Values are texts until `select` knows what the field holds. Raises ConfigError.
    """
    found = _TYPED.fullmatch(text)
    if found is None:
        raise ConfigError(f"expected a condition such as lang=en, lang=en,de, lang!=en or year>=2020; got {text!r}")
    field, op, value = found.groups()
    values = value.split(",") if op in ("=", "!=") else [value]
    return Condition(field.strip(), op, tuple(v.strip() for v in values))  # type: ignore[arg-type]


def conditions(where: Where | None) -> list[Condition]:
    """Conditions of a mapping as `Where` describes it. Raises ConditionError."""
    if not isinstance(where, Mapping):
        return list(where or ())
    found: list[Condition] = []
    for field, wanted in where.items():
        of_field = wanted if isinstance(wanted, Mapping) else {"=": wanted}
        for op, value in of_field.items():
            if op not in OPS:
                known = f"is one of {' '.join(OPS)}"
                raise ConditionError(f"a condition on {field!r} {known}, got {op!r}", f"a condition {known}")
            several = isinstance(value, (list, tuple, set, frozenset))
            found.append(Condition(field, op, tuple(value) if several else (value,)))
    return found


def select(where: Where | None, kinds: Mapping[str, Kind]) -> Selection:
    """What conditions mean for documents whose fields are of these kinds.

    Raises ConditionError: a field that no document has, one that cannot be filtered by, a value of another kind, or
    `<` on what has no order.
    """
    must: list[tuple[Check, ...]] = []
    must_not: list[Check] = []
    for condition in conditions(where):
        kind = kinds.get(condition.field)
        if kind is None:
            known = ", ".join(name for name, of in kinds.items() if of != "other") or "none"
            raise ConditionError(
                f"no document has a field {condition.field!r} to filter by; known are {known}",
                f"no document has a field of this name to filter by; known are {known}",
            )
        if kind == "other":
            raise _wrong(f"field {condition.field!r} holds objects or mixed lists, which are not filtered by")
        if not condition.values:
            raise _wrong(f"the condition on {condition.field!r} names no value")
        values = [_fitting(value, kind, condition.field) for value in condition.values]
        tests = _tests(condition, kind, values)
        if condition.op == "!=":
            must_not += tests
        else:
            must.append(tests)
    return Selection(tuple(must), tuple(must_not))


def kind_of(value: Any) -> Kind | None:
    """The kind of a field with this value; None where it says nothing: null, or a list without values."""
    if isinstance(value, (list, tuple)):
        kinds: list[Kind | None] = [kind_of(v) for v in value if not isinstance(v, (list, tuple))]
        if not value or (len(kinds) == len(value) and set(kinds) == {kinds[0]}):
            return kinds[0] if value else None
        return "number" if len(kinds) == len(value) and set(kinds) == {"integer", "number"} else "other"
    if value is None:
        return None
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer" if -(2**63) <= value < 2**63 else "other"
    if isinstance(value, float):
        return "number"
    return "text" if isinstance(value, str) else "other"


def joined_kind(field: str, before: Kind | None, now: Kind, place: str) -> Kind:
    """What a field holds that held `before` and now holds `now`. Raises DataError where both cannot be filtered by."""
    if before is None or before == now or before == "other":
        return before or now
    if {before, now} == {"integer", "number"}:
        return "number"
    raise DataError(
        f"{place}: field {field!r} holds {now}, in documents before it {before}: write it in one way, or leave it out"
    )


def payload_key(field: str, kind: Kind) -> str:
    """Where a field stands in the payload of a point, as engines spell a path.

    Booleans are filtered by as words: in qdrant-edge 0.9.0 a condition `true` is taken for the number 1 and finds
    nothing.
    """
    name = field if re.fullmatch(r"[A-Za-z0-9_-]+", field) else f'"{field}"'
    return f"{'flags' if kind == 'boolean' else 'fields'}.{name}"


def check_field_name(field: str, place: str) -> None:
    """Raise DataError for a name that an engine cannot spell."""
    if not field or '"' in field or not field.isprintable():
        raise DataError(f"{place}: a field is named {field!r}: names have no quotes or control characters; rename it")


def flag(value: bool) -> str:
    """A boolean as it is filtered by."""
    return "true" if value else "false"


def _tests(condition: Condition, kind: Kind, values: list[Value]) -> tuple[Check, ...]:
    key = payload_key(condition.field, kind)
    if condition.op in ("=", "!="):
        if kind == "number":  # engines compare floats by range only
            return tuple(Check(key, bounds=(("gte", float(v)), ("lte", float(v)))) for v in values)
        of_kind: Iterable[Any] = (flag(bool(v)) for v in values) if kind == "boolean" else values
        return (Check(key, any=tuple(of_kind)),)
    if kind in ("text", "boolean"):
        raise _wrong(f"{condition.field!r} holds {kind}, which is compared by = or !=, got {condition.op}")
    if len(values) != 1:
        raise _wrong(f"{condition.field} {condition.op} takes one value, got {len(values)}")
    return (Check(key, bounds=((_BOUNDS[condition.op], float(values[0])),)),)


def _fitting(value: Value, kind: Kind, field: str) -> Value:
    """The value as the field's kind; a text, which a command line gives, is read as one. Raises ConditionError."""
    read: Value | None = None
    try:
        if kind == "text":
            read = value.encode().decode() if isinstance(value, str) else None  # half a surrogate pair is no text
        elif kind == "boolean":
            read = value if isinstance(value, bool) else _NAMES[value.lower()] if isinstance(value, str) else None
        elif not isinstance(value, bool):
            if kind == "integer" and not isinstance(value, float):
                read = int(value)
            else:
                read = float(value) if math.isfinite(float(value)) else None
                if kind == "integer" and read is not None:  # 2020.0 is a year, 2020.5 is none
                    read = int(read) if float(read).is_integer() else None
        if isinstance(read, int) and not -(2**63) <= read < 2**63:
            read = None
    except (ValueError, KeyError, OverflowError, TypeError):
        read = None
    if read is None:
        raise ConditionError(
            f"field {field!r} holds {kind}, and is compared with {value!r}: give a {kind}",
            f"field {field!r} holds {kind}, and is compared with something else: give a {kind}",
        )
    return read


def _wrong(message: str) -> ConditionError:
    """Of a message that names a field that documents have, and nothing else that was asked."""
    return ConditionError(message, message)
