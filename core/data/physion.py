"""Physion on disk (Bear et al. 2021), with the splits, labels and left-out videos of SlotFormer (Wu et al. 2023).

`PhysionTrainMP4s/<Scenario>_{training,readout}_MP4s/<name>.mp4`, `PhysionTestMP4s/<Scenario>/mp4s-redyellow/<name>.mp4`
or folders `<name>/%06d.jpg` beside them; `readout_labels.csv` and `labels.csv` in the two folders at the top.

The published splits come with this module (`physion_splits.json.gz`). A data set that has others brings them along:
`splits/<subset>_<split>.json`, an object {scenario: [path of an mp4, ...]}, and `splits/bad_stimuli.txt`.

Words that a dVAE found in the frames lie in `PhysionTrainNpys-<its name>/` and `PhysionTestNpys-<its name>/`, laid out
as the mp4 files: `<name>.npy`, int16 [frames, h * w].
"""

import csv
import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from core.data.clip_reader import ClipReader
from core.data.clips import block_starts, every_start, first_start
from core.data.errors import DataError
from core.data.video import folder_or_mp4

SCENARIOS = ("Collide", "Contain", "Dominoes", "Drape", "Drop", "Link", "Roll", "Support")
SPLITS = {"training": ("train", "val"), "readout": ("train", "val"), "test": ("test",)}
FOLDERS = {
    "training": "PhysionTrainMP4s/{}_training_MP4s",
    "readout": "PhysionTrainMP4s/{}_readout_MP4s",
    "test": "PhysionTestMP4s/{}/mp4s-redyellow",
}
LABELS = {"readout": "PhysionTrainMP4s/readout_labels.csv", "test": "PhysionTestMP4s/labels.csv"}
OUTCOME = "ground truth outcome"
SOURCE = (
    "https://github.com/cogtoolslab/physics-benchmarking-neurips2021, or make a synthetic set: "
    "python tools/make_data.py physion --root ... --scenes 64"
)


@dataclass(frozen=True)
class PhysionVideo:
    """An entry of a split list: path of the mp4 below the root, index of its scenario."""

    path: str
    scenario: int

    @property
    def name(self) -> str:
        return Path(self.path).stem


class Physion(ClipReader):
    """Clips of one split of a subset: every start in training, blocks of starts else, or (`num_frames` None) videos.

    Only the first `video_len` frames count. `tasks` are scenarios, or ("all",). With `labels`, `read(indices)` also
    gives `label` (n,) int64, 1 if the two marked objects touch, and `scenario` (n,) int64, its place in SCENARIOS, and
    the 29 videos that Physion's authors found to be flawed are left out of the test subset. With `tokens`, the name of
    a dVAE, it also gives `token_id` (n, T, h * w) int32, the words of the frames.

    Without `pictures` the videos need not be there: clips and labels are known, `read` is not to be called.

    `as_original` leaves three of these in, which the original's list misspells, and gives the scenarios that the
    original does, which are shifted by every video left out.
    """

    def __init__(
        self,
        root: str | Path,
        subset: str,
        split: str,
        num_frames: int | None = 6,
        frame_offset: int = 1,
        *,
        video_len: int = 150,
        size: tuple[int, int] = (128, 128),
        tasks: Sequence[str] = ("all",),
        labels: bool = False,
        tokens: str | None = None,
        pictures: bool = True,
        as_original: bool = False,
    ):
        root = Path(root)
        videos = listed_videos(root, subset, split, tasks)
        self.labels: np.ndarray | None = None
        self.scenarios = np.array([video.scenario for video in videos])
        if labels:
            videos, self.labels, self.scenarios = labelled_videos(root, subset, split, tasks, as_original)
        sources = [folder_or_mp4(root / video.path) for video in videos]
        if pictures:
            _check_presence(sources)
        self.token_files = tokens and [token_file(root, video, tokens) for video in videos]
        if missing := [file for file in self.token_files or () if not file.exists()]:
            raise DataError(
                f"{missing[0]}: no such file ({len(missing)} of {len(videos)} are missing). Start "
                "slotformer/base_slots/tokenize_images.py again: it makes what is missing; or remove the whole folder "
                "to do without tokens"
            )
        if num_frames is None:
            num_frames = video_len // frame_offset
            clips = first_start(len(videos))
        elif split == "train":
            clips = every_start(len(videos), video_len, num_frames, frame_offset)
        else:
            clips = block_starts(len(videos), video_len, num_frames, frame_offset)
        stems = [f"{number:06d}" for number in range(video_len)]
        path = root / FOLDERS[subset].partition("/")[0]
        super().__init__(path, [video.name for video in videos], sources, stems, clips, num_frames, frame_offset, size)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        batch = super().read(indices)
        if self.labels is not None:
            videos = self.clips[indices, 0]
            batch["label"] = torch.from_numpy(self.labels[videos])
            batch["scenario"] = torch.from_numpy(self.scenarios[videos])
        if self.token_files:
            words = [self._read_tokens(self.token_files[video], start) for video, start in self.clips[indices].tolist()]
            batch["token_id"] = torch.from_numpy(np.stack(words))
        return batch

    def _read_tokens(self, path: Path, start: int) -> Int32[np.ndarray, "T L"]:
        """Of the frames of a clip."""
        try:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
            if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or len(tokens) < len(self.stems):
                raise ValueError(
                    f"it holds {tokens.dtype} {list(tokens.shape)}, expected integers, {len(self.stems)} frames x words"
                )
        except (OSError, EOFError, ValueError) as error:
            raise DataError(
                f"{path}: not readable as words of a video ({error}). Remove it, and start "
                "slotformer/base_slots/tokenize_images.py again"
            ) from error
        return tokens[start + np.arange(self.num_frames) * self.frame_offset].astype(np.int32)


def token_file(root: str | Path, video: PhysionVideo, tokens: str) -> Path:
    """Where the words lie that the dVAE `tokens` finds in a video."""
    folder, _, rest = video.path.partition("/")
    return Path(root) / folder.replace("MP4s", f"Npys-{tokens}") / Path(rest).with_suffix(".npy")


def listed_videos(root: str | Path, subset: str, split: str, tasks: Sequence[str] = ("all",)) -> list[PhysionVideo]:
    """The videos of a split in the order of its list; `("all",)` joins the scenarios as they stand in the list.

    ValueError for an unknown subset, split or task; DataError for a damaged list beside the data.
    """
    if split not in SPLITS.get(subset, ()):
        known = ", ".join(f"{name}/{part}" for name, parts in SPLITS.items() for part in parts)
        raise ValueError(f"Physion subset/split {subset}/{split} is not one of {known}")
    lists = _list_beside_data(Path(root) / "splits" / f"{subset}_{split}.json")
    if lists is None:
        names = _published_splits()["lists"][f"{subset}_{split}"]
        lists = {
            scenario: [f"{FOLDERS[subset].format(scenario)}/{name}.mp4" for name in members]
            for scenario, members in names.items()
        }
    chosen = list(lists) if list(tasks) == ["all"] else list(tasks)
    if unknown := [task for task in chosen if task not in lists or task not in SCENARIOS]:
        raise ValueError(f"Physion task {unknown[0]!r} is not one of all, {', '.join(lists)}")
    return [PhysionVideo(path, SCENARIOS.index(task)) for task in chosen for path in lists[task]]


def without_bad_stimuli(
    root: str | Path, videos: Sequence[PhysionVideo], as_original: bool = False
) -> list[PhysionVideo]:
    """The test videos but those whose path holds one of the names of flawed videos; `-redyellow` does not count.

    In three of the names it stands nevertheless, so that `as_original` keeps these videos.
    """
    path = Path(root) / "splits" / "bad_stimuli.txt"
    names = path.read_text().split() if path.exists() else _published_splits()["bad_stimuli"]
    if not as_original:
        names = [_plain(name) for name in names]
    return [video for video in videos if not any(name in _plain(video.path) for name in names)]


def labelled_videos(
    root: str | Path, subset: str, split: str, tasks: Sequence[str] = ("all",), as_original: bool = False
) -> tuple[list[PhysionVideo], Int64[np.ndarray, "V"], Int64[np.ndarray, "V"]]:
    """The videos of a split that have a label; their labels, 1 or 0; their scenarios, as places in SCENARIOS.

    Flawed videos of the test subset are left out. What `as_original` changes is said at `Physion`. Needs no video to be
    there. Raises as `listed_videos` and `outcomes` do.
    """
    listed = listed_videos(root, subset, split, tasks)
    videos = without_bad_stimuli(root, listed, as_original) if subset == "test" else listed
    labels = outcomes(root, subset, videos)
    scenarios = [video.scenario for video in (listed[: len(videos)] if as_original else videos)]
    return videos, np.array(labels, np.int64), np.array(scenarios, np.int64)


def outcomes(root: str | Path, subset: str, videos: Iterable[PhysionVideo]) -> list[int]:
    """Whether the two marked objects of each video touch, 1 or 0, from the subset's csv.

    DataError for a video without an outcome or with two different ones, since none may be replaced by another.
    """
    if subset not in LABELS:
        raise ValueError(f"Physion subset {subset!r} has no labels, only {', '.join(LABELS)} have")
    path = Path(root) / LABELS[subset]
    table = _read_outcomes(path)
    labels = []
    for video in videos:
        key = video.name.removesuffix("_img") if subset == "readout" else _plain(video.name)
        found = table.get(key, set())
        if len(found) != 1:
            what = "more than one outcome" if found else "no outcome"
            raise DataError(
                f"{path}: {what} of {key!r}, needed for {video.path}. Take the video out with lists of your own in "
                f"splits/, or fetch the file again: {SOURCE}"
            )
        labels += found
    return labels


def _read_outcomes(path: Path) -> dict[str, set[int]]:
    """All outcomes of every key, the first column."""
    try:
        with path.open(newline="") as file:
            header, *lines = csv.reader(file)
            column = header.index(OUTCOME)
            table: dict[str, set[int]] = {}
            for line in lines:
                table.setdefault(line[0], set()).add(("False", "True").index(line[column]))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. It comes with the videos: {SOURCE}") from error
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise DataError(
            f"{path}: not a table of names and a column {OUTCOME!r} of True and False ({error}). Fetch it again: "
            f"{SOURCE}"
        ) from error
    return table


def _plain(name: str) -> str:
    return name.replace("-redyellow", "")


def _list_beside_data(path: Path) -> dict[str, list[str]] | None:
    if not path.exists():
        return None
    try:
        lists = json.loads(path.read_text())
        if not all(isinstance(entry, str) for members in lists.values() for entry in members):
            raise ValueError("a path is not a string")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path}: not an object of scenarios with paths of mp4 files ({error}). Make the data again, or remove the "
            "file to use the published splits"
        ) from error
    return lists


@cache
def _published_splits() -> dict[str, Any]:
    return json.loads(gzip.decompress(Path(__file__).with_name("physion_splits.json.gz").read_bytes()))


def _check_presence(sources: Sequence[Path]) -> None:
    missing = [source for source in sources if not source.exists()]
    if missing:
        raise DataError(
            f"{missing[0]}: no such file, nor a folder of its frames ({len(missing)} of {len(sources)} videos are "
            f"missing). Fetch Physion again: {SOURCE}"
        )
