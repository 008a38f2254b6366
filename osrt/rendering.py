"""Videos of scenes seen by a camera that moves: frames on disk, rendered once and continued where they stopped."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from core.data.cameras import FixedDraws, cast_rays
from core.data.errors import DataError
from core.data.loader import Batch, to_device
from core.data.msn import MSN, interleaved_order
from core.files import occupy
from core.provenance import FILE, Provenance, read_provenance, write_provenance
from core.training.checkpoint import config_differences
from core.training.signals import StopSignals
from core.viz.palette import segmentation_picture, truncated_bytes
from osrt.camera_paths import CameraPath
from osrt.config import Config
from osrt.data import Source
from osrt.models.decoder import Rendered
from osrt.models.light_field import LightField
from osrt.plots import THREADS, save_picture

KINDS = ("renders", "depths", "segmentations")
"""Folders of pictures."""


@dataclass(frozen=True)
class Shot:
    """What the camera does and how large its pictures are; None: as large as the first input view."""

    motion: str
    num_frames: int
    height: int | None = None
    width: int | None = None
    fade: bool = False
    as_original: bool = False
    """The zoom is never faded."""

    def path(self, scene: Batch) -> CameraPath:
        """The camera's path through a scene that was given in one batch of its own."""
        return CameraPath(
            self.motion,
            scene["input_camera_pos"][0, 0],
            self.num_frames,
            fade=self.fade,
            transform=scene["transform"][0] if "transform" in scene else None,
            as_original=self.as_original,
        )


Pictures = dict[str, UInt8[np.ndarray, "*size"]]
"""By kind: colours, depths, and colours of slots."""


def differences_in_rendering(written: Config, trained: Config) -> list[str]:
    """Lines `key: written -> trained` for what decides which pictures a model sees and makes."""
    decisive = []
    for config in (written, trained):
        rendering = config.model_arguments((0.0, 0.0))
        decisive.append({"data": {"dataset": config.data.dataset, "kwargs": config.data.kwargs}, "model": rendering})
    return config_differences(*decisive)


def read_scene(source: Source, number: int, seed: int) -> Batch:
    """A batch of one sample, before its rays are cast. Raises DataError if there is no such scene.

    Scenes of MultiShapeNet are counted in the order in which the original meets them. `seed` draws their input views.
    """
    if number >= len(source):
        raise DataError(f"{source.path}: no scene {number}; its {source.split} split has 0 to {len(source) - 1}")
    if isinstance(source, MSN):
        number = int(interleaved_order(source.shard_lengths)[number])
    return FixedDraws(source, source.draw, seed).read(np.array([number]))


def pictures_of(rendered: Rendered, max_dist: float) -> Pictures:
    """The only frame of a rendering as the files show it: values rounded down, slot k in colour k + 1 of K + 1."""
    pictures = {"renders": _bytes(rendered.pixels)}
    if rendered.depths is not None:
        pictures["depths"] = _bytes(rendered.depths / max_dist)
    if rendered.segmentation is not None:
        num_slots = rendered.segmentation.shape[-1]
        labels = rendered.segmentation[0].argmax(dim=-1).add(1).cpu().numpy()
        pictures["segmentations"] = truncated_bytes(segmentation_picture(labels, num_slots + 1))
    return pictures


def _bytes(values: Tensor) -> UInt8[np.ndarray, "*size"]:
    return (values[0].float().clamp(0, 1) * 255).to(torch.uint8).cpu().numpy()


class RenderFolder:
    """The pictures of one rendered scene, which one process at a time may write.

    Frame f is complete if `renders`/<f>.png is there. What another origin left is removed when the folder is opened.
    """

    def __init__(self, folder: Path, provenance: Provenance):
        self.folder = folder
        for kind in KINDS:
            (folder / kind).mkdir(parents=True, exist_ok=True)
        self._lock = occupy(folder)
        if self._lock is None:
            raise DataError(f"{folder}: another process renders into it. Wait for it, or choose another --name")
        found = read_provenance(folder / FILE)
        differences = ["nothing says what made them"] if found is None else provenance.differences(found)
        if differences:
            self._clear(differences)
            write_provenance(folder / FILE, provenance)

    def _clear(self, reasons: list[str]) -> None:
        old = [path for kind in (*KINDS, "frames") for path in (self.folder / kind).glob("*.png")]
        if old:
            print(f"{self.folder}: rendering anew, since the frames there differ:\n  " + "\n  ".join(reasons))
        made_of_them = [path for name in ("input_*.png", "video.*", "video-*.*") for path in self.folder.glob(name)]
        for path in [*old, *made_of_them]:
            path.unlink()

    def missing(self, num_frames: int) -> list[int]:
        """Frames that are still to be rendered."""
        return [frame for frame in range(num_frames) if not (self.folder / f"renders/{frame}.png").is_file()]

    def write_inputs(self, views: UInt8[Tensor, "V 3 H W"]) -> None:
        for number, view in enumerate(views.permute(0, 2, 3, 1).contiguous().numpy()):
            save_picture(self.folder / f"input_{number}.png", Image.fromarray(view))

    def write_frames(self, frames: Iterable[tuple[int, Pictures]]) -> Iterator[int]:
        """Write the pictures while the next ones are rendered; gives the number of every frame that is handed on."""
        pending: deque[Future] = deque()
        with ThreadPoolExecutor(THREADS) as pool:
            for number, pictures in frames:
                pending.append(pool.submit(self._write, number, pictures))
                while pending and (pending[0].done() or len(pending) > 4 * THREADS):
                    pending.popleft().result()
                yield number
            while pending:
                pending.popleft().result()

    def _write(self, number: int, pictures: Pictures) -> None:
        for kind in sorted(pictures, key=KINDS.index, reverse=True):
            save_picture(self.folder / kind / f"{number}.png", Image.fromarray(pictures[kind]))

    def close(self) -> None:
        self._lock.close()

    def __enter__(self) -> "RenderFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(frozen=True)
class Renderer:
    """A trained model behind a moving camera.

    max_dist: distance that depths are given in parts of.
    chunk: rays that the decoder is given at a time; unless given, as many as suit the device.
    """

    model: LightField
    shot: Shot
    max_dist: float
    device: torch.device
    chunk: int | None = None
    bf16: bool = False

    def render(self, sample: Batch, folder: RenderFolder, title: str) -> bool:
        """Render the frames of one scene that are missing; False if a signal asked to stop before the last one."""
        folder.write_inputs(sample["input_images"][0])
        missing = folder.missing(self.shot.num_frames)
        scene = cast_rays(to_device(sample, self.device))
        num_done = self.shot.num_frames - len(missing)
        bar = tqdm(total=self.shot.num_frames, initial=num_done, desc=title, unit=" frames", disable=None)
        with StopSignals() as signals, bar, closing(folder.write_frames(self.frames(scene, missing))) as written:
            for _ in written:
                bar.update()
                if signals.received:
                    return False
        return True

    def frames(self, scene: Batch, numbers: Sequence[int]) -> Iterator[tuple[int, Pictures]]:
        """Pictures of these frames. The scene, a batch of one sample with its rays, is encoded once."""
        if not numbers:
            return
        with self._context():
            latents = self.model.encode(scene["input_images"], scene["input_camera_pos"], scene["input_rays"])
            prepared = self.model.prepare(latents)
        path = self.shot.path(scene)
        height, width = scene["input_images"].shape[-2:]
        height, width = self.shot.height or height, self.shot.width or width
        for number in numbers:
            position, rays = path.frame(number, height, width)
            with self._context():
                rendered = self.model.render(prepared, position[None], rays[None], self.chunk)
                pictures = pictures_of(rendered, self.max_dist)
            yield number, pictures

    @contextmanager
    def _context(self) -> Iterator[None]:
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield
