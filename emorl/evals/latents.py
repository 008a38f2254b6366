"""The range of every latent dimension, how active it is, and what moving it does to the picture.

Shapes: N images, K slots, Z latent dimensions (LocalSlotAttention: with the two of the position), T values.
"""

import json

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from tqdm import tqdm

from core.data.errors import DataError
from core.metrics.activeness import activeness, linspaces, traverse
from core.nn.noise import derive_seed
from core.training.checkpoint import config_differences
from core.viz.gifs import save_gif
from core.viz.panels import image_grid, save_png
from emorl.evals.task import Task

RANGES, RANGES_DESCRIBED = "z_range.txt", "z_range.json"
MEASURED_WITH = ("model", "checkpoint", "refinement_iters")  # of what describes a task; else ranges are of another one
NUM_STEPS = 8  # of a traversal
MOST_ACTIVE = 10  # dimensions per slot that become a gif
FPS = 4


def write_ranges(task: Task) -> Float64[Tensor, "Z 2"]:
    """Least and largest value of every dimension over all slots of `task.range_images` images.

    Writes z_range.txt, one line `min,max` per dimension. EfficientMORL's latents are samples of the posterior.
    """
    low = high = None
    for _, batch, noise in task.batches("range of latents", task.range_images):
        codes = task.model.infer_codes(batch["image"], noise, sample=True).flatten(0, 1)
        low = codes.amin(dim=0) if low is None else torch.minimum(low, codes.amin(dim=0))
        high = codes.amax(dim=0) if high is None else torch.maximum(high, codes.amax(dim=0))
    ranges = torch.stack((low, high), dim=1).double().cpu()
    task.write_text(RANGES, "".join(f"{least},{largest}\n" for least, largest in ranges.tolist()))
    least, largest = ranges.t().tolist()
    task.write_json(RANGES_DESCRIBED, {"num_images": _num_range_images(task), "min": least, "max": largest})
    return ranges


def _num_range_images(task: Task) -> int:
    return min(task.range_images, len(task.source))


def preprocess(task: Task) -> None:
    """Write z_range.txt (and .json) and print it."""
    ranges = write_ranges(task)
    print(f"{'dimension':<10} {'min':>10} {'max':>10}")
    for dimension, (low, high) in enumerate(ranges.tolist()):
        print(f"{dimension:<10} {low:>10.4g} {high:>10.4g}")


def read_ranges(task: Task, num_dimensions: int) -> Float64[Tensor, "Z 2"]:
    """The ranges in the results folder, measured if there are none of this task. Raises DataError if damaged."""
    path = task.folder / RANGES
    if not path.exists():
        print(f"no {path} yet: measuring the range of the latents first")
        return write_ranges(task)
    if differences := _other_origin(task):
        print(f"{path} is of something else ({'; '.join(differences)}): measuring the range of the latents again")
        return write_ranges(task)
    try:
        rows = [[float(number) for number in line.split(",")] for line in path.read_text().splitlines()]
        ranges = torch.tensor(rows[:num_dimensions], dtype=torch.float64).view(num_dimensions, 2)
    except (ValueError, RuntimeError) as error:  # RuntimeError: other than two columns, or too few rows
        raise DataError(
            f"{path}: expected {num_dimensions} lines `min,max`. Remove it, it will be measured again"
        ) from error
    return ranges


def _other_origin(task: Task) -> list[str]:
    """Lines `key: old -> new` for what z_range.json says otherwise than this task would."""
    path = task.folder / RANGES_DESCRIBED
    try:
        saved = dict(json.loads(path.read_text()))
    except (OSError, TypeError, ValueError):
        return [f"no readable {path.name} says of what"]
    described = task.describe or {}
    ours = {name: described[name] for name in MEASURED_WITH if name in described}
    ours["num_images"] = _num_range_images(task)
    return config_differences({name: saved.get(name) for name in ours}, ours)


def slot_chunk(task: Task) -> int:
    """How many slots to decode at once: what stays in the caches of a CPU, what fills a GPU."""
    return 8 if task.device.type == "cpu" else 512


def measure_activeness(task: Task, slots: Tensor | None = None) -> Float[Tensor, "N Z"]:
    """Activeness of every dimension in one slot of each of `task.range_images` images; writes activeness.npy [N, Z].

    The slot is drawn at random, unless `slots` names it for every image.
    """
    ranges, rows = None, []
    for indices, batch, noise in task.batches("activeness", task.range_images):
        codes = task.model.infer_codes(batch["image"], noise, sample=True)
        ranges = read_ranges(task, codes.shape[2]) if ranges is None else ranges
        if slots is None:
            drawn = [derive_seed(task.seed, index, 1) % codes.shape[1] for index in indices]
            chosen = torch.tensor(drawn)
        else:
            chosen = slots[indices.start : indices.stop]
        low, high = ranges.to(codes.device).unbind(dim=1)
        rows.append(activeness(task.model.decode_slots, codes, chosen, low, high, chunk=slot_chunk(task)).cpu())
    found = torch.cat(rows)
    task.write_array("activeness.npy", found.float().numpy())
    return found


def report_activeness(task: Task) -> list[int]:
    """Measure activeness, print and return the dimensions from most to least active, and write activeness.json."""
    mean = measure_activeness(task).double().mean(dim=0)
    order = mean.argsort(descending=True, stable=True)
    print(f"{'dimension':<10} {'activeness':>10}")
    for dimension in order.tolist():
        print(f"{dimension:<10} {float(mean[dimension]):>10.3g}")
    task.write_json(
        "activeness.json",
        {
            "protocol": "variance of the picture over 6 values of one dimension of a random slot, mean over pixels, "
            "channels and images",
            "num_images": _num_range_images(task),
            "mean": mean.tolist(),
            "dimensions_from_most_active": order.tolist(),
        },
    )
    return order.tolist()


def traversal_values(ranges: Float64[Tensor, "Z 2"], as_original: bool = False) -> Float64[Tensor, "Z T"]:
    """The eight values that a traversal gives to each dimension: evenly spaced over its range.

    as_original: around half of (max - min), by the roots of the distances of that number from min and max.
    """
    low, high = ranges.unbind(dim=1)
    if as_original:
        middle = (high - low) / 2
        low, high = middle - (middle - low).abs().sqrt(), middle + (high - middle).abs().sqrt()
    return linspaces(low, high, NUM_STEPS)


def draw_traversals(task: Task, slots: list[int]) -> dict[int, Float[Tensor, "Z 3 H2 W2"]]:
    """Pictures of image number `task.num_images` - 1 while every dimension of each of `slots` takes eight values.

    Per slot a row of eight pictures per dimension, 2 pixels apart. Writes slots_{slot}_disentanglement.npy (the rows
    below each other) and the same as .png, ground_truth.npy [1, 3, H, W] in [-1, 1], and masks.npy, the masks of the
    picture that was decoded last. traversals.json names the image and the values.
    """
    index = min(task.num_images, len(task.source)) - 1
    batch, noise = task.one_image(index)
    codes = task.model.infer_codes(batch["image"], noise, sample=True)[0]
    values = traversal_values(read_ranges(task, codes.shape[1]), task.as_original).to(codes.device)
    rows = {}
    for slot in tqdm(slots, desc="traversals", unit="slot"):
        pictures = traverse(task.model.decode_slots, codes, slot, values, slot_chunk(task)).cpu()
        rows[slot] = torch.stack([image_grid(of_dimension) for of_dimension in pictures])
        below = torch.cat(list(rows[slot]), dim=1)
        task.write_array(f"slots_{slot}_disentanglement.npy", below.float().numpy())
        save_png(task.folder / f"slots_{slot}_disentanglement.png", _uint8(below))
    codes[slots[-1], -1] = values[-1, -1]
    with torch.no_grad():
        masks = task.model.decode_slots(codes)[1].softmax(dim=0).cpu()
    task.write_array("masks.npy", image_grid(masks[:, None]).float().numpy())
    task.write_array("ground_truth.npy", (2 * batch["image"].cpu() - 1).float().numpy())
    task.write_json("traversals.json", {"image": index, "slots": slots, "values": values.tolist()})
    return rows


def traverse_slot(task: Task) -> None:
    """Traversals of slot `task.slot` alone."""
    draw_traversals(task, [task.slot])
    print(f"slot {task.slot}: {task.folder / f'slots_{task.slot}_disentanglement.png'}")


def make_gifs(task: Task) -> None:
    """Ranges, activeness and traversals of all slots, then a gif per slot and dimension for the most active ones.

    slot_{k}_row_{r}.gif shows slot k while the dimension that is number r in activeness takes eight values.
    """
    write_ranges(task)
    most_active = report_activeness(task)[:MOST_ACTIVE]
    rows = draw_traversals(task, list(range(task.model.num_slots)))
    for slot, of_slot in rows.items():
        width = (of_slot.shape[3] - 2) // NUM_STEPS
        for row, dimension in enumerate(most_active):
            strip = _uint8(of_slot[dimension])
            frames = np.stack([strip[:, f * width : (f + 1) * width] for f in range(NUM_STEPS)])
            save_gif(task.folder / f"slot_{slot}_row_{row}.gif", frames, FPS)
    print(f"{len(rows) * len(most_active)} gifs in {task.folder}")


def _uint8(picture: Float[Tensor, "3 H W"]) -> np.ndarray:
    """In [0, 1], cut off to whole numbers as the original does."""
    return (255 * picture.clamp(0, 1)).byte().permute(1, 2, 0).numpy()
