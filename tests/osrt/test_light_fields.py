"""SRT and OSRT: what must hold for any weights."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import osrt.models.light_field as light_field
from core.nn.noise import ShardedNoise
from osrt.models import LightField, ModelError, build_model
from osrt.models.attention import attend
from osrt.models.decoder import Rendered

ENCODER = {"num_octaves": 4, "base_channels": 6, "dim": 24, "num_heads": 3, "dim_head": 8, "mlp_dim": 48}
SLOTS = ENCODER | {"num_slots": 5, "slot_dim": 40, "slot_hidden_dim": 64, "slot_iters": 2}
DECODERS: dict[str, dict[str, Any]] = {
    "slot_mixer": {"num_octaves": 4, "latent_dim": 40, "num_heads": 4, "hidden_dim": 32},
    "spatial_broadcast": {"num_octaves": 4, "latent_dim": 40, "hidden_dim": 32},
    "srt": {"num_octaves": 4, "latent_dim": 24, "num_heads": 4, "hidden_dim": 32},
    "old_srt": {"num_octaves": 4, "latent_dim": 24, "num_heads": 4},
    "nerf": {"num_octaves": 4, "latent_dim": 24, "num_heads": 3, "dim_head": 8, "mlp_dim": 48},
}
OF_SLOTS = ("slot_mixer", "spatial_broadcast")
VOLUME = {"min_dist": 0.1, "max_dist": 20.0, "num_coarse_samples": 6, "num_fine_samples": 4}
ALL = pytest.mark.parametrize("decoder", DECODERS)
SLOT_DECODERS = pytest.mark.parametrize("decoder", OF_SLOTS)


def make(decoder: str, checkpointing: bool = False, **options: Any) -> LightField:
    torch.manual_seed(0)
    encoder = ("osrt", SLOTS) if decoder in OF_SLOTS else ("srt", ENCODER)
    return build_model(*encoder, decoder, DECODERS[decoder] | options, False, VOLUME, checkpointing)


def directions(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, 3), dim=-1)


def make_batch(scenes: int = 2, views: int = 2, num_rays: int = 30) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "input_images": torch.rand(scenes, views, 3, 18, 26),
        "input_camera_pos": torch.randn(scenes, views, 3),
        "input_rays": directions(scenes, views, 18, 26),
        "target_pixels": torch.rand(scenes, num_rays, 3),
        "target_camera_pos": torch.randn(scenes, num_rays, 3),
        "target_rays": directions(scenes, num_rays),
        "target_masks": torch.randint(4, (scenes, num_rays), dtype=torch.uint8),
    }


def encode(model: LightField, batch: dict[str, Tensor]) -> Tensor:
    return model.encode(batch["input_images"], batch["input_camera_pos"], batch["input_rays"])


def decode(model: LightField, batch: dict[str, Tensor], latents: Any) -> Rendered:
    return model.decode(latents, batch["target_camera_pos"], batch["target_rays"])


def gradients(model: LightField, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model.loss(batch, 3)["loss"]
    loss.backward()
    return loss.detach(), {name: value.grad.clone() for name, value in model.named_parameters()}


def assert_same_training(one: LightField, other: LightField, batch: dict[str, Tensor]) -> None:
    (loss, grads), (other_loss, other_grads) = gradients(one, batch), gradients(other, batch)
    torch.testing.assert_close(other_loss, loss)
    scale = max(float(value.abs().max()) for value in grads.values())
    for name, value in grads.items():
        torch.testing.assert_close(other_grads[name], value, rtol=1e-4, atol=1e-6 * scale, msg=name)


@ALL
def test_a_scene_does_not_depend_on_the_others_of_its_batch(decoder: str) -> None:
    model, batch = make(decoder), make_batch(scenes=3)
    order = torch.tensor([2, 0, 1])
    permuted = {key: value[order] for key, value in batch.items()}
    found, other = decode(model, batch, encode(model, batch)), decode(model, permuted, encode(model, permuted))
    torch.testing.assert_close(other.pixels, found.pixels[order], rtol=1e-4, atol=1e-5)


@ALL
def test_colours_are_in_range_and_weights_sum_to_one(decoder: str) -> None:
    model, batch = make(decoder), make_batch()
    found = decode(model, batch, encode(model, batch))
    assert found.pixels.shape == (2, 30, 3)
    assert found.pixels.min() >= 0
    assert found.pixels.max() <= 1
    assert (found.segmentation is not None) == (decoder in OF_SLOTS)
    if found.segmentation is not None:
        torch.testing.assert_close(found.segmentation.sum(dim=-1), torch.ones(2, 30))


@SLOT_DECODERS
def test_permuted_slots_permute_the_weights_alone(decoder: str) -> None:
    model, batch = make(decoder), make_batch()
    slots, order = encode(model, batch), torch.tensor([3, 1, 4, 0, 2])
    found, other = decode(model, batch, slots), decode(model, batch, slots[:, order])
    torch.testing.assert_close(other.pixels, found.pixels)
    torch.testing.assert_close(other.segmentation, found.segmentation[..., order])


def test_permuted_initial_slots_permute_the_slots() -> None:
    model, batch = make("slot_mixer"), make_batch()
    slots, order = encode(model, batch), torch.tensor([3, 1, 4, 0, 2])
    initial = model.encoder.slot_attention.initial_slots
    initial.data = initial.data[order]
    torch.testing.assert_close(encode(model, batch), slots[:, order])


@ALL
def test_prepared_latents_render_the_same(decoder: str) -> None:
    model, batch = make(decoder), make_batch()
    latents = encode(model, batch)
    found, prepared = decode(model, batch, latents), decode(model, batch, model.prepare(latents))
    assert torch.equal(found.pixels, prepared.pixels)


@ALL
def test_a_picture_in_chunks_is_the_whole(decoder: str) -> None:
    model, batch = make(decoder), make_batch()
    latents, rays = encode(model, batch), directions(2, 5, 7)
    whole = model.render(latents, batch["input_camera_pos"][:, 0], rays, chunk=35)
    chunks = model.render(latents, batch["input_camera_pos"][:, 0], rays, chunk=8)
    assert whole.pixels.shape == (2, 5, 7, 3)
    for name, value in vars(whole).items():
        if value is not None:
            torch.testing.assert_close(getattr(chunks, name), value)
    ray = model.decode(latents, batch["input_camera_pos"][:, :1], rays[:, 2, 3:4])
    torch.testing.assert_close(ray.pixels[:, 0], whole.pixels[:, 2, 3])


@ALL
def test_checkpointing_and_parts_of_rays_change_no_gradient(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, checkpointed, batch = make(decoder), make(decoder, checkpointing=True), make_batch()
    plain.noise = checkpointed.noise = ShardedNoise(5)
    assert_same_training(plain, checkpointed, batch)
    loss, whole = gradients(plain, batch)
    monkeypatch.setattr(light_field, "ROWS_TOGETHER", {"cpu": 50})
    in_parts, parts = gradients(plain, batch)
    torch.testing.assert_close(in_parts, loss)
    scale = max(float(value.abs().max()) for value in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6 * scale, msg=name)


@ALL
def test_the_loss_is_the_mean_squared_error(decoder: str) -> None:
    model, batch = make(decoder), make_batch()
    if decoder == "nerf":
        terms = model.loss(batch, 0)
        assert terms.keys() == {"loss", "mse", "coarse_mse"}
        torch.testing.assert_close(terms["mse"] + terms["coarse_mse"], terms["loss"].detach())
        return
    found = decode(model, batch, encode(model, batch))
    expected = F.mse_loss(found.pixels, batch["target_pixels"])
    terms = model.loss(batch, 0)
    assert terms.keys() == {"loss", "mse"}
    torch.testing.assert_close(terms["loss"], expected)
    with torch.no_grad():
        torch.testing.assert_close(model.loss(batch, 0)["mse"], expected)


def test_training_says_how_well_slots_agree_with_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make("slot_mixer"), make_batch()
    model.score_every = 2
    assert model.loss(batch, 1).keys() == {"loss", "mse"}
    whole = model.loss(batch, 2)
    monkeypatch.setattr(light_field, "ROWS_TOGETHER", {"cpu": 14})
    parts = model.loss(batch, 2)
    assert whole.keys() == {"loss", "mse", "ari", "fg_ari"}
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value)


@ALL
def test_bfloat16_stays_near_float32(decoder: str) -> None:
    model, batch = make(decoder), make_batch()
    model.noise = ShardedNoise(5)
    loss, grads = gradients(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.loss(batch, 3)["loss"]
        found = decode(model, batch, encode(model, batch))
    assert rough.dtype == found.pixels.dtype == torch.float32
    torch.testing.assert_close(rough.detach(), loss, rtol=0.05, atol=0)
    if found.segmentation is not None:
        assert found.segmentation.dtype == torch.float32
        torch.testing.assert_close(found.segmentation.sum(dim=-1), torch.ones(2, 30))
    model.zero_grad()
    rough.backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters())
    norms = [
        sum(float(value.double().square().sum()) for value in values)
        for values in (grads.values(), (value.grad for value in model.parameters()))
    ]
    assert norms[1] == pytest.approx(norms[0], rel=0.2)


@ALL
def test_decomposition_shows_the_input_views(decoder: str) -> None:
    model, batch = make(decoder), make_batch()
    with torch.no_grad():
        found = model.decompose(batch).validate()
        second = model.render(encode(model, batch), batch["input_camera_pos"][:, 1], batch["input_rays"][:, 1])
    torch.testing.assert_close(found.recon[:, 1], second.pixels.permute(0, 3, 1, 2))
    assert found.masks.shape == (2, 2, 5 if decoder in OF_SLOTS else 1, 18, 26)
    assert (found.slots is not None) == (decoder in OF_SLOTS)


def test_the_position_is_convolved_as_if_it_stood_in_every_pixel() -> None:
    model = make("srt")
    first = model.encoder.conv_blocks[0]
    features, position = torch.randn(2, 27, 7, 9), torch.randn(2, 24)
    everywhere = position[:, :, None, None].expand(-1, -1, 7, 9)
    whole = first.layers(torch.cat((features[:, :3], everywhere, features[:, 3:]), dim=1))
    torch.testing.assert_close(first(features, position), whole)


@pytest.mark.parametrize("num_latents", [3, 30])
def test_folded_and_plain_attention_agree(num_latents: int) -> None:
    """Few latents are folded into the projections; the same latents many times over are not, and look the same."""
    attention = build_model("srt", ENCODER, "srt", DECODERS["srt"]).decoder.allocation_transformer.transformer
    latents, tokens = torch.randn(2, num_latents, 24), torch.randn(2, 11, 48)
    repeated = latents.repeat(1, 20, 1)
    assert attention.prepare(latents)[0].ndim == (3 if num_latents == 3 else 4)
    assert attention.prepare(repeated)[0].ndim == 4
    torch.testing.assert_close(
        attention(tokens, attention.prepare(latents)), attention(tokens, attention.prepare(repeated))
    )


def test_attention_head_by_head_is_that_of_the_fused_kernel() -> None:
    shapes = (2, 3, 700, 8), (2, 3, 11, 8), (2, 3, 11, 8)
    given = [torch.randn(shape, requires_grad=True) for shape in shapes]
    expected = F.scaled_dot_product_attention(*given).transpose(1, 2).flatten(2)
    found, weight = attend(*given), torch.randn(2, 700, 24)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(found, given, weight), torch.autograd.grad(expected, given, weight)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_default_initialisation_is_that_of_pytorch() -> None:
    torch.manual_seed(0)
    model = build_model("osrt", {}, "slot_mixer", {}, use_default_init=True)
    weight = model.decoder.render_mlp.net[2].weight
    assert float(weight.detach().abs().max()) == pytest.approx(1536**-0.5, rel=1e-3)
    assert float(model.decoder.render_mlp.net[2].bias.detach().abs().max()) > 0.02


def test_he_initialisation_keeps_pictures_apart() -> None:
    """What two pictures of the same view differ in, in parts of a token."""
    batch = make_batch()
    shown = [batch["input_images"], batch["input_images"].flip(0)]
    posed = [batch[f"input_{name}"][:1].expand_as(batch[f"input_{name}"]) for name in ("camera_pos", "rays")]
    shares = {}
    for he_init in (False, True):
        torch.manual_seed(0)
        encoder = build_model("srt", ENCODER | {"he_init": he_init}, "srt", DECODERS["srt"]).encoder
        with torch.no_grad():
            one, other = (encoder(images, *posed) for images in shown)
        shares[he_init] = float((one - other).std() / one.std())
    assert shares[True] > 0.03
    assert shares[True] > 30 * shares[False]


def test_residual_streams_stay_float32_in_mixed_precision() -> None:
    encoder = make("srt").encoder
    batch = make_batch()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        tokens = encoder(batch["input_images"], batch["input_camera_pos"], batch["input_rays"])
    assert tokens.dtype == torch.float32
    assert not torch.equal(tokens, tokens.bfloat16().float()), "sums would have been rounded"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ostr", {}, "srt", {}), "encoder: no 'ostr'; did you mean 'osrt'?"),
        (("srt", {}, "slot_mixr", {}), "decoder: no 'slot_mixr'; did you mean 'slot_mixer'?"),
        (
            ("osrt", {"num_slot": 3}, "srt", {}),
            "encoder_kwargs: encoder 'osrt' has no 'num_slot'; did you mean 'num_slots'?",
        ),
        (("srt", {}, "srt", {"pos_start": 3}), "decoder_kwargs: decoder 'srt' has no 'pos_start'; did you mean"),
        (("osrt", {}, "srt", {}), "makes latents of width 1536, decoder 'srt' reads 768"),
        (("osrt", {"num_slots": "abc"}, "slot_mixer", {}), "encoder_kwargs.num_slots is 'abc', expected int"),
        (("osrt", {"num_slots": 0}, "slot_mixer", {}), "encoder_kwargs.num_slots is 0, expected at least 1"),
        (("osrt", {"pos_start_octave": "a"}, "slot_mixer", {}), "encoder_kwargs.pos_start_octave is 'a', expected int"),
        (("osrt", {"he_init": 1}, "slot_mixer", {}), "encoder_kwargs.he_init is 1, expected bool"),
        (("osrt", {}, "slot_mixer", {"hidden_dim": 1.5}), "decoder_kwargs.hidden_dim is 1.5, expected int"),
        (("srt", {}, "nerf", {"max_density": "high"}), "decoder_kwargs.max_density is 'high', expected float | None"),
    ],
)
def test_what_cannot_be_built_is_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        build_model(*arguments)


def test_unknown_render_options_are_named() -> None:
    model, batch = make("srt"), make_batch()
    latents = encode(model, batch)
    decode(model, batch, latents)
    model.decode(latents, batch["target_camera_pos"], batch["target_rays"], min_dist=1.0)
    with pytest.raises(TypeError, match="no option 'min_dst'; did you mean 'min_dist'"):
        model.decode(latents, batch["target_camera_pos"], batch["target_rays"], min_dst=1.0)
    for name, value, message in (
        ("num_coarse_samples", "x", "num_coarse_samples is 'x', expected int"),
        ("num_coarse_samples", 0, "num_coarse_samples is 0, expected at least 1"),
        ("max_dist", "far", "max_dist is 'far', expected float"),
    ):
        with pytest.raises(ValueError, match=message):
            model.decode(latents, batch["target_camera_pos"], batch["target_rays"], **{name: value})
