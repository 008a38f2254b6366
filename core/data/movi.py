"""MOVi on disk: folders of frames and masks.

MOVi-A to E (Greff et al. 2022, Kubric), as SlotDiffusion (Wu et al. 2023) unpacks them:
`MOVi-<A..E>/<train|validation|test>/<8 digits>/%06d.jpg` and `%06d_mask.png`, 8-bit instance indices, 0 = background.

MOVi-Solid and MOVi-Tex (Singh et al. 2022, STEVE): `MOVi-<Solid|Tex>/<train|val|test>/<video>/%08d_image.png` and
`%08d_mask_%02d.png`, one binary picture per object; the val split has no masks.
"""

import re
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from core.data.clip_reader import ClipReader, video_folders
from core.data.clips import block_starts, every_start, first_start
from core.data.errors import DataError
from core.data.label_maps import numbered_without_gaps
from core.data.video import decoded_once, read_label_maps, read_picture, resize_labels

LEVELS = ("A", "B", "C", "D", "E", "Solid", "Tex")
STEVE_LEVELS = ("Solid", "Tex")
SPLITS = ("train", "val", "test")


class Movi(ClipReader):
    """Clips of one split: every start in training, blocks of starts in val, the first one of each video in test.

    `read(indices)` gives `video` and, with `masks`, `mask` (n, T, H, W) uint8: the objects of each clip numbered
    1, 2, ... without gaps, 0 = background. `as_original` numbers them as SlotDiffusion does, which takes the first
    object for background in a clip that shows none.
    """

    def __init__(
        self,
        root: str | Path,
        level: str,
        split: str,
        num_frames: int | None = 3,
        frame_offset: int = 1,
        *,
        video_len: int = 24,
        size: tuple[int, int] = (128, 128),
        masks: bool = False,
        as_original: bool = False,
    ):
        if level.capitalize() not in LEVELS:
            raise ValueError(f"MOVi level {level!r} is not one of {', '.join(LEVELS)}")
        if split not in SPLITS:
            raise ValueError(f"MOVi split {split!r} is not one of {', '.join(SPLITS)}")
        level = level.capitalize()
        self.is_steve = level in STEVE_LEVELS
        self.masks = masks
        self.as_original = as_original
        path = Path(root) / f"MOVi-{level}" / ("validation" if split == "val" and not self.is_steve else split)
        folders = video_folders(path)
        if not folders:
            source = (
                "Fetch it from the page of STEVE (Singh et al. 2022)"
                if self.is_steve
                else "Fetch it with slotdiffusion/scripts/data_utils/download_movi.py"
            )
            raise DataError(
                f"{path}: no folders of videos in it. {source}, or make a synthetic one: python tools/make_data.py "
                f"movi-{level.lower()} --root {root} --scenes 100"
            )
        if num_frames is None:
            num_frames = video_len // frame_offset
            clips = first_start(len(folders))
        elif split == "val":
            clips = block_starts(len(folders), video_len, num_frames, frame_offset)
        else:
            clips = every_start(len(folders), video_len, num_frames, frame_offset)
            if split == "test" and len(clips):
                clips = first_start(len(folders))
        stems = [f"{number:08d}_image" if self.is_steve else f"{number:06d}" for number in range(video_len)]
        names = [folder.name for folder in folders]
        super().__init__(path, names, folders, stems, clips, num_frames, frame_offset, size)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        batch = super().read(indices)
        if self.masks:
            labels = [numbered_without_gaps(clip, self.as_original) for clip in self._cut(self._labels, indices)]
            batch["mask"] = torch.from_numpy(np.stack(labels))
        return batch

    @cached_property
    def _labels(self) -> np.ndarray:
        """[V, L, H, W] uint8 instance indices as they are on disk."""
        count, size = len(self.stems), self.image_size
        stems = [f"{number:08d}_mask_00" if self.is_steve else f"{number:06d}_mask" for number in range(count)]
        return decoded_once(
            self.path,
            "masks-" + "x".join(map(str, size)),
            self.sources,
            (count, *size),
            partial(_read_object_masks, count=count, size=size)
            if self.is_steve
            else partial(read_label_maps, stems=stems, size=size),
            stems,
        )


def _read_object_masks(folder: Path, count: int, size: tuple[int, int]) -> UInt8[np.ndarray, "T H W"]:
    """1 + the object whose mask is largest at each pixel, the first of them on ties; 0 where none is above 1."""
    objects = sorted(folder.glob(f"{0:08d}_mask_*.png"))
    if not objects:
        raise DataError(
            f"{folder}: no {0:08d}_mask_NN.png in it. The val split of MOVi-Solid and MOVi-Tex has no masks: use the "
            "test split, or read without masks"
        )
    numbers = [int(match.group(1)) for path in objects if (match := re.search(r"_mask_(\d+)\.png$", path.name))]
    labels = []
    for number in range(count):
        masks = [read_picture(folder / f"{number:08d}_mask_{index:02d}.png", "L") for index in range(max(numbers) + 1)]
        masks.insert(0, np.ones_like(masks[0]))
        labels.append(resize_labels(np.stack(masks).argmax(axis=0).astype(np.uint8)[None], size)[0])
    return np.stack(labels)
