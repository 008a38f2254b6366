"""SlotDiffusion learns to draw generated videos like MOVi-Tex's, at a small size.

Asked are the VQ-VAE's pictures and the loss of the denoiser. How well slots segment and what they generate is printed.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from slotdiffusion import video_based
from slotformer import original
from slotformer.framework.params import load_params, parse_overrides
from tests.conftest import Runner
from tests.slotdiffusion_runs import config_of
from tests.slotformer_runs import losses, rows

VIDEOS = ("--scenes", 600, "--frames", 8, "--width", 64, "--height", 64, "--samples", 4)
OBJECTS = ("--fewest", 2, "--most", 4, "--seed", 5)
RUN = (
    *("resolution=(64,64)", "video_len=8", "gpus=1", "num_workers=0", "train_batch_size=8", "n_samples=4"),
    *("san_check_val_step=0", "save_interval=1.0"),
)
AUTOENCODER = ("ch=32", "ch_mult=[1,1,2]", "num_res_blocks=1")
CODES = ("n_embed=512", "percept_loss_w=0.0")
VQVAE = (
    *(f"enc_dec_dict.{entry}" for entry in AUTOENCODER),
    *(f"vq_dict.{entry}" for entry in CODES),
    *("percept_loss_w=0.0", "val_batch_size=32", "lr=2e-3", "max_epochs=8", "eval_interval=2"),
)
SLOTS = (
    *("num_slots=5", "slot_size=64", "pred_dict.pred_num_heads=4"),
    *("enc_dict.enc_channels=(3,32,32,32,32)", "enc_dict.enc_ks=3", "enc_dict.enc_out_channels=64"),
)
UNET = ("model_channels=64", "channel_mult=(1,2)", "num_res_blocks=1", "attention_resolutions=(1,2)")
LATENTS = (
    *(f"dec_dict.vae_dict.enc_dec_dict.{entry}" for entry in AUTOENCODER),
    *(f"dec_dict.vae_dict.vq_dict.{entry}" for entry in CODES),
    *(f"dec_dict.unet_dict.{entry}" for entry in UNET),
    "dec_dict.diffusion_dict.z_scale_factor=0.15",  # of the latents, which training at length makes larger
)
DIFFUSION = ("val_batch_size=16", "lr=3e-4", "dec_lr=5e-4", "clip_grad=1.0", "max_epochs=4", "eval_interval=1")
MARGIN = 5.0
"""PSNR of the VQ-VAE above that of the mean picture of the training, in dB."""


def mean_psnr(pictures: torch.Tensor, others: torch.Tensor) -> float:
    return float((-10 * (pictures - others).square().mean(dim=(-3, -2, -1)).log10()).mean())


@pytest.mark.slow
def test_slotdiffusion_draws_what_it_sees(run: Runner, tmp_path: Path) -> None:
    """Clips of 64x64; three quarters of an hour of a core."""

    def do(script: str, *words: object) -> str:
        done = run(script, *words, cwd=tmp_path, timeout=5400, OMP_NUM_THREADS=1)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def train(kind: str, *settings: str) -> Path:
        words = ("--task", "video_based", "--params", config_of(kind, "tex"), "--name", kind, "--resident", "--bf16")
        do("slotdiffusion/scripts/train.py", *words, "--set", *settings)
        return tmp_path / "checkpoint" / kind / "models" / "best.pth"

    do("tools/make_data.py", "movi-tex", "--root", tmp_path, *VIDEOS, *OBJECTS, "--workers", os.cpu_count())
    common = (f"data_root={tmp_path}", *RUN)
    vqvae = train("vqvae", *common, *VQVAE)
    params = load_params(config_of("vqvae", "tex"), video_based.Keys, parse_overrides([*common, *VQVAE]))
    model = video_based.build_model(params).eval()
    model.load_state_dict(original.read_weights(vqvae, model))
    training, validation = video_based.build_dataset(params)
    mean = training.read(np.arange(0, len(training), 7))["video"].float().mean(dim=(0, 1)) / 255
    video = validation.read(np.arange(60))["video"].float() / 255
    with torch.no_grad():
        recon = model.decompose({"video": video}).recon
    ours, of_mean = mean_psnr(recon, video), mean_psnr(mean.expand_as(video), video)

    slots = (*common, *SLOTS, *LATENTS, f"dec_dict.vae_dict.vqvae_ckp_path={vqvae}")
    weight = train("savi_ldm", *slots, *DIFFUSION)
    words = ("--params", config_of("savi_ldm", "tex"), "--weight", weight)
    for script in ("test_seg", "test_recon"):
        print(do(f"slotdiffusion/video_based/{script}.py", *words, "--set", *slots, *DIFFUSION))
    config = config_of("savi_ldm", "tex").stem
    sampled = json.loads(weight.with_name(f"{weight.stem}-recon-{config}.json").read_text())["scores"]
    print(f"VQ-VAE {ours:.2f} dB, mean picture {of_mean:.2f} dB, sampled {sampled['psnr']:.2f} dB")
    assert ours > of_mean + MARGIN
    curve, fifth = losses(weight.parents[1]), len(losses(weight.parents[1])) // 5
    assert sum(curve[-fifth:]) < 0.5 * sum(curve[:fifth])
    assert any("val/fari" in row for row in rows(weight.parents[1]))
    assert np.isfinite(sampled["psnr"])
