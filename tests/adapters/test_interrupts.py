"""Death signals reach a wait that they do not break off."""

from __future__ import annotations

import os
import signal
import threading
import time

from toolkit.adapters.interrupts import SignalInterrupts
from toolkit.adapters.loop_bell import LoopBell


def test_a_signal_that_another_thread_gets_ends_the_wait() -> None:
    bell, interrupts = LoopBell(), SignalInterrupts(os.getpid(), (signal.SIGTERM,))
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    with interrupts.handling(bell):
        sender = threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM))
        sender.start()
        began_s = time.monotonic()
        while interrupts.count() == 0 and time.monotonic() - began_s < 10:
            bell.wait(10)
        assert interrupts.take() == signal.SIGTERM
        assert time.monotonic() - began_s < 5
    sender.join()
    assert signal.set_wakeup_fd(before) == before, "it is as it was before"
    bell.close()
