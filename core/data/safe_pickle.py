"""Pickles of numpy arrays and builtin values, read without running anything that they ask for."""

from __future__ import annotations

import pickle
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from core.data.errors import DataError

# Everything that numpy's own pickles of arrays, dtypes and scalars name, in its versions 1 and 2.
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("_codecs", "encode"),
    ("collections", "OrderedDict"),
}


class _SafeUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither a builtin value nor an array")
        return super().find_class(module, name)


def load_pickle(path: str | Path) -> Any:
    """The content of a pickle that holds numpy arrays and builtin values only, whoever wrote it.

    Raises DataError, naming the file, for anything else in it, for a damaged file and for a missing one.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return read_pickle(file, path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error


def read_pickle(file: BufferedIOBase, name: str | Path) -> Any:
    """The same from the present position of an open file, which errors call `name`."""
    try:
        return _SafeUnpickler(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, ImportError, IndexError) as error:
        raise DataError(f"{name}: not a readable pickle of numpy arrays and builtin values ({error})") from error
