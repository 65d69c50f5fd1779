"""What toolkit/README.md shows of the rendezvous is what the tables and a simulated run say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from toolkit.core.rounds import STEPS

ROOT = Path(__file__).parent.parent.parent


def test_the_picture_is_made_from_the_code() -> None:
    spec = importlib.util.spec_from_file_location("protocol", ROOT / "docs" / "protocol.py")
    assert spec is not None and spec.loader is not None
    protocol = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(protocol)
    assert protocol.section() in protocol.README.read_text(), "run `python docs/protocol.py`"
    steps = {(before, after) for before, following in STEPS.items() for after in following}
    assert set(protocol.WHY) == steps
