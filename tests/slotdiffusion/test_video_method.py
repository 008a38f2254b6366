"""What frozen autoencoders say of the training frames, and how models of videos are trained and validated."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.loader import to_device
from core.metrics.segmentation import hard_labels, segmentation_scores
from core.nn.noise import ImageNoise, standard_normal
from core.training.checkpoint import CheckpointError, save
from slotdiffusion import video_based
from slotdiffusion.framework.frozen_codes import check_autoencoder
from slotdiffusion.models.vqvae import VQVAE
from slotdiffusion.video_based.data import open_data, open_validation
from slotdiffusion.video_based.extract_slots import SUBSETS, open_videos
from slotformer.base_slots.models.dvae import dVAE
from slotformer.framework.params import ParamsError
from slotformer.framework.tasks import FollowingMethod, PreparingMethod, SampleMethod
from tests.slotdiffusion_runs import small_params
from tests.tiny_diffusion import trained

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(movi: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a VQ-VAE and of a dVAE, untrained."""
    folder, found = tmp_path_factory.mktemp("weights"), {}
    for kind in ("vqvae", "dvae"):
        torch.manual_seed(0)
        model = trained(video_based.build_model(small_params(kind, movi)))
        found[kind] = folder / f"{kind}.pth"
        save(found[kind], {"model": model.state_dict()})
    return found


def diffusion_params(movi: Path, weights: dict[str, Path], *settings: str):
    path = f"dec_dict.vae_dict.vqvae_ckp_path={weights['vqvae']}"
    return small_params("savi_ldm", movi, "d", path, *settings)


def diffusion_model(params) -> torch.nn.Module:
    torch.manual_seed(1)
    model = trained(video_based.build_model(params))
    video_based.build_method(params).initialise(model)
    return model


def test_latents_come_with_the_training_clips(movi: Path, weights: dict[str, Path]) -> None:
    params = diffusion_params(movi, weights)
    training, validation = video_based.build_dataset(params)
    model = diffusion_model(params).eval()
    chosen = np.array([7, 0, len(training) - 1])
    batch = to_device(training.read(chosen), CPU)
    assert batch["latents"].shape == (3, 2, 3, 8, 8)
    plain = {"video": batch["video"]}
    torch.testing.assert_close(model.dm_decoder.clean(batch), model.dm_decoder.clean(plain), rtol=1e-5, atol=1e-6)
    losses = []
    for given in (batch, plain):
        model.noise = ImageNoise(0, range(3))
        losses.append(model.loss(given, 0)["loss"])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    assert "latents" not in validation.read(np.array([0]))
    without, _ = video_based.build_dataset(diffusion_params(movi, weights, "cache_latents=False"))
    assert "latents" not in without.read(chosen)


def test_words_come_with_the_clips_of_steve(movi: Path, weights: dict[str, Path]) -> None:
    settings = (f"dvae_dict.dvae_ckp_path={weights['dvae']}", "frame_offset=2")
    params = small_params("steve", movi, "solid", *settings)
    training, _ = video_based.build_dataset(params)
    batch = to_device(training.read(np.array([5, 1])), CPU)
    assert batch["token_id"].shape == (2, 2, 64)
    model = dVAE(32)
    model.load_state_dict(torch.load(weights["dvae"], weights_only=True)["model"])
    expected = model.eval().tokenize(2 * batch["video"] - 1).flatten(2)
    assert torch.equal(batch["token_id"].long(), expected)


def test_codes_are_made_once_for_weights_and_frames(
    movi: Path, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = diffusion_params(movi, weights)
    first = video_based.build_dataset(params)[0].read(np.array([3]))["latents"]
    monkeypatch.setattr(VQVAE, "encode", None)
    assert torch.equal(video_based.build_dataset(params)[0].read(np.array([3]))["latents"], first)


def test_another_autoencoder_than_the_checkpoints_is_an_error(
    movi: Path, weights: dict[str, Path], tmp_path: Path
) -> None:
    params = diffusion_params(movi, weights)
    model = diffusion_model(params)
    check_autoencoder(params, model)
    with torch.no_grad():
        model.dm_decoder.vae.vqvae.encoder.conv_in.weight += 1
    with pytest.raises(CheckpointError, match="holds another autoencoder than the checkpoint"):
        video_based.build_method(params).before_step(model, 0, 10)
    gone = small_params("savi_ldm", movi, "d", f"dec_dict.vae_dict.vqvae_ckp_path={tmp_path}/gone.pth")
    video_based.build_method(gone).before_step(model, 0, 10)
    with pytest.raises(ParamsError, match=r"gone.pth: no such file. Train the VQ-VAE first"):
        video_based.build_method(gone).initialise(model)


def test_without_the_file_a_training_continues_and_says_so(
    movi: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    params = small_params("savi_ldm", movi, "d", f"dec_dict.vae_dict.vqvae_ckp_path={tmp_path}/gone.pth")
    training, _ = video_based.build_dataset(params)
    assert "latents" not in training.read(np.array([0]))
    assert f"note: dec_dict.vae_dict.vqvae_ckp_path: {tmp_path}/gone.pth: no such file." in capsys.readouterr().err
    video_based.build_dataset(small_params("savi", movi))
    assert capsys.readouterr().err == ""


def test_pictures_themselves_can_be_denoised(movi: Path, capsys: pytest.CaptureFixture) -> None:
    settings = ("dec_dict.vae_dict=None", "dec_dict.resolution=(32,32)", "train_batch_size=1")
    params = small_params("savi_ldm", movi, "d", *settings)
    training, _ = video_based.build_dataset(params)
    assert capsys.readouterr().err == "", "nothing is missing"
    model, method = diffusion_model(params), video_based.build_method(params)
    method.before_step(model, 0, 10)
    batch = to_device(training.read(np.array([0])), CPU)
    model.loss(batch, 0)["loss"].backward()
    assert float(model.init_latents.grad.norm()) > 0
    with torch.no_grad():
        assert model.generate(model.extract(batch)[:, :1], standard_normal(CPU), 2).shape == (1, 1, 3, 32, 32)


def test_solid_is_validated_on_all_of_its_test_videos(movi: Path) -> None:
    params = small_params("savi", movi, "solid")
    source = open_validation(params, 2)
    assert source.path.name == "test"
    assert source.clips.tolist() == [[video, start] for video in range(3) for start in (0, 2, 4)]
    assert source.read(np.array([4]))["mask"].shape == (1, 2, 32, 32)
    assert len(open_data(params, "test", 2)) == 3, "where the original looks at the first frames"
    assert open_validation(small_params("savi", movi), 2).path.name == "validation"
    with pytest.raises(ParamsError, match="did you mean 'movi'"):
        video_based.build_dataset(small_params("savi", movi, "d", "dataset=mov"))


def test_two_rates_and_what_is_frozen(movi: Path, weights: dict[str, Path]) -> None:
    params = diffusion_params(movi, weights, "lr=1e-4", "dec_lr=2e-4")
    model, method = diffusion_model(params), video_based.build_method(params)
    encoder, decoder = method.param_groups(model)
    names = {id(value): name for name, value in model.named_parameters()}
    assert (encoder["lr"], decoder["lr"], method.floor) == (1e-4, 2e-4, 0.0)
    assert not any(names[id(value)].startswith("dm_decoder") for value in encoder["params"])
    assert all(names[id(value)].startswith("dm_decoder.model.") for value in decoder["params"]), "no VQ-VAE"
    optimizer = torch.optim.Adam(method.param_groups(model))
    assert method.scalars(model, optimizer) == {"dec_lr": 2e-4}


def test_the_average_of_weights_moves_after_every_step(movi: Path, weights: dict[str, Path]) -> None:
    params = diffusion_params(movi, weights, "dec_dict.use_ema=True")
    model, method = diffusion_model(params), video_based.build_method(params)
    assert isinstance(method, FollowingMethod)
    assert not isinstance(video_based.build_method(diffusion_params(movi, weights)), FollowingMethod)
    with torch.no_grad():
        value = model.dm_decoder.model.diffusion_model.out[2].bias
        value += 1
    before = model.dm_decoder.model_ema.diffusion_modelout2bias.clone()
    method.after_step(model)
    share = 1 - 2 / 11
    torch.testing.assert_close(model.dm_decoder.model_ema.diffusion_modelout2bias, before.lerp(value.detach(), share))


def test_validation_scores_segmentations_of_clips(movi: Path, weights: dict[str, Path]) -> None:
    params = diffusion_params(movi, weights, "dec_dict.use_ema=True")
    model, method = diffusion_model(params).eval(), video_based.build_method(params)
    assert isinstance(method, SampleMethod)
    assert method.best_by == "fari"
    batch = to_device(open_validation(params, 2).read(np.array([0, 4])), CPU)
    model.noise = ImageNoise(0, range(2))
    with torch.no_grad():
        found = method.samples(model, batch)
        labels = hard_labels(model.segment(batch))
    assert {"loss", "denoise_loss", "denoise_loss_ema", "slots_used", "ari", "fari", "miou", "fmiou", "mbo"} <= set(
        found
    )
    expected = segmentation_scores(batch["mask"], labels)
    assert labels.shape == (2, 2, 32, 32)
    torch.testing.assert_close(found["fari"], expected["fari"], equal_nan=True)
    torch.testing.assert_close(found["miou"], expected["miou"])


def test_videos_of_diffusion(movi: Path, weights: dict[str, Path]) -> None:
    params = diffusion_params(movi, weights, "n_samples=3")
    model, method = diffusion_model(params).eval(), video_based.build_method(params)
    with torch.no_grad():
        assert "dpm_sample_video_recon_loss" not in method.videos(model), "not before training begins"
        method.before_step(model, 0, 10)
        videos = method.videos(model)
    error = videos.pop("dpm_sample_video_recon_loss")
    assert error.ndim == 0
    assert 0 < float(error) < 4
    side, line = 32, 2

    def size(columns: int) -> tuple[int, ...]:
        return (6, 3, 3 * (side + 2 * line), columns * (side + line) + line)

    assert videos["masked_video"].shape == videos["hard_masked_video"].shape == size(2 + 3)
    assert videos["video"].shape == size(2)
    assert videos["diffusion_row"].shape == size(1 + 6), "the frame, and noise of steps 0, 200, ..., 800, 999"
    assert videos["denoise_row"].shape == size(7), "a state after each step of the solver"
    assert videos["gt_masked_video"].shape[0] == 6
    assert all(video.dtype == torch.uint8 and int(video[0, :, 0].min()) == 255 for video in videos.values()), "white"


def test_lpips_is_given_to_a_vqvae_or_missed(movi: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    params = small_params("vqvae", movi, "d", "percept_loss_w=1.0")
    method = video_based.build_method(params)
    assert isinstance(method, PreparingMethod)
    with pytest.raises(ParamsError, match=r"(?s)percept_loss_w=1.0: LPIPS.*--set percept_loss_w=0"):
        method.prepare(video_based.build_model(params))
    plain = small_params("vqvae", movi)
    model = video_based.build_model(plain)
    video_based.build_method(plain).prepare(model)
    assert model.lpips is None


@pytest.mark.slow
def test_physion(videos: Path, weights: dict[str, Path]) -> None:
    path = f"dec_dict.vae_dict.vqvae_ckp_path={weights['vqvae']}"
    params = small_params("savi_ldm", videos / "Physion", "physion", path, "n_samples=1")
    training, validation = video_based.build_dataset(params)
    assert training.read(np.array([0]))["latents"].shape == (1, 2, 3, 8, 8)
    assert "mask" not in validation.read(np.array([0]))
    model, method = diffusion_model(params).eval(), video_based.build_method(params)
    batch = to_device(validation.read(np.array([0, 1])), CPU)
    with torch.no_grad():
        scores, shown = method.samples(model, batch), method.videos(model)
    assert method.best_by == "loss"
    assert "fari" not in scores
    assert "gt_masked_video" not in shown
    assert {"training", "readout"} == {subset for subset in SUBSETS if len(open_videos(params, subset)) == 2}
