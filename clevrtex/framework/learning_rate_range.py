"""Which learning rate to begin with (Smith 2017, section 3.3)."""

import math
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from clevrtex.framework.optim import build_optimizer
from core.data.loader import Batch

LOWEST, HIGHEST, NUM_STEPS = 1e-8, 1.0, 100
SMOOTHING = 0.98
FIRST_LEFT_OUT, LAST_LEFT_OUT = 10, 1
"""Losses that no slope is taken of: the first are means of few batches, the last is that of a rate near divergence."""
DIVERGED = 4.0
"""A loss so many times the best one ends the test."""
ROWS = 20


def range_test(
    model: nn.Module, optim: str, batches: Iterator[Batch], accelerator: Accelerator, clip_norm: float | None
) -> tuple[float, str]:
    """The rate at which the loss falls most steeply, and a table of rates and smoothed losses.

    The rate rises from 1e-8 to 1 by a constant factor per step; `model` is trained on the way. Raises ValueError if the
    loss diverges at once, or falls at no rate.
    """
    optimizer = build_optimizer(model, optim, LOWEST)
    optimizer = accelerator.prepare_optimizer(optimizer)
    rates, losses, average = [], [], 0.0
    for step, batch in zip(tqdm(range(NUM_STEPS), "learning rates", leave=False), batches):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (NUM_STEPS - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        with accelerator.autocast():
            loss = model.loss(batch, step)["loss"]
        accelerator.backward(loss)
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        average = SMOOTHING * average + (1 - SMOOTHING) * loss.item()
        smoothed = average / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smoothed) or (losses and smoothed > DIVERGED * min(losses)):
            break
        rates.append(rate)
        losses.append(smoothed)
    if len(rates) < 3:
        raise ValueError(f"--tune: the loss diverges at a learning rate of {LOWEST:g} already")
    rows = range(0, len(rates), max(1, len(rates) // ROWS))
    lines = (f"{rates[row]:12.3g} {losses[row]:14.6g}" for row in rows)
    table = "\n".join([f"{'rate':>12} {'loss':>14}", *lines])
    first = min(FIRST_LEFT_OUT, len(rates) // 4)
    kept = slice(first, -LAST_LEFT_OUT)
    slopes = torch.tensor(losses[kept]).diff() / torch.tensor(rates[kept]).log().diff()
    if slopes.min() >= 0:
        raise ValueError(f"--tune: the loss falls at no rate, so that none can be suggested:\n{table}")
    return rates[first + int(slopes.argmin())], table
