"""Runs the body of a test that has a `world` in that world: in the simulated one only a task can wait."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    world = pyfuncitem.funcargs.get("world")
    if world is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    world.run(lambda: pyfuncitem.obj(**arguments))
    return True
