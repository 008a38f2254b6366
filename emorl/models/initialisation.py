"""How EfficientMORL starts: very small weights."""

from torch import nn


def init_small(module: nn.Module) -> None:
    """Xavier-normal weights with gain 0.02 and zero biases for every convolution and linear layer inside `module`."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_normal_(layer.weight, gain=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
