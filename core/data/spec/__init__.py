"""Data strings, such as `clevrtex:full-crop-(128,128)`: one line of text names any data set of the project.

`core.data.spec.dataspec` has the words, `core.data.spec.catalogue` the data sets.
"""

from core.data.spec.datasets import SPLITS, Kind, MissingData
from core.data.spec.dataspec import DataSpec

__all__ = ["SPLITS", "DataSpec", "Kind", "MissingData"]
