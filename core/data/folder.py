"""Readers of one's own pictures and videos; how they lie in their folder says core/data/folder_layout.py."""

from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from core.data.clip_reader import ClipReader
from core.data.clips import block_starts, every_start, first_start
from core.data.errors import DataError
from core.data.folder_layout import MASKS, frames_of, numbered, require_masks, samples_of
from core.data.framing import Framing, LabelMap, Picture
from core.data.instance_maps import read_instances
from core.data.picture_reader import PictureReader
from core.data.video import Frames, decoded_once, mp4_frames, stamp

ADD_SIZE = "Add a size, such as -(128,128), to resize all of them to"
REMEDY = "Copy or save the file again, or take it away"


class FolderPictures(PictureReader):
    """The pictures of one split, as a rule resized with antialiasing; see core/data/folder_layout.py.

    Without a size in `framing` all pictures must have one. Raises DataError.
    """

    def __init__(self, root: str | Path, split: str, framing: Framing, masks: bool = False):
        root = Path(root)
        kind, sources = samples_of(root, split)
        if kind != "images":
            raise DataError(f"{root}: holds videos, expected pictures. Give it to a model of videos, or take frames")
        super().__init__(root, f"own-pictures-{split}", sources, framing, masks)
        if masks or framing.only_object:
            self._picture_of = dict(zip(map(self.file_of_labels, sources), sources))
            require_masks(root, list(self._picture_of), len(sources))
        if framing.size is None:
            _require_one_size(sources)

    def open_picture(self, path: Path) -> Picture:
        return read_upright(path)

    def open_labels(self, path: Path) -> LabelMap:
        labels = read_instances([path])[0]
        picture = self._picture_of[path]
        if labels.shape != (size := _size_of(picture)):
            raise DataError(
                f"{path}: is {labels.shape[1]}x{labels.shape[0]}, but its picture {picture.name} is "
                f"{size[1]}x{size[0]}. Masks are as large as their pictures: save it again"
            )
        return labels

    def file_of_labels(self, picture: Path) -> Path:
        return self.path / MASKS / picture.relative_to(self.path).with_suffix(".png")


class FolderVideos(ClipReader):
    """Clips of the videos of one split: every start in training, blocks of starts else, or (`num_frames` None) whole.

    All videos count up to the length of the shortest one, at most `video_len` frames. Without a size in `framing` all
    frames must have one. With `masks`, `read(indices)` also gives `mask` (n, T, H, W) uint8. Raises DataError.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        num_frames: int | None = 6,
        frame_offset: int = 1,
        *,
        framing: Framing,
        video_len: int | None = None,
        masks: bool = False,
    ):
        root = Path(root)
        kind, sources = samples_of(root, split)
        if kind != "videos":
            raise DataError(f"{root}: holds pictures, expected videos. A video is a file, or a folder of its frames")
        self.frames = {source: frames_of(source) for source in sources if source.is_dir()}
        lengths = [len(self.frames[source]) if source.is_dir() else count_frames(source) for source in sources]
        shortest = int(np.argmin(lengths))
        length = min(lengths[shortest], video_len or lengths[shortest])
        needed = 1 if num_frames is None else (num_frames - 1) * frame_offset + 1
        if length < needed:
            raise DataError(
                f"{sources[shortest]}: has {lengths[shortest]} frames, but clips need {needed} of the first "
                f"{video_len or 'ones'}. Lower n_sample_frames or frame_offset, or take the video away"
            )
        if num_frames is None:
            num_frames = length // frame_offset
            clips = first_start(len(sources))
        elif split == "train":
            clips = every_start(len(sources), length, num_frames, frame_offset)
        else:
            clips = block_starts(len(sources), length, num_frames, frame_offset)
            clips = clips if len(clips) else first_start(len(sources))
        base = root / split if (root / split).is_dir() else root
        names = [str(source.relative_to(base)) for source in sources]
        self.framing = framing
        self.masks = masks
        self.lengths = dict(zip(sources, lengths))
        size = framing.size or framing.frame_picture(next(self._open(sources[0]))).shape[:2]
        stems = [str(number) for number in range(length)]
        super().__init__(root, names, sources, stems, clips, num_frames, frame_offset, size)
        if masks:
            self.label_files = {source: self._files_of_labels(source) for source in sources}

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The samples of `indices`, in that order."""
        batch = super().read(indices)
        if self.masks:
            labels = self._cut(self._labels, indices)
            batch["mask"] = torch.from_numpy(self.framing.limit_objects(labels))
        return batch

    @cached_property
    def _videos(self) -> np.ndarray:
        files = [file for files in self.frames.values() for file in files]
        recipe = f"own-videos-{self.framing.key}-{stamp(self.path, files)}"
        return decoded_once(self.path, recipe, self.sources, (len(self.stems), *self.image_size, 3), self._decode)

    @cached_property
    def _labels(self) -> np.ndarray:
        files = [file for files in self.label_files.values() for file in files]
        recipe = f"folder-masks-{self.framing.key}-{stamp(self.path, files)}"
        return decoded_once(self.path, recipe, self.sources, (len(self.stems), *self.image_size), self._decode_labels)

    def _open(self, source: Path) -> Iterator[Picture]:
        yield from map(read_upright, self.frames[source]) if source.is_dir() else mp4_frames(source)

    def _decode(self, source: Path) -> Frames:
        frames: list[Picture] = []
        with closing(self._open(source)) as pictures:
            for frame in islice(pictures, len(self.stems)):
                frames.append(self.framing.frame_picture(frame))
                if frames[-1].shape[:2] != self.image_size:
                    raise DataError(
                        f"{source}: frame {len(frames) - 1} is {_sides(frames[-1])}, expected "
                        f"{self.image_size[1]}x{self.image_size[0]} as in the first video. {ADD_SIZE}"
                    )
        if len(frames) < len(self.stems):
            raise DataError(
                f"{source}: ends after {len(frames)} of {self.lengths[source]} frames. The file is cut short: copy or "
                "make it again"
            )
        return np.stack(frames)

    def _decode_labels(self, source: Path) -> np.ndarray:
        labels = read_instances(self.label_files[source][: len(self.stems)])
        size = next(self._open(source)).shape[:2]
        if labels.shape[1:] != size:
            raise DataError(
                f"{self.label_files[source][0]}: is {labels.shape[2]}x{labels.shape[1]}, but its video {source.name} "
                f"is {size[1]}x{size[0]}. Masks are as large as their frames: save them again"
            )
        return np.stack([self.framing.frame_labels(one) for one in labels])

    def _files_of_labels(self, source: Path) -> list[Path]:
        place = self.path / MASKS / source.relative_to(self.path)
        if source.is_dir():
            files = [place / f"{frame.stem}.png" for frame in self.frames[source]]
            require_masks(self.path, files, len(files))
            return files
        files = numbered(place.with_suffix(""))
        if len(files) != self.lengths[source]:
            raise DataError(
                f"{place.with_suffix('')}: holds {len(files)} masks, expected {self.lengths[source]}, one for every "
                f"frame of {source.name}. Add what is missing, or move {MASKS}/ away"
            )
        return files


def count_frames(path: Path) -> int:
    """The frames of a video file, by its header or its packets, without decoding. Raises DataError."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
    except (av.FFmpegError, OSError, EOFError, IndexError) as error:
        raise DataError(
            f"{path}: not readable as a video ({error}). The file is damaged or cut short: copy or make it again"
        ) from error


def _require_one_size(pictures: list[Path]) -> None:
    """Raises DataError if pictures, by their headers, differ in size."""
    first = _size_of(pictures[0])
    for picture in pictures:
        if (size := _size_of(picture)) != first:
            raise DataError(
                f"{picture}: is {size[1]}x{size[0]}, but {pictures[0].name} is {first[1]}x{first[0]}. {ADD_SIZE}"
            )


def _size_of(path: Path) -> tuple[int, int]:
    """Height and width of a picture as `read_upright` turns it."""
    try:
        with Image.open(path) as file:
            turned = file.getexif().get(0x0112, 1) >= 5
            return (file.width, file.height) if turned else (file.height, file.width)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}). {REMEDY}") from error


def read_upright(path: Path) -> Picture:
    """One picture as RGB, upright as its camera says."""
    try:
        with Image.open(path) as file:
            if file.format == "PNG":
                file.verify()  # decoding alone lets some damage pass
        with Image.open(path) as file:
            return np.array(_eight_bits(ImageOps.exif_transpose(file), path).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a picture ({error}). {REMEDY}") from error


def _eight_bits(picture: Image.Image, path: Path) -> Image.Image:
    """The higher byte of grey values of 16 bits, which Pillow would cut off at 255. DataError for other numbers."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
        if values.min() >= 0 and values.max() < 1 << 16:
            return Image.fromarray((values >> 8).astype(np.uint8))
    elif picture.mode != "F":
        return picture
    raise DataError(
        f"{path}: holds numbers (mode {picture.mode}), expected colours or grey values of 8 or 16 bits. Save it as PNG"
    )


def _sides(picture: Picture) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"
