"""Restart policies of one's own: what a reference may lead to, and what is refused before anything starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from toolkit.adapters import own_policies
from toolkit.adapters.own_policies import load
from toolkit.core.errors import ConfigurationError
from toolkit.core.restart_spec import name_of
from toolkit.core.restarts import FailureCause

OPTION = "--restart-policy"
POLICIES = """
    from dataclasses import dataclass
    from functools import partial

    from toolkit import RestartPolicy
    from toolkit.core.restarts import RestartVerdict


    def says(cause, past, *, remaining, restarts_max, now_ns, draw=0.0):
        return RestartVerdict(remaining > 0, f"a function says {cause.key}")


    class Mine:
        def judge(self, cause, past, *, remaining, restarts_max, now_ns, draw):
            return RestartVerdict(True, "a class says so")


    @dataclass(frozen=True)
    class Ours(RestartPolicy):
        def judge(self, cause, past, **given):
            return RestartVerdict(True, "a subclass says so")


    def make(patience=3):
        return Mine()


    there = Mine()
    number = 3
    text = "backoff"


    class Nothing:
        pass


    class Wrong:
        def judge(self, cause):
            return None


    class Needy:
        def __init__(self, what):
            pass

        judge = Mine.judge


    class Async:
        async def judge(self, cause, past, *, remaining, restarts_max, now_ns, draw):
            return None


    def useless():
        return 3


    def breaks():
        raise OSError("no network")


    class Nested:
        Inner = Mine
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "cluster_policies.py").write_text(dedent(POLICIES))
    before, places = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = places
    # Only those from there: whatever else was loaded meanwhile, others have by now.
    for name, module in [(name, sys.modules[name]) for name in set(sys.modules) - before]:
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def judged(reference: str, folder: Path) -> str:
    policy = load(reference, folder, OPTION)
    assert name_of(policy) == reference
    verdict = policy.judge(
        FailureCause((1,), "exit code 1"), (), remaining=1, restarts_max=1, now_ns=0, draw=0.5
    )
    return verdict.reason


@pytest.mark.parametrize("where", ["cluster_policies", "cluster_policies.py", "./cluster_policies.py"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Mine", "a class says so"),
        ("Ours", "a subclass says so"),
        ("make", "a class says so"),
        ("there", "a class says so"),
        ("says", "a function says exit code 1"),
        ("Nested.Inner", "a class says so"),
    ],
)
def test_what_a_reference_may_lead_to(folder: Path, where: str, name: str, says: str) -> None:
    assert judged(f"{where}:{name}", folder) == says


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("cluster_policies:Min", "has no Min; did you mean Mine?"),
        ("cluster_policies:xyzzy", "has no xyzzy; give a class, a function or an object with judge("),
        ("cluster_policies:number", "which is of type int and no policy"),
        ("cluster_policies:text", "which is of type str and no policy"),
        ("cluster_policies:Nothing", "a class without a method judge"),
        ("cluster_policies:Wrong", "whose judge takes (cause); it has to take (cause, past, *, remaining"),
        ("cluster_policies:Needy", "missing 1 required positional argument: 'what'; give one that can"),
        ("cluster_policies:Async", "whose judge is an async function"),
        ("cluster_policies:useless", "which makes 3, no policy"),
        ("cluster_policies:breaks", "can't be called without arguments: OSError: no network"),
        ("no_such_module_here:x", "there is no module no_such_module_here; install it, set PYTHONPATH"),
        ("cluster_policies.sub:x", "there is no module cluster_policies.sub"),
        ("nowhere.py:x", "there is no file"),
        (":x", "write module:name or path/to/file.py:name"),
        ("cluster_policies:", "write module:name or path/to/file.py:name"),
    ],
)
def test_what_is_no_policy_is_refused_with_the_value_and_the_remedy(
    folder: Path, reference: str, said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(reference, folder, OPTION)
    assert said in str(caught.value)
    assert f"{OPTION} is {reference!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise RuntimeError('not today')", "can't be imported: RuntimeError: not today ("),
        ("import sys; sys.exit(3)", "can't be imported: SystemExit: 3"),
        ("def (:", "broken_policy.py:1); mend it"),
        ("import no_such_thing_at_all", "can't be imported: ModuleNotFoundError: No module named"),
    ],
)
@pytest.mark.parametrize("form", ["broken_policy:x", "broken_policy.py:x"])
def test_a_module_that_can_not_be_imported_is_named_with_its_error(
    folder: Path, text: str, said: str, form: str
) -> None:
    (folder / "broken_policy.py").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(form, folder, OPTION)
    assert said in str(caught.value)


def test_a_mistake_of_syntax_is_named_with_its_place(folder: Path) -> None:
    file = folder / "broken_policy.py"
    file.write_text("x = 3\ndef (:\n")
    with pytest.raises(ConfigurationError, match=f"SyntaxError: invalid syntax \\({file}:2\\)"):
        load("broken_policy.py:x", folder, OPTION)


def test_an_installed_policy_is_found_by_its_name(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    info = folder / "cluster_policies-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cluster-policies\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{own_policies.GROUP}]\npatient = cluster_policies:Mine\ngone = cluster_policies:Gone\n"
    )
    assert judged("patient", folder) == "a class says so"
    with pytest.raises(ConfigurationError, match=r"'patiemt' is not known; did you mean patient\?"):
        load("patiemt", folder, OPTION)
    with pytest.raises(ConfigurationError, match=r"installed ones are gone, patient"):
        load("xyzzy", folder, OPTION)
    with pytest.raises(ConfigurationError, match=r"the installed policy 'gone' \(cluster_policies:Gone\)"):
        load("gone", folder, OPTION)


def test_a_word_that_is_nearly_ours_is_named(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'bakoff' is not known; did you mean backoff\?"):
        load("bakoff", folder, OPTION)


def test_the_folder_hides_no_module(folder: Path) -> None:
    (folder / "json.py").write_text("raise RuntimeError('hides the real one')")
    load("cluster_policies:Mine", folder, OPTION)
    assert sys.path[0] != str(folder)
