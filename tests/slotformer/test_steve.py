"""What STEVE must do, whatever its weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.nn.noise import ShardedNoise, exponential
from slotformer import original
from slotformer.base_slots.models.steve import STEVE, parameter_groups

SLOTS, SIZE, VOCABULARY = 3, 8, 13


def lively(**options: Any) -> STEVE:
    """Small, with weights large enough that slots and words differ."""
    torch.manual_seed(0)
    settings = {
        "resolution": (64, 64),
        "clip_len": 2,
        "num_slots": SLOTS,
        "slot_size": SIZE,
        "slot_mlp_size": 16,
        "vocab_size": VOCABULARY,
        "enc_channels": (3, 4, 4),
        "enc_out_channels": SIZE,
        "dec_num_layers": 2,
        "dec_num_heads": 2,
        "dec_d_model": SIZE,
        "pred_num_heads": 2,
        "pred_ffn_dim": 16,
        "dropout": 0.0,
    }
    model = STEVE(**settings | options)
    for name, value in model.named_parameters():
        if value.ndim > 1 and "project_" in name:
            value.data *= 4
        if name.startswith("dvae.") and name.endswith("bias"):
            value.data.normal_(std=0.3)
    return model


def videos(count: int = 1, frames: int = 2, size: tuple[int, int] = (64, 64)) -> Tensor:
    return torch.rand(count, frames, 3, *size, generator=torch.Generator().manual_seed(1))


def test_decomposition_is_valid_and_recon_shows_the_predicted_words() -> None:
    model, batch = lively().eval(), {"video": videos()}
    with torch.no_grad():
        found = model.decompose(batch).validate()
        slots, tokens = found.slots.flatten(0, 1), model.target_tokens(batch)
        words = model.trans_decoder(slots, tokens[:, :-1]).argmax(dim=-1).view(1, 2, 16, 16)
        recon = model.dvae.detokenize(words) / 2 + 0.5
    torch.testing.assert_close(found.recon, recon.clamp(0, 1))
    assert found.rgb is None
    assert found.slots.shape == (1, 2, SLOTS, SIZE)
    torch.testing.assert_close(model.extract(batch), found.slots)
    assert not torch.allclose(found.masks[:, :, 0], found.masks[:, :, 1], atol=1e-3)


def test_masks_have_the_size_of_the_frames() -> None:
    model, batch = lively(resolution=(128, 128)).eval(), {"video": videos(frames=1, size=(128, 128))}
    with torch.no_grad():
        found = model.decompose(batch).validate()
        track = next(model.track_clips(2 * batch["video"] - 1, lambda name, shape: torch.zeros(shape)))
    small = track.attention.unflatten(-1, model.grid).flatten(0, 1)
    expected = F.interpolate(small, (128, 128), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found.masks[0], expected)


def test_generated_reconstruction_sees_the_slots_alone() -> None:
    model, batch = lively().eval(), {"video": videos(frames=1)}
    other = {**batch, "token_id": torch.zeros(1, 1, 256, dtype=torch.int32)}
    with torch.no_grad():
        found = model.decompose(batch, generate=True).validate()
        tokens = model.trans_decoder.generate(found.slots.flatten(0, 1)).tokens.view(1, 1, 16, 16)
        assert torch.equal(found.recon, (model.dvae.detokenize(tokens) / 2 + 0.5).clamp(0, 1))
        assert torch.equal(model.decompose(other, generate=True).recon, found.recon)
        assert not torch.equal(model.decompose(other).recon, model.decompose(batch).recon)


@pytest.mark.parametrize("options", [{}, {"pred_rnn": False}, {"pred_sg_every": 2}])
def test_clips_of_a_long_video_equal_one_pass(options: dict[str, Any]) -> None:
    batch = {"video": videos(2, frames=5)}
    with torch.no_grad():
        clips = lively(**options).eval().decompose(batch)
        whole = lively(**options, clip_len=5).eval().decompose(batch)
    torch.testing.assert_close(clips.slots, whole.slots)
    torch.testing.assert_close(clips.masks, whole.masks)
    torch.testing.assert_close(clips.recon, whole.recon, rtol=1e-4, atol=1e-5)


def test_given_words_take_the_place_of_the_dvae() -> None:
    model, batch = lively(), {"video": videos()}
    tokens = model.target_tokens(batch)
    given = {**batch, "token_id": tokens.view(1, 2, 256).short()}
    torch.testing.assert_close(model.loss(given, 0)["loss"], model.loss(batch, 0)["loss"])
    model.dvae = None
    model.loss(given, 0)["loss"].backward()


def test_loss_is_the_cross_entropy_of_the_words() -> None:
    model, batch = lively(token_recon_loss_w=0.5), {"video": videos(2)}
    terms = model.loss(batch, 0)
    slots, tokens = model.extract(batch).flatten(0, 1), model.target_tokens(batch)
    expected = F.cross_entropy(model.trans_decoder(slots, tokens[:, :-1]).flatten(0, 1), tokens.flatten())
    torch.testing.assert_close(terms["token_recon_loss"], expected)
    torch.testing.assert_close(terms["loss"], 0.5 * expected)
    terms["loss"].backward()
    for name, value in model.named_parameters():
        assert (value.grad is None) == name.startswith("dvae."), name


def test_image_loss_reaches_the_slots_through_the_frozen_dvae() -> None:
    model, batch = lively(use_img_recon_loss=True, img_recon_loss_w=2.0), {"video": videos()}
    model.noise = ShardedNoise(seed=3)
    terms = model.loss(batch, 7)
    torch.testing.assert_close(terms["loss"], terms["token_recon_loss"] + 2 * terms["img_recon_loss"])
    assert torch.equal(terms["img_recon_loss"], model.loss(batch, 7)["img_recon_loss"])
    assert terms["img_recon_loss"] != model.loss(batch, 8)["img_recon_loss"]
    without = lively().loss(batch, 7)
    torch.testing.assert_close(terms["token_recon_loss"], without["token_recon_loss"])
    terms["img_recon_loss"].backward()
    assert model.init_latents.grad.norm() > 0
    assert all(value.grad is None for value in model.dvae.parameters())
    draws = model.noise.at(7, torch.device("cpu"), exponential)("words", (1, 2, 256, VOCABULARY))
    slots, tokens = model.extract(batch).flatten(0, 1), model.target_tokens(batch)
    recon = model.loss_and_pictures(slots, tokens, draws.flatten(0, 2))[1]
    expected = F.mse_loss(recon, (2 * batch["video"] - 1)[0])
    torch.testing.assert_close(terms["img_recon_loss"], expected, rtol=1e-4, atol=1e-5)


def test_decoder_has_a_rate_of_its_own() -> None:
    model = lively()
    rest, decoder = parameter_groups(model, lr=1e-4, dec_lr=3e-4)
    assert (rest["lr"], decoder["lr"]) == (1e-4, 3e-4)
    assert {id(value) for value in decoder["params"]} == {id(value) for value in model.trans_decoder.parameters()}
    trained = [value for value in model.parameters() if value.requires_grad]
    assert len(rest["params"]) + len(decoder["params"]) == len(trained)
    assert not {id(value) for value in rest["params"]} & {id(value) for value in model.dvae.parameters()}


def test_original_checkpoints_hold_masks_and_grids_too() -> None:
    model, other = lively(), lively(clip_len=3)
    state = original.export_state(model)
    masks = [key for key in state if key.endswith("self_attn_mask")]
    assert masks == [f"trans_decoder.tf_dec.blocks.{number}.self_attn_mask" for number in range(2)]
    assert torch.equal(state[masks[0]], torch.ones(256, 256, dtype=torch.bool).triu(1))
    assert state["encoder_pos_embedding.grid"].shape == (1, 64, 64, 4)
    other.init_latents.data.zero_()
    other.load_state_dict(original.import_state(other, state))
    assert torch.equal(other.init_latents, model.init_latents)


def test_optimisers_of_the_original_count_masks_among_their_parameters() -> None:
    """Its second group has a place for every mask, which never got a moment."""
    model = lively()
    exported, weights = original.export_state(model), {}
    for name in model.state_dict():
        if name.endswith(".self_attn_layer_norm.weight"):
            mask = name.replace("self_attn_layer_norm.weight", "self_attn_mask")
            weights[mask] = exported[mask]
        weights[name] = exported[name]
    names = [name for name in weights if not name.startswith("dvae.")]
    groups = [[name for name in names if ("trans_decoder" in name) == second] for second in (False, True)]
    order = [name for group in groups for name in group]
    step = torch.tensor(7.0)
    moments = {
        order.index(name): {"step": step, "exp_avg": weights[name] + 1, "exp_avg_sq": weights[name].square()}
        for name in order
        if not name.endswith(("_mask", ".grid"))
    }
    starts = (0, len(groups[0]))
    given = [
        {"lr": rate, "params": list(range(start, start + len(group)))}
        for rate, start, group in zip((1e-4, 3e-4), starts, groups)
    ]
    checkpoint = {"state_dict": weights, "opt_state_dict": {"state": moments, "param_groups": given}, "it": 7}
    state = original.training_state(checkpoint, model, Path("model_7.pth"))
    assert state["step"] == 6
    optimizer = torch.optim.Adam(parameter_groups(model, 1e-4, 3e-4))
    optimizer.load_state_dict(state["optimizer"])
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 3e-4]
    for value in model.parameters():
        if value.requires_grad:
            torch.testing.assert_close(optimizer.state[value]["exp_avg"], value.detach() + 1)


def test_published_size_has_the_parameters_of_the_original() -> None:
    model = STEVE()
    assert len(original.export_state(model)) == 200
    assert sum(value.numel() for value in model.parameters() if value.requires_grad) == 6_871_808


def test_half_precision_is_close() -> None:
    model, batch = lively(), {"video": videos()}
    exact = model.loss(batch, 0)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss({**batch, "token_id": model.target_tokens(batch).view(1, 2, 256)}, 0)["loss"]
    half.backward()
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0)


def test_errors_name_the_key() -> None:
    with pytest.raises(ValueError, match=r"down_factor=8: a word of the dVAE describes 4x4 pixels"):
        lively(down_factor=8)
    with pytest.raises(ValueError, match=r"dec_d_model=16 must be slot_size=8"):
        lively(dec_d_model=16)
    with pytest.raises(ValueError, match=r"token_id: 64 words per frame, expected 16 x 16 = 256.*tokenize_images"):
        lively().loss({"video": videos(), "token_id": torch.zeros(1, 2, 64, dtype=torch.int32)}, 0)
