"""What the VQ-VAE, its parts and its frozen form must do, whatever the weights."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.metrics.perceptual import BACKBONES, LPIPS
from core.training.checkpoint import CheckpointError
from slotdiffusion.models.autoencoder import Downsample, Upsample
from slotdiffusion.models.norm_silu_conv import norm_silu_conv
from slotdiffusion.models.quantiser import Quantiser, nearest_codes
from slotdiffusion.models.spatial_attention import spatial_attention
from slotdiffusion.models.vqvae import VQVAE, FrozenVQVAE, load_vqvae
from slotformer.framework.params import ParamsError

CODES = 13


def tiny(**options: object) -> VQVAE:
    torch.manual_seed(0)
    settings = {"resolution": 16, "ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "n_embed": CODES}
    model = VQVAE(**{**settings, **options})
    model.quantize.embedding.weight.data.normal_(std=0.5)  # so that several codes are in use
    return model


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def videos(count: int = 2, frames: int = 3, size: tuple[int, int] = (8, 12)) -> Tensor:
    return torch.rand(count, frames, 3, *size, generator=torch.Generator().manual_seed(1))


def random_lpips() -> LPIPS:
    weights = {name: 0.05 * normal(*shape) for name, shape in BACKBONES["vgg"].weights().items()}
    return LPIPS("vgg", {name: value.abs() if name.startswith("lin") else value for name, value in weights.items()})


def test_every_place_gets_the_nearest_code() -> None:
    latents, codebook = normal(200, 5), normal(CODES, 5, seed=2)
    expected = torch.cdist(latents.double(), codebook.double()).argmin(dim=1)
    assert torch.equal(nearest_codes(latents, codebook), expected)
    assert len(expected.unique()) > 5


def test_of_equally_near_codes_the_lowest_is_taken() -> None:
    codebook = torch.tensor([[3.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    latents = torch.tensor([[0.0, 0.0], [1.0, 0.5], [2.0, -1.0], [9.0, 0.0], [-4.0, 2.0]])
    assert nearest_codes(latents, codebook).tolist() == [1, 1, 0, 0, 2]


def test_codes_in_chunks_are_codes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    latents, codebook = normal(101, 3), normal(CODES, 3, seed=2)
    whole = nearest_codes(latents, codebook)
    monkeypatch.setattr("slotdiffusion.models.quantiser.FLOATS_IN_CACHE", 7 * CODES + 5)
    assert torch.equal(nearest_codes(latents, codebook), whole)


def test_codes_of_close_codebooks_survive_autocast() -> None:
    codebook = 1 + 1e-3 * normal(CODES, 3)  # bfloat16 tells no two of them apart
    latents = codebook[torch.arange(40) % CODES].T.reshape(1, 3, 5, 8)
    quantiser = Quantiser(CODES, 3)
    quantiser.embedding.weight.data.copy_(codebook)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantiser(latents)
    assert torch.equal(found.codes.flatten(), torch.arange(40) % CODES)
    assert found.latents.dtype == found.loss.dtype == torch.float32
    torch.testing.assert_close(found.latents, latents)


def test_the_gradient_goes_straight_through_the_quantiser() -> None:
    quantiser, latents = Quantiser(CODES, 3), normal(2, 3, 4, 5).requires_grad_()
    quantiser.embedding.weight.data.normal_()
    found, weights = quantiser(latents), normal(2, 3, 4, 5, seed=3)
    torch.testing.assert_close(found.latents, quantiser.lookup(found.codes))
    of_latents, of_codebook = torch.autograd.grad(
        (found.latents * weights).sum(), (latents, quantiser.embedding.weight), allow_unused=True
    )
    assert torch.equal(of_latents, weights)
    assert of_codebook is None


def test_the_loss_pulls_latents_with_weight_1_and_codes_with_a_quarter() -> None:
    quantiser, latents = Quantiser(CODES, 3), normal(2, 3, 4, 5).requires_grad_()
    quantiser.embedding.weight.data.normal_()
    found = quantiser(latents)
    difference = (latents - quantiser.lookup(found.codes)).detach()
    torch.testing.assert_close(found.loss, 1.25 * difference.square().mean())
    of_latents, of_codebook = torch.autograd.grad(found.loss, (latents, quantiser.embedding.weight))
    torch.testing.assert_close(of_latents, 2 * difference / latents.numel())
    expected = torch.zeros(CODES, 3)
    expected.index_add_(0, found.codes.flatten(), -0.5 * difference.permute(0, 2, 3, 1).flatten(0, 2))
    torch.testing.assert_close(of_codebook, expected / latents.numel())


def test_a_fresh_codebook_is_close_to_zero() -> None:
    weight = Quantiser(100, 3).embedding.weight
    assert weight.abs().max() <= 1 / 100
    assert weight.std() > 0.4 / 100


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_norm_silu_and_convolution_in_one_step(memory_format: torch.memory_format) -> None:
    norm, convolution = nn.GroupNorm(4, 12).double(), nn.Conv2d(12, 7, 3, padding=1).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    features = (normal(2, 12, 5, 6).double() * 3 + 2).contiguous(memory_format=memory_format).requires_grad_()
    sources, upstream = (features, *norm.parameters(), *convolution.parameters()), normal(2, 7, 5, 6, seed=4).double()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        ours = norm_silu_conv(features, norm, convolution)
    assert [value.shape for value in kept if len(value) == len(features)] == [features.shape]
    plain = convolution(F.silu(norm(features)))
    torch.testing.assert_close(ours, plain)
    gradients = (torch.autograd.grad(result, sources, upstream) for result in (ours, plain))
    for found, expected in zip(*gradients):
        torch.testing.assert_close(found, expected)


def test_norm_and_silu_are_float32_under_autocast() -> None:
    norm, convolution = nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1)
    nn.init.dirac_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    features = (1000 + normal(1, 4, 6, 6)).requires_grad_()  # 1000 and 1001 are one number in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        found = norm_silu_conv(features, norm, convolution)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), F.silu(norm(features)), rtol=1e-2, atol=1e-2)
    found.float().square().sum().backward()
    assert features.grad.dtype == norm.weight.grad.dtype == convolution.weight.grad.dtype == torch.float32
    assert features.grad.abs().max() > 0.1


def test_spatial_attention_is_attention() -> None:
    projected = [normal(2, 30, 8, seed=seed).requires_grad_() for seed in range(3)]
    ours, plain = spatial_attention(*projected), F.scaled_dot_product_attention(*projected)
    torch.testing.assert_close(ours, plain)
    upstream = normal(2, 30, 8, seed=5)
    for found, expected in zip(*(torch.autograd.grad(result, projected, upstream) for result in (ours, plain))):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_sizes_change_as_in_the_original() -> None:
    torch.manual_seed(0)
    up, down, features = Upsample(4), Downsample(4), normal(2, 4, 6, 8)
    torch.testing.assert_close(up(features), up.conv(F.interpolate(features, scale_factor=2)), rtol=1e-4, atol=1e-5)
    padded = torch.zeros(2, 4, 7, 9)
    padded[:, :, :6, :8] = features
    torch.testing.assert_close(down(features), F.conv2d(padded, down.conv.weight, down.conv.bias, stride=2))
    assert down(features).shape == (2, 4, 3, 4)


def test_levels_attend_at_the_resolutions_that_are_named() -> None:
    keys = tiny(attn_resolutions=(8,)).state_dict()
    attending = {re.sub(r"attn\.\d.*", "attn", key) for key in keys if ".attn." in key}
    assert attending == {"encoder.down.1.attn", "decoder.up.1.attn"}
    assert "decoder.up.1.attn.1.proj_out.weight" in keys
    assert tiny(attn_resolutions=(8,))(videos()).recon.shape == (2, 3, 3, 8, 12)
    assert not any(".attn." in key for key in tiny().state_dict())


def test_shapes_of_videos_and_of_pictures() -> None:
    model = tiny()
    found = model(2 * videos() - 1)
    assert found.recon.shape == (2, 3, 3, 8, 12)
    assert found.latents.shape == found.quantised.shape == (2, 3, 3, 4, 6)
    assert found.token_id.shape == (2, 3, 4, 6)
    assert len(found.token_id.unique()) > 2
    pictures = model(2 * videos()[:, 0] - 1)
    torch.testing.assert_close(pictures.recon, found.recon[:, 0], rtol=1e-4, atol=1e-5)
    assert torch.equal(pictures.token_id, found.token_id[:, 0])


def test_frames_that_codes_do_not_tile_are_refused() -> None:
    with pytest.raises(ValueError, match=r"frames of 9x12, but a code describes 2x2 pixels"):
        tiny()(videos(size=(9, 12)))


def test_channels_that_do_not_divide_into_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ch, ch_mult: a level has 48 channels; every one needs a multiple of 32"):
        tiny(ch=48)


def test_terms_of_the_loss_with_and_without_lpips() -> None:
    model, batch = tiny(recon_loss_w=2.0, quant_loss_w=3.0, percept_loss_w=0.5), {"video": videos(size=(16, 16))}
    images = 2 * batch["video"] - 1
    with pytest.raises(ValueError, match=r'percept_loss_w=0.5: VQVAE.lpips is not set. .*load_lpips\("vgg"\)'):
        model.loss(batch, 0)
    model.lpips = random_lpips()
    terms, found = model.loss(batch, 0), model(images)
    assert set(terms) == {"loss", "recon_loss", "quant_loss", "percept_loss"}
    torch.testing.assert_close(terms["recon_loss"], (found.recon - images).abs().mean())
    distances = model.lpips(images.flatten(0, 1), found.recon.flatten(0, 1))
    torch.testing.assert_close(terms["percept_loss"], distances.mean())
    assert terms["percept_loss"] > 1e-3
    total = 2 * terms["recon_loss"] + 3 * terms["quant_loss"] + 0.5 * terms["percept_loss"]
    torch.testing.assert_close(terms["loss"], total)
    model.percept_loss_w = 0.0
    without = model.loss(batch, 0)
    torch.testing.assert_close(without["recon_loss"], F.mse_loss(found.recon, images))
    assert without["percept_loss"] == 0
    torch.testing.assert_close(model.eval().loss(batch, 0)["recon_mse"], without["recon_loss"])
    torch.testing.assert_close(model.loss({"image": batch["video"].flatten(0, 1)}, 0), model.loss(batch, 0))


def test_lpips_is_no_part_of_the_weights_and_moves_with_the_model() -> None:
    model, keys = tiny(), set(tiny().state_dict())
    count = len(list(model.parameters()))
    model.lpips = random_lpips()
    assert set(model.state_dict()) == keys
    assert len(list(model.parameters())) == count
    assert model.to("meta").lpips.features_0_weight.device.type == "meta"


def test_all_weights_get_gradients_and_codes_that_are_not_used_none() -> None:
    model = tiny(percept_loss_w=0.0)
    codes = model(2 * videos() - 1).token_id.unique()
    assert len(codes) < CODES
    model.loss({"video": videos()}, 0)["loss"].backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in model.parameters())
    moved = model.quantize.embedding.weight.grad.abs().sum(dim=1).nonzero().flatten()
    assert torch.equal(moved, codes)


def test_dropout_is_at_work_in_training_alone() -> None:
    model, images = tiny(dropout=0.5), 2 * videos() - 1
    assert not torch.equal(model.encode(images), model.encode(images))
    model.eval()
    assert torch.equal(model.encode(images), model.encode(images))
    torch.testing.assert_close(model.encode(images), tiny().encode(images))


def test_latents_and_pictures_are_float32_under_autocast() -> None:
    model, images = tiny(percept_loss_w=0.0), 2 * videos() - 1
    exact = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(images)
        terms = model.loss({"video": videos()}, 0)
    assert found.latents.dtype == found.recon.dtype == terms["loss"].dtype == torch.float32
    assert not torch.equal(found.latents, exact.latents)  # autocast was at work
    torch.testing.assert_close(found.latents, exact.latents, rtol=0.05, atol=0.05)
    assert (found.token_id == exact.token_id).float().mean() > 0.95
    terms["loss"].backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters())


@torch.no_grad()
def test_decomposition_is_one_mask_and_the_picture_of_the_codes() -> None:
    model, batch = tiny(), {"video": videos()}
    found = model.decompose(batch).validate()
    assert found.masks.shape == (2, 3, 1, 8, 12)
    tokens = model.tokenize(2 * batch["video"] - 1)
    assert torch.equal(found.extras["tokens"], tokens)
    recon = (model.detokenize(tokens) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(found.recon, recon, rtol=1e-4, atol=1e-5)
    pictures = model.decompose({"image": batch["video"][:, 0]}).validate()
    torch.testing.assert_close(pictures.recon, found.recon[:, 0], rtol=1e-4, atol=1e-5)


def test_a_frozen_vqvae_stays_as_it_is() -> None:
    frozen = FrozenVQVAE(tiny(dropout=0.5))
    outer = nn.ModuleDict({"vae": frozen, "other": nn.Linear(2, 2)}).train()
    assert not any(module.training for module in frozen.modules())
    assert [name for name, value in outer.named_parameters() if value.requires_grad] == ["other.weight", "other.bias"]
    images = (2 * videos() - 1).flatten(0, 1).requires_grad_()
    latents = frozen.encode(images)
    assert not latents.requires_grad
    assert not frozen.decode(latents.requires_grad_()).requires_grad
    assert not frozen.quantize(latents).requires_grad
    assert {name for name in outer.state_dict() if name.startswith("vae.")} == {
        f"vae.vqvae.{name}" for name in tiny().state_dict()
    }


def test_the_scale_is_that_of_the_latents_alone() -> None:
    model, images = tiny(), (2 * videos() - 1).flatten(0, 1)
    frozen, found = FrozenVQVAE(model, z_scale_factor=1.3), model.eval()(images)
    latents = frozen.encode(images)
    torch.testing.assert_close(latents, found.latents / 1.3)
    torch.testing.assert_close(frozen.quantize(latents), found.quantised / 1.3)
    torch.testing.assert_close(frozen.decode(latents), found.recon, rtol=1e-4, atol=1e-5)
    exact = model.decode(found.latents)
    torch.testing.assert_close(frozen.decode(latents, quantize=False), exact, rtol=1e-4, atol=1e-5)
    on_codebook = frozen.quantize(latents)
    assert torch.equal(frozen.quantize(on_codebook), on_codebook)


def test_frames_in_chunks_are_frames_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, images = FrozenVQVAE(tiny()), (2 * videos() - 1).flatten(0, 1)
    latents, pictures = frozen.encode(images), frozen.decode(frozen.encode(images))
    monkeypatch.setattr("slotdiffusion.models.vqvae.CPU_CHUNK_PIXELS", 4 * 8 * 12)
    torch.testing.assert_close(frozen.encode(images), latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(frozen.decode(latents), pictures, rtol=1e-4, atol=1e-5)


def test_latents_of_the_batch_take_the_place_of_the_encoder() -> None:
    model, batch = tiny(), {"video": videos()}
    frozen = FrozenVQVAE(model, z_scale_factor=1.3)
    expected = frozen.latents(batch)
    torch.testing.assert_close(expected, frozen.encode((2 * batch["video"] - 1).flatten(0, 1)))
    cached = model.encode(2 * batch["video"] - 1).detach()
    model.encoder = None  # nobody asks it
    torch.testing.assert_close(frozen.latents({**batch, "latents": cached}), expected)
    torch.testing.assert_close(frozen.latents({"latents": cached.half()}), expected, rtol=1e-3, atol=1e-3)
    picture = {"image": batch["video"][:, 0], "latents": cached[:, 0]}
    torch.testing.assert_close(frozen.latents(picture), expected.unflatten(0, (2, 3))[:, 0])
    with pytest.raises(ValueError, match=r"latents: \(2, 3, 3, 4, 5\) beside pictures of \(2, 3, 3, 8, 12\), expected"):
        frozen.latents({**batch, "latents": cached[..., :5]})


@pytest.mark.parametrize("wrap", ["model", "state_dict", None])
def test_weights_come_from_files_of_ours_and_of_the_original(tmp_path: Path, wrap: str | None) -> None:
    trained, path = tiny(), tmp_path / "vqvae_movie.pth"
    state: dict[str, Tensor] = dict(trained.state_dict())
    if wrap != "model":
        state = {f"module.{name}": value for name, value in state.items()}
        state["module.loss.perceptual_loss.lin0.model.1.weight"] = torch.zeros(1, 64, 1, 1)
    torch.save({wrap: state, "it": 7} if wrap else state, path)
    torch.manual_seed(5)
    fresh = VQVAE(resolution=16, ch=32, ch_mult=(1, 2), num_res_blocks=1, n_embed=CODES)
    load_vqvae(fresh, path)
    images = 2 * videos() - 1
    assert torch.equal(fresh.encode(images), trained.encode(images))
    assert fresh.encoder.conv_out.weight.is_contiguous(memory_format=torch.channels_last)


def test_missing_and_unfit_weights_stop_the_run(tmp_path: Path) -> None:
    model, path = tiny(), tmp_path / "vqvae.pth"
    for absent in (None, "", path):
        shown = str(path) if absent else "no path"
        with pytest.raises(ParamsError, match=rf"vqvae_ckp_path: {re.escape(shown)}: no such file. Train the VQ-VAE"):
            load_vqvae(model, absent)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_vqvae(model, path)
    torch.save({"it": 3}, path)
    with pytest.raises(CheckpointError, match=r"vqvae\.pth: holds no weights"):
        load_vqvae(model, path)
    torch.save(tiny(n_embed=5).state_dict(), path)
    with pytest.raises(
        CheckpointError, match=r"quantize.embedding.weight: \[5, 3\] in the file, \[13, 3\] in the model"
    ):
        load_vqvae(model, path)
