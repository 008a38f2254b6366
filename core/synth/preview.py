"""What a rendered data set looks like: preview.png, and preview.gif for videos, from its own files."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from core.data.coco import label_planes
from core.data.framing import Framing
from core.data.msn import FOLDER as MSN_FOLDER
from core.data.msn import NUM_VIEWS
from core.data.physion import FOLDERS, SCENARIOS
from core.data.run_length import decode_run_lengths
from core.data.tfrecord import parse_example, read_records
from core.data.video import mp4_frames
from core.data.voc import RIM
from core.files import replacing
from core.synth.scene_writer import DESCRIPTION
from core.viz.gifs import save_gif
from core.viz.overlays import contact_sheet, overlay
from core.viz.panels import save_png

MOST_SCENES = 8
FRAMES_OF_SHEET = 8
LARGE, SMALL = 256, 64
Frame = tuple[np.ndarray, np.ndarray | None]
"""A picture and the labels of its pixels, where the set has them."""


def write_preview(folder: Path, fps: float | None = None) -> None:
    """Pictures of the first scenes above the same with their masks; videos, a row of frames each, with `fps`."""
    if fps:
        videos = list(_videos(folder))
        pictures = []
        has_labels = videos[0][0][1] is not None
        for frames in videos[: MOST_SCENES // 2 if has_labels else MOST_SCENES]:
            shown = [frames[int(k)] for k in np.linspace(0, len(frames) - 1, FRAMES_OF_SHEET)]
            pictures += [picture for picture, _ in shown]
            num_objects = max((int(labels.max()) for _, labels in shown if labels is not None), default=0)
            pictures += [overlay(*frame, num_objects) for frame in shown if frame[1] is not None]
        save_png(folder / "preview.png", contact_sheet(pictures, FRAMES_OF_SHEET))
        save_gif(folder / "preview.gif", np.stack([picture for picture, _ in videos[0]]), fps)
        return
    frames = [frame for frame, _ in zip(_stills(folder), range(MOST_SCENES))]
    pictures = [picture for picture, _ in frames]
    pictures += [overlay(picture, labels) for picture, labels in frames if labels is not None]
    save_png(folder / "preview.png", contact_sheet(pictures, len(frames)))


def write_h5_preview(path: Path) -> None:
    """preview.png beside an .h5 file: its first pictures above the same with their masks."""
    with h5py.File(path) as file:
        (split,) = file.values()
        images, masks = split["imgs"][:MOST_SCENES], split["masks"][:MOST_SCENES, ..., 0]
    images = np.broadcast_to(images, (*images.shape[:3], 3))
    scale = -(-SMALL // images.shape[1])
    images, labels = (array.repeat(scale, 1).repeat(scale, 2) for array in (images, masks.argmax(axis=1)))
    pictures = [*images, *(overlay(*frame, masks.shape[1] - 1) for frame in zip(images, labels))]
    save_png(path.with_name("preview.png"), contact_sheet(pictures, len(images)))


def describe_h5(path: Path, name: str, what: str) -> None:
    """Enter an .h5 file, with the settings it was made with, into the dataset.json beside it."""
    description = path.with_name(DESCRIPTION)
    found = json.loads(description.read_text()) if description.exists() else {"generated": True, "files": {}}
    with h5py.File(path) as file:
        settings = {key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items()}
    found["files"][path.name] = {"name": name, "what": what, **settings}
    with replacing(description) as partial:
        partial.write_text(json.dumps(found, indent=2) + "\n")


def _stills(folder: Path) -> Iterator[Frame]:
    for path in sorted(folder.glob("*/*.npz"), key=lambda path: int(path.stem)):
        with np.load(path, allow_pickle=False) as scene:
            yield scene["image"], (scene["mask"][..., 0] == 255).argmax(axis=0)
    for path in sorted(folder.glob("*/CLEVRTEX_*_flat.png")):
        yield _open(path.with_name(path.name.replace("_flat", ""))), np.asarray(Image.open(path))
    if records := sorted(folder.glob(f"{MSN_FOLDER}/*.tfrecord-*")):
        yield from _views_of_record(records[0])
    for path in sorted(folder.glob("images/img_*.png")):
        yield _open(path), np.asarray(Image.open(folder / "masks" / path.name.replace("img", "masks")))
    for path in sorted(folder.glob("celeba/img_align_celeba/*.jpg")):
        yield _open(path), None
    yield from map(_square, _photos(folder))


def _photos(folder: Path) -> Iterator[Frame]:
    """COCO's with their objects, those of one split after another; Pascal VOC's with their classes."""
    for path in sorted(folder.glob("annotations/instances_*.json")):
        table = json.loads(path.read_text())
        classes = {category["id"]: rank for rank, category in enumerate(table["categories"])}
        for entry in table["images"][: MOST_SCENES // 2]:
            found = [one for one in table["annotations"] if one["image_id"] == entry["id"]]
            planes = label_planes(found, classes, (entry["height"], entry["width"]))
            split = path.stem.removeprefix("instances_")
            yield _open(folder / "images" / split / entry["file_name"]), planes[..., 0]
    for path in sorted(folder.glob("SegmentationClassAug/*.png")):
        labels = np.asarray(Image.open(path))
        yield _open(folder / "images" / f"{path.stem}.jpg"), np.where(labels == RIM, 0, labels)


def _square(frame: Frame) -> Frame:
    """The middle of photographs of any size, for a sheet of one size."""
    framing = Framing(crop=1.0, size=(LARGE // 2, LARGE // 2), antialias=True)
    return framing.frame_picture(frame[0]), framing.frame_labels(frame[1])


def _views_of_record(path: Path) -> Iterator[Frame]:
    """Those of the first scene of a shard."""
    features = parse_example(next(read_records(path)))
    for view in range(NUM_VIEWS):
        image, labels = (
            np.asarray(Image.open(io.BytesIO(features[f"cameras/camera_{view}/{kind}_image"][0])))
            for kind in ("color", "instance")
        )
        yield image, labels - np.uint8(1)


def _videos(folder: Path) -> Iterator[list[Frame]]:
    for path in sorted(folder.glob("videos/train/*/*.mp4"))[: MOST_SCENES // 2]:
        yield _clevrer_video(folder, path)
    for scenario in SCENARIOS:
        for path in sorted(folder.glob(f"{FOLDERS['training'].format(scenario)}/*.mp4"))[:1]:
            yield [(frame, None) for frame in mp4_frames(path)]
    for video in sorted(folder.glob("train/*")):
        if frames := sorted(video.glob("test_*.png"), key=lambda path: int(path.stem.removeprefix("test_"))):
            yield [(_open(path), None) for path in frames]
        elif frames := sorted(video.glob("*.jpg")):
            yield [(_open(path), np.asarray(Image.open(path.with_name(f"{path.stem}_mask.png")))) for path in frames]
        else:
            yield [(_open(path), _joined(path)) for path in sorted(video.glob("*_image.png"))]


def _clevrer_video(folder: Path, path: Path) -> list[Frame]:
    """With the masks of its proposals; every other row and column of large frames."""
    proposals = json.loads((folder / f"derender_proposals/{path.stem.replace('video', 'proposal')}.json").read_text())
    frames: list[Frame] = []
    known: list[tuple[str, ...]] = []  # an object that is hidden in a frame is not listed there
    for picture, proposed in zip(mp4_frames(path), proposals["frames"]):
        labels = np.zeros(picture.shape[:2], np.uint8)
        for item in proposed["objects"]:
            if (look := (item["color"], item["material"], item["shape"])) not in known:
                known.append(look)
            labels[decode_run_lengths(item["mask"]["counts"], picture.shape[:2])] = known.index(look) + 1
        step = 2 if picture.shape[1] > LARGE else 1
        frames.append((picture[::step, ::step], labels[::step, ::step]))
    return frames


def _joined(image: Path) -> np.ndarray:
    """Labels from one mask file per object."""
    masks = [np.asarray(Image.open(path)) for path in sorted(image.parent.glob(image.name.replace("image", "mask_*")))]
    return np.concatenate([np.ones((1, *masks[0].shape)), np.stack(masks)]).argmax(axis=0)


def _open(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))
