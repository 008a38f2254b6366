"""Structured DRAW, GNM's global prior (Jiang and Ahn 2020, section 3.1): a canvas painted in a few steps.

Shapes: B images, S steps, D size of a step's latent variable, C channels, h x w cells.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clevrtex.models.celu_layers import convolution, mlp, stack
from clevrtex.models.gnm_architecture import Architecture
from clevrtex.models.latents import gaussian
from clevrtex.models.repeated_linear import to_repeat
from core.nn.noise import Noise
from emorl.models.gaussian import DiagonalGaussian

State = tuple[Tensor, Tensor]


@dataclass
class Painting:
    """A finished canvas. The latent variables come from the prior if there is no posterior."""

    canvas: Float[Tensor, "B C h w"]
    latents: Float[Tensor, "B S D"]
    prior: DiagonalGaussian
    posterior: DiagonalGaussian | None


class ConvLSTM(nn.Module):
    """A convolutional LSTM cell with a learnt initial state."""

    def __init__(self, inputs: int, hidden: int, kernel: int, num_cells: int):
        super().__init__()
        self.hidden = nn.Parameter(torch.zeros(hidden, num_cells, num_cells))
        self.cell = nn.Parameter(torch.zeros(hidden, num_cells, num_cells))
        self.gates = nn.Conv2d(inputs + hidden, 4 * hidden, kernel, padding=(kernel - 1) // 2)

    def start(self, count: int) -> State:
        return self.hidden.expand(count, -1, -1, -1), self.cell.expand(count, -1, -1, -1)

    def forward(self, inputs: Float[Tensor, "B C h w"], state: State) -> State:
        hidden, cell = state
        keep_in, forget, out, candidate = self.gates(torch.cat((inputs, hidden), dim=1)).float().chunk(4, dim=1)
        cell = forget.sigmoid() * cell + keep_in.sigmoid() * candidate.tanh()
        return out.sigmoid() * cell.tanh(), cell


class StructuredDraw(nn.Module):
    """Every step samples a latent variable and adds to the canvas what a recurrent decoder makes of it."""

    def __init__(self, channels: int, latent_size: int, architecture: Architecture):
        super().__init__()
        side = architecture.num_cells
        encoder, decoder = architecture.encoder_hidden, architecture.decoder_hidden
        self.num_steps = architecture.draw_steps
        self.latent_size = latent_size
        self.canvas_shape = (channels, side, side)
        self.prior = mlp(decoder * side**2, (*architecture.global_prior, 2 * latent_size))
        self.posterior = mlp(encoder * side**2, (*architecture.global_posterior, 2 * latent_size))
        self.latent_decoder = mlp(latent_size, (*architecture.global_decoder, channels * side**2), plain_end=False)
        self.encoder = ConvLSTM(2 * channels + decoder, encoder, architecture.draw_kernel, side)
        self.decoder = ConvLSTM(2 * channels, decoder, architecture.draw_kernel, side)
        self.canvas_update = stack(convolution, decoder, architecture.canvas_update, plain_end=True)

    def forward(self, count: int, noise: Noise, features: Float[Tensor, "B C h w"] | None = None) -> Painting:
        """Paint `count` canvases: those of the images that gave `features`, or of the prior.

        The draws `global_0`, `global_1`, ... have the shape (B, D).
        """
        canvas = self.decoder.hidden.new_zeros(count, *self.canvas_shape)
        encoder, decoder = self.encoder.start(count), self.decoder.start(count)
        infer, decode = to_repeat(self.posterior), to_repeat(self.latent_decoder)
        hidden, posteriors, latents = [], [], []
        for step in range(self.num_steps):
            hidden.append(_vectors(decoder[0]))
            if features is None:
                distribution = gaussian(self.prior(hidden[-1]))
            else:
                encoder = self.encoder(torch.cat((features, features - canvas, decoder[0]), dim=1), encoder)
                posteriors.append(infer(_vectors(encoder[0])))
                distribution = gaussian(posteriors[-1])
            latents.append(distribution.sample(noise(f"global_{step}", (count, self.latent_size))))
            decoded = decode(latents[-1]).unflatten(1, self.canvas_shape)
            decoder = self.decoder(torch.cat((decoded, canvas), dim=1), decoder)
            canvas = canvas + self.canvas_update(decoder[0]).float()
        prior = gaussian(self.prior(torch.stack(hidden, dim=1)))
        posterior = gaussian(torch.stack(posteriors, dim=1)) if posteriors else None
        return Painting(canvas, torch.stack(latents, dim=1), prior, posterior)


def _vectors(maps: Float[Tensor, "B C h w"]) -> Float[Tensor, "B _"]:
    """Flattened with the channels last."""
    return maps.permute(0, 2, 3, 1).flatten(1)
