"""What the discrete VAE must do, whatever its weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.nn.noise import ShardedNoise, exponential
from slotformer import original
from slotformer.base_slots.models.dvae import dVAE, gumbel_softmax

VOCABULARY = 13


def lively() -> dVAE:
    """With biases, so that words differ."""
    torch.manual_seed(0)
    model = dVAE(VOCABULARY)
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            value.data.normal_(std=0.3)
    return model


def videos(count: int = 2, frames: int = 3, size: tuple[int, int] = (16, 24)) -> Tensor:
    return torch.rand(count, frames, 3, *size, generator=torch.Generator().manual_seed(1))


def draws(*shape: int) -> Tensor:
    return exponential(*shape, generator=torch.Generator().manual_seed(2), device=torch.device("cpu"))


def test_words_are_looked_up_where_the_original_multiplies_one_hot_vectors() -> None:
    model, tokens = lively(), torch.randint(VOCABULARY, (2, 3, 4, 6))
    one_hot = F.one_hot(tokens, VOCABULARY).float().flatten(0, 1).permute(0, 3, 1, 2)
    embedded = F.conv2d(one_hot, model.decoder[0].m.weight)
    expected = model.decoder[1:](model.decoder[0].activate(embedded)).unflatten(0, (2, 3))
    torch.testing.assert_close(model.detokenize(tokens), expected, rtol=1e-4, atol=1e-5)
    assert model.detokenize(tokens).shape == (2, 3, 3, 16, 24)
    assert model.detokenize(tokens[:, 0]).shape == (2, 3, 16, 24)


def test_tokens_are_the_most_likely_words() -> None:
    model, images = lively(), 2 * videos() - 1
    found = model(images, lambda name, shape: draws(*shape), with_logits=True)
    assert found.z_logits.shape == (2, 3, VOCABULARY, 4, 6)
    torch.testing.assert_close(found.z_logits.exp().sum(dim=2), torch.ones(2, 3, 4, 6))
    tokens = model.tokenize(images)
    assert torch.equal(tokens, found.z_logits.argmax(dim=2))
    assert len(tokens.unique()) > 2
    assert torch.equal(model.tokenize(images[:, 1]), tokens[:, 1])


def test_words_in_pieces_equal_words_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, noise = lively(), 2 * videos() - 1, lambda name, shape: draws(*shape)
    whole = model(images, noise).recon
    monkeypatch.setattr("slotformer.base_slots.models.dvae.FLOATS_IN_CACHE", 7 * VOCABULARY)
    torch.testing.assert_close(model(images, noise).recon, whole, rtol=1e-4, atol=1e-5)


def test_reconstruction_of_hard_words_is_that_of_the_sampled_tokens() -> None:
    model, images = lively(), 2 * videos() - 1
    noise = draws(2, 3, 24, VOCABULARY)
    hard = model(images, lambda name, shape: noise, hard=True).recon
    logits = model.word_logits(model.features(images)).view(2, 3, 24, VOCABULARY)
    tokens = (logits - noise.log()).argmax(dim=-1).view(2, 3, 4, 6)
    torch.testing.assert_close(hard, model.detokenize(tokens), rtol=1e-4, atol=1e-5)


def test_relaxed_words_are_distributed_as_the_logits_say() -> None:
    """The largest of a relaxed sample is a sample of the categorical distribution, at any temperature."""
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])
    for tau in (0.1, 1.0):
        words = gumbel_softmax(logits.expand(20000, 4), draws(20000, 4), tau)
        torch.testing.assert_close(words.sum(dim=-1), torch.ones(20000))
        found = words.argmax(dim=-1).bincount(minlength=4) / 20000
        torch.testing.assert_close(found, logits.softmax(dim=-1), rtol=0, atol=0.015)
    assert gumbel_softmax(logits, draws(4), 0.01).max() > 0.999


def test_exponential_draws_have_their_mean_and_no_zero() -> None:
    sample = draws(10**6)
    assert sample.min() > 0
    assert abs(float(sample.mean()) - 1) < 0.005
    assert abs(float((sample > 2).float().mean()) - 0.1353) < 0.002


def test_loss_follows_seed_and_step_and_the_temperature() -> None:
    model, batch = lively(), {"video": videos()}
    model.noise = ShardedNoise(seed=5)
    loss = model.loss(batch, 3)["loss"]
    assert torch.equal(loss, model.loss(batch, 3)["loss"])
    assert loss != model.loss(batch, 4)["loss"]
    noise = model.noise.at(3, loss.device, exponential)
    torch.testing.assert_close(loss, F.mse_loss(model(2 * batch["video"] - 1, noise).recon, 2 * batch["video"] - 1))
    model.tau = 0.1
    assert loss != model.loss(batch, 3)["loss"]


def test_two_processes_draw_what_one_draws() -> None:
    model, batch = lively(), videos()
    model.noise = ShardedNoise(seed=5)
    whole = model.loss({"video": batch}, 0)["loss"]
    parts = []
    for index in range(2):
        model.noise = ShardedNoise(seed=5, index=index, count=2)
        parts.append(model.loss({"video": batch[index : index + 1]}, 0)["loss"])
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_decomposition_is_the_picture_of_the_tokens_under_one_mask() -> None:
    model, batch = lively(), {"video": videos()}
    with torch.no_grad():
        found = model.eval().decompose(batch).validate()
        assert torch.equal(found.extras["tokens"], model.tokenize(2 * batch["video"] - 1))
        recon = model.detokenize(found.extras["tokens"]) / 2 + 0.5
        assert torch.equal(found.recon, recon.clamp(0, 1))
    assert torch.equal(found.masks, torch.ones(2, 3, 1, 16, 24))


def test_half_precision_is_close() -> None:
    model, images = lively(), 2 * videos() - 1
    exact = model(images, lambda name, shape: draws(*shape)).recon
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images, lambda name, shape: draws(*shape)).recon
    assert (half.float() - exact).abs().max() < 0.1
    assert (half.float() - exact).abs().mean() < 0.02


def test_original_checkpoints_have_the_same_names() -> None:
    model, other = lively(), dVAE(VOCABULARY)
    state = original.export_state(model)
    assert len(state) == 52
    other.load_state_dict(original.import_state(other, {"state_dict": state}))
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in state.items())
    assert sum(value.numel() for value in dVAE().parameters()) == 681_923


def test_frames_must_divide_into_words() -> None:
    with pytest.raises(ValueError, match=r"frames of 16x18, but a word describes 4x4 pixels"):
        lively().loss({"video": videos(size=(16, 18))}, 0)
