"""CLEVR3D and MultiShapeNet as ObSuRF distributes them (Stelzner et al. 2021): three posed views of every scene.

`metadata.npz` with one row per scene (`shape` [N, M]: entries above 0 are objects; `camera_pos` [N, >= 3, 3]),
`images/img_<scene>_<view>.png` and `masks/masks_<scene>_<view>.png`. All cameras look at the origin.
"""

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.data.cache import cached_rows
from core.data.cameras import draw_points, look_at_cameras, take_views, transform_cameras, world_to_camera
from core.data.errors import DataError, MissingSplit
from core.data.generated import rows_of_split
from core.data.loader import Batch

NUM_VIEWS = 3
SPLITS = {
    "clevr3d": {"train": (0, 70_000), "val": (70_000, 75_000), "test": (85_000, 100_000)},
    "obsurf_msn": {"train": (0, 80_000), "val": (80_000, 80_500), "test": (90_000, 100_000)},
}
NUM_LABELS = {"clevr3d": 11, "obsurf_msn": 5}
SHARES = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}  # of the scenes of a generated set
SOURCE = (
    "Unpack the archive of the data set again (github.com/stelzner/obsurf has the links), or make it with "
    "`python tools/make_data.py clevr3d --root ...` (or obsurf_msn)"
)


class ObSuRF:
    """One split of `clevr3d` or `obsurf_msn`: sample i shows scene i mod n from view i div n, all views are targets.

    `read(indices)` gives whole scenes: `images` (n, 3, 3, H, W) uint8, `masks` (n, 3, H, W) uint8 (0 = background),
    `cameras` (n, 3, 3, 4), `input_view` and `sceneid` (n). `draw(scene, generator)` makes the sample of one of them, to
    be passed to a loader as `augment`; `core.data.cameras.cast_rays` completes it on the device.

    num_points: target pixels per sample, drawn without repetition; `full_scale` takes all.
    downsample: d keeps every 2^d-th row and column of the input view. Targets keep the full size.
    max_objects: scenes with more are left out.
    A set that `tools/make_data.py` made is split by shares: 80, 10, 10 %.
    canonical_view: in the frame of the input view, `transform` (4, 4) leads there.

    Pictures are decoded once into the cache. Raises DataError.
    """

    render_range = (0.035, 35.0)
    """Nearest and farthest distance from a camera at which a renderer of volumes samples."""

    def __init__(
        self,
        path: str | Path,
        split: str,
        dataset: str = "clevr3d",
        *,
        num_points: int = 2048,
        full_scale: bool = False,
        max_len: int | None = None,
        max_objects: int = 6,
        downsample: int | None = None,
        canonical_view: bool = False,
    ):
        if dataset not in SPLITS:
            raise ValueError(f"dataset {dataset!r} is not one of {', '.join(SPLITS)}")
        if split not in SPLITS[dataset]:
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS[dataset])}")
        if downsample is not None and downsample < 0:
            raise ValueError(f"downsample is {downsample}, expected at least 0")
        self.path = Path(path)
        self.dataset, self.split = dataset, split
        self.num_points = None if full_scale else num_points
        self.num_labels = NUM_LABELS[dataset]
        self.stride = 2 ** (downsample or 0)
        self.canonical_view = canonical_view
        begin, end = rows_of_split(self.path, SPLITS[dataset][split], SHARES[split])
        shape = self._metadata("shape", end)
        if shape.ndim != 2:
            raise DataError(f"{self.path / 'metadata.npz'}: shape is {list(shape.shape)}, expected [N, M]. {SOURCE}")
        positions = self._metadata("camera_pos", end)
        if positions.ndim != 3 or positions.shape[1] < NUM_VIEWS or positions.shape[2] != 3:
            raise DataError(
                f"{self.path / 'metadata.npz'}: camera_pos is {list(positions.shape)}, expected [N, {NUM_VIEWS}, 3]. "
                f"{SOURCE}"
            )
        if begin == end:
            raise MissingSplit(f"{self.path}: too few scenes for a {split} split. {SOURCE}")
        num_objects = (shape[begin:end] > 0).sum(axis=1)
        self.scenes = begin + np.flatnonzero(num_objects <= max_objects)
        """Rows of the metadata that are kept."""
        if not len(self.scenes):
            raise DataError(
                f"{self.path / 'metadata.npz'}: no scene of rows {begin} to {end - 1} has at most {max_objects} "
                f"objects, the least is {num_objects.min()}. Raise data.kwargs.max_objects"
            )
        self._length = NUM_VIEWS * len(self.scenes)
        if max_len is not None:
            self._length = min(self._length, max_len)
        self._needed = self.scenes[: self._length]
        self._positions = torch.from_numpy(positions[self._needed, :NUM_VIEWS].astype(np.float64))
        self._require_files()
        with self._open(self._files("images", "img")[0]) as picture:
            self.image_size: tuple[int, int] = picture.size[::-1]
        if self.stride // 2 >= min(self.image_size):
            raise DataError(
                f"{self.path}: data.kwargs.downsample {downsample} leaves nothing of pictures of "
                f"{self.image_size[1]}x{self.image_size[0]} pixels, expected at most "
                f"{(min(self.image_size) - 1).bit_length()}"
            )
        self.num_targets = NUM_VIEWS * self.image_size[0] * self.image_size[1]

    def __len__(self) -> int:
        return self._length

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Whole scenes of the samples `indices`, in that order."""
        view, rows = np.divmod(indices, len(self.scenes))
        return {
            "images": torch.from_numpy(np.asarray(self._pictures[rows])).permute(0, 1, 4, 2, 3),
            "masks": torch.from_numpy(np.asarray(self._labels[rows])),
            "cameras": look_at_cameras(self._positions[rows], *self.image_size),
            "input_view": torch.from_numpy(view),
            "sceneid": torch.from_numpy(np.asarray(indices)),
        }

    def draw(self, scene: Batch, generator: np.random.Generator) -> Batch:
        """The sample of one scene, its target pixels drawn by `generator`."""
        if self.num_points is None:
            return self.sample(scene)
        return self.sample(scene, draw_points(generator, self.num_targets, self.num_points))

    def sample(self, scene: Batch, points: Tensor | None = None) -> Batch:
        """The sample of one scene with these target pixels, numbered in the order (view, row, column); None: all."""
        view = int(scene["input_view"])
        chosen = {"sceneid": scene["sceneid"]}
        if self.canonical_view:
            transform = world_to_camera(scene["cameras"][view, :, 3])
            scene = scene | {"cameras": transform_cameras(transform, scene["cameras"])}
            chosen["transform"] = transform.float()
        return take_views(scene, [view], range(NUM_VIEWS), points, self.stride) | chosen

    @cached_property
    def _pictures(self) -> np.ndarray:
        """[n, view, H, W, 3] uint8."""

        def decode(path: Path) -> np.ndarray:
            with self._open(path) as picture:
                return np.asarray(picture.convert("RGB"))

        return self._decoded(self._files("images", "img"), (3,), decode)

    @cached_property
    def _labels(self) -> np.ndarray:
        """[n, view, H, W] uint8."""

        def decode(path: Path) -> np.ndarray:
            with self._open(path) as picture:
                if picture.mode not in ("L", "P"):
                    raise DataError(f"{path}: a mask has one byte per pixel, this picture is {picture.mode}. {SOURCE}")
                labels = np.asarray(picture)
            if labels.max() >= self.num_labels:
                raise DataError(
                    f"{path}: expected labels 0 to {self.num_labels - 1} of {self.dataset}, found {labels.max()}. "
                    "Check data.dataset (clevr3d or obsurf_msn)"
                )
            return labels

        return self._decoded(self._files("masks", "masks"), (), decode)

    def _decoded(
        self, files: list[Path], channels: tuple[int, ...], decode: Callable[[Path], np.ndarray]
    ) -> np.ndarray:
        def decode_scenes(start: int, stop: int) -> np.ndarray:
            return np.stack([checked(path) for path in files[start * NUM_VIEWS : stop * NUM_VIEWS]])

        def checked(path: Path) -> np.ndarray:
            pixels = decode(path)
            if pixels.shape[:2] != self.image_size:
                raise DataError(
                    f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels, expected {self.image_size[1]}x"
                    f"{self.image_size[0]} as in the first picture. {SOURCE}"
                )
            return pixels

        stamps = hashlib.sha256()
        for path in files:
            status = path.stat()
            stamps.update(f"{path.name}|{status.st_size}|{status.st_mtime_ns}\n".encode())
        folder = files[0].parent
        recipe = f"{self.dataset}-{self.split}-{stamps.hexdigest()[:16]}"
        shape = (len(self._needed), NUM_VIEWS, *self.image_size, *channels)
        return cached_rows(folder, recipe, shape, decode_scenes, stamped=True)

    def _files(self, folder: str, prefix: str) -> list[Path]:
        """Pictures of all needed scenes, view by view."""
        return [
            self.path / folder / f"{prefix}_{scene}_{view}.png" for scene in self._needed for view in range(NUM_VIEWS)
        ]

    def _require_files(self) -> None:
        for folder, prefix in (("images", "img"), ("masks", "masks")):
            try:
                there = {path.name for path in (self.path / folder).iterdir()}
            except OSError as error:
                raise DataError(f"{self.path / folder}: cannot be listed ({error.strerror}). {SOURCE}") from error
            files = self._files(folder, prefix)
            missing = [path for path in files if path.name not in there]
            if missing:
                raise DataError(
                    f"{missing[0]}: no such file ({len(missing)} of {len(files)} are missing for the {self.split} "
                    f"split). {SOURCE}"
                )

    @staticmethod
    def _open(path: Path) -> Image.Image:
        """A picture, decoded already, so that damage shows here."""
        try:
            with Image.open(path) as file:
                file.verify()  # decoding alone lets some damage pass
            picture = Image.open(path)
            picture.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as a picture ({error}). {SOURCE}") from error
        return picture

    def _metadata(self, key: str, num_rows: int) -> np.ndarray:
        path = self.path / "metadata.npz"
        if not path.is_file():
            raise DataError(f"{path}: no such file. Set data.path to the folder that holds it. {SOURCE}")
        try:
            with np.load(path, allow_pickle=False) as archive:
                names = list(archive)
                rows = archive[key] if key in names else None
        except Exception as error:  # zipfile raises many kinds on a damaged archive
            raise DataError(f"{path}: {key} cannot be read ({error}). {SOURCE}") from error
        if rows is None:
            raise DataError(f"{path}: no array {key!r}, only {', '.join(names) or 'nothing'}. {SOURCE}")
        if len(rows) < num_rows:
            raise DataError(
                f"{path}: {key} has {len(rows)} rows, expected at least {num_rows} for the {self.split} split of "
                f"{self.dataset}. Check data.dataset, or use the complete set"
            )
        return rows
