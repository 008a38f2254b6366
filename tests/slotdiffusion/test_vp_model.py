"""SlotFormer on SlotDiffusion's slots: terms of its loss, what they train, and the pictures of what it predicts."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.noise import ShardedNoise
from slotdiffusion.vp_vqa import build_model
from slotdiffusion.vp_vqa.models import ldm_slotformer
from slotdiffusion.vp_vqa.models.ldm_slotformer import LDMSlotFormer
from slotformer import original
from slotformer.framework.annealing import temporal_weights
from slotformer.framework.params import ParamsError
from tests.parity.clevrtex_models import in_order
from tests.slotdiffusion_dynamics_runs import DYNAMICS, READOUT, small_params
from tests.tiny_diffusion import trained

B, P, K, N, D = 2, 3, 2, 3, 16


def model_of(*settings: str) -> LDMSlotFormer:
    torch.manual_seed(0)
    return trained(build_model(small_params(DYNAMICS, f"n_sample_frames={P + K}", *settings)))


def batch(pictures: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    slots = {"slots": torch.randn(B, P + K, N, D, generator=generator)}
    return slots | ({"video": torch.rand(B, P + K, 3, 32, 32, generator=generator)} if pictures else {})


def draws(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def with_draws(model: LDMSlotFormer, values: list[Tensor]) -> None:
    """Have `model` draw `values`, one after the other."""

    class Given(ShardedNoise):
        def at(self, step: int, device: torch.device, sample=torch.randn):
            return in_order(values)

    model.noise = Given(0)


def assert_trains_the_rollouter(model: nn.Module, loss: Tensor) -> None:
    model.zero_grad()
    loss.backward()
    with_gradient = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    assert {"rollouter.in_proj.weight", "rollouter.out_proj.bias"} <= with_gradient
    assert all(name.startswith("rollouter.") for name in with_gradient)


def test_slots_alone_are_enough() -> None:
    model = model_of("slot_recon_loss_w=3.0")
    terms = model.loss(batch(), 0)
    past, future = batch()["slots"].split([P, K], dim=1)
    torch.testing.assert_close(terms["slot_recon_loss"], F.mse_loss(model.rollout(past, K), future))
    torch.testing.assert_close(terms["loss"], 3 * terms["slot_recon_loss"])
    assert terms.keys() == {"loss", "slot_recon_loss"}
    assert_trains_the_rollouter(model, terms["loss"])
    assert not any(part.training for part in model.dm_decoder.modules()), "no dropout in the frozen decoder"


def test_later_frames_may_count_less_in_training() -> None:
    model = model_of()
    past, future = batch()["slots"].split([P, K], dim=1)
    errors = (model.rollout(past, K) - future).square().mean(dim=(0, 2, 3))
    model.loss_decay_factor = 0.1
    expected = (errors * temporal_weights(0.1, K)).mean()
    torch.testing.assert_close(model.loss(batch(), 0)["slot_recon_loss"], expected)
    torch.testing.assert_close(model.eval().loss(batch(), 0)["slot_recon_loss"], errors.mean())


def test_predicted_slots_tell_the_denoiser() -> None:
    model = model_of("loss_dict.use_denoise_loss=True", "denoise_loss_w=0.5")
    given, values = batch(pictures=True), draws((B, K), (B, K, 3, 8, 8))
    with_draws(model, values)
    terms = model.loss(given, 0)
    predicted = model.rollout(given["slots"][:, :P], K).flatten(0, 1)
    clean = model.dm_decoder.vae.encode(2 * given["video"][:, P:].flatten(0, 1) - 1)
    expected = model.dm_decoder.loss(clean, predicted, in_order([value.flatten(0, 1) for value in values]))
    torch.testing.assert_close(terms["denoise_loss"], expected)
    torch.testing.assert_close(terms["loss"], terms["slot_recon_loss"] + 0.5 * expected)
    assert_trains_the_rollouter(model, terms["denoise_loss"])


def test_pictures_of_predicted_slots_are_those_that_are_generated() -> None:
    model = model_of("loss_dict.use_img_recon_loss=True", "img_recon_loss_w=2.0")
    given, (start,) = batch(pictures=True), draws((B, K, 3, 8, 8))
    with_draws(model, [start])
    terms = model.loss(given, 0)
    with torch.no_grad():
        pictures = model.generate(model.rollout(given["slots"][:, :P], K), in_order([start]))
    expected = F.mse_loss(pictures, 2 * given["video"][:, P:] - 1)
    torch.testing.assert_close(terms["img_recon_loss"], expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(terms["loss"], terms["slot_recon_loss"] + 2 * terms["img_recon_loss"])
    assert_trains_the_rollouter(model, terms["img_recon_loss"])


def test_every_frame_has_noise_of_its_own_in_any_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of().eval()
    slots = batch()["slots"][:1, :1].expand(1, 3, N, D)
    (start,) = draws((1, 3, 3, 8, 8))
    pictures = model.generate(slots, in_order([start]))
    assert pictures.shape == (1, 3, 3, 32, 32)
    assert not torch.allclose(pictures[:, 0], pictures[:, 1], atol=1e-2)
    monkeypatch.setitem(ldm_slotformer.FRAMES_AT_A_TIME, "cpu", 1)
    torch.testing.assert_close(model.generate(slots, in_order([start])), pictures, rtol=1e-3, atol=1e-3)


def test_pictures_are_of_the_average_of_weights() -> None:
    model = model_of("dec_dict.use_ema=True").eval()
    unet, average = model.dm_decoder.model, model.dm_decoder.model_ema
    assert average.names == [name for name, _ in unet.named_parameters()], "though none of them is trained here"
    for name, value in unet.named_parameters():
        average.get_buffer(name.replace(".", "")).copy_(0.5 * value)
    slots, (start,) = batch()["slots"][:, :1], draws((B, 1, 3, 8, 8))
    pictures = model.generate(slots, in_order([start]), steps=2)
    with torch.no_grad():
        for value in unet.parameters():
            value *= 0.5
        average.names = []
    torch.testing.assert_close(model.generate(slots, in_order([start]), steps=2), pictures)


def test_weights_of_the_original() -> None:
    model = model_of()
    state = original.export_state(model)
    stored = {"dm_decoder.betas", "dm_decoder.alphas_bar", "rollouter.enc_t_pe"}
    assert stored <= state.keys()
    other = build_model(small_params(DYNAMICS, f"n_sample_frames={P + K}"))
    other.load_state_dict(original.import_state(other, {"state_dict": state}))
    for name, value in model.state_dict().items():
        assert value.equal(other.state_dict()[name]), name


def test_a_training_of_the_original_goes_on(tmp_path: Path) -> None:
    """Its optimiser knows the trained parameters alone, in the order of the state dict."""
    model = model_of()
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=1e-3)
    model.loss(batch(), 0)["loss"].backward()
    optimizer.step()
    state = {"state_dict": original.export_state(model), "opt_state_dict": optimizer.state_dict(), "it": 5}
    found = original.training_state(state, model, tmp_path)
    assert found["step"] == 4
    moments, theirs = found["optimizer"]["state"], optimizer.state_dict()["state"]
    assert moments.keys() == theirs.keys()
    assert all(moments[place]["exp_avg"].equal(value["exp_avg"]) for place, value in theirs.items())


@pytest.mark.parametrize(
    ("config", "setting", "message"),
    [
        (DYNAMICS, "dec_dict.unet_dict.context_dim=8", "context_dim=8 must be 16, the slot_size"),
        (DYNAMICS, "resolution=(64,64)", None),
        (DYNAMICS, "dec_dict.resolution=(4,4)", r"resolution=\(4, 4\), but what is denoised of pictures of \(32, 32\)"),
        (DYNAMICS, "rollout_dict.num_layer=2", "rollout_dict: LDMSlotFormer has no 'num_layer'; did you mean 'num_la"),
        (DYNAMICS, "dec_dict.dec_ckpt_path=x", "dec_dict has no 'dec_ckpt_path'; did you mean 'dec_ckp_path'"),
        (DYNAMICS, "model=LDMSlotFormr", "model 'LDMSlotFormr' is not one of .*; did you mean 'LDMSlotFormer'"),
        (
            READOUT,
            "readout_dict.feat_dim=4",
            "PhysionReadout has no 'feat_dim'; did you mean 'feats_dim'",
        ),
    ],
)
def test_misuse_is_answered(config: str, setting: str, message: str | None) -> None:
    params = small_params(config, setting)
    if message is None:
        assert build_model(params).dm_decoder.resolution == (16, 16), "follows the pictures"
        return
    with pytest.raises(ParamsError, match=message):
        build_model(params)
