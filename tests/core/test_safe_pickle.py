"""What a pickle may hold, and what it may not do."""

import os
import pickle
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from core.data.errors import DataError
from core.data.safe_pickle import load_pickle


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_builtin_values_come_back(tmp_path: Path, protocol):
    content = {
        "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
        "bytes": np.arange(4, dtype=np.uint8)[::2],
        "number": np.float64(2.5),
        "nested": [1, "two", (3.0, None, True), {"four": b"5"}, OrderedDict(six=7)],
    }
    path = tmp_path / "content.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    found = load_pickle(path)
    assert found["nested"] == content["nested"]
    assert found["number"] == 2.5
    for name in ("floats", "bytes"):
        assert found[name].dtype == content[name].dtype
        assert np.array_equal(found[name], content[name])


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("content", [Attack(), [Fraction(1, 3)], np.array([Attack()], dtype=object)])
def test_anything_else_is_refused_and_not_run(tmp_path: Path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "content.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"content\.pkl: not a readable pickle .* \(it names (posix\.mkdir|fractions)"):
        load_pickle(path)
    assert not (tmp_path / "attacked").exists()


def test_damaged_and_missing_files_are_named(tmp_path: Path):
    whole = pickle.dumps({"a": np.arange(100)})
    for length in (0, 1, 20, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pkl").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut\.pkl: not a readable pickle"):
            load_pickle(tmp_path / "cut.pkl")
    with pytest.raises(DataError, match=r"gone\.pkl: no such file"):
        load_pickle(tmp_path / "gone.pkl")
