"""The configurations of models of videos, and those that were written for the original."""

import importlib
import shlex
from pathlib import Path

import pytest

from slotdiffusion import video_based
from slotdiffusion.framework.frozen_codes import named_autoencoder
from slotdiffusion.framework.segmentation import named_data
from slotdiffusion.models.savi_diffusion import SAViDiffusion
from slotdiffusion.scripts import train
from slotdiffusion.video_based.data import open_beginnings
from slotformer.framework.params import BaseParams, ParamsError, load_params, parse_overrides
from slotformer.scripts.train import parse_arguments
from tests.conftest import ROOT
from tests.own_data import write_frame_folders
from tests.slotdiffusion_runs import small_params

CONFIGS = ROOT / "slotdiffusion" / "video_based" / "configs"
LEVELS = ("d", "e", "solid", "tex")
PUBLISHED = {
    "vqvae": {"gpus": 2, "max_epochs": 50, "lr": 1e-3, "train_batch_size": 32, "val_batch_size": 64, "clip_grad": -1.0},
    "dvae": {"gpus": 1, "max_epochs": 50, "lr": 1e-3, "train_batch_size": 64, "val_batch_size": 128},
    "savi": {"gpus": 1, "max_epochs": 30, "lr": 1e-4, "train_batch_size": 32, "val_batch_size": 64, "clip_grad": 0.05},
    "steve": {"gpus": 2, "max_epochs": 30, "dec_lr": 3e-4, "train_batch_size": 16, "val_batch_size": 32},
    "savi_ldm": {"gpus": 1, "max_epochs": 30, "dec_lr": 2e-4, "train_batch_size": 32, "val_batch_size": 32},
}
ORIGINAL = """
from nerv.training import BaseParams


class SlotAttentionParams(BaseParams):
    project = 'SlotDiffusion'
    gpus = 1
    max_epochs = 30
    save_interval = 0.1
    eval_interval = 1
    save_epoch_end = True
    n_samples = 8
    optimizer = 'Adam'
    lr = 1e-4
    dec_lr = 2e-4
    clip_grad = 0.05
    warmup_steps_pct = 0.05
    dataset = 'movi'
    data_root = './data/MOVi'
    movi_level = 'e'
    n_sample_frames = 3
    frame_offset = 1
    video_len = 24
    load_mask = True
    train_batch_size = 32 // gpus
    val_batch_size = train_batch_size
    num_workers = 8
    grad_accum_steps = 1
    model = 'SAViDiffusion'
    resolution = (32, 32)
    input_frames = n_sample_frames
    slot_size = 32
    slot_dict = dict(num_slots=15, slot_size=slot_size, slot_mlp_size=slot_size * 2, num_iterations=2)
    enc_dict = dict(resnet='resnet18', use_layer4=False, enc_out_channels=slot_size,
                    replace_stride_with_dilation=[False, False, False])
    pred_dict = dict(pred_type='transformer', pred_rnn=False, pred_norm_first=True, pred_num_layers=2,
                     pred_num_heads=4, pred_ffn_dim=slot_size * 4, pred_sg_every=None)
    dec_dict = dict(
        resolution=(resolution[0] // 4, resolution[1] // 4),
        vae_dict=dict(
            vae_type='VQVAE',
            enc_dec_dict=dict(resolution=resolution[0], in_channels=3, z_channels=3, ch=32, ch_mult=[1, 2, 4],
                              num_res_blocks=2, attn_resolutions=[], out_ch=3, dropout=0.0),
            vq_dict=dict(n_embed=64, embed_dim=3, percept_loss_w=1.0),
            vqvae_ckp_path='./pretrained/vqvae_movie_params-res128.pth',
        ),
        unet_dict=dict(in_channels=3, model_channels=32, out_channels=3, num_res_blocks=2,
                       attention_resolutions=(2,), dropout=0.1, channel_mult=(1, 2), dims=2, use_checkpoint=False,
                       num_head_channels=32, resblock_updown=False, conv_resample=True, transformer_depth=1,
                       context_dim=slot_size, n_embed=None),
        use_ema=False,
        diffusion_dict=dict(pred_target='eps', z_scale_factor=1., timesteps=1000, beta_schedule='linear',
                            linear_start=0.0015, linear_end=0.0195, cosine_s=8e-3, log_every_t=200, logvar_init=0.),
        conditioning_key='crossattn',
        cond_stage_key='slots',
    )
    loss_dict = dict(use_denoise_loss=True)
    denoise_loss_w = 1.
    use_dpm = False
"""


def load(path: Path, *settings: str) -> BaseParams:
    return load_params(path, video_based.Keys, parse_overrides(settings))


@pytest.mark.parametrize("kind", sorted(PUBLISHED))
def test_the_published_values(kind: str) -> None:
    for level in LEVELS:
        params = load(CONFIGS / kind / f"{kind}_movi{level}_params-res128")
        found = params.to_dict()
        assert {key: found[key] for key in PUBLISHED[kind]} == PUBLISHED[kind]
        is_steve = level in ("solid", "tex")
        assert (params.dataset, params.movi_level.lower()) == ("steve_movi" if is_steve else "movi", level)
        assert params.n_sample_frames == (1 if "vae" in kind else 3)
        if "slot_dict" in params:
            assert params.slot_dict["num_slots"] == (12 if is_steve else 15)
            assert params.enc_dict.get("resnet", "") == ("" if is_steve else "resnet18")
            assert video_based.build_method(params).best_by == "fari"
        if kind == "savi_ldm":
            path = params.dec_dict["vae_dict"]["vqvae_ckp_path"]
            assert path == f"./pretrained/vqvae_movi{level}_params-res128.pth"


def test_physion() -> None:
    vqvae = load(CONFIGS / "vqvae" / "vqvae_physion_params-res128")
    diffusion = load(CONFIGS / "savi_ldm" / "savi_ldm_physion_params-res128")
    assert (vqvae.max_epochs, vqvae.lr, vqvae.train_batch_size, vqvae.video_len) == (20, 5e-4, 32, 150)
    assert (diffusion.max_epochs, diffusion.train_batch_size, diffusion.slot_dict["num_slots"]) == (10, 24, 8)
    method = video_based.build_method(diffusion)
    assert (method.fps, method.floor, method.best_by) == (16, 0.0, "loss")


def test_what_follows_from_a_key_follows_its_override() -> None:
    config = CONFIGS / "savi_ldm" / "savi_ldm_movid_params-res128.py"
    params = load(config, "slot_size=64", "resolution=(64,64)", "dec_dict.unet_dict.model_channels=64")
    assert params.dec_dict["unet_dict"]["context_dim"] == params.enc_dict["enc_out_channels"] == 64
    assert params.dec_dict["resolution"] == (16, 16)
    assert params.dec_dict["unet_dict"]["model_channels"] == 64
    assert params.dec_dict["unet_dict"]["num_head_channels"] == 32
    assert load(config).slot_size == 192, "nothing stays from the call before"
    with pytest.raises(ParamsError, match="did you mean 'slot_size'"):
        load(config, "slot_sizes=64")


def test_a_file_of_the_original(tmp_path: Path) -> None:
    path = tmp_path / "savi_ldm_mine_params-res128.py"
    path.write_text(ORIGINAL)
    params = load(path)
    for _ in range(2):  # building changes no configuration
        model = video_based.build_model(params)
    assert isinstance(model, SAViDiffusion)
    assert model.init_latents.shape == (1, 15, 32)
    assert model.clip_len == 3
    assert video_based.build_method(params).floor == 0.0


def test_the_readme_trains_what_others_stand_on() -> None:
    """Followed in order, its commands find every frozen autoencoder."""
    text = (ROOT / "slotdiffusion" / "README.md").read_text().replace("\\\n", " ")
    made, checked = set(), 0
    for words in (shlex.split(line) for line in text.splitlines() if line.startswith("python slotdiffusion/scripts")):
        if "--task" not in words or words[words.index("--task") + 1] == "vp_vqa":
            continue
        arguments = parse_arguments(words[2:], train.SCRIPT, "", train.TASKS)
        keys = importlib.import_module(f"slotdiffusion.{arguments.task}").Keys
        params = load_params(ROOT / arguments.params, keys, parse_overrides(arguments.set))
        if named := named_autoencoder(params):
            assert named[1] in made, arguments.params
            checked += 1
        made.add(f"checkpoint/{Path(arguments.params).stem}/models/best.pth")
    assert checked == 5


def test_what_is_scored_has_a_name(movi: Path, tmp_path: Path) -> None:
    assert named_data(BaseParams({"dataset": "folder", "data_root": "mine"})) == {
        "dataset": "folder",
        "data_root": "mine",
    }
    assert named_data(BaseParams({"dataset": "voc"})) == {"dataset": "voc"}
    assert named_data(small_params("savi", movi, "solid")) == {"dataset": "steve_movi Solid"}
    clips = write_frame_folders(tmp_path / "clips" / "test", 3, 6, (40, 48), tmp_path / "clips" / "masks" / "test")
    folder = small_params("savi", clips.parent, "d", "dataset=folder", "video_len=24")
    for params in (folder, small_params("savi", movi)):
        params.load_mask = True
        sources = open_beginnings(params, [2, -1])
        assert {length: (len(source), source.num_frames) for length, source in sources.items()} == {
            2: (3, 2),
            6: (3, 6),
        }, "a clip of each video, from its beginning"
        with pytest.raises(ParamsError, match="--seq_len 30: the test videos have 6 frames"):
            open_beginnings(params, [30])


def test_the_perceptual_weight_of_both_places() -> None:
    config = CONFIGS / "vqvae" / "vqvae_movie_params-res128"
    small = ("enc_dec_dict.ch=32", "enc_dec_dict.num_res_blocks=1", "enc_dec_dict.ch_mult=[1,1]", "vq_dict.n_embed=8")
    weights = [
        video_based.build_model(load(config, *small, *settings)).percept_loss_w
        for settings in ((), ("percept_loss_w=0",), ("vq_dict.percept_loss_w=0",))
    ]
    assert weights == [1.0, 0.0, 0.0]
    with pytest.raises(ParamsError, match="did you mean 'VQVAE'"):
        video_based.build_model(load(config, "model=VQVEA"))
