"""Checkpoints as the five original code bases write them become runs of ours, which give the recorded numbers."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from clevrtex.original.marionette import from_original
from core.runs import RunRecord, load_model
from core.training.checkpoint import load
from osrt.config import load_config
from osrt.data import published_inputs
from osrt.models.light_field import LightField
from tests.conftest import ROOT
from tests.parity import clevrtex_iodine, clevrtex_marionette, clevrtex_slota, osrt_models
from tests.parity.clevrtex_models import in_order, tolerance
from tests.parity.emorl_metrics import close
from tests.parity.golden import Case, cases
from tests.parity.slotdiffusion_cases import close as close_pictures
from tests.parity.slotformer_savi import close as close_slots
from tests.parity.slotformer_savi import noise_of
from tests.parity.test_emorl import image_of
from tests.parity.test_emorl import noise_of as emorl_noise
from tools.import_weights import main

Opened = tuple[nn.Module, RunRecord]


def case_of(system: str, name: str) -> Any:
    """The parameter of one golden case; skipped where the golden folder has none of this name."""
    found = [parameter for parameter in cases(system) if parameter.values[0] is None or parameter.id == name]
    return found[0] if found else pytest.param(None, marks=pytest.mark.skip(reason=f"no golden case {system}/{name}"))


def imported(checkpoint: dict[str, Any], paper: str, config: Path | str, folder: Path, *settings: str) -> Opened:
    """What the command makes of a checkpoint, opened again from the folder of the run."""
    file = folder / "original.pth"
    torch.save(checkpoint, file)
    words = [str(file), "--paper", paper, "--config", str(config), "--out", str(folder / "run")]
    assert main([*words, *(("--set", *settings) if settings else ())]) == 0
    model, record = load_model(folder / "run")
    assert record.paper == record.source["paper"] == paper
    assert record.source["file"] == str(file)
    assert len(record.source["sha256"]) == 64
    return model, record


def with_module(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{key}": value for key, value in state.items()}


@pytest.mark.parametrize("case", [case_of("emorl", "emorl-gauss-small-I3-eval")])
def test_efficient_morl(case: Case, tmp_path: Path):
    """The file of a training on several GPUs; its Adam has no state for GECO's two scalars, the first parameters."""
    net, state = case.info["net_config"], case.tensors("state/")
    names = [key for key in state if not any(word in key for word in ("generation_relation", "gru.cell.zeros"))]
    moments = {
        number: {"step": 7, "exp_avg": torch.full_like(state[name], 0.5), "exp_avg_sq": torch.ones_like(state[name])}
        for number, name in enumerate(names)
        if "geco" not in name
    }
    groups = [{"lr": 4e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "params": list(range(len(names)))}]
    config = tmp_path / "EMORL.json"
    call = case.info["call"]
    training = {"use_geco": bool(call["geco"]), "kl_beta_init": call["kl_beta"], "refinement_curriculum": []}
    if geco := call["geco"]:
        training |= {
            "geco_reconstruction_target": geco["target_per_dim"],
            "geco_ema_alpha": geco["alpha"],
            "geco_step_size_acceleration": geco["step_size_acceleration"],
        }
    config.write_text(json.dumps({"Net": net, "training": training}))
    content = {
        "step": 200000,
        "model": with_module(state),
        "model_opt": {"state": moments, "param_groups": groups},
        "kl_beta": 1,
    }
    model, record = imported(content, "emorl", config, tmp_path)
    assert record.inputs == {"kind": "images", "size": net["input_size"][1:]}
    image = image_of(case)
    found = model(image, call["global_step"], noise=emorl_noise(case), images_per_mean=len(image))
    close(found.nll.mean(), case["out/nll"])
    close(found.kl.mean(), case["out/kl"])
    close(found.parameters[0], case["out/lambda_hvae"])
    saved = load(tmp_path / "run/weights/imported-state-200000.pth")
    assert saved["step"] == 200000
    adam = torch.optim.Adam(model.parameters(), fused=True)
    adam.load_state_dict(saved["optimizer"])
    assert all(torch.equal(adam.state[value]["exp_avg"], torch.full_like(value, 0.5)) for value in model.parameters())


@pytest.mark.parametrize("case", [case_of("emorl", "slotattention-small")])
def test_slot_attention_of_emorl(case: Case, tmp_path: Path):
    config = tmp_path / "SlotAttention.json"
    config.write_text(json.dumps({"Net": case.info["net_config"], "test": {"model": "SlotAttention"}}))
    model, record = imported({"step": 5, "model": with_module(case.tensors("state/"))}, "emorl", config, tmp_path)
    assert record.inputs["size"] == case.info["net_config"]["input_size"][1:]
    found = model.decompose({"image": image_of(case)}, emorl_noise(case))
    close(found.slots, case["out/slots"])
    close(found.rgb, case["out/x_means"])


def lightning(case: Case, hyper_parameters: dict[str, Any]) -> dict[str, Any]:
    """A file as Lightning writes it, but for the callbacks' states."""
    state = {f"model.{key}": value for key, value in case.tensors("state/").items()}
    return {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "1.2.9",
        "state_dict": state,
        "callbacks": {},
        "optimizer_states": [{}],
        "lr_schedulers": [],
        "hyper_parameters": hyper_parameters,
    }


@pytest.mark.parametrize("case", [case_of("clevrtex", "slota-resize-eval")])
def test_slot_attention_of_clevrtex(case: Case, tmp_path: Path):
    config = case.info["config"]
    height, width = config["input_shape"][1:]
    kept = {"slots": config["num_slots"], "num_iter": config["num_iterations"], "data": f"clevr-({height},{width})"}
    sizes = (f"width={config['hidden']}", f"decoder_grid={config['decoder_initial_size'][0]}")
    assert config["mlp_hidden"] == 2 * config["hidden"]
    content = lightning(case, kept)
    model, record = imported(content, "clevrtex", "slota", tmp_path, *sizes)
    assert record.inputs == {"kind": "images", "size": [height, width]}
    found = model(case["in/x"], in_order([case["in/slot_noise"]]))
    limits = tolerance(case, "rtol")
    torch.testing.assert_close(found.recon, case["out/canvas"], **limits)
    torch.testing.assert_close(found.masks[:, :, None], case["out/masks"], **limits)
    assert load(tmp_path / "run/checkpoints/last.ckpt")["step"] == 11
    theirs = clevrtex_slota.build(case).state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("case", [case_of("clevrtex", "iodine-eval")])
def test_iodine(case: Case, tmp_path: Path):
    """As the original computes it: the model's switch is set, and written down."""
    config = case.info["config"]
    height, width = config["input_size"][1:]
    kept = {
        "data": f"clevr-({height},{width})",
        "std": math.exp(config["log_scale"]),
        **{flag: config[flag] for flag in ("z_size", "K", "inference_iters", "lstm_dim", "conv_channels")},
        "kl_beta": float(config["kl_beta"]),
    }
    model, record = imported(lightning(case, kept), "clevrtex", "iodine", tmp_path)
    assert model.as_original
    assert record.source["as_original"] is True
    found = model(case["in/x"], in_order(case["in/eps"]))
    ours = clevrtex_iodine.outputs_of(found)
    for name in ("canvas", "masks", "patches"):
        torch.testing.assert_close(ours[name], case[f"out/{name}"], rtol=2e-4, atol=1e-4)
    torch.testing.assert_close(ours["loss"], case["out/loss"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("case", [case_of("clevrtex_sprites", "marionette_no_stn")])
def test_marionette(case: Case, tmp_path: Path):
    """Two files, of the model and of its backgrounds; the sizes are those of the weights."""
    state, config = case.tensors("state/"), case.info["config"]
    of_model = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    of_ground = {
        key.removeprefix("background."): value for key, value in state.items() if key.startswith("background.")
    }
    for part, weights in (("model", of_model), ("bg", of_ground)):
        (tmp_path / part).mkdir()
        content = {"model": weights, "meta": None, "extras": {"epoch": 4}, "optimizers": [], "schedulers": []}
        torch.save(content, tmp_path / part / "epoch_3.pth")
    words = ["--paper", "clevrtex", "--config", "marionette", "--out", str(tmp_path / "run")]
    assert main([str(tmp_path / "model/epoch_3.pth"), *words]) == 0
    model, record = load_model(tmp_path / "run")
    assert record.inputs["size"] == [config["canvas_size"]] * 2
    theirs = from_original(state)
    assert theirs.keys() == model.state_dict().keys()
    assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items())
    image = case["in/image"]
    ours = clevrtex_marionette.outputs_of(model, model(image), image, clevrtex_marionette.noise_of(case))
    step = 2
    theirs = case[f"out/reconstruction@{step}"]
    torch.testing.assert_close(ours["reconstruction"][..., ::step, ::step], theirs, rtol=0, atol=2e-4)


def settings_of(case: Case) -> list[str]:
    """The configuration of a case of SlotFormer or SlotDiffusion, as words of `--set`."""
    config = {key: value for key, value in case.info["config"].items() if key != "clip_len"}
    words = [f"{key}={tuple(value) if isinstance(value, list) else value}" for key, value in config.items()]
    return [*words, f"input_frames={case.info['config'].get('clip_len', 1)}"]


@pytest.mark.parametrize("case", [case_of("slotformer", "savi-obj3d"), case_of("slotformer", "stosavi-clevrer-eps")])
def test_savi(case: Case, tmp_path: Path):
    is_clevrer = "clevrer" in case.name
    config = ROOT / f"slotformer/base_slots/configs/{'stosavi_clevrer' if is_clevrer else 'savi_obj3d'}_params.py"
    content = {"state_dict": case.tensors("state/")}
    model, record = imported(content, "slotformer", config, tmp_path, *settings_of(case))
    assert record.inputs.get("channels") == ("bgr" if is_clevrer else None)
    assert record.source["as_original"] is is_clevrer
    batch = {"video": case["in/img"] / 2 + 0.5}
    close_slots(case, "eval_post_slots", model.extract(batch, noise_of(case)))
    track = model.track(case["in/img"], noise_of(case))
    close_slots(case, "post_recon_combined", model.decode(track.slots).recon)


@pytest.mark.parametrize("case", [case_of("slotformer", "steve-imgrecon")])
def test_steve_bare(case: Case, tmp_path: Path):
    """A state dict alone, as later releases write it at the end of an epoch, of several processes."""
    config = ROOT / "slotformer/base_slots/configs/steve_physion_params.py"
    settings = settings_of(case)
    model, _ = imported(with_module(case.tensors("state/")), "slotformer", config, tmp_path, *settings)
    assert (tmp_path / "run/models/model_0.pth").is_file()
    close_slots(case, "slots", model.extract({"video": case["in/img"] / 2 + 0.5}))


@pytest.mark.parametrize("case", [case_of("slotdiffusion", "savi")])
def test_savi_of_slotdiffusion(case: Case, tmp_path: Path):
    config = ROOT / "slotdiffusion/video_based/configs/savi/savi_movisolid_params-res128.py"
    content = {"state_dict": case.tensors("state/"), "it": 40, "epoch": 2}
    model, record = imported(content, "slotdiffusion", config, tmp_path, *settings_of(case))
    assert record.inputs == {"kind": "videos", "size": case.info["config"]["resolution"]}
    slots = model.track(case["in/img"], in_order([])).slots
    close_pictures(case, "slots", slots)
    pictures = model.decode(slots)
    close_pictures(case, "recon_img", pictures.recon[: len(case["out/recon_img"])])
    assert load(tmp_path / "run/models/model_40.pth")["step"] == 39


@pytest.mark.parametrize("case", [case_of("slotdiffusion", "savi-diffusion")])
def test_slotdiffusion(case: Case, tmp_path: Path):
    config = ROOT / "slotdiffusion/video_based/configs/savi_ldm/savi_ldm_movisolid_params-res128.py"
    theirs = case.tensors("state/")
    for key, dtype in case.info.get("state_dtypes_not_float32", {}).items():
        theirs[key] = theirs[key].to(getattr(torch, dtype))
    content = {"state_dict": theirs}
    model, record = imported(content, "slotdiffusion", config, tmp_path, *settings_of(case))
    assert record.source["as_original"] is True
    assert model.dm_decoder.network_timesteps == 1000
    batch = {"video": case["in/img"] / 2 + 0.5}
    close_pictures(case, "eval_slots", model.extract(batch))
    assert torch.equal(model.segment(batch).argmax(dim=2), case["out/eval_seg"].long())


@pytest.mark.parametrize("case", [case_of("osrt", "osrt-checkpoint")])
def test_osrt(case: Case, tmp_path: Path):
    """The very bytes of a model.pt; the loss of its next step, and Adam's moments come along."""
    file, config = tmp_path / "model.pt", tmp_path / "config.yaml"
    file.write_bytes(case["in/model_pt"].numpy().tobytes())
    given = case.info["config"]["model"]
    values = yaml.safe_load((ROOT / "osrt/runs/clevr3d/osrt/config.yaml").read_text())
    sizes = (
        osrt_models.encoder_sizes(case, given["encoder"]),
        osrt_models.sizes(case, osrt_models.DECODER_SIZES[given["decoder"]]),
    )
    values["model"] = given | {
        "encoder_kwargs": given["encoder_kwargs"] | sizes[0],
        "decoder_kwargs": given["decoder_kwargs"] | sizes[1],
    }
    config.write_text(yaml.safe_dump(values))
    words = [str(file), "--paper", "osrt", "--config", str(config), "--out", str(tmp_path / "run")]
    assert main(words) == 0
    model, record = load_model(tmp_path / "run")
    assert isinstance(model, LightField)
    assert record.inputs == published_inputs(load_config(config).data)
    assert record.inputs["stride"] == 2
    batch = {name: value for name, value in case.tensors("in/").items() if name != "model_pt"}
    loss = model.train().loss(batch, 5)["loss"]
    torch.testing.assert_close(loss.double(), case["out/loss_after_resume"][0], rtol=1e-5, atol=0)
    saved = load(tmp_path / "run/model.pt")
    assert saved["step"] == load(file)["it"]
    assert len(saved["optimizer"]["state"]) == len(list(model.parameters()))
