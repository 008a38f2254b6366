"""What the stand-in for PHYRE looks like: solved tasks, a row of frames each."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from core.data.phyre_recordings import colour_frames, fixed_length
from core.synth import phyre_world
from core.synth.phyre.simulator import SimulationStatus
from core.synth.phyre.templates import TASK_IDS
from core.viz.gifs import save_gif
from core.viz.overlays import contact_sheet
from core.viz.panels import save_png

ROWS, FRAMES = 8, 8
STRIDE = 20
MOST_ATTEMPTS = 2_000


def write_phyre_preview(folder: Path, seed: int = 0) -> Path:
    """preview.png and preview.gif in `folder`: tasks of eight templates, each with the first random ball that solves
    it; the path of the former."""
    chosen = [TASK_IDS[int(place)] for place in np.linspace(0, len(TASK_IDS) - 1, ROWS)]
    generators = np.random.default_rng(seed).spawn(ROWS)
    videos = [_solved(task, rng) for task, rng in zip(tqdm(chosen, "tasks solved"), generators)]
    pictures = []
    for frames in videos:
        pictures += [frames[int(place), ::2, ::2] for place in np.linspace(0, len(frames) - 1, FRAMES)]
    save_png(folder / "preview.png", contact_sheet(pictures, FRAMES))
    longest = max(len(frames) for frames in videos)
    side_by_side = np.concatenate([fixed_length(frames, longest) for frames in videos[: ROWS // 2]], axis=2)
    save_gif(folder / "preview.gif", side_by_side, fps=60 / STRIDE)
    return folder / "preview.png"


def _solved(task: str, rng: np.random.Generator) -> UInt8[np.ndarray, "T 256 256 3"]:
    """The frames of the first random action that solves `task`, or of the last one tried."""
    simulator = phyre_world.initialize_simulator([task], "ball")
    for _ in range(MOST_ATTEMPTS):
        action = rng.random(3)
        result = simulator.simulate_action(0, action, need_images=False)
        if result.status == SimulationStatus.SOLVED:
            break
    images = None
    while images is None:  # an attempt that cannot be placed has no pictures
        images = simulator.simulate_action(0, action, stride=STRIDE).images
        action = rng.random(3)
    return colour_frames(images, reverse_color=False)
