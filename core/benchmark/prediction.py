"""A trained model looks at pictures or videos of one's own: masks, slots, reconstructions and pictures of them.

The folder that comes out, with <name> the path of a picture or video below the input, without its ending:

    masks/<name>.png             index map of the input's size: the slot that owns each pixel; of videos
                                 masks/<name>/000000.png, ... of every frame
    overlays/<name>.png          the input, tinted in the slots' colours; of videos .mp4
    reconstructions/<name>.png   at the model's resolution; of videos .mp4
    panels/<name>.png            input, reconstruction, masks and slots; of videos eight frames
    slots.h5                     as core/data/slots.py says: /<split>/<name>, (frames, slots, slot size); pictures have
                                 one frame, the split is `all` outside folders of splits, "/" in names is "_"
    predictions.json             of every input file its <name>, the slots used, their areas and boxes
    provenance.json              weight and settings
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from core.benchmark.prediction_files import LEAST_SHARE, FileWriter, files_of
from core.benchmark.resizing import resized
from core.benchmark.seen_files import Picture, SeenFile, as_batch, find_files
from core.benchmark.subjects import Subject
from core.data.folder_layout import SPLITS
from core.data.slots import Slots, write_h5
from core.files import replacing
from core.provenance import Provenance, file_hash

PREDICTIONS, SLOTS = "predictions.json", "slots.h5"


@dataclass(frozen=True)
class Settings:
    """How to look.

    num_frames: the first ones of every video; all if None. batch_size: pictures, or frames of a video, at a time.
    seed: of the draws that a model makes; None for that of its run.
    generate: let models of words (STEVE, SLATE) draw their pictures from the slots alone, word by word.
    """

    num_frames: int | None = None
    batch_size: int = 8
    seed: int | None = None
    generate: bool = False


def predict(subject: Subject, source: Path, out: Path, settings: Settings) -> list[SeenFile]:
    """Look at the picture, video or folder `source` and write all about it to the folder `out`.

    The same call again replaces what it wrote, and removes it where the input is gone. Raises ValueError where the
    model cannot see such data, DataError for files that cannot be read, and for a folder `out` with other files,
    CheckpointError for a model that has diverged.
    """
    files = find_files(source, settings.num_frames)
    if reason := subject.refusal(files[0].kind):
        raise ValueError(f"{subject.path}: {reason}")
    if settings.seed is not None:
        subject = replace(subject, record=replace(subject.record, seed=settings.seed))
    provenance = _provenance(subject, source, settings)
    provenance.claim(out)
    entries: dict[str, Any] = {}
    slots: dict[str, Slots] = {}
    look = _videos if files[0].kind == "videos" else _pictures
    with tqdm(total=sum(file.num_frames for file in files), unit=" frames", desc=subject.name) as bar:
        for writer in look(subject, files, out, settings, bar):
            entries[str(writer.file.path)] = writer.finish()
            if writer.slots:
                slots[writer.file.name] = np.concatenate(writer.slots)
    if slots:
        _write_slots(out / SLOTS, slots, subject, provenance)
    about = {"model": subject.name, "paper": subject.paper, "weight": str(subject.weight), "steps": subject.steps}
    used = f"owns at least {LEAST_SHARE:.1%} of the pixels"
    content = {**about, "num_slots": subject.num_slots, "a slot is used that": used, "files": entries}
    _remove_stale(out, entries)
    with replacing(out / PREDICTIONS) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")
    return files


def _remove_stale(out: Path, entries: Mapping[str, Any]) -> None:
    """What an earlier call wrote about inputs, or frames of them, that are gone."""
    try:
        earlier = json.loads((out / PREDICTIONS).read_text())["files"].values()
        written = set().union(*(files_of(entry) for entry in earlier))
    except (OSError, ValueError, KeyError):
        return
    for name in written.difference(*(files_of(entry) for entry in entries.values())):
        (out / name).unlink(missing_ok=True)
        folder = (out / name).parent
        while folder != out and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent


def _pictures(
    subject: Subject, files: list[SeenFile], out: Path, settings: Settings, bar: tqdm
) -> Iterator[FileWriter]:
    for begin in range(0, len(files), settings.batch_size):
        numbers = range(begin, min(begin + settings.batch_size, len(files)))
        pictures = [next(files[number].frames()) for number in numbers]
        seen = torch.cat([resized(as_batch([picture]), subject.size) for picture in pictures])
        found = subject.decompose({"image": seen}, numbers, generate=settings.generate)
        subject.require_finite(found, [str(files[number].path) for number in numbers])
        for place, number in enumerate(numbers):
            writer = FileWriter(out, files[number])
            writer.add([pictures[place]], seen[place : place + 1], found[place])
            yield writer
        bar.update(len(numbers))


def _videos(subject: Subject, files: list[SeenFile], out: Path, settings: Settings, bar: tqdm) -> Iterator[FileWriter]:
    for number, file in enumerate(files):
        writer = FileWriter(out, file)
        waiting: list[tuple[list[Picture], torch.Tensor]] = []

        def clips(file: SeenFile = file, waiting: list = waiting) -> Iterator[torch.Tensor]:
            with closing(file.frames()) as frames:
                while clip := list(islice(frames, settings.batch_size)):
                    waiting.append((clip, resized(as_batch(clip), subject.size)))
                    yield waiting[-1][1][None]

        for found in subject.decompose_clips(clips(), number, generate=settings.generate):
            subject.require_finite(found, [str(file.path)])
            writer.add(*waiting.pop(), found)
            bar.update(found.recon.shape[1])
        yield writer


def _provenance(subject: Subject, source: Path, settings: Settings) -> Provenance:
    decisive = {
        "weight_sha256": file_hash(subject.weight),
        "input": str(source.resolve()),
        "num_slots": subject.num_slots,
        "seed": subject.record.seed,
        "frames": settings.num_frames,
        "generate": settings.generate,
    }
    remarks = {"weight": str(subject.weight), "run": subject.record.to_dict(), "torch": str(torch.__version__)}
    return Provenance(decisive, remarks)


def _write_slots(path: Path, slots: dict[str, Slots], subject: Subject, provenance: Provenance) -> None:
    """As core/data/slot_writer.py writes slots, with the weight's name and hash."""
    made_by = provenance.to_dict()
    attributes = {"weight": subject.weight.name, "weight_sha256": made_by["weight_sha256"]}
    write_h5(
        path,
        ((*_place(name), value) for name, value in slots.items()),
        {**attributes, "provenance": json.dumps(made_by)},
    )


def _place(name: str) -> tuple[str, str]:
    """Split and name of slots in their file."""
    first, slash, rest = name.partition("/")
    split, rest = (first, rest) if slash and first in SPLITS else ("all", name)
    return split, rest.replace("/", "_")
