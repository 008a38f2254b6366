"""OBJ3D on disk (Lin et al. 2020, G-SWM): `{train,val,test}/<video>/test_<k>.png`, 100 frames of 128x128 a video."""

from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.clip_reader import ClipReader, video_folders
from core.data.clips import every_start, first_start
from core.data.errors import DataError
from core.data.video import decoded_once, read_label_maps

SPLITS = ("train", "val", "test")


class Obj3D(ClipReader):
    """Clips of one split: every start in training, else the first one of each video, or whole videos.

    Frame 0 is `test_1.png` and only the first `video_len` frames count, as in SlotFormer (Wu et al. 2023). With
    `num_frames` None a sample is a whole video, which is one frame longer where there is one more: SlotFormer extracts
    slots of 51 frames.

    With `masks`, `read(indices)` also gives `mask` (n, T, H, W) uint8 instance indices, 0 = background, from the files
    `mask_<k>.png`, which synthetic sets have and the published one has not.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        num_frames: int | None = 6,
        frame_offset: int = 1,
        *,
        video_len: int = 50,
        size: tuple[int, int] = (64, 64),
        masks: bool = False,
    ):
        if split not in SPLITS:
            raise ValueError(f"OBJ3D split {split!r} is not one of {', '.join(SPLITS)}")
        path = Path(root) / split
        folders = video_folders(path)
        if not folders:
            raise DataError(
                f"{path}: no folders of videos in it. Fetch OBJ3D as G-SWM (Lin et al. 2020) published it, or make a "
                f"synthetic one: python tools/make_data.py obj3d --root {Path(root).parent} --scenes 100"
            )
        if num_frames is None:
            video_len += (folders[0] / f"test_{video_len + 1}.png").exists()
            num_frames = video_len // frame_offset
            clips = first_start(len(folders))
        else:
            clips = every_start(len(folders), video_len, num_frames, frame_offset)
            if split != "train" and len(clips):
                clips = first_start(len(folders))
        stems = [f"test_{number + 1}" for number in range(video_len)]
        names = [folder.name for folder in folders]
        super().__init__(path, names, folders, stems, clips, num_frames, frame_offset, size)
        self.masks = masks
        if masks and not has_masks(root, split):
            raise DataError(
                f"{folders[0]}: no mask_1.png, but masks are asked for. OBJ3D has none as it was published; read "
                "without masks, or make a synthetic set"
            )

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        batch = super().read(indices)
        if self.masks:
            batch["mask"] = torch.from_numpy(self._cut(self._labels, indices))
        return batch

    @cached_property
    def _labels(self) -> np.ndarray:
        """[V, L, H, W] uint8."""
        stems = [stem.replace("test", "mask") for stem in self.stems]
        return decoded_once(
            self.path,
            "masks-" + "x".join(map(str, self.image_size)),
            self.sources,
            (len(stems), *self.image_size),
            partial(read_label_maps, stems=stems, size=self.image_size),
            stems,
        )


def has_masks(root: str | Path, split: str) -> bool:
    """Whether the videos of a split come with masks."""
    return any((Path(root) / split).glob("*/mask_1.png"))
