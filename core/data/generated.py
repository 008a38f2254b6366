"""What `dataset.json` says of a set that `tools/make_data.py` made."""

import json
from pathlib import Path

from core.data.errors import DataError


def rows_of_split(
    folder: Path, published: tuple[int, int | None], shares: tuple[float, float]
) -> tuple[int, int | None]:
    """First scene of a split, and the one after its last (None: all the rest).

    `published` is the answer for the published set; a generated one, of any size, is split by its `shares`. Raises
    DataError if `dataset.json` is damaged.
    """
    description = folder / "dataset.json"
    try:
        count = json.loads(description.read_text())["count"]
        return round(shares[0] * count), round(shares[1] * count)
    except FileNotFoundError:
        return published
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{description}: expected the number of scenes as 'count' ({error!r}). Make the set again with "
            "tools/make_data.py, or remove this file if the set is the published one"
        ) from error
