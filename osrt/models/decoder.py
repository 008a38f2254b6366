"""What all decoders have in common: what they read of a scene, and what they say about its rays."""

from collections.abc import Callable
from dataclasses import dataclass, fields

from jaxtyping import Float
from torch import Tensor, nn

Prepared = tuple[Tensor, ...]
"""What a decoder reads of the latents of scenes, made once for any number of rays; scenes are the first axis of all."""


@dataclass(frozen=True)
class Rendered:
    """Of rays (B, P) of B scenes: colours in [0, 1], weights of the slots, which sum to one, and distances.

    Decoders that do not know slots or distances leave them out; only those of volumes have a coarse picture, too.
    """

    pixels: Float[Tensor, "B *P 3"]
    segmentation: Float[Tensor, "B *P K"] | None = None
    depths: Float[Tensor, "B *P"] | None = None
    coarse_pixels: Float[Tensor, "B *P 3"] | None = None
    coarse_depths: Float[Tensor, "B *P"] | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Rendered":
        """`change` of all that is there."""
        return Rendered(**{name: value if value is None else change(value) for name, value in vars(self).items()})

    @classmethod
    def joined(cls, parts: "list[Rendered]", join: Callable[[list[Tensor]], Tensor]) -> "Rendered":
        """`join` of every entry of `parts`, which have the same."""
        entries = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        return cls(**{name: None if values[0] is None else join(values) for name, values in entries.items()})


class Decoder(nn.Module):
    """Gives the colours of rays from latents of width `latent_dim`.

    `prepare(latents)` makes what `decoder(prepared, camera_pos, rays)` reads of them.
    """

    latent_dim: int
    render_options: tuple[str, ...] = ()
    """Names of further arguments of the call."""

    def rows_per_ray(self, prepared: Prepared, **render_options: float) -> int:
        """How many vectors its layers hold for each ray."""
        return 1

    def num_draws(self, **render_options: float) -> int:
        """How many random numbers each ray wants in training, as the call's `draws`."""
        return 0
