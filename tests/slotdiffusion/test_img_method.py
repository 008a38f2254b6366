"""What frozen autoencoders say of the training pictures, and how models of pictures are trained and validated."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.loader import to_device
from core.metrics.segmentation import hard_labels, segmentation_scores
from core.nn.noise import ImageNoise
from core.training.checkpoint import CheckpointError, save
from slotdiffusion import img_based
from slotdiffusion.img_based import encoded_pictures
from slotdiffusion.models.dino import DINOEncoder, VisionTransformer
from slotdiffusion.models.vqvae import VQVAE
from slotformer.base_slots.models.dvae import dVAE
from slotformer.framework.params import ParamsError, load_params
from slotformer.framework.tasks import FollowingMethod, PreparingMethod, SampleMethod
from tests.slotdiffusion_runs import PICTURE_CONFIGS, small_picture_params
from tests.tiny_diffusion import trained

CPU = torch.device("cpu")
CONFIGS = sorted(PICTURE_CONFIGS.glob("*/*_params-res*.py"))
LINE, SIDE = 2, 32


@pytest.fixture(scope="module")
def weights(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a VQ-VAE and of a dVAE, untrained."""
    folder, found = tmp_path_factory.mktemp("weights"), {}
    for kind in ("vqvae", "dvae"):
        torch.manual_seed(0)
        model = trained(img_based.build_model(small_picture_params(kind, scenes)))
        found[kind] = folder / f"{kind}.pth"
        save(found[kind], {"model": model.state_dict()})
    return found


def diffusion_params(scenes: Path, weights: dict[str, Path], *settings: str):
    path = f"dec_dict.vae_dict.vqvae_ckp_path={weights['vqvae']}"
    return small_picture_params("sa_ldm", scenes, path, *settings)


def built(params) -> torch.nn.Module:
    torch.manual_seed(1)
    model = trained(img_based.build_model(params))
    img_based.build_method(params).initialise(model)
    return model


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_published_configurations_make_models(config: Path) -> None:
    params = load_params(config, img_based.Keys)
    with torch.device("meta"):
        model = img_based.build_model(params)
    method = img_based.build_method(params)
    assert config.stem.startswith({"SADiffusion": "sa_ldm"}.get(params.model, params.model.lower()))
    has_slots = params.model in ("SA", "SLATE", "SADiffusion")
    assert isinstance(method, SampleMethod) == has_slots
    if has_slots:
        assert method.best_by == ("loss" if params.dataset == "celeba" else "fari")
        assert model.init_latents.shape[1:] == (params.num_slots, params.slot_size)
        groups = [group["lr"] for group in method.param_groups(model)]
        assert groups == ([params.lr, params.dec_lr] if "dec_lr" in params else [params.lr])
        assert method.floor == (0.01 if params.model == "SA" else 0.0)


def test_latents_come_with_the_training_pictures(
    scenes: Path, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = diffusion_params(scenes, weights)
    training, validation = img_based.build_dataset(params)
    model = built(params).eval()
    chosen = np.array([7, 0, len(training) - 1])
    batch = to_device(training.read(chosen), CPU)
    assert batch["latents"].shape == (3, 3, 8, 8)
    plain = {"image": batch["image"]}
    torch.testing.assert_close(model.dm_decoder.clean({"latents": batch["latents"]}), model.dm_decoder.clean(plain))
    losses = []
    for given in (batch, plain):
        model.noise = ImageNoise(0, range(3))
        losses.append(model.loss(given, 0)["loss"])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    assert validation.read(np.array([0])).keys() == {"image", "mask"}
    without, _ = img_based.build_dataset(diffusion_params(scenes, weights, "cache_latents=False"))
    assert without.read(chosen).keys() == {"image"}
    monkeypatch.setattr(VQVAE, "encode", None)
    again = img_based.build_dataset(params)[0].read(chosen)
    assert torch.equal(again["latents"], batch["latents"]), "made once for weights and pictures"


def test_words_come_with_the_pictures_of_slate(scenes: Path, weights: dict[str, Path]) -> None:
    params = small_picture_params("slate", scenes, f"dvae_dict.dvae_ckp_path={weights['dvae']}")
    batch = to_device(img_based.build_dataset(params)[0].read(np.array([5, 1])), CPU)
    model = dVAE(32)
    model.load_state_dict(torch.load(weights["dvae"], weights_only=True)["model"])
    expected = model.eval().tokenize(2 * batch["image"] - 1).flatten(1)
    assert torch.equal(batch["token_id"].long(), expected)


def test_varied_pictures_have_no_latents(
    scenes: Path, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    training, validation = encoded_pictures.data.build_dataset(diffusion_params(scenes, weights))

    class Varied:
        def __len__(self) -> int:
            return len(training)

        def read(self, indices: np.ndarray) -> dict:
            return training.read(indices)

        def read_varied(self, indices: np.ndarray, generators: list) -> dict:
            return training.read(indices)

    varied = Varied()
    monkeypatch.setattr(encoded_pictures.data, "build_dataset", lambda params: (varied, validation))
    assert img_based.build_dataset(diffusion_params(scenes, weights))[0] is varied


def test_another_autoencoder_than_the_checkpoints_is_an_error(scenes: Path, weights: dict[str, Path]) -> None:
    params = diffusion_params(scenes, weights)
    model = built(params)
    img_based.build_method(params).before_step(model, 0, 10)
    with torch.no_grad():
        model.dm_decoder.vae.vqvae.encoder.conv_in.weight += 1
    with pytest.raises(CheckpointError, match="holds another autoencoder than the checkpoint"):
        img_based.build_method(params).before_step(model, 0, 10)


@pytest.mark.parametrize("kind", ["sa", "slate", "sa_ldm", "dvae", "vqvae"])
def test_two_steps_change_what_is_trained(scenes: Path, weights: dict[str, Path], kind: str) -> None:
    paths = {
        "slate": (f"dvae_dict.dvae_ckp_path={weights['dvae']}",),
        "sa_ldm": (f"dec_dict.vae_dict.vqvae_ckp_path={weights['vqvae']}", "dec_dict.use_ema=True"),
    }
    params = small_picture_params(kind, scenes, *paths.get(kind, ()))
    model, method = built(params), img_based.build_method(params)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.Adam(method.param_groups(model))
    training, _ = img_based.build_dataset(params)
    for step in range(2):
        method.before_step(model, step, 2)
        optimizer.zero_grad()
        model.loss(to_device(training.read(np.arange(4 * step, 4 * step + 4)), CPU), step)["loss"].backward()
        optimizer.step()
        if isinstance(method, FollowingMethod):
            method.after_step(model)
    stays = {name for name, value in model.named_parameters() if torch.equal(value, before[name])}
    frozen = {"slate": "dvae.", "sa_ldm": "dm_decoder.vae."}.get(kind)
    blind = "slot_attention.project_q.0.bias"  # the softmax over slots does not see it
    assert {name for name in stays if name != blind} == {name for name in before if frozen and name.startswith(frozen)}
    assert isinstance(method, FollowingMethod) == (kind == "sa_ldm")
    assert ("dec_lr" in method.scalars(model, optimizer)) == (kind in ("slate", "sa_ldm"))


def test_validation_scores_objects_and_classes(scenes: Path, weights: dict[str, Path]) -> None:
    params = diffusion_params(scenes, weights)
    model, method = built(params).eval(), img_based.build_method(params)
    assert method.best_by == "fari"
    batch = to_device(img_based.build_dataset(params)[1].read(np.array([0, 1])), CPU)
    batch |= {"semantic": (batch["mask"] > 0).byte(), "overlap": torch.zeros_like(batch["mask"])}
    batch["overlap"][:, :8] = 1
    model.noise = ImageNoise(0, range(2))
    with torch.no_grad():
        found = method.samples(model, batch)
        labels = hard_labels(model.segment(batch))
    expected = segmentation_scores(batch["mask"], labels, batch["overlap"])
    torch.testing.assert_close(found["miou"], expected["miou"])
    of_classes = segmentation_scores(batch["semantic"], labels, batch["overlap"])
    torch.testing.assert_close(found["sem/mbo"], of_classes["mbo"])
    assert {"loss", "denoise_loss", "slots_used", "ari", "fari", "fmiou", "sem/fari"} <= set(found)


def test_pictures_of_diffusion(scenes: Path, weights: dict[str, Path]) -> None:
    params = diffusion_params(scenes, weights)
    model, method = built(params).eval(), img_based.build_method(params)
    with torch.no_grad():
        assert "dpm_sample_img_recon_loss" not in method.videos(model), "not before training begins"
        method.before_step(model, 0, 10)
        shown = method.videos(model)
    error = shown.pop("dpm_sample_img_recon_loss")
    assert error.ndim == 0
    assert 0 < float(error) < 4

    def size(columns: int) -> tuple[int, ...]:
        return (3, 2 * (SIDE + 2 * LINE), columns * (SIDE + LINE) + LINE)

    sizes = {"imgs": 2 + 3, "recon": 2, "diffusion_row": 1 + 6, "denoise_row": 7}
    assert {name: picture.shape for name, picture in shown.items()} == {
        name: size(columns) for name, columns in sizes.items()
    }
    assert all(picture.dtype == torch.uint8 and int(picture[:, 0].min()) == 255 for picture in shown.values()), "white"


@pytest.mark.parametrize(
    ("kind", "sizes"), [("sa", {"imgs": 4 + 3}), ("slate", {"imgs": 5, "recon": 2}), ("dvae", {"imgs": 2})]
)
def test_pictures_of_the_others(scenes: Path, weights: dict[str, Path], kind: str, sizes: dict[str, int]) -> None:
    settings = (f"dvae_dict.dvae_ckp_path={weights['dvae']}",) if kind == "slate" else ()
    params = small_picture_params(kind, scenes, *settings)
    model, method = built(params).eval(), img_based.build_method(params)
    with torch.no_grad():
        shown = method.videos(model)
    assert (shown.pop("sample_img_recon_loss", None) is not None) == (kind == "slate")
    assert {name: picture.shape[-1] for name, picture in shown.items()} == {
        name: columns * (SIDE + LINE) + LINE for name, columns in sizes.items()
    }


def test_dino_is_loaded_or_missed(
    scenes: Path, weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    dino = ("enc_dict.dino=dino-vits8", "enc_dict.patch_size=8", "enc_dict.small_size=True")
    params = diffusion_params(scenes, weights, *dino)
    with torch.device("meta"):
        model = img_based.build_model(params)
    with pytest.raises(ParamsError, match=r"(?s)dino='dino-vits8'.*dino_deitsmall8_pretrain.*--set dino_ckp_path=FILE"):
        img_based.build_method(params).initialise(model)
    with pytest.raises(ParamsError, match="did you mean 'dino_ckp_path'"):
        diffusion_params(scenes, weights, *dino, "dino_ckpt_path=x")
    save(tmp_path / "vit.pth", VisionTransformer(384, 12, 6, 1536).state_dict())
    params = diffusion_params(scenes, weights, *dino, f"dino_ckp_path={tmp_path}/vit.pth")
    model = img_based.build_model(params)
    img_based.build_method(params).initialise(model)
    assert isinstance(model.encoder, DINOEncoder)
    expected = torch.load(tmp_path / "vit.pth", weights_only=True)["layernorm.bias"]
    assert torch.equal(model.encoder.dino.layernorm.bias, expected)
    trained_names = {
        id(value) for group in img_based.build_method(params).param_groups(model) for value in group["params"]
    }
    assert not any(id(value) in trained_names for value in model.encoder.parameters()), "frozen"


def test_lpips_is_missed(scenes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    params = small_picture_params("vqvae", scenes, "percept_loss_w=1.0")
    method = img_based.build_method(params)
    assert isinstance(method, PreparingMethod)
    with pytest.raises(ParamsError, match=r"(?s)percept_loss_w=1.0: LPIPS.*--set percept_loss_w=0"):
        method.prepare(img_based.build_model(params))
