"""Pictures of a training step for TensorBoard, under the original's names."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.training.tracking import Tracker
from core.viz.panels import image_grid, panel
from emorl.models import EfficientMORL


@torch.no_grad()
def draw(tracker: Tracker, step: int, model: nn.Module, image: Float[Tensor, "1 3 H W"]) -> None:
    """Slots, masks, reconstruction and attention of one picture in [0, 1], as evaluation would see it at this step."""
    level = suffix = ""
    if isinstance(model, EfficientMORL):
        # As many refinements as the curriculum makes at this step.
        refinements, in_evaluation = model.num_refinements(step), model.refinement_iters
        model.refinement_iters = refinements
    model.eval()
    found = model.decompose({"image": image}).detach().cpu()
    model.train()
    if isinstance(model, EfficientMORL):
        model.refinement_iters = in_evaluation
        layers = model.inference.num_layers
        level, suffix = f"_level_{layers + refinements - 1}", f"_level_{layers - 1}"
        attention = found.extras["attention"][0][:, None]
        tracker.picture(step, f"attn{suffix}", _pixels(image_grid(attention)))
    tracker.picture(step, f"RGB{level}", _pixels(image_grid(found.rgb[0])))
    tracker.picture(step, f"masks{level}", _pixels(image_grid(found.masks[0][:, None])))
    tracker.picture(step, f"reconstruction{level}", _pixels(found.recon[0]))
    tracker.picture(step, "image", _pixels(image[0].cpu()))
    tracker.picture(step, "panel", panel(image, found))


def _pixels(picture: Float[Tensor, "C H W"]) -> np.ndarray:
    return (picture.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
