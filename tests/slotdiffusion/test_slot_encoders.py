"""Properties that SlotDiffusion's slot encoders and baselines must have, whatever they look through."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.nn.noise import standard_normal
from core.training.checkpoint import save
from slotdiffusion.models.sa import SA
from slotdiffusion.models.savi import SAVi
from slotdiffusion.models.slate import SLATE
from slotdiffusion.models.steve import STEVE
from slotformer import original

SLOTS, SIZE, SIDE = 3, 8, 16
CONVOLUTIONS = {"enc_channels": (3, 4, 4, 4)}
RESIDUAL = {"resnet": "resnet18"}
DINO = {"dino": "dino-vits8", "patch_size": 8, "small_size": True}
FEATURES = [
    pytest.param(CONVOLUTIONS, id="convolutions"),
    pytest.param(RESIDUAL, id="resnet"),
    pytest.param(DINO, id="dino"),
]
VIDEOS, PICTURES = (SAVi, STEVE), (SA, SLATE)


def lively(kind: type[nn.Module], **options: Any) -> Any:
    """A small model with large weights, so that the slots differ."""
    torch.manual_seed(0)
    arguments = {"num_slots": SLOTS, "slot_size": SIZE, "slot_mlp_size": 16, "enc_out_channels": SIZE}
    arguments |= {"resolution": (SIDE, SIDE), **CONVOLUTIONS}
    if kind in VIDEOS:
        arguments |= {"clip_len": 3, "pred_num_heads": 2, "pred_ffn_dim": 16, "dropout": 0.0}
    if issubclass(kind, SAVi):
        arguments |= {"dec_channels": (SIZE, 4, 4), "dec_resolution": (4, 4), "dec_ks": 3}
    else:
        arguments |= {"vocab_size": 12, "dec_num_layers": 2, "dec_num_heads": 2, "dec_d_model": SIZE, "dropout": 0.0}
    model = kind(**arguments | options)
    for name, value in model.named_parameters():
        if value.ndim > 1 and not name.startswith("encoder."):
            value.data *= 2
    return model


def batch_for(kind: type[nn.Module], count: int = 2, frames: int = 5, size: tuple[int, int] = (SIDE, SIDE)) -> dict:
    shape = (count, frames, 3, *size) if kind in VIDEOS else (count, 3, *size)
    return {"video" if kind in VIDEOS else "image": torch.rand(shape, generator=torch.Generator().manual_seed(1))}


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("kind", [*VIDEOS, *PICTURES])
def test_decomposition_is_valid_and_agrees_with_its_parts(kind: type[nn.Module], features: dict) -> None:
    model, batch = lively(kind, **features).eval(), batch_for(kind)
    with torch.no_grad():
        found = model.decompose(batch).validate()
        torch.testing.assert_close(model.extract(batch), found.slots)
        torch.testing.assert_close(model.segment(batch), found.masks)
    assert found.is_video == (kind in VIDEOS)
    assert found.num_slots == SLOTS
    assert (found.rgb is not None) == issubclass(kind, SAVi)


@pytest.mark.parametrize("kind", [*VIDEOS, *PICTURES])
def test_one_look_gives_loss_and_masks(kind: type[nn.Module]) -> None:
    model, batch = lively(kind).eval(), batch_for(kind)
    looks = []
    model.encoder.register_forward_hook(lambda *_: looks.append(1))
    with torch.no_grad():
        terms, masks = model.loss_and_masks(batch, 0)
        assert len(looks) == 1
        torch.testing.assert_close(terms, model.loss(batch, 0))
        torch.testing.assert_close(masks, model.segment(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("kind", VIDEOS)
@pytest.mark.parametrize("options", [{}, {"pred_type": "mlp", "pred_rnn": True}, {"pred_type": "none"}], ids=str)
def test_clips_give_what_one_pass_gives(kind: type[nn.Module], features: dict, options: dict) -> None:
    model, video = lively(kind, **features, **options, clip_len=2).eval(), 2 * batch_for(kind)["video"] - 1
    with torch.no_grad():
        whole = model.track(video, standard_normal(video.device))
        clips = list(model.track_clips(video, standard_normal(video.device)))
    assert [clip.slots.shape[1] for clip in clips] == [2, 2, 1]
    for name in ("slots", "attention"):
        parts = torch.cat([getattr(clip, name) for clip in clips], dim=1)
        torch.testing.assert_close(parts, getattr(whole, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("kind", [*VIDEOS, *PICTURES])
def test_slots_follow_their_latents(kind: type[nn.Module], features: dict) -> None:
    model, batch, order = lively(kind, **features).eval(), batch_for(kind), torch.tensor([2, 0, 1])
    with torch.no_grad():
        before = model.decompose(batch)
        model.init_latents.copy_(model.init_latents[:, order])
        after = model.decompose(batch)
    torch.testing.assert_close(after.slots, before.slots[..., order, :], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.masks, before.masks.index_select(-3, order), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(before.slots[..., 0, :], before.slots[..., 1, :], atol=1e-2)


@pytest.mark.parametrize("features", FEATURES[:2])
@pytest.mark.parametrize("kind", [*VIDEOS, *PICTURES])
def test_loss_trains_every_weight_that_is_not_frozen(kind: type[nn.Module], features: dict) -> None:
    model = lively(kind, **features)
    terms = model.loss(batch_for(kind), 0)
    term = "img_recon_loss" if issubclass(kind, SAVi) else "token_recon_loss"
    assert terms["loss"] == terms[term]
    terms["loss"].backward()
    for name, value in model.named_parameters():
        assert (value.grad is not None and bool(value.grad.any())) != name.startswith("dvae."), name


def test_savis_loss_is_the_mean_squared_error() -> None:
    model, batch = lively(SAVi, img_recon_loss_w=3.0), batch_for(SAVi)
    found, terms = model.decode(model.extract(batch)), model.loss(batch, 0)
    torch.testing.assert_close(terms["img_recon_loss"], F.mse_loss(found.recon, 2 * batch["video"] - 1))
    torch.testing.assert_close(terms["loss"], 3 * terms["img_recon_loss"])


@pytest.mark.parametrize(("of_pictures", "of_videos"), [(SA, SAVi), (SLATE, STEVE)])
def test_a_model_of_pictures_is_one_of_videos_with_one_frame(of_pictures: type, of_videos: type) -> None:
    model, twin = lively(of_pictures).eval(), lively(of_videos, num_iterations=3, pred_type="none").eval()
    twin.load_state_dict(model.state_dict())
    batch = batch_for(of_pictures)
    video = {"video": batch["image"][:, None]}
    if of_pictures is SLATE:
        batch["token_id"] = model.dvae.tokenize(2 * batch["image"] - 1).flatten(1)
    with torch.no_grad():
        torch.testing.assert_close(model.loss(batch, 0), twin.loss(video, 0))
        torch.testing.assert_close(model.decompose(batch).recon, twin.decompose(video).recon[:, 0])
    assert model.slot_attention.num_iterations == 3
    assert not any(name.startswith("predictor") for name in model.state_dict())


def test_without_a_predictor_slots_begin_where_they_were() -> None:
    model, batch = lively(SAVi, pred_type="none").eval(), batch_for(SAVi, frames=2)
    with torch.no_grad():
        track = model.track(2 * batch["video"] - 1, standard_normal(torch.device("cpu")))
    torch.testing.assert_close(track.origins[:, 1], track.slots[:, 0])


@pytest.mark.parametrize("size", [(16, 24), (40, 16)])
@pytest.mark.parametrize("features", FEATURES)
def test_pictures_of_other_sizes(features: dict, size: tuple[int, int]) -> None:
    model = lively(SAVi, **features, resolution=size, dec_resolution=(size[0] // 4, size[1] // 4))
    batch = batch_for(SAVi, frames=2, size=size)
    model.loss(batch, 0)["loss"].backward()
    attention = model.track(2 * batch["video"] - 1, standard_normal(torch.device("cpu"))).attention
    assert attention.shape[-1] == model.grid[0] * model.grid[1]
    torch.testing.assert_close(attention.sum(dim=2), torch.ones_like(attention[:, :, 0]))


@pytest.mark.parametrize("features", FEATURES[:2])
@pytest.mark.parametrize("kind", [SAVi, STEVE])
def test_half_precision_is_close(kind: type[nn.Module], features: dict) -> None:
    model, batch, gradients, losses = lively(kind, **features), batch_for(kind, frames=2), [], []
    if kind is STEVE:
        # An untrained dVAE is undecided between its words.
        batch["token_id"] = model.dvae.tokenize(2 * batch["video"] - 1).flatten(2)
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model.loss(batch, 0)["loss"]
        assert loss.dtype == torch.float32
        loss.backward()
        losses.append(loss.detach())
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters() if value.requires_grad]))
    torch.testing.assert_close(losses[1], losses[0], rtol=0.03, atol=0)
    assert F.cosine_similarity(*gradients, dim=0) > 0.9


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("kind", [*VIDEOS, *PICTURES])
def test_original_weights_come_and_go(kind: type[nn.Module], features: dict, tmp_path: Path) -> None:
    model = lively(kind, **features)
    exported = original.export_state(model)
    added = {"grid"} | ({"pooler"} if features is DINO else set())
    added |= set() if issubclass(kind, SAVi) else {"self_attn_mask"}
    assert {part for key in exported.keys() - model.state_dict().keys() for part in key.split(".")} >= added
    save(tmp_path / "model_5.pth", {"state_dict": exported, "it": 5, "epoch": 1})
    imported = original.read_weights(tmp_path / "model_5.pth", model)
    assert imported.keys() == model.state_dict().keys()
    assert all(torch.equal(value, imported[key]) for key, value in model.state_dict().items())


def test_a_training_of_the_original_continues_without_what_is_frozen() -> None:
    model = lively(SLATE, **DINO)
    exported = original.export_state(model)
    # The original's second group holds the masks, too.
    names = [key for key in exported if not key.startswith(("encoder.dino.", "dvae.")) and not key.endswith(".grid")]
    groups = [[name for name in names if ("trans_decoder" in name) == wanted] for wanted in (False, True)]
    state, begin = {}, 0
    given: list[dict[str, Any]] = []
    for group in groups:
        given.append({"params": list(range(begin, begin + len(group))), "lr": 1e-4})
        state |= {begin + i: {"exp_avg": exported[name] + 1.0} for i, name in enumerate(group) if "mask" not in name}
        begin += len(group)
    checkpoint = {"state_dict": exported, "opt_state_dict": {"state": state, "param_groups": given}, "it": 4}
    found = original.training_state(checkpoint, model, Path("model_4.pth"))
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    ours = [name for name in trained if "trans_decoder" not in name] + [n for n in trained if "trans_decoder" in n]
    assert len(found["optimizer"]["state"]) == len(trained)
    for index, name in enumerate(ours):
        assert torch.equal(found["optimizer"]["state"][index]["exp_avg"], trained[name] + 1), name


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (SAVi, RESIDUAL | DINO, "enc_dict has both resnet='resnet18' and dino='dino-vits8'"),
        (SA, {**DINO, "patch_size": 16}, "dino='dino-vits8', but patch_size=16 and small_size=True make 'dino-vits16'"),
        (SA, {"dino": "dino-vitb8"}, "but patch_size=8 and small_size=True make 'dino-vits8'"),
        (SAVi, {"use_img_recon_loss": False}, "use_img_recon_loss=False leaves SAVi without a loss"),
        (SAVi, {"pred_type": "none", "pred_rnn": True}, "pred_type='none' is not one of .* 'restart' without pred_rnn"),
        (SA, {"dec_channels": (4, 4, 4)}, r"dec_channels=\(4, 4, 4\) must begin with slot_size=8"),
        (SLATE, {"dec_d_model": 4}, "dec_d_model=4 must be slot_size=8"),
        (STEVE, {"down_factor": 8}, "down_factor=8: a word of the dVAE describes 4x4 pixels"),
    ],
)
def test_arguments_that_cannot_be_say_so(kind: type[nn.Module], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lively(kind, **options)
