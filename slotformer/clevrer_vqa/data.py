"""CLEVRER's questions with slots of their videos, from the keys of a configuration."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from core.data.errors import DataError
from core.data.slots import SlotFile
from core.data.vqa import ClevrerQuestions, Vocabulary
from slotformer.clevrer_vqa.models.aloe import NUM_ANSWERS, NUM_WORDS
from slotformer.framework.params import BaseParams, ParamsError

DATASET = "clevrer_slots"
VOCABULARY = Path(__file__).with_name("vocabulary.json")
"""Of CLEVRER's three question files, and of the published weights."""


@dataclass(frozen=True)
class StoredSlots:
    """The slots of a video, of which a read takes its frames only."""

    file: SlotFile
    split: str
    name: str

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.file.shape(self.split, self.name)

    def __getitem__(self, frames: slice) -> Float32[np.ndarray, "T K D"]:
        return self.file.read(self.split, self.name, frames)


def build_dataset(params: BaseParams) -> tuple[ClevrerQuestions, ClevrerQuestions]:
    """The questions for training and for validation. Raises ParamsError, DataError."""
    if params.grad_accum_steps != 1:
        raise ParamsError(
            f"grad_accum_steps is {params.grad_accum_steps}, expected 1: a batch of questions of several kinds has no "
            "equal parts. Lower train_batch_size, or use more processes"
        )
    sources = open_questions(params, "train"), open_questions(params, "val")
    for source in sources:
        if not source.has_answers:
            raise DataError(f"{source.path}: questions without answers. To train and to validate takes answers")
    return sources


def open_questions(params: BaseParams, split: str) -> ClevrerQuestions:
    """The questions `data_root`/questions/<split>.json with the slots in `slots_root`.

    Raises ParamsError, DataError.
    """
    if params.dataset != DATASET:
        raise ParamsError(f"dataset {params.dataset!r} is not {DATASET}")
    slots = SlotFile(params.slots_root)
    source = ClevrerQuestions(
        Path(params.data_root) / "questions" / f"{split}.json",
        read_vocabulary(params),
        {name: StoredSlots(slots, split, name) for name in slots.names(split)},
        num_frames=params.n_sample_frames,
        video_len=params.get("video_len", 128),
        max_question_len=params.max_question_len,
        max_choice_len=params.max_choice_len,
        shuffle_slots=params.get("shuffle_obj", False),
    )
    expected = (params.max_n_objects + 1, params.vision_dict["vision_dim"])
    if source.slots_of_frame != expected:
        found = source.slots_of_frame
        raise DataError(
            f"{slots.path}: {split} holds {found[0]} slots of size {found[1]} in every frame, expected "
            f"max_n_objects + 1 = {expected[0]} of size {expected[1]}. Are they of another model? Name their file with "
            "--set slots_root=FILE"
        )
    return source


def read_vocabulary(params: BaseParams) -> dict[str, Vocabulary]:
    """`q_vocab` and `a_vocab` of the file `vocab_file`, or the published ones. Raises ParamsError, DataError."""
    path = Path(params.get("vocab_file") or VOCABULARY)
    again = "Make one with slotformer/clevrer_vqa/build_vocabulary.py; --set vocab_file=None is CLEVRER's own"
    try:
        vocabulary = json.loads(path.read_text())
        for name in ("q_vocab", "a_vocab"):
            numbers = sorted(vocabulary[name].values())
            if numbers != list(range(len(numbers))) or vocabulary[name]["PAD"] != 0:
                raise ValueError(f"{name} does not number its words from PAD = 0 on")
    except FileNotFoundError as error:
        raise ParamsError(f"vocab_file: {path}: no such file. {again}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a vocabulary, {{q_vocab, a_vocab}} ({error!r}). {again}") from error
    sizes = {"question_vocab_size": ("q_vocab", NUM_WORDS), "answer_vocab_size": ("a_vocab", NUM_ANSWERS)}
    for key, (name, default) in sizes.items():
        if len(vocabulary[name]) != params.get(key, default):
            raise ParamsError(
                f"{path}: {name} has {len(vocabulary[name])} entries, but {key} is {params.get(key, default)}. Set "
                f"{key}={len(vocabulary[name])}"
            )
    return vocabulary
