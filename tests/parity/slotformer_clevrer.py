"""Checks of Aloe: its tokens, answers, losses, gradients, five steps; accuracies, the submission, and its schedule."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.training.schedules import cosine_with_restarts
from slotformer.clevrer_vqa.evaluation import accuracies, answers_of, submission
from slotformer.clevrer_vqa.method import AloeMethod
from slotformer.clevrer_vqa.models.aloe import KINDS, CLEVRERAloe
from slotformer.framework.params import BaseParams
from tests.parity.golden import Case, Check
from tests.parity.task_cases import check_gradients, check_trajectory, close, load_state


def build(case: Case) -> CLEVRERAloe:
    """The model with its weights."""
    given, words = case.info["kwargs"], case.info["kwargs"]["lang_dict"]
    assert not given["loss_dict"]["use_mask_obj_loss"]
    text_len = max(case[f"in/{kind}_q_tokens"].shape[-1] for kind in KINDS)
    model = CLEVRERAloe(
        **given["transformer_dict"],
        **given["vision_dict"],
        max_question_len=words["question_len"],
        max_choice_len=text_len - words["question_len"],
        question_vocab_size=words["question_vocab_size"],
        answer_vocab_size=words["answer_vocab_size"],
        **{f"{name}_w": weight for name, weight in case.info.get("loss_weights", {}).items()},
        dropout=0.0,
    )
    return load_state(case, model).train(case.info["mode"] == "train")


def batch_of(case: Case) -> dict[str, Tensor]:
    """The recorded batch in our form: texts say where their words stand, what is absent is empty in the right shape."""
    batch = case.tensors("in/")
    present = next(kind for kind in KINDS if batch[f"{kind}_q_tokens"].ndim == 2)
    for kind in KINDS:
        for name in ("q_tokens", "q_pad_mask", "video_emb"):
            if batch[f"{kind}_{name}"].numel() == 0:
                batch[f"{kind}_{name}"] = batch[f"{present}_{name}"][:0]
        batch[f"{kind}_q_places"] = torch.arange(batch[f"{kind}_q_tokens"].shape[1]).expand_as(
            batch[f"{kind}_q_tokens"]
        )
    whole = {"cls_label": torch.int64, "mc_label": torch.int64, "mc_flag": torch.int64, "mc_subtype": torch.int64}
    return batch | {key: batch[key].to(dtype) for key, dtype in whole.items()}


def in_their_order(tokens: Tensor) -> Tensor:
    """Tokens with the last one, CLS, first."""
    return tokens.roll(1, dims=1)


def check_aloe(case: Case, tmp_path: Path) -> None:
    model, batch = build(case), batch_of(case)
    part = model.transformer_model
    tokens, is_padding = part.embed(batch)
    terms, (descriptive, choices) = model.loss(batch, 0), model.answer(batch)
    counts = [len(descriptive), len(choices)]
    of_both = {
        "encoder_in": in_their_order(tokens) - part.transformer_encoder.pos_embedding,
        "pad_mask": in_their_order(is_padding),
        "encoder_cls_token": part.transformer_encoder(tokens, 1, is_padding)[:, 0],
    }
    ours = {"cls_answer_logits": descriptive, "mc_answer_logits": choices, **terms}
    for kind, count, *values in zip(KINDS, counts, *(value.split(counts) for value in of_both.values())):
        ours |= {f"{kind}_{name}": value for name, value in zip(of_both, values)}
        ours[f"{kind}_bs"] = torch.tensor(count)
    recorded = case.tensors("out/")
    assert "loss" in recorded
    for name in recorded:
        close(case, name, ours[name])
    check_gradients(case, model, terms["loss"])


def check_evaluation(case: Case, tmp_path: Path) -> None:
    model, batch = build(case), batch_of(case)
    with torch.no_grad():
        descriptive, choices = model.answer(batch)
    ours = {"cls_answer_logits": descriptive, "mc_answer_logits": choices, **means(descriptive, choices, batch)}
    for name in case.tensors("out/"):
        close(case, name, ours[name])


def means(descriptive: Tensor, choices: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Accuracies of a batch, and of how many questions; 0 of none."""
    found = {}
    for name, values in accuracies(descriptive, choices, batch).items():
        found |= {name: values.sum() / max(1, len(values)), f"{name.removesuffix('acc')}bs": torch.tensor(len(values))}
    return found


def check_trajectory_of_aloe(case: Case, tmp_path: Path) -> None:
    model = build(case)
    method = AloeMethod(BaseParams({"lr": case.info["schedule"]["max_lr"]}))
    check_trajectory(case, tmp_path, model, method.param_groups(model), method.floor, batch_of(case))


def recorded_answers(case: Case, number: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Logits of both kinds, and a batch that holds the rest; what is not recorded is empty, or a label nobody reads."""
    given = case.tensors(f"in/batch{number}_")
    descriptive = given.get("cls_answer_logits", torch.zeros(0, 1))
    choices = given.get("mc_answer_logits", torch.zeros(0))
    count = len(descriptive)
    others = len(given["mc_subtype"]) if "mc_subtype" in given else len(given["scene_index"]) - count
    batch = {
        "cls_label": torch.full([count], -1),
        "mc_label": torch.full([len(choices)], -1),
        "mc_flag": torch.zeros(0),
        "mc_subtype": torch.ones(others),
        "cls_index": torch.arange(count),
        "mc_index": count + torch.arange(others),
        **given,
    }
    return descriptive, choices, {key: value.long() for key, value in batch.items()}


def check_metrics(case: Case, tmp_path: Path) -> None:
    sums: dict[str, list[float]] = {}
    atol = float(case.info["tolerance"])
    for number in range(len(case.info["batches"])):
        given = recorded_answers(case, number)
        found = means(*given)
        for name, theirs in case.tensors(f"out/batch{number}_").items():
            torch.testing.assert_close(found[name].to(theirs.dtype), theirs, rtol=0, atol=atol, msg=f"{number}: {name}")
        for name, values in accuracies(*given).items():
            sums.setdefault(name, []).extend(values.tolist())
    for name, theirs in case.tensors("out/epoch_").items():
        values = sums[name]
        np.testing.assert_allclose(sum(values) / max(1, len(values)), theirs, atol=atol, err_msg=name)


def check_submission(case: Case, tmp_path: Path) -> None:
    numbers = {int(key.removeprefix("batch").partition("_")[0]) for key in case.tensors("in/")}
    answers = []
    for number in sorted(numbers):
        descriptive, choices, batch = recorded_answers(case, number)
        places = list(range(len(answers), len(answers) + len(batch["scene_index"])))
        answers += answers_of(descriptive, choices, batch, places)
    vocabulary = {word: int(number) for number, word in case.info["label2answer"].items()}
    scenes = range(case.info["first_scene"], case.info["last_scene"] + 1)
    found: list[dict[str, Any]] = submission(answers, vocabulary, scenes)
    assert submission(answers, vocabulary) == found, "the server's scenes"
    assert len(found) == case.info["total_entries"]
    assert [entry["scene_index"] for entry in found] == list(scenes)
    assert [entry for entry in found if entry["questions"]] == case.info["non_empty_entries"]


def check_schedule(case: Case, tmp_path: Path) -> None:
    for name, config in case.info["configs"].items():
        highest = config["max_lr"]
        factor = cosine_with_restarts(config["total_steps"], config["warmup_steps"], config["min_lr"] / highest)
        theirs = case[f"out/{name}"].numpy()
        np.testing.assert_allclose([factor(step) * highest for step in range(len(theirs))], theirs, rtol=1e-9)


CHECKS: dict[str, Check] = {
    "aloe": check_aloe,
    "aloe-mixed-eval": check_evaluation,
    "aloe-traj": check_trajectory_of_aloe,
    "vqa-metrics": check_metrics,
    "vqa-submission": check_submission,
    "lr-schedule": check_schedule,
}
