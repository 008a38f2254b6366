"""Scenes with cameras as models of light fields take them: some views to look at, all views to show."""

import torch
from jaxtyping import Float64
from torch import Tensor

from core.benchmark.resizing import resized
from core.data.cameras import pixel_rays, strided_cameras, transform_cameras, world_to_camera
from core.data.loader import Batch


def posed_views(
    batch: Batch,
    size: tuple[int, int],
    device: torch.device,
    num_inputs: int = 1,
    stride: int = 1,
    canonical_view: bool = False,
) -> Batch:
    """Inputs and views of scenes as the readers of core.data give them, at the height and width `size`.

    The `input_view` of a scene is what the model looks at, or where there is none the first `num_inputs` views; of
    these it sees every `stride`-th row and column. All views are shown.

    canonical_view: in the frame of the first of these, which looks at the origin, as in CLEVR3D and ObSuRF's scenes.

    Gives `input_images` (B, v, 3, h, w) in [0, 1], `input_camera_pos` (B, v, 3), `input_rays` (B, v, h, w, 3), and
    `view_camera_pos` (B, V, 3) and `view_rays` (B, V, H, W, 3), on the device.
    """
    images = batch["images"].to(device)
    images = images.float().div_(255) if images.dtype == torch.uint8 else images
    cameras = scaled_cameras(batch["cameras"].to(device), tuple(images.shape[-2:]), size)
    images = resized(images, size)
    rows = torch.arange(len(images), device=device)[:, None]
    if "input_view" in batch:
        chosen = batch["input_view"].to(device)[:, None]
    else:
        chosen = torch.arange(num_inputs, device=device).expand(len(images), -1)
    if canonical_view:
        transforms = world_to_camera(cameras[rows[:, 0], chosen[:, 0], :, 3])
        cameras = torch.stack([transform_cameras(of, views) for of, views in zip(transforms, cameras, strict=True)])
    kept = slice(stride // 2, None, stride)
    inputs, given = images[rows, chosen][..., kept, kept], strided_cameras(cameras[rows, chosen], stride)
    return {
        "input_images": inputs,
        "input_camera_pos": given[..., 3].float(),
        "input_rays": pixel_rays(given, *inputs.shape[-2:]),
        "view_camera_pos": cameras[..., 3].float(),
        "view_rays": pixel_rays(cameras, *size),
    }


def scaled_cameras(
    cameras: Float64[Tensor, "*views 3 4"], old: tuple[int, int], size: tuple[int, int]
) -> Float64[Tensor, "*views 3 4"]:
    """Cameras of the pictures resized from `old` to `size`, both height and width."""
    scale = cameras.new_tensor([old[1] / size[1], old[0] / size[0], 1.0])
    return torch.cat((cameras[..., :3] * scale, cameras[..., 3:]), dim=-1)
