"""Stopping politely when a scheduler asks for the machine."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType

STOPPED_EXIT_CODE = 75
"""`EX_TEMPFAIL`: the run was asked to stop, has saved, and continues when the same command is started again."""


SECONDS_OF_ECHOES = 0.5
"""Slurm tells every process of a job, and launchers hand on what they were told: copies until then are one signal."""


class StopSignals:
    """While open, SIGTERM, SIGUSR1 (as Slurm sends them), SIGINT (Ctrl-C) only set `received`; a repeat kills."""

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(number, signal.SIG_IGN)
        time.sleep(SECONDS_OF_ECHOES)
        signal.signal(number, signal.SIG_DFL)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def leave_stop_signals_to_parent(worker: int) -> None:
    """For a data worker: schedulers signal a whole job, but it is its parent that decides when a worker may go.

    Without this, SIGTERM ends the workers at once and torch raises in the middle of the step that is to be saved.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, StopSignals.SIGNALS)

    def wait_for_parent() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait_for_parent, daemon=True).start()
