"""`%%rally`, without a kernel: what needs none."""

from __future__ import annotations

import pytest

from toolkit.fronts.notebook.magic import rally


@pytest.mark.parametrize("line", ["--help", "-h", "--help --nproc-per-node 2"])
def test_help_starts_nothing(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert rally(None, line, "raise RuntimeError") is None
    said = capsys.readouterr().out
    assert said.startswith("usage: %%rally [--as NAME]")
    assert "--nproc-per-node N|WORD" in said
    assert "--forward-signals" in said
