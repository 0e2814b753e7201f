"""What Ctrl-C and SIGTERM do to a command that drives a run."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from reshelve.cli.output import say


def stop_on_signals(stop: threading.Event) -> None:
    """The first Ctrl-C asks for a clean stop, the second ends at once: nothing is lost either way."""

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        say("stopping; what is done is kept" if number == signal.SIGINT else "told to stop; what is done is kept")

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
