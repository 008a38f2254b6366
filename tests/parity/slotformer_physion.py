"""Checks of the read-out of Physion: logits, loss, gradients, five steps, and how threshold and weight are chosen."""

from pathlib import Path

import numpy as np
import torch

from slotformer.framework.params import BaseParams
from slotformer.physion_vqa import build_method, build_model
from slotformer.physion_vqa.evaluation import accuracies, accuracies_by_scenario, choose, is_right
from slotformer.physion_vqa.method import ReadoutMethod
from slotformer.physion_vqa.models.readout import PhysionReadout
from tests.parity.golden import Case, Check
from tests.parity.task_cases import check_gradients, check_trajectory, close, load_state


def open_case(case: Case) -> tuple[PhysionReadout, ReadoutMethod, dict[str, torch.Tensor]]:
    """The model with its weights, how it is trained, and the batch."""
    rate = case.info.get("schedule", {}).get("max_lr", 1e-3)
    params = BaseParams({"model": "PhysionReadout", "lr": rate, **case.info["loss_weights"], **case.info["kwargs"]})
    batch = {"slots": case["in/slots"], "label": case["in/label"], "scenario": torch.zeros_like(case["in/label"])}
    return load_state(case, build_model(params)), build_method(params), batch


def check_readout(case: Case, tmp_path: Path) -> None:
    model, method, batch = open_case(case)
    terms = model.loss(batch, 0)
    check_gradients(case, model, terms["loss"])
    samples = {name: values.mean() for name, values in method.samples(model.eval(), batch).items() if len(values)}
    ours = {**samples, **terms, "logits": model.answer(batch["slots"])}
    for name in case.tensors("out/"):
        close(case, name, ours[name])
    torch.testing.assert_close(samples["vqa_loss"], terms["vqa_loss"])


def check_readout_trajectory(case: Case, tmp_path: Path) -> None:
    model, method, batch = open_case(case)
    check_trajectory(case, tmp_path, model, method.param_groups(model), method.floor, batch)


def check_metric(case: Case, tmp_path: Path) -> None:
    logits, labels, scenarios = case["in/logits"], case["in/label"], case["in/task_idx"]
    probabilities, thresholds = logits.sigmoid(), case["in/thresholds"].tolist()
    table = accuracies(probabilities, labels, thresholds)
    atol = float(case.info["tolerance"])
    np.testing.assert_allclose(table, case["out/acc"], atol=atol)
    ours = [
        [
            list(accuracies_by_scenario(is_right(of, labels, threshold).double(), scenarios).values())
            for of in probabilities
        ]
        for threshold in thresholds
    ]
    np.testing.assert_allclose(ours, case["out/task_acc"], atol=atol)
    assert table.argmax(dim=1).tolist() == case["out/best_weight_per_threshold"].tolist()
    threshold, weight = choose(table)
    assert threshold == int(case["out/best_threshold"])
    assert weight == int(case["out/best_weight_per_threshold"][threshold])
    np.testing.assert_allclose(table[threshold, weight], case["out/best_acc"], atol=atol)
    np.testing.assert_allclose(ours[threshold][weight], case["out/best_task_acc"], atol=atol)


CHECKS: dict[str, Check] = {
    "physion-readout": check_readout,
    "physion-readout-traj": check_readout_trajectory,
    "physion-metric": check_metric,
}
