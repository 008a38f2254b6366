"""Properties that SlotFormer must have, whatever its weights."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slotformer import original
from slotformer.framework.params import load_params
from slotformer.video_prediction import Keys, build_method, build_model
from slotformer.video_prediction.models.rollouter import SlotRollouter, sinusoidal_codes
from slotformer.video_prediction.models.single_step import SingleStepSlotFormer
from slotformer.video_prediction.models.slotformer import SlotFormer
from slotformer.video_prediction.models.steve_slotformer import STEVESlotFormer
from tests.conftest import ROOT

SLOTS, SIZE, SEEN, PREDICTED = 3, 8, 3, 4
TRANSFORMER = {"d_model": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 32, "dropout": 0.0}


def enlarge(model: nn.Module) -> None:
    """Larger weights, so that slots differ from frame to frame."""
    for value in model.parameters():
        if value.ndim > 1:
            value.data *= 2


def lively(kind: type[SlotFormer] = SlotFormer, **options: object) -> SlotFormer:
    torch.manual_seed(0)
    sizes = {"num_slots": SLOTS, "slot_size": SIZE, "resolution": (16, 16), "dec_resolution": (4, 4)}
    lengths = {"history_len": SEEN, "rollout_len": PREDICTED}
    model = kind(**{**sizes, **lengths, **TRANSFORMER, "dec_channels": (SIZE, 4, 4, 4), "dec_ks": 3, **options})
    enlarge(model)
    return model


def lively_steve(**options: object) -> STEVESlotFormer:
    torch.manual_seed(0)
    sizes = {"num_slots": SLOTS, "slot_size": SIZE, "resolution": (8, 8), "vocab_size": 11, "dec_d_model": SIZE}
    lengths = {"history_len": SEEN, "rollout_len": PREDICTED}
    words = {"dec_num_layers": 1, "dec_num_heads": 2}
    model = STEVESlotFormer(**{**sizes, **lengths, **words, **TRANSFORMER, **options})
    enlarge(model)
    return model


def clips(batch: int = 2, frames: int = SEEN + PREDICTED, side: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "slots": torch.randn(batch, frames, SLOTS, SIZE, generator=generator),
        "video": torch.rand(batch, frames, 3, side, side, generator=generator),
    }


def plain_rollout(rollouter: SlotRollouter, past: Tensor, num_steps: int) -> Tensor:
    """As the paper says it: every window is projected and goes through the whole transformer."""
    frames = list(past.unbind(1))
    for _ in range(num_steps):
        window = torch.stack(frames[-rollouter.window_len :], dim=1)
        tokens = rollouter.in_proj(window)
        if rollouter.enc_t_pe is not None:
            tokens = tokens + rollouter.enc_t_pe[:, -window.shape[1] :, None]
        if rollouter.enc_slots_pe is not None:
            tokens = tokens + rollouter.enc_slots_pe[:, None]
        found = rollouter.transformer_encoder(tokens.flatten(1, 2))
        frames.append(rollouter.out_proj(found[:, -window.shape[2] :]))
    return torch.stack(frames[past.shape[1] :], dim=1)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(("seen", "window"), [(3, 3), (1, 3), (2, 5)])
@pytest.mark.parametrize(("t_pe", "slots_pe"), [("sin", ""), ("learnable", "sin"), ("", "")])
def test_savings_change_no_number(norm_first: bool, seen: int, window: int, t_pe: str, slots_pe: str) -> None:
    torch.manual_seed(0)
    rollouter = SlotRollouter(SLOTS, SIZE, window, t_pe, slots_pe, 16, 2, 2, 32, norm_first, 0.0)
    enlarge(rollouter)
    past = clips()["slots"][:, :seen].requires_grad_()
    found = []
    for way in (rollouter(past, PREDICTED), plain_rollout(rollouter, past, PREDICTED)):
        trained = [past, *(value for value in rollouter.parameters() if value.requires_grad)]
        found.append((way, *torch.autograd.grad(way.square().mean(), trained)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)


def test_slots_that_change_places_change_places_in_the_prediction() -> None:
    past, order = clips()["slots"][:, :SEEN], torch.tensor([2, 0, 1])
    model = lively().eval()
    with torch.no_grad():
        torch.testing.assert_close(model.rollout(past[:, :, order], 6), model.rollout(past, 6)[:, :, order])
        model = lively(slots_pe="sin").eval()
        assert not torch.allclose(model.rollout(past[:, :, order], 6), model.rollout(past, 6)[:, :, order], atol=1e-2)


@pytest.mark.parametrize("options", [{}, {"history_len": 1, "cond_len": 3}], ids=["sliding", "growing"])
def test_rollouts_of_any_length_begin_alike(options: dict) -> None:
    model = lively(**options).eval()
    past = clips()["slots"][:, : model.history_len]
    with torch.no_grad():
        long = model.rollout(past, 3 * PREDICTED)
        torch.testing.assert_close(model.rollout(past, 2), long[:, :2])
        assert long.shape == (2, 3 * PREDICTED, SLOTS, SIZE)
        assert long.isfinite().all()
        for steps in (0, 1):
            assert model.rollout(past, steps).shape == (2, steps, SLOTS, SIZE)


def test_prediction_depends_on_the_window_alone() -> None:
    with torch.no_grad():
        model, slots = lively().eval(), clips(frames=8)["slots"]
        whole = model.rollout(slots, 5)
        torch.testing.assert_close(model.rollout(slots[:, -SEEN:], 5), whole)
        later = torch.cat([slots, whole[:, :2]], dim=1)
        torch.testing.assert_close(model.rollout(later, 3), whole[:, 2:])


def test_newest_frame_is_position_zero() -> None:
    long, short = sinusoidal_codes(6, 10), sinusoidal_codes(2, 10)
    torch.testing.assert_close(long[:, -2:], short)
    torch.testing.assert_close(short[0, 1], torch.tensor([0.0] * 5 + [1.0] * 5))
    torch.testing.assert_close(long[0, 0, 1], torch.tensor(5 * 10000**-0.2).sin())


def test_losses_are_mean_squared_errors() -> None:
    model, batch = lively(slot_recon_loss_w=2.0, img_recon_loss_w=0.5), clips()
    predicted = model.rollout(batch["slots"][:, :SEEN], PREDICTED)
    terms = model.loss(batch, 0)
    torch.testing.assert_close(terms["slot_recon_loss"], F.mse_loss(predicted, batch["slots"][:, SEEN:]))
    frames = 2 * batch["video"][:, SEEN:] - 1
    torch.testing.assert_close(terms["img_recon_loss"], F.mse_loss(model.decode(predicted).recon, frames))
    torch.testing.assert_close(terms["loss"], 2 * terms["slot_recon_loss"] + 0.5 * terms["img_recon_loss"])
    assert set(terms) == {"loss", "slot_recon_loss", "img_recon_loss"}
    assert set(lively(use_img_recon_loss=False).loss(batch, 0)) == {"loss", "slot_recon_loss"}


def test_evaluation_looks_at_pictures_and_at_each_step() -> None:
    model, batch = lively(use_img_recon_loss=False).eval(), clips()
    model.loss_decay_factor = 0.1
    with torch.no_grad():
        terms = model.loss(batch, 0)
        of_steps = [terms[f"slot_recon_loss_{number}"] for number in range(1, PREDICTED + 1)]
        torch.testing.assert_close(torch.stack(of_steps).mean(), terms["slot_recon_loss"])
        assert "img_recon_loss" in terms
        assert "img_recon_loss" not in model.loss({"slots": batch["slots"]}, 0)
        assert "slot_recon_loss_7" not in lively(rollout_len=9).eval().loss(clips(frames=SEEN + 9), 0)


def test_later_frames_count_less_while_the_factor_is_small() -> None:
    model, batch = lively(use_img_recon_loss=False), clips()
    predicted = model.rollout(batch["slots"][:, :SEEN], PREDICTED)
    errors = (predicted - batch["slots"][:, SEEN:]).square().mean(dim=(0, 2, 3))
    model.loss_decay_factor = 0.5
    weights = torch.tensor([8.0, 4.0, 2.0, 1.0]) / 15
    torch.testing.assert_close(model.loss(batch, 0)["slot_recon_loss"], (weights * errors).sum())


def test_frames_after_the_end_of_a_video_do_not_count() -> None:
    model, batch = lively(), clips(batch=3)
    batch["vid_len"] = torch.tensor([SEEN + PREDICTED, SEEN + 1, SEEN])
    before = model.loss(batch, 0)
    for place, end in enumerate(batch["vid_len"].tolist()):
        batch["slots"][place, end:], batch["video"][place, end:] = 7.0, 0.3
    after = model.loss(batch, 0)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, msg=name)
    whole = model.loss({key: value[:1] for key, value in batch.items()}, 0)["slot_recon_loss"]
    one = model.rollout(batch["slots"][1:2, :SEEN], 1) - batch["slots"][1:2, SEEN : SEEN + 1]
    mean = (PREDICTED * whole + one.square().mean()) / (PREDICTED + 1)
    torch.testing.assert_close(after["slot_recon_loss"], mean)
    batch["vid_len"][:] = 1
    assert model.loss(batch, 0)["loss"] == 0


def test_parts_of_a_batch_count_by_their_frames() -> None:
    params = load_params(ROOT / "slotformer/video_prediction/configs/slotformer_phyre_params-fold0.py", Keys)
    model, batch = lively(SingleStepSlotFormer), clips(batch=3)
    batch["vid_len"] = torch.tensor([SEEN + PREDICTED, SEEN + 1, SEEN])
    whole = model.loss(batch, 0)
    whole["loss"].backward()
    gradients = {name: value.grad.clone() for name, value in model.rollouter.named_parameters() if value.requires_grad}
    model.zero_grad()
    weighed = build_method(params).take(model, batch)
    assert weighed["mean_frames"].tolist() == pytest.approx([(PREDICTED + 1) / 3] * 3)
    torch.testing.assert_close(model.loss(weighed, 0)["loss"], whole["loss"])
    found = 0.0
    for rows in (slice(0, 1), slice(1, 3)):
        part = {key: value[rows] for key, value in weighed.items()}
        loss = model.loss(part, 0)["loss"] * len(part["slots"]) / 3
        loss.backward()
        found += loss.detach()
    torch.testing.assert_close(found, whole["loss"].detach())
    for name, value in model.rollouter.named_parameters():
        if value.requires_grad:
            torch.testing.assert_close(value.grad, gradients[name], rtol=1e-3, atol=1e-5, msg=name)
    assert build_method(params).take(model, clips()).keys() == clips().keys()


@pytest.mark.parametrize("frames_per_part", [2, 3, 100])
def test_parts_change_no_gradient(frames_per_part: int) -> None:
    found = []
    for size in (1, frames_per_part):
        model = lively(frames_per_part=size)
        model.loss(clips(), 0)["loss"].backward()
        found.append({name: value.grad for name, value in model.rollouter.named_parameters() if value.requires_grad})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_decoder_is_frozen_but_lets_gradients_through() -> None:
    model = lively(slot_recon_loss_w=0.0)
    model.loss(clips(), 0)["loss"].backward()
    frozen = {name for name, value in model.named_parameters() if value.grad is None}
    decoders = {name for name, _ in model.named_parameters() if name.startswith("decoder")}
    assert frozen == decoders | {"rollouter.enc_t_pe"}
    assert all(value.grad.any() for value in model.rollouter.transformer_encoder.layers[0].linear1.parameters())


def test_decomposition_is_valid_and_begins_with_what_is_seen() -> None:
    model, batch = lively().eval(), clips(frames=9)
    with torch.no_grad():
        found = model.decompose(batch).validate()
        true = model.draw(batch["slots"])
        torch.testing.assert_close(found.recon[:, :SEEN], true.recon[:, :SEEN])
        torch.testing.assert_close(found.slots[:, SEEN:], model.rollout(batch["slots"][:, :SEEN], 9 - SEEN))
        pictures = model.decode(batch["slots"])
    torch.testing.assert_close(true.recon, (pictures.recon / 2 + 0.5).clamp(0, 1))
    torch.testing.assert_close(true.masks, pictures.masks)
    assert found.is_video
    assert (found.num_slots, found.recon.shape[1]) == (SLOTS, 9)


def test_window_grows_from_one_frame() -> None:
    model = lively(SingleStepSlotFormer, history_len=1, cond_len=3)
    assert model.rollouter.enc_t_pe.shape == (1, 3, 16)
    batch = clips(frames=1 + PREDICTED)
    predicted = model.rollout(batch["slots"][:, :1], PREDICTED)
    torch.testing.assert_close(model.loss(batch, 0)["slot_recon_loss"], F.mse_loss(predicted, batch["slots"][:, 1:]))


@pytest.mark.parametrize("build", [lively, lively_steve], ids=["SAVi", "STEVE"])
def test_half_precision_is_close(build) -> None:
    model, batch = build(use_img_recon_loss=True), clips(side=16 if build is lively else 8)
    losses, gradients = [], []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model.loss(batch, 0)["loss"]
        assert loss.dtype == torch.float32
        loss.backward()
        losses.append(loss.detach())
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None]))
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0)
    assert F.cosine_similarity(*gradients, dim=0) > 0.95


def test_words_of_predicted_slots_are_compared() -> None:
    model, batch = lively_steve(use_img_recon_loss=True, img_recon_loss_w=0.5), clips(side=8)
    terms = model.loss(batch, 0)
    predicted = model.rollout(batch["slots"][:, :SEEN], PREDICTED)
    tokens = model.dvae.tokenize(2 * batch["video"] - 1).flatten(2)
    future = tokens[:, SEEN:].flatten(0, 1)
    logits = model.decoder(predicted.flatten(0, 1), future[:, :-1])
    torch.testing.assert_close(terms["img_recon_loss"], F.cross_entropy(logits.flatten(0, 1), future.flatten()))
    torch.testing.assert_close(terms["loss"], terms["slot_recon_loss"] + 0.5 * terms["img_recon_loss"])
    given = model.loss({"slots": batch["slots"], "token_id": tokens.int()}, 0)
    torch.testing.assert_close(given, terms)
    assert set(lively_steve().eval().loss(batch, 0)) == {"loss", "slot_recon_loss"}


def test_frozen_words_have_no_dropout() -> None:
    model = lively_steve(dropout=0.5)
    slots, tokens = clips()["slots"][:, 0], torch.zeros(2, 4, dtype=torch.long)
    torch.testing.assert_close(model.decoder.loss(slots, tokens), model.decoder.loss(slots, tokens))
    assert model.rollouter.training
    assert not model.train().decoder.training
    assert not model.dvae.training


def test_generated_pictures() -> None:
    model, slots = lively_steve(), clips()["slots"][:, 0]
    found = model.decode(slots, lambda name, shape: torch.full(shape, 0.5))
    assert found.tokens.shape == (2, 4)
    torch.testing.assert_close(found.hard, model.dvae.detokenize(found.tokens.view(2, 2, 2)))
    assert found.soft.shape == found.hard.shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (lively, {"dec_channels": (4, 4, 4, 4)}, r"dec_channels=\(4, 4, 4, 4\) must begin with slot_size=8"),
        (lively, {"t_pe": "cos"}, "position codes 'cos' are not 'sin', 'learnable' or ''"),
        (lively, {"d_model": 15, "num_heads": 3}, "d_model=15 is odd"),
        (lively, {"num_heads": 3}, "d_model=16 does not divide into 3 heads"),
        (lively_steve, {"down_factor": 8}, "down_factor=8: a word of the dVAE describes 4x4 pixels"),
        (lively_steve, {"dec_d_model": 4}, "dec_d_model=4 must be slot_size=8"),
    ],
)
def test_arguments_that_cannot_be_say_so(build, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_clips_of_another_length_say_so() -> None:
    with pytest.raises(ValueError, match="clips of 6 frames, but history_len=3 and rollout_len=4 make 7"):
        lively().loss(clips(frames=6), 0)


@pytest.mark.parametrize(
    ("config", "trainable", "keys"),
    [
        ("slotformer_obj3d_params", 826_112, 66),
        ("slotformer_clevrer_params", 3_224_960, 66),
        ("slotformer_phyre_params-fold0", 6_384_000, 114),
        ("slotformer_physion_params", 6_416_832, 236),
    ],
)
def test_published_sizes(config: str, trainable: int, keys: int) -> None:
    params = load_params(ROOT / "slotformer" / "video_prediction" / "configs" / f"{config}.py", Keys)
    assert params.n_sample_frames == params.input_frames + params.loss_dict["rollout_len"]
    model = build_model(params)
    assert sum(value.numel() for value in model.parameters() if value.requires_grad) == trainable
    exported = original.export_state(model)
    assert len(exported) == keys
    imported = original.import_state(params.model, {f"module.{key}": value for key, value in exported.items()})
    assert all(torch.equal(value, imported.pop(key)) for key, value in model.state_dict().items())
    assert not imported


@pytest.mark.parametrize("build", [lively, lively_steve], ids=["SAVi", "STEVE"])
def test_a_training_of_the_original_continues(build, tmp_path) -> None:
    model, twin = build(use_img_recon_loss=False), build(use_img_recon_loss=False)
    trained = [value for value in twin.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        twin.loss(clips(), 0)["loss"].backward()
        optimizer.step()
    checkpoint = {
        "state_dict": original.export_state(twin),
        "opt_state_dict": deepcopy(optimizer.state_dict()),
        "it": 2,
    }
    state = original.training_state(checkpoint, model, tmp_path / "model_2.pth")
    model.load_state_dict(state["model"])
    resumed = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=1e-3)
    resumed.load_state_dict(state["optimizer"])
    for which, adam in ((model, resumed), (twin, optimizer)):
        adam.zero_grad()
        which.loss(clips(), 0)["loss"].backward()
        adam.step()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, msg=lambda m, n=name: f"{n}: {m}")
