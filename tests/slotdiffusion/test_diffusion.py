"""Latent diffusion as the decoder of slots, the average of its weights, and the models around it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.noise import ImageNoise, ShardedNoise, standard_normal
from slotdiffusion import original as ours  # makes slotformer.original know the models
from slotdiffusion.models.average import WeightAverage
from slotdiffusion.models.latent_diffusion import LatentDiffusion
from slotdiffusion.models.sa_diffusion import SADiffusion
from slotdiffusion.models.savi_diffusion import SAViDiffusion
from slotformer import original
from slotformer.base_slots.models.steve import parameter_groups
from slotformer.framework.optim import build_optimizer
from slotformer.framework.params import BaseParams, ParamsError
from tests.tiny_diffusion import DECODER, UNET, VAE, tiny_decoder, trained

SAMPLERS = [
    {"sampler": "dpm", "steps": 3},
    {"sampler": "dpm_multistep", "steps": 3},
    {"sampler": "ddim", "steps": 3},
    {"sampler": "ddim", "steps": 3, "eta": 1.0},
]


def seeded(seed: int = 0) -> Any:
    """Draws that are the same for every call."""
    return ShardedNoise(seed).at(0, torch.device("cpu"))


def slots_of(count: int = 2) -> Tensor:
    return torch.randn(count, 4, 12, generator=torch.Generator().manual_seed(1))


def test_dictionaries_are_left_as_they_are() -> None:
    before = copy.deepcopy(DECODER)
    for _ in range(2):
        LatentDiffusion(**DECODER)
    assert before == DECODER


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unet_dict": {**UNET, "dropuot": 0.1}}, "unet_dict has no 'dropuot'; did you mean 'dropout'"),
        ({"unet_dict": {**UNET, "attention_resolutions": 2}}, "attention_resolutions is 2, expected a list of numbers"),
        ({"unet_dict": {**UNET, "dims": 3}}, "unet_dict: dims=3 is not built here, only 2"),
        (
            {"vae_dict": {**VAE, "vqvae_ckpt_path": ""}},
            "vae_dict has no 'vqvae_ckpt_path'; did you mean 'vqvae_ckp_path'",
        ),
        ({"vae_dict": {**VAE, "enc_dec_dict": {"chh": 32}}}, "vae_dict.enc_dec_dict has no 'chh'; did you mean 'ch'"),
        ({"vae_dict": {**VAE, "vq_dict": {"n_embd": 8}}}, "vae_dict.vq_dict has no 'n_embd'; did you mean 'n_embed'"),
        ({"vae_dict": {"vae_type": "VQVAE"}}, "dec_dict.vae_dict needs enc_dec_dict, vq_dict"),
        ({"vae_dict": {**VAE, "vae_type": "KL"}}, "vae_type='KL' is not built here"),
        ({"diffusion_dict": {"timestep": 10}}, "diffusion_dict has no 'timestep'; did you mean 'timesteps'"),
        ({"diffusion_dict": {"pred_target": "x"}}, "pred_target='x' is not one of"),
        ({"diffusion_dict": {"beta_schedule": "lineal"}}, "beta_schedule='lineal' is not one of"),
        ({"conditioning_key": "adm"}, "conditioning_key='adm' is not one of"),
        ({"conditioning_key": "concat"}, "with conditioning_key='concat' unet_dict.context_dim must be None"),
        ({"cond_stage_key": "caption"}, "cond_stage_key='caption'"),
    ],
)
def test_entries_that_cannot_be(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentDiffusion(**{**DECODER, **change})


def test_times_are_uniform() -> None:
    """Of a standard normal draw the distribution function is uniform; its ends stay in range."""
    model, seen = tiny_decoder(vae_dict=None), []
    model.loss_at = lambda clean, context, times, noise: seen.append(times) or torch.zeros(())
    draws = torch.cat((torch.randn(50000, generator=torch.Generator().manual_seed(0)), torch.tensor([-20.0, 20.0])))
    model.loss(torch.zeros(len(draws), 3, 8, 8), None, lambda name, shape: draws if name == "t" else torch.zeros(shape))
    (times,) = seen
    assert times[-2:].tolist() == [0, 999]
    counts = torch.bincount(times // 100, minlength=10)
    assert (counts.sub(5000).abs() < 250).all(), counts


def test_loss_is_the_error_of_the_prediction() -> None:
    model = tiny_decoder(vae_dict=None)
    clean, noise, times = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([100, 900])
    alpha, sigma = (
        torch.tensor(values[times.numpy()])[:, None, None, None].float()
        for values in (model.schedule.alphas, model.schedule.sigmas)
    )
    found = model.model(alpha * clean + sigma * noise, times, model.model.condition(slots_of()))
    torch.testing.assert_close(model.loss_at(clean, slots_of(), times, noise), F.mse_loss(found, noise))


def test_loss_is_full_precision_under_autocast() -> None:
    model, draws = tiny_decoder(), seeded()
    images = {"image": torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    exact = model.loss(model.clean(images), slots_of(), seeded())
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(model.clean(images), slots_of(), draws)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0)


def test_autoencoder_stays_frozen() -> None:
    model = tiny_decoder().train()
    assert not any(part.training for part in model.vae.modules())
    model.loss(model.clean({"image": torch.rand(2, 3, 32, 32)}), slots_of(), seeded()).backward()
    assert all(value.grad is None for value in model.vae.parameters())
    assert all(value.grad is not None for value in model.model.parameters())
    names = set(model.state_dict())
    assert not names & set(ours.SCHEDULE)
    assert all(name.startswith(("model.diffusion_model.", "vae.vqvae.")) for name in names)


def test_estimates_are_codes() -> None:
    model = tiny_decoder().eval()
    seen: list[Tensor] = []
    correct = model._correction("dpm")
    model._correction = lambda sampler: lambda clean: seen.append(correct(clean)) or seen[-1]
    model.sample(slots_of(), seeded(), steps=5)
    assert len(seen) == 5
    codes = model.vae.vqvae.quantize.embedding.weight
    for clean in seen:
        places = clean.permute(0, 2, 3, 1).reshape(-1, 1, 3)
        assert (places == codes).all(dim=2).any(dim=1).all()


@pytest.mark.parametrize("options", SAMPLERS)
@pytest.mark.parametrize("is_latent", [True, False])
def test_samples_follow_from_their_draws(options: dict, is_latent: bool) -> None:
    model = tiny_decoder(**({} if is_latent else {"vae_dict": None})).eval()
    found = model.sample(slots_of(), seeded(), **options)
    assert found.shape == (2, 3, 32, 32) if is_latent else (2, 3, 8, 8)
    assert not found.requires_grad
    assert torch.equal(model.sample(slots_of(), seeded(), **options), found)
    assert not torch.allclose(model.sample(slots_of(), seeded(1), **options), found, atol=1e-3)
    assert not torch.allclose(model.sample(slots_of().flip(0), seeded(), **options), found, atol=1e-5)


def test_slots_have_no_order() -> None:
    model = tiny_decoder(vae_dict=None).eval()
    found = model.sample(slots_of(), seeded(), steps=5)
    shuffled = model.sample(slots_of()[:, [2, 3, 0, 1]], seeded(), steps=5)
    torch.testing.assert_close(shuffled, found, rtol=1e-3, atol=1e-4)


def test_same_noise_for_all_pictures() -> None:
    model = tiny_decoder().eval()
    one = slots_of(1).expand(3, 4, 12)
    shapes: list[tuple] = []

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        shapes.append((name, shape))
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    found = model.sample(one, draw, steps=5, same_noise=True)
    assert shapes == [("start", (1, 3, 8, 8))]
    torch.testing.assert_close(found, found[:1].expand_as(found), rtol=1e-3, atol=1e-4)
    different = model.sample(one, seeded(), steps=5)
    assert not torch.allclose(different[0], different[1], atol=1e-3)


def test_steps_of_the_samplers_by_default() -> None:
    model = tiny_decoder(vae_dict=None, diffusion_dict={"timesteps": 30}).eval()
    assert len(model.sample_states(slots_of(), seeded())) == 7  # six steps of order 3, one of order 2
    states = model.sample_states(slots_of(), seeded(), sampler="ancestral")
    assert len(states) == 2  # after steps 29 and 0
    with pytest.raises(ValueError, match="sampler='ddpm' is not one of"):
        model.sample(slots_of(), seeded(), sampler="ddpm")


def test_other_conditions() -> None:
    unet = {"context_dim": None}
    model = tiny_decoder(unet={**unet, "in_channels": 5}, conditioning_key="concat", vae_dict=None).eval()
    maps = torch.randn(2, 2, 8, 8)
    found = model.sample(maps, seeded(), steps=4)
    assert found.shape == (2, 3, 8, 8)
    assert not torch.allclose(model.sample(-maps, seeded(), steps=4), found, atol=1e-3)
    model = tiny_decoder(unet=unet, conditioning_key=None, vae_dict=None).eval()
    assert model.sample(None, seeded(), steps=4, count=3).shape == (3, 3, 8, 8)


def test_average_in_closed_form() -> None:
    """Weights that jump from 0 to 1 leave a share of 0 that is the product of what every update keeps."""
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, decay=0.5)
    assert set(average.state_dict()) == {"decay", "num_updates", "weight"}
    nn.init.ones_(model.weight)
    left = 1.0
    for update in range(1, 13):
        average.update(model)
        left *= min(0.5, (1 + update) / (10 + update))
        torch.testing.assert_close(average.weight, torch.full((2, 3), 1 - left))
    assert int(average.num_updates) == 12


def test_average_is_in_place_inside_its_scope_only() -> None:
    model = nn.Linear(3, 2)
    average = WeightAverage(model)
    weight = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1
    inputs = torch.randn(4, 3)
    outside = model(inputs)

    def fail_inside() -> None:
        with torch.no_grad(), average.scope(model):
            assert torch.equal(model.weight, weight)
            torch.testing.assert_close(model(inputs), F.linear(inputs, weight, model.bias))
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert torch.equal(model.weight, weight + 1)
    assert torch.equal(average.weight, weight)
    outside.sum().backward()
    torch.testing.assert_close(model.weight.grad, inputs.sum(dim=0).expand(2, 3))


def lively(kind: type[nn.Module], **options: Any) -> Any:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "dec_dict": DECODER,
        "num_slots": 3,
        "slot_size": 12,
        "slot_mlp_size": 16,
        "enc_out_channels": 12,
    }
    arguments |= {"resolution": (32, 32), "enc_channels": (3, 8, 8)}
    if kind is SAViDiffusion:
        arguments |= {"clip_len": 2, "pred_num_heads": 2, "pred_ffn_dim": 16, "dropout": 0.0}
    return trained(kind(**{**arguments, **options}))


def video_of(count: int = 2, frames: int = 3) -> Tensor:
    return torch.rand(count, frames, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def test_video_decomposition() -> None:
    """Of a video longer than a clip; masks and slots are those of the quick ways."""
    model, batch = lively(SAViDiffusion).eval(), {"video": video_of()}
    with torch.no_grad():
        found = model.decompose(batch, seeded(), steps=4).validate()
        torch.testing.assert_close(model.extract(batch), found.slots)
        torch.testing.assert_close(model.segment(batch), found.masks)
        assert found.recon.shape == batch["video"].shape
        torch.testing.assert_close(model.track(2 * batch["video"] - 1, seeded()).slots, found.slots)
        again = model.generate(found.slots, seeded(), steps=4)
        torch.testing.assert_close((again / 2 + 0.5).clamp(0, 1), found.recon)
        whole = lively(SAViDiffusion, clip_len=3).eval().generate(found.slots, seeded(), steps=4)
        torch.testing.assert_close(whole, again, rtol=1e-3, atol=1e-3)
        still = model.generate(found.slots[:, :1].expand(2, 3, 3, 12), seeded(), steps=4, same_noise=True)
        torch.testing.assert_close(still[:, 1:], still[:, :1].expand(2, 2, 3, 32, 32), rtol=1e-3, atol=1e-3)


def test_picture_is_a_video_of_one_frame() -> None:
    model, images = lively(SADiffusion).eval(), video_of(3, 1)[:, 0]
    with torch.no_grad():
        found = model.decompose({"image": images}, seeded(), steps=4).validate()
        assert found.slots.shape == (3, 3, 12)
        torch.testing.assert_close(model.segment({"image": images}), found.masks)
        model.noise = ShardedNoise(0)
        loss = model.loss({"image": images}, 0)["loss"]
        latents = model.dm_decoder.vae.vqvae.encode(2 * images - 1)
        torch.testing.assert_close(model.loss({"image": images, "latents": latents}, 0)["loss"], loss)


def test_gradient_reaches_the_slots() -> None:
    model = lively(SAViDiffusion)
    model.loss({"video": video_of()}, 0)["loss"].backward()
    assert float(model.init_latents.grad.norm()) > 0
    rest, decoder = parameter_groups(model, lr=1e-4, dec_lr=2e-4, decoder="dm_decoder")
    assert [group["lr"] for group in (rest, decoder)] == [1e-4, 2e-4]
    assert {id(value) for value in decoder["params"]} == {id(value) for value in model.dm_decoder.model.parameters()}
    trained_values = [value for value in model.parameters() if value.requires_grad]
    assert len(rest["params"]) + len(decoder["params"]) == len(trained_values)


def test_draws_of_a_sample_depend_on_no_batch() -> None:
    model, video = lively(SAViDiffusion).eval(), video_of()
    losses = []
    with torch.no_grad():
        for rows in (slice(0, 2), slice(0, 1), slice(1, 2)):
            model.noise = ImageNoise(5, range(2)[rows])
            losses.append(float(model.loss({"video": video[rows]}, 0)["loss"]))
    assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-6)
    assert losses[1] != pytest.approx(losses[2], rel=1e-5)


def test_loss_of_the_average() -> None:
    model = lively(SAViDiffusion, dec_dict={**DECODER, "use_ema": True})
    model.noise, batch = ShardedNoise(0), {"video": video_of(1)}
    assert "denoise_loss_ema" not in model.loss(batch, 0)
    with torch.no_grad():
        terms = model.eval().loss(batch, 0)
        assert terms["denoise_loss_ema"] != pytest.approx(float(terms["denoise_loss"]), rel=1e-3)
        with model.dm_decoder.average_scope():
            torch.testing.assert_close(model.loss(batch, 0)["denoise_loss"], terms["denoise_loss_ema"])
    number = int(model.dm_decoder.model_ema.num_updates)
    model.dm_decoder.update_average()
    assert int(model.dm_decoder.model_ema.num_updates) == number + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": (48, 32)}, r"resolution=\(8, 8\), but what is denoised of pictures of \(48, 32\) is \(12, 8\)"),
        ({"slot_size": 24, "pred_num_heads": 4}, "context_dim=12 must be 24"),
        ({"use_denoise_loss": False}, "leaves SlotDiffusion without a loss"),
        ({"dec_dict": {**DECODER, "use_emma": True}}, "dec_dict has no 'use_emma'; did you mean 'use_ema'"),
        ({"dec_dict": {"vae_dict": VAE, "unet_dict": UNET}}, "dec_dict needs resolution, diffusion_dict"),
        (
            {"resolution": (28, 28), "dec_dict": {**DECODER, "resolution": (7, 7)}},
            r"resolution \(28, 28\): .* multiples of 8",
        ),
        *(
            (
                {"dec_dict": {**DECODER, "unet_dict": {**UNET, "context_dim": None}, "conditioning_key": key}},
                f"conditioning_key={key!r} does not let the denoiser see slots",
            )
            for key in ("concat", None)
        ),
    ],
)
def test_decoder_that_does_not_fit(options: dict, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        lively(SAViDiffusion, **options)


def test_training_of_the_original_continues() -> None:
    """Its optimiser lists the frozen VQ-VAE, and its moments lie in another order in memory."""
    theirs = lively(SAViDiffusion, dec_dict={**DECODER, "use_ema": True})
    theirs.noise, batch = ShardedNoise(0), {"video": video_of(1)}
    named = dict(theirs.named_parameters())
    groups = [[value for name, value in named.items() if ("dm_decoder" in name) == late] for late in (False, True)]
    adam = torch.optim.Adam([{"params": values, "lr": rate} for values, rate in zip(groups, (1e-4, 2e-4))])
    theirs.loss(batch, 0)["loss"].backward()
    adam.step()
    weights = original.export_state(theirs)
    assert weights.keys() >= {"dm_decoder.betas", "dm_decoder.model_ema.num_updates"}
    moments = copy.deepcopy(adam.state_dict())
    for values in moments["state"].values():
        values.update({name: value.contiguous() for name, value in values.items()})
    state = {"state_dict": weights, "opt_state_dict": moments, "it": 1}
    model = lively(SAViDiffusion, dec_dict={**DECODER, "use_ema": True})
    found = original.training_state(state, model, Path("theirs.pth"))
    model.load_state_dict(found["model"])
    params = BaseParams({"optimizer": "Adam", "weight_decay": 0.0})
    optimizer = build_optimizer(params, parameter_groups(model, 1e-4, 2e-4, "dm_decoder"))
    optimizer.load_state_dict(found["optimizer"])
    for each in (theirs, model):
        each.zero_grad()
        each.noise = ShardedNoise(0)
        each.loss(batch, 1)["loss"].backward()
    adam.step()
    optimizer.step()
    for (name, one), other in zip(theirs.named_parameters(), model.parameters()):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-7, msg=lambda text, k=name: f"{k}: {text}")


def test_ancestral_and_standard_noise_run_on_a_model() -> None:
    model = tiny_decoder(diffusion_dict={"timesteps": 10, "log_every_t": 3}).eval()
    states = model.sample_states(slots_of(), standard_normal(torch.device("cpu")), sampler="ancestral")
    assert len(states) == 4  # after steps 9, 6, 3 and 0
    assert all(state.isfinite().all() for state in states)
