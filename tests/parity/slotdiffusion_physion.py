"""Checks of SlotDiffusion's models of Physion: the roll-out of slots, and the read-out."""

from pathlib import Path

import torch

from slotdiffusion.vp_vqa import build_method, build_model
from slotformer import original
from slotformer.framework.params import BaseParams
from slotformer.video_prediction.models.rollouter import sinusoidal_codes
from tests.parity.golden import Case, Check
from tests.parity.slotdiffusion_cases import check_gradients, close, gradients_of
from tests.tiny_diffusion import DECODER, UNET


def check_dynamics(case: Case, tmp_path: Path) -> None:
    """The decoder is not part of the case: a small one is there, and takes no part."""
    config = case.info["config"]
    decoder = DECODER | {"unet_dict": UNET | {"context_dim": config["rollout_dict"]["slot_size"]}}
    given = {"rollout_dict": config["rollout_dict"], "loss_dict": {"rollout_len": config["rollout_len"]}}
    params = {"model": "LDMSlotFormer", "dropout": 0.0, "dec_dict": decoder, "resolution": (32, 32), **given}
    model = build_model(BaseParams(params)).train(case.info["mode"] == "train")
    theirs = case.tensors("state/")
    assert {name: value.shape for name, value in model.rollouter.state_dict(prefix="rollouter.").items()} == {
        name: value.shape for name, value in theirs.items()
    }
    model.load_state_dict(model.state_dict() | theirs)
    slots = case["in/slots"]
    terms = model.loss({"slots": slots}, 0)
    torch.testing.assert_close(terms["loss"], terms["slot_recon_loss"])
    ours = {"pred_slots": model.rollout(slots[:, : model.history_len], model.rollout_len), **terms}
    ours["sin_pe"] = sinusoidal_codes(*case["out/sin_pe"].shape[1:])
    for name in case.tensors("out/"):
        close(case, name, ours[name])
    terms["loss"].backward()
    gradients = gradients_of(model)
    assert all(name.startswith("rollouter.") for name in gradients), "the decoder is frozen"
    check_gradients(case, gradients)


def check_readout(case: Case, tmp_path: Path) -> None:
    params = BaseParams({"model": "PhysionReadout", "readout_dict": case.info["config"], "frame_offset": 1})
    model, theirs = build_model(params), case.tensors("state/")
    model.load_state_dict(original.import_state(model, theirs))
    exported = original.export_state(model)
    assert exported.keys() == theirs.keys()
    for name, value in exported.items():
        assert value.equal(theirs[name].to(value.dtype)), name
        assert str(value.dtype).endswith(case.info["state_dtypes_not_float32"].get(name, "float32"))
    batch = {"slots": case["in/slots"], "label": case["in/label"], "scenario": torch.zeros_like(case["in/label"])}
    terms = model.loss(batch, 0)
    terms["loss"].backward()
    check_gradients(case, gradients_of(model))
    with torch.no_grad():
        samples = build_method(params).samples(model.eval(), batch)
    means = {name: values.mean() for name, values in samples.items() if len(values)}
    ours = {**means, **terms, "logits": model.answer(batch["slots"])}
    for name in case.tensors("out/"):
        close(case, name, ours[name])


CHECKS: dict[str, Check] = {"ldm-slotformer": check_dynamics, "physion-readout": check_readout}
