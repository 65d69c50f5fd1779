"""Restart policies of one's own: imported from a module, a file, or an installed package, and tried on at once.

What a name leads to may be an object with a method `judge` (`toolkit.core.restarts.RestartJudge`), a class or a
function that makes one without arguments, or a function that judges itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from toolkit.core.errors import ConfigurationError
from toolkit.core.restart_spec import nearest, what_there_is
from toolkit.core.restarts import FailureCause, PastRestart, RestartJudge, RestartVerdict

#: entry points of this group are policies, by their names
GROUP = "rallypoint.restart_policies"
_SHAPE = "judge(cause, past, *, remaining, restarts_max, now_ns, draw)"
_REMEDY = f"give a class, a function or an object with {_SHAPE}, as toolkit.RestartPolicy has it"


class OwnPolicy:
    """A policy of one's own under the name by which it was asked for.

    Args:
        name: as in `--restart-policy`.
        judge: its method, or the function.
    """

    def __init__(self, name: str, judge: Callable[..., RestartVerdict]) -> None:
        self.name = name
        self._judge = judge

    def judge(self, cause: FailureCause, past: tuple[PastRestart, ...], **given: Any) -> RestartVerdict:
        """What it says."""
        return self._judge(cause, past, **given)


def load(reference: str, cwd: Path, source: str) -> RestartJudge:
    """The policy that a reference leads to.

    Args:
        reference: `module:name`, `path/to/file.py:name`, or the name of an installed entry point.
        cwd: where relative paths start; modules are looked for there, too, after all other places.
        source: what messages call the option.

    Raises:
        ConfigurationError: it can't be imported, or is no policy; says what was found and what to do.
    """
    said = f"{source} is {reference!r}"
    place, colon, name = reference.strip().rpartition(":")
    if not colon:
        found = _installed(reference.strip(), source)
    elif not place or not name:
        raise ConfigurationError(f"{said}; write module:name or path/to/file.py:name")
    else:
        module = _file(cwd / place, said) if place.endswith(".py") else _module(place, cwd, said)
        found = _attribute(module, name, said)
    return OwnPolicy(reference.strip(), tried(found, said))


def _installed(name: str, source: str) -> Any:
    there = {point.name: point for point in entry_points(group=GROUP)}
    if name not in there:
        near = nearest(name) or next(iter(get_close_matches(name, there, n=1)), "")
        own = f"; installed ones are {', '.join(sorted(there))}" if there else ""
        remedy = f"did you mean {near}?" if near else f"{what_there_is()}{own}"
        raise ConfigurationError(f"{source}: {name!r} is not known; {remedy}")
    try:
        return there[name].load()
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"{source}: the installed policy {name!r} ({there[name].value}) can't be loaded: {_last_line(error)}"
        ) from error


def _file(path: Path, said: str) -> ModuleType:
    try:
        there = path.is_file()
    except OSError as error:
        raise ConfigurationError(f"{said}, and {path} can't be read: {error.strerror}") from error
    if not there:
        raise ConfigurationError(f"{said}, and there is no file {path}; give the path of a Python file")
    spec = importlib.util.spec_from_file_location(f"rally_restart_policy_{path.stem}", path)
    assert spec is not None and spec.loader is not None, "a file that ends in .py can be loaded"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"{said}, and {path} can't be imported: {_last_line(error)}; mend it"
        ) from error
    return module


def _module(name: str, cwd: Path, said: str) -> ModuleType:
    if str(cwd) not in sys.path:
        sys.path.append(str(cwd))  # last, so that it hides nothing
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.split(".")[0] == error.name.split(".")[0]:
            raise ConfigurationError(
                f"{said}, and there is no module {error.name}; install it, set PYTHONPATH, or give a file: "
                "path/to/file.py:name"
            ) from error
        raise ConfigurationError(f"{said}, and {name} can't be imported: {_last_line(error)}") from error
    except (Exception, SystemExit, ImportError) as error:
        raise ConfigurationError(
            f"{said}, and {name} can't be imported: {_last_line(error)}; mend it"
        ) from error


def _attribute(module: ModuleType, name: str, said: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = [word for word in vars(module) if not word.startswith("_")]
            near = get_close_matches(name, names, n=1)
            remedy = f"did you mean {near[0]}?" if near else _REMEDY
            where = getattr(module, "__file__", None) or module.__name__
            raise ConfigurationError(f"{said}, and {where} has no {name}; {remedy}")
        found = getattr(found, part)
    return found


def tried(found: Any, said: str) -> Callable[..., RestartVerdict]:
    """The judging function of an object, a class or a function, tried on for its arguments.

    Args:
        said: what messages begin with.

    Raises:
        ConfigurationError: it is no policy.
    """
    if not isinstance(found, type) and callable(getattr(found, "judge", None)):
        return _checked(found.judge, said)
    if not callable(found):
        raise ConfigurationError(f"{said}, which is of type {type(found).__name__} and no policy; {_REMEDY}")
    if not isinstance(found, type) and not _takes(found):
        return _checked(found, said)  # a function that judges
    if isinstance(found, type) and not callable(getattr(found, "judge", None)):
        raise ConfigurationError(f"{said}, a class without a method judge; {_REMEDY}")
    try:
        made = found()
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"{said}, which can't be called without arguments: {_last_line(error)}; give one that can"
        ) from error
    judge = getattr(made, "judge", None)
    if isinstance(made, type) or not callable(judge):
        raise ConfigurationError(f"{said}, which makes {made!r}, no policy; {_REMEDY}")
    return _checked(judge, said)


def _takes(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Whether it can be called so, as far as it says."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    except ValueError:  # some builtins tell nothing
        return True
    return True


def _checked(judge: Callable[..., Any], said: str) -> Callable[..., RestartVerdict]:
    if inspect.iscoroutinefunction(judge):
        raise ConfigurationError(f"{said}, whose judge is an async function; the agent calls a plain one")
    given = {"remaining": 0, "restarts_max": 0, "now_ns": 0, "draw": 0.0}
    if not _takes(judge, FailureCause(), (), **given):
        has = inspect.signature(judge)
        raise ConfigurationError(
            f"{said}, whose judge takes {has}; it has to take {_SHAPE.removeprefix('judge')}"
        )
    return judge


def _last_line(error: BaseException) -> str:
    """The error and where it was raised: the last line of their own code."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) or not frames or frames[-1].filename == __file__:
        return f"{type(error).__name__}: {error}"  # it says so itself, or none of that code ran
    where = f" ({frames[-1].filename}:{frames[-1].lineno})"
    return f"{type(error).__name__}: {error}{where}"
