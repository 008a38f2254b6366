"""How a command ends: its exit code, and a line in place of a traceback for what its user can mend."""

import sys
from collections.abc import Callable

ERROR, MISUSE, INTERRUPTED = 1, 2, 130


class Misuse(ValueError):
    """The command line asks for what cannot be."""


def exit_code_of(work: Callable[[], int]) -> int:
    """What `work` returns; 130 if it is interrupted.

    After an error that its user can mend, which is printed, 2 for Misuse and 1 for others.
    """
    from torch import OutOfMemoryError

    from core.data.errors import DataError
    from core.training.checkpoint import CheckpointError
    from core.training.trainer import NonFiniteLoss

    try:
        return work()
    except Misuse as error:
        return complain(error, MISUSE)
    except (CheckpointError, DataError, NonFiniteLoss, ValueError) as error:
        return complain(error, ERROR)
    except OSError as error:
        return complain(f"{error.filename or '.'}: {error.strerror or error}", ERROR)
    except RuntimeError as error:
        if isinstance(error, OutOfMemoryError) or "can't allocate memory" in str(error):  # of a GPU, of the CPU
            return complain(f"{str(error).splitlines()[0]} Give a smaller batch", ERROR)
        if "closed by peer" in str(error):  # as gloo puts it
            return complain("another process of this run has failed; its message says why", ERROR)
        if "nan values" in str(error):  # as autograd's anomaly mode puts it
            return complain(f"{error}. The lines above it say which operation; lower the learning rate", ERROR)
        raise
    except KeyboardInterrupt:
        return complain("interrupted", INTERRUPTED)


def complain(error: object, code: int) -> int:
    """Print the error and give back `code`."""
    print(f"error: {error}", file=sys.stderr)
    return code
