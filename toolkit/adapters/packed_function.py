"""A Python function on its way to the workers: packed by value, with the source it was written in, and called there.

Run in a worker by a script of one line. A traceback there shows the lines of a notebook's cell, which no file holds.
"""

from __future__ import annotations

import inspect
import linecache
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from toolkit.adapters.processes import error_file
from toolkit.core.errors import ConfigurationError, RallyError

#: how deep what can't be packed is looked for
_DEPTH_MAX = 3
#: characters of text without a file that are sent along, at the most
_SOURCES_MAX = 16 << 20


@dataclass(frozen=True)
class Packed:
    """What a worker finds in the file.

    Args:
        call: function, positional and named arguments, pickled by value.
        search: where modules are looked for.
        sources: the text of files that are none, such as cells, by the name that tracebacks give them.
        labels: what people call some of them: "Cell In[5]".
    """

    call: bytes
    search: tuple[str, ...]
    sources: Mapping[str, str]
    labels: Mapping[str, str]


def pack(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    label_of: Callable[[str], str] = str,
) -> bytes:
    """The function and its arguments, to be written into a file.

    Args:
        label_of: what people call a file that is none; the same name if nothing else.

    Raises:
        ConfigurationError: cloudpickle is missing, or something can't be sent to another process; it is named.
    """
    _check_kind(function)
    try:
        import cloudpickle
    except ModuleNotFoundError:
        raise ConfigurationError(
            "functions as entrypoints need cloudpickle: pip install 'rallypoint[notebook]'; or give a script"
        ) from None
    try:
        call = cloudpickle.dumps((function, args, dict(kwargs)))
    except Exception as error:
        raise ConfigurationError(_unpackable(cloudpickle.dumps, function, args, kwargs, error)) from error
    sources = _sources_of(function)
    search = tuple(str(Path(place).absolute()) for place in sys.path)
    return pickle.dumps(Packed(call, search, sources, {name: label_of(name) for name in sources}))


def _check_kind(function: Any) -> None:
    """That calling it does something: an async function and a generator function would only be made, never run."""
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    name = getattr(inner, "__qualname__", repr(inner))
    if inspect.iscoroutinefunction(inner):
        raise ConfigurationError(
            f"{name} is an async function, which a worker can't just call; give one that calls asyncio.run({name}())"
        )
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise ConfigurationError(
            f"{name} is a generator, which does nothing when it is called; give a function that runs through it"
        )


def _unpackable(
    dumps: Callable[[Any], bytes],
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    error: Exception,
) -> str:
    name = getattr(function, "__qualname__", repr(function))
    parts = {
        **{f"argument {place} of {name}": value for place, value in enumerate(args)},
        **{f"argument {key} of {name}": value for key, value in kwargs.items()},
        **_seen_by(function, name),
    }
    for where, value in parts.items():
        guilty = _guilty(dumps, where, value, _DEPTH_MAX)
        if guilty:
            return f"{guilty} can't be sent to the workers ({_short(error)}); make it inside {name} instead"
    return f"{name} can't be sent to the workers ({_short(error)}); make what it uses inside of it"


def _seen_by(function: Any, name: str) -> dict[str, Any]:
    """Globals and enclosing variables that a function uses, by what to call them."""
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    known = getattr(function, "__globals__", {})
    found = {f"{word}, which {name} uses,": known[word] for word in code.co_names if word in known}
    for word, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        found[f"{word}, which {name} uses,"] = cell.cell_contents
    return found


def _guilty(dumps: Callable[[Any], bytes], where: str, value: Any, depth: int) -> str:
    """Which part of a value can't be packed; empty if all can."""
    try:
        dumps(value)
    except Exception:  # noqa: BLE001 - pickling runs anybody's code
        if depth and isinstance(value, Mapping):
            inner = {f"{where} at {key!r}": each for key, each in value.items()}
        elif depth and isinstance(value, list | tuple | set):
            inner = {f"{where} at {place}": each for place, each in enumerate(value)}
        else:
            inner = {}
        found = (_guilty(dumps, each, part, depth - 1) for each, part in inner.items())
        return next(filter(None, found), f"{where.removesuffix(',')}, a {type(value).__name__},")
    return ""


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _sources_of(function: Any) -> dict[str, str]:
    """The text of all that was written in no file, such as the cells of a notebook: what linecache alone knows.

    All of it, because a function calls others: of classes, behind decorators, inside of partial objects.
    """
    code = getattr(function, "__code__", None)
    names = {code.co_filename} if code is not None else set()
    # An entry without a time is one that linecache did not read from a file.
    names |= {name for name, entry in list(linecache.cache.items()) if len(entry) == 4 and entry[1] is None}
    found: dict[str, str] = {}
    size = 0
    for name in sorted(names, key=lambda name: name != getattr(code, "co_filename", "")):
        text = "" if Path(name).exists() else _text(name)
        size += len(text)
        if text and size <= _SOURCES_MAX:
            found[name] = text
    return found


def _text(name: str) -> str:
    return "".join(linecache.getlines(name))


# -- in the worker --------------------------------------------------------------------------------------------


def call(packed_file: str, returned_folder: str, environ: Mapping[str, str]) -> None:
    """Call the function, and leave what it returns for whoever launched it.

    Args:
        packed_file: what `pack` made.
        returned_folder: for what it returns.
        environ: of the worker.
    """
    packed: Packed = pickle.loads(Path(packed_file).read_bytes())
    sys.path[:] = list(dict.fromkeys((*sys.path, *packed.search)))
    for name, text in packed.sources.items():
        # Without a time it is not looked for on the disk.
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    told = _Tracebacks(packed.labels)
    sys.excepthook = told.show
    errors, me = environ.get("TORCHELASTIC_ERROR_FILE", ""), os.getpid()
    path = Path(returned_folder) / f"{environ['RANK']}.pickle"
    path.unlink(missing_ok=True)  # of an incarnation before this
    try:
        function, args, kwargs = pickle.loads(packed.call)
        value = function(*args, **kwargs)
        if os.getpid() == me:  # and not a child that it has forked, and that came back, too
            _leave(value, function, path)
    except SystemExit as leaving:
        if isinstance(leaving.code, int | None):
            raise
        error_file.write_own(leaving, errors, told.text(leaving))
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        error_file.write_own(error, errors, told.text(error))
        raise


class _Tracebacks:
    """Tracebacks that begin in the user's function, and name a cell as the notebook does."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = labels

    def text(self, error: BaseException) -> str:
        trace = error.__traceback__
        while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
            trace = trace.tb_next
        text = "".join(traceback.format_exception(type(error), error, trace))
        for name, label in self._labels.items():
            text = text.replace(f'File "{name}"', label if label != name else f'File "{name}"')
        return text

    def show(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        sys.stderr.write(self.text(error))


def _is_ours(file: str) -> bool:
    return file == __file__ or Path(file).parent.name == LAUNCH_FOLDER


def _leave(value: Any, function: Any, path: Path) -> None:
    if value is None:
        return
    import cloudpickle

    try:
        data = cloudpickle.dumps(value)
    except Exception as error:  # noqa: BLE001 - pickling runs anybody's code
        name = getattr(function, "__qualname__", repr(function))
        raise TypeError(
            f"what {name} returns can't be sent back: a {type(value).__name__} can't be pickled ({_short(error)}); "
            "return plain data instead"
        ) from None
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    partial.rename(path)


#: of a run directory: what was launched, and what it returned
LAUNCH_FOLDER, RETURNED_FOLDER = "launch", "returned"


class ReturnedUnreadable(RallyError):
    """What a worker returned can't be read here."""


def returned(run_directory: Path, ranks: Iterable[int]) -> dict[int, Any]:
    """What the functions of the workers have returned, by global rank; None where nothing was.

    Raises:
        ReturnedUnreadable: a value needs what this process does not have.
    """
    values: dict[int, Any] = {}
    for rank in ranks:
        path = run_directory / LAUNCH_FOLDER / RETURNED_FOLDER / f"{rank}.pickle"
        try:
            values[rank] = pickle.loads(path.read_bytes())
        except FileNotFoundError:
            values[rank] = None
        except Exception as error:
            raise ReturnedUnreadable(
                f"what rank {rank} returned can't be read here: {_short(error)}; import what it needs first"
            ) from error
    return values
