"""The renderings of ShapeNet by Kato et al. (2018, Neural 3D Mesh Renderer), as SRT uses them: 24 posed views a scene.

`metadata.yaml` names the classes; `<class>/softras_<split>.lst` their scenes, one a line; `<class>/<scene>/` holds
`image/0000.png` to `0023.png` and `cameras.npz` with `world_mat_<i>`, `world_mat_inv_<i>`, `camera_mat_inv_<i>` (4x4).
"""

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import yaml
from jaxtyping import Float64, UInt8
from PIL import Image
from torch import Tensor

from core.data.cache import cached_rows
from core.data.cameras import draw_points, take_views, transform_cameras
from core.data.errors import DataError, MissingSplit
from core.data.loader import Batch

NUM_VIEWS = 24
SPLITS = ("train", "val", "test")
MATRICES = ("world_mat", "world_mat_inv", "camera_mat_inv")
Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
"""Takes the y-up world of the files to ours."""
SOURCE = (
    "Fetch NMR_Dataset.zip again "
    "(s3.eu-central-1.amazonaws.com/avg-projects/differentiable_volumetric_rendering/data/NMR_Dataset.zip)"
)


class NMR:
    """One split: sample i shows scene i mod n from view i div n; the other 23 views are the targets.

    `read(indices)` gives whole scenes: `images` (n, 24, 3, H, W) uint8, `cameras` (n, 24, 3, 4), `world_to_camera`
    (n, 24, 4, 4), `input_view` and `sceneid` (n). `draw(scene, generator)` makes the sample of one of them, to be
    passed to a loader as `augment`; `core.data.cameras.cast_rays` completes it on the device. There are no masks.

    num_points: target pixels per sample, drawn without repetition; `full_scale` takes all.
    canonical_view: in the frame of the input view, `transform` (4, 4) leads there.

    Pictures are decoded once into the cache. Raises DataError.
    """

    render_range = (2.0, 4.0)
    """Nearest and farthest distance from a camera at which a renderer of volumes samples."""

    def __init__(
        self,
        path: str | Path,
        split: str,
        *,
        num_points: int = 2048,
        full_scale: bool = False,
        max_len: int | None = None,
        canonical_view: bool = False,
    ):
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        self.path = Path(path)
        self.split = split
        self.num_points = None if full_scale else num_points
        self.canonical_view = canonical_view
        self.scenes = [scene for folder in self._classes() for scene in self._scenes_of(folder)]
        if not self.scenes:
            raise MissingSplit(f"{self.path}: the lists softras_{split}.lst name no scene. {SOURCE}")
        self._length = NUM_VIEWS * len(self.scenes)
        if max_len is not None:
            self._length = min(self._length, max_len)
        self._needed = self.scenes[: self._length]
        self.image_size: tuple[int, int] = self._decode(self._needed[0] / "image" / "0000.png").shape[:2]
        self.num_targets = (NUM_VIEWS - 1) * self.image_size[0] * self.image_size[1]

    def __len__(self) -> int:
        return self._length

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Whole scenes of the samples `indices`, in that order."""
        view, rows = np.divmod(indices, len(self.scenes))
        matrices = torch.from_numpy(self._matrices[rows].view(np.float64))
        cameras, top = matrices.view(len(rows), NUM_VIEWS, 2, 3, 4).unbind(2)
        bottom = top.new_tensor([[0.0, 0.0, 0.0, 1.0]]).expand(len(rows), NUM_VIEWS, 1, 4)
        return {
            "images": torch.from_numpy(np.asarray(self._pictures[rows])).permute(0, 1, 4, 2, 3),
            "cameras": cameras,
            "world_to_camera": torch.cat((top, bottom), dim=-2),
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
            transform = scene["world_to_camera"][view]
            scene = scene | {"cameras": transform_cameras(transform, scene["cameras"])}
            chosen["transform"] = transform.float()
        return take_views(scene, [view], [other for other in range(NUM_VIEWS) if other != view], points) | chosen

    def _classes(self) -> list[str]:
        path = self.path / "metadata.yaml"
        try:
            # Plain strings throughout: an unquoted 03211117 would else be an octal number.
            classes = yaml.BaseLoader(path.read_text()).get_single_data()
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DataError(
                f"{path}: cannot be read ({error}). Set data.path to the folder that holds it. {SOURCE}"
            ) from error
        entries = list(classes.values()) if isinstance(classes, dict) else []
        if not entries or not all(isinstance(entry, dict) and "id" in entry for entry in entries):
            raise DataError(f"{path}: expected a mapping whose entries have an `id`, the class folder. {SOURCE}")
        return [entry["id"] for entry in entries]

    def _scenes_of(self, folder: str) -> list[Path]:
        path = self.path / folder / f"softras_{self.split}.lst"
        try:
            names = path.read_text().split()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error}). {SOURCE}") from error
        return [self.path / folder / name for name in names]

    @cached_property
    def _pictures(self) -> np.ndarray:
        """[n, view, H, W, 3] uint8."""
        files = [scene / "image" / f"{view:04d}.png" for scene in self._needed for view in range(NUM_VIEWS)]

        def decode(start: int, stop: int) -> np.ndarray:
            paths = files[start * NUM_VIEWS : stop * NUM_VIEWS]
            return np.stack([self._decode(path, self.image_size) for path in paths])

        return self._cached("images", files, (NUM_VIEWS, *self.image_size, 3), decode)

    @cached_property
    def _matrices(self) -> np.ndarray:
        """[n, bytes of float64 (view, 2, 3, 4)]: cameras and world to camera."""
        files = [scene / "cameras.npz" for scene in self._needed]

        def decode(start: int, stop: int) -> np.ndarray:
            return np.stack([self._read_cameras(path) for path in files[start:stop]])

        return self._cached("cameras", files, (NUM_VIEWS * 2 * 3 * 4 * 8,), decode)

    def _cached(
        self, what: str, files: list[Path], shape: tuple[int, ...], decode: Callable[[int, int], np.ndarray]
    ) -> np.ndarray:
        stamps = hashlib.sha256(f"{self.image_size}".encode())
        for path in files:
            try:
                status = path.stat()
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}. {SOURCE}") from error
            stamps.update(f"{path.relative_to(self.path)}|{status.st_size}|{status.st_mtime_ns}\n".encode())
        recipe = f"nmr-{self.split}-{what}-{stamps.hexdigest()[:16]}"
        return cached_rows(self.path, recipe, (len(self._needed), *shape), decode, stamped=True)

    def _read_cameras(self, path: Path) -> UInt8[np.ndarray, "n"]:
        """Bytes of float64 (view, 2, 3, 4)."""
        height, width = self.image_size
        # Pixel coordinates to the file's: -1 in the middle of the first pixel, 1 in that of the last.
        x, y = 1 / (width - 1), 1 / (height - 1)
        onto_grid = np.array([[2 * x, 0, -1 - x], [0, 2 * y, -1 - y], [0, 0, 1]])
        world_to_camera, camera_to_world, unproject = self._read_matrices(path)
        camera_to_world = Z_UP @ camera_to_world
        found = np.empty((NUM_VIEWS, 2, 3, 4))
        found[:, 0, :, :3] = (camera_to_world @ unproject)[:, :3, :3] @ onto_grid
        found[:, 0, :, 3] = camera_to_world[:, :3, 3]
        found[:, 1] = (world_to_camera @ Z_UP.T)[:, :3]
        return found.view(np.uint8).reshape(-1)

    @staticmethod
    def _read_matrices(path: Path) -> Float64[np.ndarray, "3 V 4 4"]:
        keys = [f"{name}_{view}" for name in MATRICES for view in range(NUM_VIEWS)]
        try:
            with np.load(path, allow_pickle=False) as archive:
                found = {key: archive[key].astype(np.float64) for key in keys if key in archive}
        except Exception as error:  # zipfile raises many kinds on a damaged archive
            raise DataError(f"{path}: cannot be read ({error}). {SOURCE}") from error
        for key in keys:
            if key not in found:
                raise DataError(f"{path}: no array {key!r}, expected matrices of {NUM_VIEWS} views. {SOURCE}")
            if found[key].shape != (4, 4):
                raise DataError(f"{path}: {key} is {list(found[key].shape)}, expected [4, 4]. {SOURCE}")
        return np.stack([found[key] for key in keys]).reshape(len(MATRICES), NUM_VIEWS, 4, 4)

    @staticmethod
    def _decode(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
        try:
            with Image.open(path) as file:
                file.verify()  # decoding alone lets some damage pass
            with Image.open(path) as file:
                pixels = np.asarray(file.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as a picture ({error}). {SOURCE}") from error
        if size and pixels.shape[:2] != size:
            raise DataError(
                f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels, expected {size[1]}x{size[0]} as in the first "
                f"picture. {SOURCE}"
            )
        return pixels
