"""ClevrTex on disk, drawn instead of rendered: coloured boxes before a plain ground."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 60, 80
NUM_OBJECTS = 3
MATERIALS = ("stone", "wood", "rust")
GROUNDS = ("sand", "brick")


def write_scenes(root: Path, variant: str = "full", count: int = 100, descriptions: bool = True) -> Path:
    """`root` with `count` scenes of a variant, ten to a folder, of 60x80 pixels and three objects.

    Scene i stands on the ground of number i mod 2; its object k is of the material of number k.
    """
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"clevrtex_{variant}" / str(number // 10)
        folder.mkdir(parents=True, exist_ok=True)
        picture = np.full((HEIGHT, WIDTH, 3), rng.integers(60, 200, 3), np.uint8)
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        for label in range(1, NUM_OBJECTS + 1):
            top, left = rng.integers(8, 38), 4 + 14 * label + rng.integers(0, 4)
            box = slice(top, top + 14), slice(left, left + 9)
            picture[box], labels[box] = rng.integers(0, 256, 3), label
        name = f"CLEVRTEX_{variant}_{number:06d}"
        Image.fromarray(picture).save(folder / f"{name}.png")
        Image.fromarray(labels).save(folder / f"{name}_flat.png")
        if descriptions:
            things = [{"material": material, "shape": "cube", "size": "small", "rotation": 0} for material in MATERIALS]
            scene = {"ground_material": GROUNDS[number % 2], "objects": things}
            (folder / f"{name}.json").write_text(json.dumps(scene))
    return root
