"""Scenarios from plain data and back: fields of values by their names, with their types checked.

In plain data (a TOML file, `--set`) `plans` is a table `node`, `faults` a list `fault` whose entries say their `kind`,
and `failures` of a workload is a list `failure`. What is None is written "none".
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from simulator.checkers.values import Checker
from simulator.faults import Fault, kind_named
from simulator.scenario import NodePlan, Scenario
from simulator.workloads import Fail, Workload
from toolkit.core.errors import ConfigurationError
from toolkit.core.restart_spec import name_of, policy_of
from toolkit.core.restarts import RestartPolicy
from toolkit.core.words import did_you_mean

#: how fields that hold values of their own are called in plain data
TABLES = {"plans": "node", "faults": "fault", "failures": "failure"}

#: lists of texts; a checker of one's own is no text, and stands in plain data by its name
_TEXTS = (tuple[str, ...], tuple[str | Checker, ...])
#: values that stand in a scenario as a table each
_PARTS: tuple[Any, ...] = (Workload, RestartPolicy)

_T = TypeVar("_T")

#: which table, as a path such as `("node", "node1", "workload")` or `("fault", 2)`, counted from 0
Place = tuple[str | int, ...]


class Misfit(ConfigurationError):
    """Plain data that is no scenario.

    Args:
        place: of the table in which it is.
        key: in that table, or empty for the table itself.
        problem: what is wrong, and the remedy.
    """

    def __init__(self, place: Place, key: str, problem: str) -> None:
        name = ".".join(str(part) for part in (*place, key) if part != "")
        super().__init__(f"{name}: {problem}" if name else problem)
        self.place = place
        self.key = key
        self.problem = problem


def scenario_of(table: Mapping[str, Any]) -> Scenario:
    """The scenario that plain data describes.

    Raises:
        Misfit: a key nobody knows, a value of another type, or values that can't be.
    """
    return _build(Scenario, table, ())


def table_of(value: Any) -> dict[str, Any]:
    """Plain data of a scenario or a part of it; what is as by default is left out."""
    table: dict[str, Any] = {"kind": type(value).__name__} if isinstance(value, Fault) else {}
    for spec in fields(value):
        held = getattr(value, spec.name)
        if held != _default(spec) or (isinstance(value, Fault) and spec.name == "target"):
            table[TABLES.get(spec.name, spec.name)] = _plain(held)
    return table


def with_settings(scenario: Scenario, settings: Mapping[str, str]) -> Scenario:
    """The scenario with some fields set from text, as by `--set workload.steps=100`.

    Args:
        scenario: to start from; it stays as it is.
        settings: values by path: `nodes`, `workload.steps`, `rdzv_conf.join_timeout`, `node.node1.start_s`,
            `fault.0.at_s`.

    Raises:
        Misfit: a path or a value that can't be; names what comes near.
    """
    table = table_of(scenario)
    for path, text in settings.items():
        _put(table, path.split("."), text)
    return scenario_of(table)


def _put(table: dict[str, Any], path: Sequence[str], text: str) -> None:
    kind: Any = Scenario
    place: Any = table
    for depth, part in enumerate(path[:-1]):
        kind, place = _inside(kind, place, tuple(path[:depth]), part)
    if kind is str:
        place[path[-1]] = text
        return
    hint = _known(kind, path[-1], tuple(path[:-1]))
    place[path[-1]] = _from_text(text, hint, tuple(path[:-1]), path[-1])


def _inside(kind: Any, table: Any, place: Place, part: str) -> tuple[Any, Any]:
    """The next table on a path, made if it isn't there, and what it describes."""
    if kind == Mapping[str, NodePlan]:
        return NodePlan, table.setdefault(part, {})
    if isinstance(table, list):
        if not part.isdigit() or int(part) >= len(table):
            raise Misfit(place, part, f"there are {len(table)} of them; give a number below, from 0")
        entry = table[int(part)]
        return (kind_named(entry["kind"]) if kind is Fault else kind), entry
    hint = _known(kind, part, place)
    match _bare(hint):
        case inner if is_dataclass(inner):
            return inner, table.setdefault(part, {})
        case inner if get_origin(inner) is tuple and is_dataclass(get_args(inner)[0]):
            return get_args(inner)[0], table.setdefault(part, [])
        case inner if inner == Mapping[str, NodePlan]:
            return inner, table.setdefault(part, {})
        case inner if inner == Mapping[str, str]:
            return str, table.setdefault(part, {})
        case _:
            raise Misfit(place, part, "is a single value; give no name after it")


def with_values(scenario: Scenario, values: Mapping[str, Any]) -> Scenario:
    """The scenario with some fields set to values, by the same paths as `with_settings`.

    Unlike there, what is not named stays the very object that it was: workloads and faults of one's own kinds, too.

    Args:
        scenario: to start from; it stays as it is.
        values: by path. A whole workload, a tuple of faults and a table of plans are values as well.

    Raises:
        Misfit: a path or a value that can't be; names what comes near.
        ConfigurationError: the values don't go together.
    """
    changed: Scenario = _changed(
        scenario, Scenario, [(path.split("."), new) for path, new in values.items()], ()
    )
    return changed


def _changed(held: Any, hint: Any, changes: Sequence[tuple[Sequence[str], Any]], place: Place) -> Any:
    """What is held with what is told to change in it; all at once, since one may be wrong without another."""
    whole = [new for path, new in changes if not path]
    if whole:
        return _fitting(whole[-1], hint, place[:-1], str(place[-1]))
    inside: dict[str, list[tuple[Sequence[str], Any]]] = {}
    for path, new in changes:
        inside.setdefault(path[0], []).append((path[1:], new))
    bare = _bare(hint)
    if bare in (Mapping[str, str], Mapping[str, NodePlan]):
        kind: Any = str if bare == Mapping[str, str] else NodePlan
        none = kind()
        held = held or {}
        return {
            **held,
            **{k: _changed(held.get(k, none), kind, new, (*place, k)) for k, new in inside.items()},
        }
    if isinstance(held, tuple) and bare is not str:
        return _changed_entries(held, inside, place)
    if held is None and bare in _PARTS:
        held = bare()
    if not is_dataclass(held) or isinstance(held, type):
        raise Misfit(place[:-1], str(place[-1]), "is a single value; give no name after it")
    kind = type(held)
    names = {TABLES.get(name, name): name for name in _hints(kind)}
    fresh = {}
    for key, new in inside.items():
        inner = _known(kind, key, place)
        fresh[names[key]] = _changed(getattr(held, names[key]), inner, new, (*place, key))
    return replace(held, **fresh)


def _changed_entries(
    held: tuple[Any, ...], inside: Mapping[str, Sequence[tuple[Sequence[str], Any]]], place: Place
) -> tuple[Any, ...]:
    entries = list(held)
    for key, new in inside.items():
        if not key.isdigit() or int(key) >= len(entries):
            raise Misfit(place, key, f"there are {len(entries)} of them; give a number below, from 0")
        entries[int(key)] = _changed(entries[int(key)], type(entries[int(key)]), new, (*place, int(key)))
    return tuple(entries)


def _fitting(new: Any, hint: Any, place: Place, key: str) -> Any:
    """A value for a field, if it is of its type."""
    bare = _bare(hint)
    if new is None and _optional(hint):
        return None
    if bare in _NOUNS:
        # A conf's values are texts, and in Python one says 5.
        return (
            _setting(new) if bare is str and place[-1:] == ("rdzv_conf",) else _scalar(new, bare, place, key)
        )
    if bare == Mapping[str, str] and isinstance(new, Mapping):
        return {name: _setting(value) for name, value in new.items()}
    if bare is RestartPolicy and isinstance(new, str):
        return _policy(new, place, key)
    origin = get_origin(bare)
    if origin is None and isinstance(new, bare):
        return new
    if origin is tuple and isinstance(new, tuple | list):
        kind = get_args(bare)[0]
        if all(isinstance(entry, kind) for entry in new):
            return tuple(new)
    if bare == Mapping[str, NodePlan] and isinstance(new, Mapping):
        return dict(new)
    raise Misfit(place, key, f"is {new!r}; that is no value for it")


# -- building -------------------------------------------------------------------------------------------------


def _build(kind: Callable[..., _T], table: Any, place: Place, given: Sequence[str] = ()) -> _T:
    if not isinstance(table, Mapping):
        raise Misfit(place, "", f"is {table!r}; it has to be a table")
    values: dict[str, Any] = {}
    names = {TABLES.get(name, name): name for name in _hints(kind)}
    for key, raw in table.items():
        if key not in given:
            hint = _known(kind, key, place)
            values[names[key]] = _convert(raw, hint, place, key)
    try:
        return kind(**values)
    except TypeError:
        raise Misfit(place, "", f"lacks {' and '.join(_missing(kind, values))}") from None
    except Misfit:
        raise
    except ConfigurationError as error:
        raise Misfit(place, "", str(error)) from error


def _fault(table: Any, place: Place) -> Fault:
    if not isinstance(table, Mapping) or not isinstance(table.get("kind"), str):
        raise Misfit(place, "", 'needs a kind, such as kind = "CrashNode"')
    try:
        kind = kind_named(table["kind"])
    except ConfigurationError as error:
        raise Misfit(place, "kind", str(error)) from error
    return _build(kind, table, place, given=("kind",))


def _convert(raw: Any, hint: Any, place: Place, key: str) -> Any:
    if _optional(hint) and raw == "none":
        return None
    match _bare(hint):
        case inner if inner is RestartPolicy and isinstance(raw, str):
            return _policy(raw, place, key)
        case inner if inner in _PARTS:
            return _build(inner, raw, (*place, key))
        case inner if inner == tuple[Fault, ...]:
            return tuple(_fault(entry, (*place, key, n)) for n, entry in enumerate(_list(raw, place, key)))
        case inner if inner == tuple[Fail, ...]:
            entries = enumerate(_list(raw, place, key))
            return tuple(_build(Fail, entry, (*place, key, n)) for n, entry in entries)
        case inner if inner == Mapping[str, NodePlan]:
            tables = _table(raw, place, key).items()
            return {name: _build(NodePlan, entry, (*place, key, name)) for name, entry in tables}
        case inner if inner == Mapping[str, str]:
            return {name: _setting(value) for name, value in _table(raw, place, key).items()}
        case inner if inner in _TEXTS:
            return tuple(_scalar(entry, str, place, key) for entry in _list(raw, place, key))
        case inner if inner == frozenset[int]:
            return frozenset(_scalar(entry, int, place, key) for entry in _list(raw, place, key))
        case inner:
            return _scalar(raw, inner, place, key)


def _policy(text: str, place: Place, key: str) -> RestartPolicy:
    """As `--restart-policy` has it, save for policies of one's own: those are objects, in a scenario in Python."""
    if ":" in text:
        raise Misfit(
            place,
            key,
            f"is {text!r}, a policy of one's own; write the scenario in Python, and give the policy itself",
        )
    try:
        return policy_of(text, "the policy")
    except ConfigurationError as error:
        raise Misfit(place, key, str(error)) from error


def _scalar(raw: Any, kind: Any, place: Place, key: str) -> Any:
    if kind is float and type(raw) is int:
        raw = float(raw)
    if type(raw) is not kind or (kind is float and math.isnan(raw)):
        raise Misfit(place, key, f"is {raw!r}; it has to be {_NOUNS[kind]}")
    return raw


_NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _setting(value: Any) -> str:
    """`--rdzv-conf` knows texts only; a file may say 5 and true."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _list(raw: Any, place: Place, key: str) -> list[Any]:
    if not isinstance(raw, list):
        raise Misfit(place, key, f"is {raw!r}; it has to be a list")
    return raw


def _table(raw: Any, place: Place, key: str) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise Misfit(place, key, f"is {raw!r}; it has to be a table")
    return raw


def _from_text(text: str, hint: Any, place: Place, key: str) -> Any:
    if _optional(hint) and text.lower() == "none":
        return "none"
    bare = _bare(hint)
    if bare in _TEXTS:
        return [part for part in text.split(",") if part]
    if bare == frozenset[int]:
        return [_from_text(part, int, place, key) for part in text.split(",") if part]
    if bare is RestartPolicy:
        return text
    if bare not in _NOUNS:
        raise Misfit(place, key, "is no single value; name one of its fields after a dot")
    if bare is bool and text.lower() in _TRUTHS:
        return _TRUTHS[text.lower()]
    try:
        if bare is int or bare is float:
            return bare(text)
    except ValueError:
        pass
    if bare is str:
        return text
    raise Misfit(place, key, f"is {text!r}; it has to be {_NOUNS[bare]}")


_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


# -- fields ---------------------------------------------------------------------------------------------------


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _known(kind: Any, key: str, place: Place) -> Any:
    """The type of the field that plain data calls `key`."""
    hints = {TABLES.get(name, name): hint for name, hint in _hints(kind).items()}
    if key not in hints:
        remedy = did_you_mean(key, hints, f"{kind.__name__} has {', '.join(hints)}")
        raise Misfit(place, key, f"nobody knows that; {remedy}")
    return hints[key]


def _optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _bare(hint: Any) -> Any:
    return next(arg for arg in get_args(hint) if arg is not type(None)) if _optional(hint) else hint


def _default(spec: Any) -> Any:
    return spec.default_factory() if spec.default_factory is not MISSING else spec.default


def _missing(kind: Any, values: Mapping[str, Any]) -> list[str]:
    return [spec.name for spec in fields(kind) if spec.name not in values and _default(spec) is MISSING]


def _plain(value: Any) -> Any:
    match value:
        case None:
            return "none"
        case tuple():
            return [_plain(entry) for entry in value]
        case frozenset():
            return sorted(value)
        case Checker():
            return value.promise
        case _ if hasattr(value, "judge") and type(value) is not RestartPolicy:
            return name_of(value)  # of somebody's own, as a checker: by its name
        case Mapping():
            return {key: _plain(entry) for key, entry in value.items()}
        case _ if is_dataclass(value):
            return table_of(value)
        case _:
            return value
