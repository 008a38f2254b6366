"""Who may write where: locks of a folder, and of what has a name in it."""

import os
import signal
import time
from pathlib import Path

from core.files import occupy


def test_names_in_a_folder_are_locked_apart(tmp_path: Path) -> None:
    with occupy(tmp_path, ".a.lock"):
        assert occupy(tmp_path, ".a.lock") is None
        with occupy(tmp_path, ".b.lock") as other, occupy(tmp_path) as whole:
            assert other is not None
            assert whole is not None
    with occupy(tmp_path, ".a.lock") as again:
        assert again is not None


def test_a_forked_process_does_not_hold_on_to_a_lock(tmp_path: Path) -> None:
    """Data workers outlive a process that was killed by seconds, in which it may be started again."""
    lock = occupy(tmp_path)
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        time.sleep(0.2)
        assert occupy(tmp_path) is None
        lock.close()
        occupy(tmp_path).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
