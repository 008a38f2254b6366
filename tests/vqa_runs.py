"""Small trainings of Aloe on questions about videos of which the test makes up what happens, and with it the slots."""

from pathlib import Path

import numpy as np

from core.data.slots import write_h5
from slotformer.clevrer_vqa import Keys
from slotformer.framework.params import BaseParams, load_params, parse_overrides
from tests.conftest import ROOT
from tests.video_files import write_json

CONFIGS = ROOT / "slotformer" / "clevrer_vqa" / "configs"
OBSERVED, ROLLOUT = "aloe_clevrer_params", "aloe_clevrer_params-rollout"
SCRIPT = "slotformer/clevrer_vqa/test_clevrer_vqa.py"
COLORS, SHAPES = ("red", "green", "blue"), ("cube", "sphere", "cylinder")
NUM_SLOTS, SLOT_SIZE = 2, 8
OBSERVED_FRAMES, FRAMES = 128, 160
SCENES = {"train": (0, 24), "val": (10_000, 12), "test": (15_000, 3)}
"""The number of the first scene of a split, and how many there are."""
MODEL = (
    *("transformer_dict.input_dim=6", "transformer_dict.num_layers=2", "transformer_dict.num_heads=4"),
    *("transformer_dict.ffn_dim=64", "transformer_dict.cls_mlp_size=32"),
)
SMALL = (f"slot_size={SLOT_SIZE}", f"max_n_objects={NUM_SLOTS - 1}", "n_sample_frames=4", "dropout=0.0", *MODEL)
RUN = ("gpus=1", "train_batch_size=12", "val_batch_size=7", "print_iter=1", "eval_interval=1", "num_workers=0")


def write_data(folder: Path) -> None:
    """Questions of all splits (the test without answers), and slots of the observed frames and of more."""
    files: dict[str, list] = {"slots": [], "rollout": []}
    for split, (first, count) in SCENES.items():
        scenes = []
        for number in range(first, first + count):
            rng = np.random.default_rng(number)
            colors, shapes = rng.permutation(3)[:NUM_SLOTS], rng.permutation(3)[:NUM_SLOTS]
            exits = rng.random(NUM_SLOTS) < 0.5
            name = f"video_{number:05d}.mp4"
            questions = ask(colors, shapes, exits)
            scenes.append({"scene_index": number, "video_filename": name, "questions": questions})
            slots = telling_slots(colors, shapes, exits, rng)
            files["slots"].append((split, name, slots[:OBSERVED_FRAMES]))
            files["rollout"].append((split, name, slots))
        write_json(folder / "questions" / f"{split}.json", without_answers(scenes) if split == "test" else scenes)
    for name, videos in files.items():
        write_h5(folder / f"{name}.h5", videos, {})


def telling_slots(colors: np.ndarray, shapes: np.ndarray, exits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[T, N, C]: colour and shape of every object; after the observed frames also whether it leaves."""
    slots = rng.normal(scale=0.05, size=(FRAMES, NUM_SLOTS, SLOT_SIZE)).astype(np.float32)
    for number in range(NUM_SLOTS):
        slots[:, number, colors[number]] += 2
        slots[:, number, 3 + shapes[number]] += 2
        slots[OBSERVED_FRAMES:, number, 6] += 4 * exits[number] - 2
    return slots


def ask(colors: np.ndarray, shapes: np.ndarray, exits: np.ndarray) -> list[dict]:
    """Questions of every kind, in the words of CLEVRER."""
    named = {COLORS[color]: (SHAPES[shape], leaves) for color, shape, leaves in zip(colors, shapes, exits)}
    questions: list[dict] = []

    def choices(kind: str, question: str, offered: dict[str, bool]) -> None:
        rows = [
            {"choice_id": number, "choice": text, "answer": "correct" if is_correct else "wrong"}
            for number, (text, is_correct) in enumerate(offered.items())
        ]
        questions.append({"question_type": kind, "question": question, "choices": rows})

    for color in COLORS:
        answer = "yes" if color in named else "no"
        question = f"Are there any {color} objects?"
        questions.append({"question_type": "descriptive", "question": question, "answer": answer})
    for color, (shape, _) in named.items():
        question = f"What shape is the {color} object?"
        questions.append({"question_type": "descriptive", "question": question, "answer": shape})
    are_there = {f"the {color} object": color in named for color in COLORS}
    choices("explanatory", "Which is responsible for the collision?", are_there)
    leaving = {f"the {color} object exits": bool(named[color][1]) for color in named}
    choices("predictive", "What will happen next?", leaving)
    choices("counterfactual", f"What will happen without the {next(iter(named))} object?", leaving)
    return [{"question_id": number, **question} for number, question in enumerate(questions)]


def without_answers(scenes: list[dict]) -> list[dict]:
    def stripped(value: object) -> object:
        if isinstance(value, list):
            return [stripped(entry) for entry in value]
        if isinstance(value, dict):
            return {key: stripped(entry) for key, entry in value.items() if key != "answer"}
        return value

    return stripped(scenes)


def inputs(data: Path, slots: str = "rollout") -> tuple[str, str]:
    """The settings that name data and slots."""
    return f"data_root={data}", f"slots_root={data / slots}.pkl"


def small_params(config: str, *settings: str) -> BaseParams:
    return load_params(CONFIGS / f"{config}.py", Keys, parse_overrides([*SMALL, *RUN, *settings]))


def train_words(
    data: Path, name: str, *flags: object, settings: tuple = (), epochs: int = 1, slots: str = "rollout"
) -> list:
    """The documents' command for the fixture `run`."""
    config = CONFIGS / f"{ROLLOUT if slots == 'rollout' else OBSERVED}.py"
    words = ("slotformer/scripts/train.py", "--task", "clevrer_vqa", "--params", config, "--name", name)
    return [*words, *flags, "--set", *SMALL, *RUN, *inputs(data, slots), f"max_epochs={epochs}", *settings]


def answer_words(data: Path, weight: Path, *flags: object, settings: tuple = (), slots: str = "rollout") -> list:
    config = CONFIGS / f"{ROLLOUT if slots == 'rollout' else OBSERVED}.py"
    words = (SCRIPT, "--params", config, "--weight", weight, *flags)
    return [*words, "--set", *SMALL, *RUN, *inputs(data, slots), *settings]
