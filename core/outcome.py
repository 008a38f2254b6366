"""How a command ends: its exit code, and a line in place of a traceback for what its user can mend."""

import sys
from collections.abc import Callable

ERROR, INTERRUPTED = 1, 130


def exit_code_of(work: Callable[[], int]) -> int:
    """What `work` returns; 1 after an error that its user can mend, which is printed; 130 if it is interrupted."""
    from core.data.errors import DataError
    from core.training.checkpoint import CheckpointError
    from core.training.trainer import NonFiniteLoss

    try:
        return work()
    except (CheckpointError, DataError, NonFiniteLoss, ValueError) as error:
        return complain(error, ERROR)
    except OSError as error:
        return complain(f"{error.filename or '.'}: {error.strerror or error}", ERROR)
    except RuntimeError as error:
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
