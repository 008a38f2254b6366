"""Questions about CLEVRER's slots: configurations, what is read and refused, accuracies, the submission."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from core.data.errors import DataError
from core.data.slots import write_h5
from core.data.vqa import NO_ANSWER, build_vocabulary
from core.nn.global_means import global_means
from slotformer.clevrer_vqa import Keys, build_dataset, build_method, build_model
from slotformer.clevrer_vqa import build_vocabulary as vocabulary_script
from slotformer.clevrer_vqa.data import VOCABULARY, open_questions, read_vocabulary
from slotformer.clevrer_vqa.evaluation import Answer, Choice, accuracies, answers_of, scores, submission
from slotformer.clevrer_vqa.models.aloe import KINDS
from slotformer.clevrer_vqa.test_clevrer_vqa import parse_arguments, scores_file, table
from slotformer.framework.params import BaseParams, ParamsError, load_params
from slotformer.framework.tasks import SampleMethod
from tests.conftest import MadeOnce
from tests.video_files import write_json
from tests.vqa_runs import CONFIGS, OBSERVED, ROLLOUT, SCENES, inputs, small_params, write_data


@pytest.fixture(scope="module")
def data(made_once: MadeOnce) -> Path:
    return made_once("vqa", write_data)


def params_of(data: Path, *settings: str, slots: str = "rollout") -> BaseParams:
    return small_params(ROLLOUT, *inputs(data, slots), *settings)


# Configurations


def test_configurations_are_the_published_ones() -> None:
    observed, rollout = (load_params(CONFIGS / f"{name}.py", Keys) for name in (OBSERVED, ROLLOUT))
    values = observed.to_dict()
    assert values.pop("slots_root") == "./data/CLEVRER/clevrer_slots.pkl"
    assert rollout.to_dict() == {**values, "slots_root": "./data/CLEVRER/rollout_clevrer_slots.pkl"}
    expected = {"gpus": 2, "max_epochs": 400, "eval_interval": 20, "lr": 1e-3, "warmup_steps_pct": 0.1}
    expected |= {"train_batch_size": 128, "val_batch_size": 256, "n_sample_frames": 25, "slot_size": 128}
    expected |= {"max_question_len": 20, "max_choice_len": 12, "shuffle_obj": False, "max_n_objects": 6}
    assert {key: values[key] for key in expected} == expected
    assert values["transformer_dict"] == {
        "input_len": 207,
        "input_dim": 16,
        "pos_enc": "learnable",
        "num_layers": 12,
        "num_heads": 8,
        "ffn_dim": 512,
        "norm_first": True,
        "cls_mlp_size": 128,
    }
    assert sum(value.numel() for value in build_model(rollout).parameters()) == 2_879_427
    assert isinstance(build_method(rollout), SampleMethod)


def test_a_configuration_of_the_original(tmp_path: Path) -> None:
    text = (CONFIGS / f"{OBSERVED}.py").read_text().replace("slotformer.framework.params", "nerv.training")
    lines = [line for line in text.splitlines() if "question_only" not in line]
    path = tmp_path / "aloe_clevrer_params.py"
    path.write_text("\n".join(lines).replace("vocab_file = None", 'vocab_file = "/home/someone/vocab.json"'))
    params = load_params(path, Keys)
    assert build_model(params).transformer_model.num_slots == 175
    with pytest.raises(
        ParamsError, match=r"vocab_file: /home/someone/vocab\.json: no such file.* --set vocab_file=None"
    ):
        read_vocabulary(params)


# Vocabulary


def test_the_published_vocabulary() -> None:
    vocabulary = json.loads(VOCABULARY.read_text())
    assert [len(vocabulary[name]) for name in ("q_vocab", "a_vocab")] == [82, 22]
    for words in vocabulary.values():
        assert list(words.items()) == [(word, number) for number, word in enumerate(["PAD", *sorted(list(words)[1:])])]
    assert vocabulary == read_vocabulary(BaseParams())


def test_a_vocabulary_of_ones_own(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "words.json"
    assert vocabulary_script.main(["--data_root", str(data), "--save_path", str(path)]) == 0
    files = [data / "questions" / f"{split}.json" for split in ("train", "val", "test")]
    assert json.loads(path.read_text()) == build_vocabulary(files)
    settings = capsys.readouterr().out.strip().partition("--set ")[2].split()
    with pytest.raises(ParamsError, match=r"words\.json: q_vocab has 22 entries, but question_vocab_size is 82\. Set"):
        open_questions(params_of(data, settings[0]), "val")
    params = params_of(data, *settings)
    source = open_questions(params, "val")
    assert build_model(params).transformer_model.q_embedding.num_embeddings == 22
    batch = source.read(np.arange(len(source)))
    assert max(int(batch[f"{kind}_q_tokens"].max()) for kind in KINDS) == 21


@pytest.mark.parametrize("text", ["", "[]", '{"q_vocab": {}}', '{"q_vocab": {"PAD": 1, "a": 0}}', '{"q_vocab": []}'])
def test_damaged_vocabularies(tmp_path: Path, text: str) -> None:
    path = tmp_path / "words.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"words\.json: not a vocabulary, \{q_vocab, a_vocab\} .*build_vocabulary\.py"):
        read_vocabulary(BaseParams({"vocab_file": str(path)}))


# Data


def test_predictive_questions_see_what_was_predicted(data: Path) -> None:
    training, _ = build_dataset(params_of(data))
    generators = [np.random.default_rng(number) for number in range(len(training))]
    batch = training.read_varied(np.arange(len(training)), generators)
    leaves = batch["mc_video_emb"][..., 6].abs()
    is_predictive = batch["mc_subtype"] == 2
    assert leaves[is_predictive][:, -1].min() > 1, "the last frames were predicted"
    assert leaves[~is_predictive].max() < 1
    assert leaves[is_predictive][:, 0].max() < 1, "the first were observed"
    observed, _ = build_dataset(params_of(data, slots="slots"))
    batch = observed.read(np.arange(len(observed)))
    assert batch["mc_video_emb"][..., 6].abs().max() < 1
    assert len(training) == SCENES["train"][1] * 8


def damaged(data: Path, folder: Path, change: str) -> str:
    """The setting that names a copy of the slots in which something is wrong."""
    path = folder / "slots.h5"
    with h5py.File(data / "rollout.h5") as file:
        videos = {(split, name): np.array(array) for split, group in file.items() for name, array in group.items()}
    if change == "no split":
        videos = {key: slots for key, slots in videos.items() if key[0] != "val"}
    elif change == "no video":
        del videos["val", "video_10003.mp4"]
    else:
        videos["val", "video_10003.mp4"] = videos["val", "video_10003.mp4"][:100]
    write_h5(path, ((*key, slots) for key, slots in videos.items()), {})
    return f"slots_root={path}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no split", r"slots\.h5: no split 'val', only test, train"),
        ("no video", r"val\.json: there are no slots of video_10003\.mp4 \(1 videos in all\)"),
        ("short", r"slots of video_10003\.mp4: 100 frames of 2 slots of size 8, expected 128 of 2 slots of size 8"),
    ],
)
def test_slots_that_do_not_suffice(data: Path, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_dataset(params_of(data, damaged(data, tmp_path, change)))


@pytest.mark.parametrize(
    ("setting", "kind", "message"),
    [
        ("max_n_objects=2", DataError, r"rollout\.h5: train holds 2 slots of size 8 in every frame, expected .*= 3 of"),
        ("vision_dict.vision_dim=9", DataError, r"expected max_n_objects \+ 1 = 2 of size 9"),
        ("dataset=clevrer", ParamsError, r"dataset 'clevrer' is not clevrer_slots"),
        ("grad_accum_steps=2", ParamsError, r"grad_accum_steps is 2, expected 1"),
        ("max_question_len=3", DataError, r"words, expected at most 3\. Raise the length of its field"),
        ("slots_root=none.pkl", DataError, r"none\.pkl: no such file"),
    ],
)
def test_settings_that_do_not_fit(data: Path, setting: str, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        build_dataset(params_of(data, setting))


def test_answers_are_needed_to_train(data: Path, tmp_path: Path) -> None:
    (tmp_path / "questions").mkdir()
    scenes = json.loads((data / "questions" / "train.json").read_text())
    del scenes[3]["questions"][0]["answer"]
    write_json(tmp_path / "questions" / "train.json", scenes)
    (tmp_path / "questions" / "val.json").symlink_to(data / "questions" / "val.json")
    with pytest.raises(DataError, match=r"train\.json: questions without answers"):
        build_dataset(params_of(data, f"data_root={tmp_path}"))


# Evaluation


BATCH = {
    "scene_index": torch.tensor([15001, 15000, 15000, 15001]),
    "question_id": torch.tensor([4, 0, 7, 5]),
    "cls_index": torch.tensor([1, 3]),
    "cls_label": torch.tensor([2, 0]),
    "mc_index": torch.tensor([0, 2]),
    "mc_subtype": torch.tensor([3, 1]),
    "mc_label": torch.tensor([1, 0, 1, 1, 0]),
    "mc_flag": torch.tensor([0, 0, 0, 1, 1]),
    "mc_choice_id": torch.tensor([0, 1, 2, 0, 1]),
}
DESCRIPTIVE = torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 1.0]])
CHOICES = torch.tensor([0.5, -1.0, 0.0, 2.0, -0.1])


def test_accuracies_of_questions_and_of_options() -> None:
    found = {name: values.tolist() for name, values in accuracies(DESCRIPTIVE, CHOICES, BATCH).items()}
    assert found == {
        "acc": [1, 0, 0, 1],
        "descriptive_acc": [1, 0],
        "multiple-choice_acc": [0, 1],
        "multiple-choice_option_acc": [1, 1, 0, 1, 1],
        "explanatory_acc": [1],
        "explanatory_option_acc": [1, 1],
        "predictive_acc": [],
        "predictive_option_acc": [],
        "counterfactual_acc": [0],
        "counterfactual_option_acc": [1, 1, 0],
    }


def test_answers_in_the_order_of_the_batch_and_their_scores() -> None:
    answers = answers_of(DESCRIPTIVE, CHOICES, BATCH, [10, 11, 12, 13])
    unknown = NO_ANSWER
    assert answers == [
        Answer(10, 15001, 4, 3, unknown, unknown, [Choice(0, True, 1), Choice(1, False, 0), Choice(2, False, 1)]),
        Answer(11, 15000, 0, 0, 2, 2, []),
        Answer(12, 15000, 7, 1, unknown, unknown, [Choice(0, True, 1), Choice(1, False, 0)]),
        Answer(13, 15001, 5, 0, 1, 0, []),
    ]
    found = scores(answers)
    assert found == {
        "descriptive": {"questions": 2, "acc": 0.5},
        "multiple-choice": {"questions": 2, "acc": 0.5, "options": 5, "option_acc": 0.8},
        "explanatory": {"questions": 1, "acc": 1.0, "options": 2, "option_acc": 1.0},
        "counterfactual": {"questions": 1, "acc": 0.0, "options": 3, "option_acc": pytest.approx(2 / 3)},
        "all": {"questions": 4, "acc": 0.5},
    }
    lines = table(found)
    assert lines[2].split() == ["multiple-choice", "2", "0.5000", "5", "0.8000"]
    assert lines[-1].split() == ["all", "4", "0.5000"]


def test_the_submission_holds_every_scene() -> None:
    answers = answers_of(DESCRIPTIVE, CHOICES, BATCH, [0, 1, 2, 3])
    again = Answer(4, 15001, 4, 3, NO_ANSWER, NO_ANSWER, [Choice(3, True, NO_ANSWER)])
    found = submission([*answers, again], {"PAD": 0, "red": 1, "yes": 2})
    assert [entry["scene_index"] for entry in found] == list(range(15000, 20000))
    correct, wrong = "correct", "wrong"
    assert found[0]["questions"] == [
        {"question_id": 0, "answer": "yes"},
        {"question_id": 7, "choices": [{"choice_id": 0, "answer": correct}, {"choice_id": 1, "answer": wrong}]},
    ]
    said = [choice["answer"] for choice in found[1]["questions"][0]["choices"]]
    assert said == [correct, wrong, wrong, correct]
    assert found[1]["questions"][1] == {"question_id": 5, "answer": "red"}
    assert all(entry["questions"] == [] for entry in found[2:])
    with pytest.raises(
        DataError, match=r"question 4 is about scene 15001, but the server expects scenes 15002 to 15009"
    ):
        submission(answers, {"PAD": 0}, range(15002, 15010))


def test_scores_of_other_slots_stay(tmp_path: Path) -> None:
    weight, config = tmp_path / "model_4.pth", CONFIGS / f"{OBSERVED}.py"
    arguments = parse_arguments(["--params", str(config), "--weight", str(weight), "--split", "val"])
    path = scores_file(arguments, "a/slots.h5")
    assert path.name == f"model_4-vqa-{OBSERVED}-val.json"
    path.write_text('{"slots": "a/slots.h5"}')
    assert scores_file(arguments, "a/slots.h5") == path
    assert scores_file(arguments, "a/rollout.h5").name == f"model_4-vqa-{OBSERVED}-rollout-val.json"


def test_what_a_validation_counts(data: Path) -> None:
    params = params_of(data)
    _, source = build_dataset(params)
    torch.manual_seed(0)
    model, method = build_model(params).eval(), build_method(params)
    batch = source.read(np.arange(len(source)))
    with torch.no_grad():
        found, terms = method.samples(model, batch), model.loss(batch, 0)
    for name in ("cls_answer_loss", "mc_answer_loss"):
        torch.testing.assert_close(found[name].mean(), terms[name])
    assert len(found[method.best_by]) == len(source)
    assert set(found) == set(accuracies(DESCRIPTIVE, CHOICES, BATCH)) | {"cls_answer_loss", "mc_answer_loss"}
    assert isinstance(model, nn.Module)


def test_means_of_one_process() -> None:
    values, none = torch.tensor([1.0, 4.0], requires_grad=True), torch.zeros(0, requires_grad=True)
    found = global_means(values, none)
    assert [float(mean.detach()) for mean in found] == [2.5, 0.0]
    sum(found).backward()
    assert values.grad.tolist() == [0.5, 0.5]
    assert none.grad.shape == (0,)
