"""Properties that SAVi must have, whatever its weights."""

from itertools import count

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.noise import Noise, ShardedNoise
from core.training.checkpoint import CheckpointError, save
from slotformer import original
from slotformer.base_slots import build_method
from slotformer.base_slots.models.decoder import BroadcastDecoder
from slotformer.base_slots.models.savi import StoSAVi, kernel_divergence
from slotformer.framework.params import BaseParams
from slotformer.framework.tasks import BatchMethod

SLOTS, SIZE = 3, 8
STOCHASTIC = {"kernel_mlp": False, "pred_type": "mlp", "pred_rnn": False, "kld_method": "var-0.01"}


def lively(**options: object) -> StoSAVi:
    """A small model with large weights, so that the slots differ."""
    torch.manual_seed(0)
    sizes = {"num_slots": SLOTS, "slot_size": SIZE, "slot_mlp_size": 16, "enc_out_channels": SIZE, "clip_len": 3}
    channels = {"enc_channels": (3, 4, 4, 4, 4), "dec_channels": (SIZE, 4, 4, 4, 4), "pred_ffn_dim": 16}
    model = StoSAVi(**{**sizes, **channels, "pred_num_heads": 2, "dropout": 0.0, **options})
    for value in model.parameters():
        if value.ndim > 1:
            value.data *= 2
    return model


def videos(batch: int = 2, frames: int = 4, side: int = 64) -> dict[str, Tensor]:
    return {"video": torch.rand(batch, frames, 3, side, side, generator=torch.Generator().manual_seed(1))}


def per_frame(batch: int = 2) -> Noise:
    """The same draws for the same frame, however many frames go through at once."""
    frames = count()
    return lambda name, shape: torch.randn(shape, generator=torch.Generator().manual_seed(next(frames)))


@pytest.mark.parametrize("options", [{}, STOCHASTIC], ids=["deterministic", "stochastic"])
def test_decomposition_is_valid_and_its_slots_are_those_that_are_extracted(options: dict) -> None:
    model = lively(**options).eval()
    with torch.no_grad():
        found = model.decompose(videos(), per_frame()).validate()
        slots = model.extract(videos(), per_frame())
    assert found.is_video
    assert found.slots.shape == (2, 4, SLOTS, SIZE)
    torch.testing.assert_close(found.slots, slots)
    torch.testing.assert_close(found.masks.sum(dim=2), torch.ones(2, 4, 64, 64))


@pytest.mark.parametrize("options", [{}, STOCHASTIC], ids=["deterministic", "stochastic"])
@pytest.mark.parametrize("clip_len", [1, 2, 5])
def test_clips_give_what_one_pass_gives(options: dict, clip_len: int) -> None:
    model, batch = lively(**options, clip_len=clip_len).eval(), videos(frames=5)
    with torch.no_grad():
        whole = model.track(2 * batch["video"] - 1, per_frame()).slots
        torch.testing.assert_close(model.extract(batch, per_frame()), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, STOCHASTIC], ids=["deterministic", "stochastic"])
def test_slots_follow_their_latents(options: dict) -> None:
    model, order = lively(**options), torch.tensor([2, 0, 1])
    video = 2 * videos()["video"] - 1
    shuffled_draws = per_frame()
    with torch.no_grad():
        before = model.track(video, per_frame())
        model.init_latents.copy_(model.init_latents[:, order])
        after = model.track(video, lambda name, shape: shuffled_draws(name, shape)[:, order])
        torch.testing.assert_close(after.slots, before.slots[:, :, order], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.decode(after.slots).recon, model.decode(before.slots).recon)
    torch.testing.assert_close(before.attention.sum(dim=2), torch.ones(2, 4, 64 * 64))


def test_frames_are_videos_of_their_own_where_every_one_restarts() -> None:
    model, batch = lively(pred_type="restart", pred_rnn=False).eval(), videos()
    with torch.no_grad():
        whole = model.extract(batch)
        single = torch.cat([model.extract({"video": frame[:, None]}) for frame in batch["video"].unbind(1)], dim=1)
    torch.testing.assert_close(whole, single)
    assert (whole[:, 0] - whole[:, 1]).abs().max() > 1e-3


def test_a_video_has_the_same_slots_in_every_batch() -> None:
    model, batch = lively().eval(), videos(batch=3)
    with torch.no_grad():
        together, alone = model.extract(batch), model.extract({"video": batch["video"][1:2]})
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_only_the_stochastic_model_draws() -> None:
    def forbidden(name: str, shape: tuple[int, ...]) -> Tensor:
        raise AssertionError(f"drew {name}")

    lively().extract(videos(), forbidden)
    with pytest.raises(AssertionError, match="drew kernel"):
        lively(**STOCHASTIC).extract(videos(), forbidden)


def test_loss_is_the_mean_squared_error_and_the_weighted_divergence() -> None:
    model = lively(**STOCHASTIC, post_recon_loss_w=2.0, kld_loss_w=0.5)
    model.noise = ShardedNoise(seed=5)
    video = 2 * videos()["video"] - 1
    track = model.track(video, model.noise.at(3, video.device))
    terms = model.loss(videos(), 3)
    torch.testing.assert_close(terms["post_recon_loss"], F.mse_loss(model.decode(track.slots).recon, video))
    mean, log_variance = track.origins.chunk(2, dim=-1)
    normal = torch.distributions.Normal
    kernels, prior = normal(mean, (log_variance / 2).exp()), normal(mean.detach(), 0.1)
    kl = torch.distributions.kl_divergence(kernels, prior).sum(dim=-1).mean()
    torch.testing.assert_close(terms["kld_loss"], kl)
    torch.testing.assert_close(terms["loss"], 2 * terms["post_recon_loss"] + 0.5 * terms["kld_loss"])


def test_divergence_leaves_the_mean_alone_and_vanishes_at_the_prior() -> None:
    kernels = torch.tensor([[3.0, -1.0, 0.5, 0.5]], requires_grad=True)
    kernel_divergence(kernels, 1.0).backward()
    assert kernels.grad[0, :2].tolist() == [0, 0]
    assert kernels.grad[0, 2:].min() > 0
    assert kernel_divergence(torch.tensor([[9.0, 0.01**0.5]]).log(), 0.1).abs() < 1e-6


@pytest.mark.parametrize("frames_per_part", [2, 3, 100])
def test_parts_change_no_gradient(frames_per_part: int) -> None:
    gradients = []
    for size in (1, frames_per_part):
        model = lively(frames_per_part=size)
        model.loss(videos(), 0)["loss"].backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_gradient_is_that_of_the_plain_graph() -> None:
    model = lively()
    model.loss(videos(), 0)["loss"].backward()
    ours = {name: value.grad for name, value in model.named_parameters()}
    model.zero_grad()
    video = 2 * videos()["video"] - 1
    F.mse_loss(model.decode(model.track(video, per_frame()).slots).recon, video).backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(ours[name], value.grad, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        assert value.grad.any(), name


def test_replaced_clips_are_counted() -> None:
    method = build_method(BaseParams({"model": "StoSAVi", "dataset": "phyre"}))
    model, optimizer = nn.Identity(), torch.optim.SGD([torch.zeros(1)])
    assert isinstance(method, BatchMethod)
    for replaced in ([True, False], [False, False]):
        batch = {"replaced": torch.tensor(replaced)}
        assert method.take(model, batch) is batch
    assert method.scalars(model, optimizer) == {"replaced": 0.25}
    assert method.scalars(model, optimizer) == {}, "since the last call"


def test_without_pictures_only_the_divergence_is_left() -> None:
    terms = lively(**STOCHASTIC, use_post_recon_loss=False).loss(videos(), 0)
    assert set(terms) == {"loss", "kld_loss"}


def test_halves_of_a_batch_see_the_draws_of_the_whole() -> None:
    model, batch = lively(**STOCHASTIC), videos(batch=4)
    model.noise = ShardedNoise(seed=5)
    whole = model.loss(batch, 7)["loss"]
    halves = []
    for index in range(2):
        model.noise = ShardedNoise(5, index, 2)
        halves.append(model.loss({"video": batch["video"][2 * index : 2 * index + 2]}, 7)["loss"])
    torch.testing.assert_close(torch.stack(halves).mean(), whole)


@pytest.mark.parametrize("options", [{}, STOCHASTIC], ids=["deterministic", "stochastic"])
def test_half_precision_is_close(options: dict) -> None:
    model = lively(**options)
    model.noise = ShardedNoise(seed=5)
    losses, gradients = [], []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model.loss(videos(), 0)["loss"]
        assert loss.dtype == torch.float32
        loss.backward()
        losses.append(loss.detach())
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters()]))
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)
    assert F.cosine_similarity(*gradients, dim=0) > 0.97


@pytest.mark.parametrize(
    ("resolution", "grid", "kernel", "channels"),
    [((64, 64), (8, 8), 5, 5), ((16, 16), (16, 16), 3, 3), ((32, 32), (4, 4), 3, 5), ((128, 128), (16, 16), 5, 5)],
)
def test_decoder_is_a_broadcast_and_transposed_convolutions(
    resolution: tuple[int, int], grid: tuple[int, int], kernel: int, channels: int
) -> None:
    torch.manual_seed(0)
    decoder = BroadcastDecoder((SIZE,) + (4,) * (channels - 1), grid, kernel, "", resolution)
    slots, position = torch.randn(5, SIZE), torch.randn(*grid, SIZE)
    plain = (slots[:, None, None] + position).permute(0, 3, 1, 2)
    for layer in decoder:
        plain = layer(plain)
    torch.testing.assert_close(decoder(slots, position), plain, rtol=1e-4, atol=1e-5)
    assert plain.shape == (5, 4, *resolution)


@pytest.mark.parametrize(
    ("resolution", "dec_resolution", "grid"),
    [((32, 32), (4, 4), (32, 32)), ((64, 48), (8, 6), (64, 48)), ((96, 128), (12, 16), (48, 64))],
)
def test_pictures_of_other_sizes(resolution, dec_resolution, grid) -> None:
    model = lively(resolution=resolution, dec_resolution=dec_resolution)
    model.loss({"video": torch.rand(2, 2, 3, *resolution)}, 0)["loss"].backward()
    assert model.encoder_pos_embedding.codes().shape[-3:-1] == grid
    assert model.decompose({"video": torch.rand(1, 2, 3, *resolution)}).validate().masks.shape[-2:] == resolution


@pytest.mark.parametrize("norm", ["gn", "in"])
def test_norms_of_the_original_are_there(norm: str) -> None:
    options = {"enc_norm": norm, "dec_norm": norm, "enc_channels": (3, 16, 16), "dec_channels": (SIZE, 16, 16, 16)}
    model = lively(**options)
    model.loss(videos(frames=2), 0)["loss"].backward()
    assert model.encoder[0][0].bias is None or norm == "gn"
    assert all(value.grad is not None for value in model.encoder.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dec_resolution": (2, 2)}, r"dec_resolution=\(2, 2\) with 4 layers .* pictures of \(32, 32\)"),
        ({"dec_channels": (16, 4, 4, 4, 4)}, r"dec_channels=\(16, 4, 4, 4, 4\) must begin with slot_size=8"),
        ({"dec_norm": "bn"}, "dec_norm='bn' would mix the slots"),
        ({"kld_method": "var0.01"}, "kld_method='var0.01' is not 'none', 'var' or"),
        ({"use_post_recon_loss": False}, "use_post_recon_loss=False leaves no loss with kld_method='none', expected"),
        ({"num_iterations": 0}, "num_iterations=0, expected at least 1"),
        ({"enc_ks": 4}, "enc_ks=4 is even, expected an odd size"),
        ({"kld_method": "var-0"}, "kld_method='var-0' is not"),
        ({"pred_type": "lstm"}, "pred_type='lstm' is not one of 'transformer', 'mlp'"),
        ({"pred_num_heads": 3}, "d_model=8 does not divide into 3 heads"),
    ],
)
def test_arguments_that_cannot_be_say_so(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lively(**options)


def test_original_weights_come_and_go(tmp_path) -> None:
    model = lively()
    exported = original.export_state(model)
    added = {key.split(".")[0] for key in set(exported) - set(model.state_dict())}
    assert added == {"prior_slot_layer", "encoder_pos_embedding", "decoder_pos_embedding"}
    wrapped = {"state_dict": {f"module.{key}": value for key, value in exported.items()}, "it": 5, "epoch": 1}
    for form in (exported, wrapped):
        for imported in (original.import_state(model, form), original.import_state("StoSAVi", form)):
            assert set(imported) == set(model.state_dict())
            assert all(torch.equal(value, imported[key]) for key, value in model.state_dict().items())
    save(tmp_path / "model_5.pth", wrapped)
    assert set(original.read_weights(tmp_path / "model_5.pth", model)) == set(model.state_dict())
    exported["decoder_pos_embedding.grid"] = torch.zeros(1, 16, 16, 4)
    save(tmp_path / "model_6.pth", exported)
    with pytest.raises(CheckpointError, match=r"model_6.pth: decoder_pos_embedding.grid: expected a grid of \(8, 8\)"):
        original.read_weights(tmp_path / "model_6.pth", model)
    with pytest.raises(ValueError, match="'Linear' is no model of the original SlotFormer"):
        original.import_state(torch.nn.Linear(1, 1), {})


def test_a_training_of_the_original_continues(tmp_path) -> None:
    model, twin = lively(), lively()
    states = original.export_state(model)
    # The original: an unused layer, another order of parameters, and buffers among them.
    names = [key for key in sorted(states) if not key.endswith(".grid")]
    theirs = {name: torch.nn.Parameter(states[name].clone()) for name in names}
    optimizer = torch.optim.Adam(theirs.values(), lr=1e-3)
    ours = torch.optim.Adam(twin.parameters(), lr=1e-3)
    for _ in range(2):
        twin.loss(videos(), 0)["loss"].backward()
        for name, value in twin.named_parameters():
            theirs[name].grad = value.grad.clone()
        ours.step(), optimizer.step()
        ours.zero_grad()
    weights = {name: theirs[name].data if name in theirs else states[name] for name in sorted(states)}
    checkpoint = {"state_dict": weights, "opt_state_dict": optimizer.state_dict(), "it": 2, "epoch": 0}
    assert original.is_original(checkpoint)
    state = original.training_state(checkpoint, model, tmp_path / "model_2.pth")
    assert state["step"] == 1
    model.load_state_dict(state["model"])
    resumed = torch.optim.Adam(model.parameters(), lr=1e-3)
    resumed.load_state_dict(state["optimizer"])
    for which, adam in ((model, resumed), (twin, ours)):
        which.loss(videos(), 0)["loss"].backward()
        adam.step()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, msg=lambda m, n=name: f"{n}: {m}")
    with pytest.raises(CheckpointError, match="holds weights without opt_state_dict, it"):
        original.training_state({"state_dict": weights}, model, tmp_path / "model_2.pth")
