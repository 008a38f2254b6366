"""Which weights and settings made a file or a folder of results, so that no two kinds of results are mixed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.data.errors import DataError
from core.files import replacing
from core.training.checkpoint import config_differences

FILE = "provenance.json"


@dataclass(frozen=True)
class Provenance:
    """Builtin values; results belong together where all that is `decisive` agrees."""

    decisive: dict[str, Any]
    remarks: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON gives it back."""
        return json.loads(json.dumps({**self.decisive, **self.remarks}))

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """A line for every decisive value that is another in `other`, which `to_dict` gave."""
        own = self.to_dict()
        keys = self.decisive.keys()
        return config_differences({key: other.get(key) for key in keys}, {key: own[key] for key in keys})

    def claim(self, folder: Path, description: Path | None = None) -> None:
        """Say in `folder`, which is made if missing, or in the file `description`, that its files are of this origin.

        DataError if they are of another one, or of none that is known.
        """
        description = description or folder / FILE
        found = read_provenance(description)
        holds_files = folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())
        if found is None and holds_files:
            found = read_provenance(description)  # another process may have claimed the folder since
        if found is None and holds_files:
            raise DataError(
                f"{folder}: holds files, but no {description.name} that says what made them. Move the folder away, or "
                "write elsewhere"
            )
        if found is None:
            write_provenance(description, self)
        elif differences := self.differences(found):
            raise DataError(
                f"{folder}: holds results of other weights or settings:\n  " + "\n  ".join(differences) + "\nUndo the "
                "change to continue them; else remove the folder, or write elsewhere"
            )


def write_provenance(path: Path, provenance: Provenance) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(provenance.to_dict(), indent=2) + "\n")


def read_provenance(path: Path) -> dict[str, Any] | None:
    """What `write_provenance` wrote, None if the file is not there. DataError if it is damaged."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: not readable ({error}). Remove it together with the results that it describes"
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: not a description of results. Remove it together with them")
    return found


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
