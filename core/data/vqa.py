"""Questions about CLEVRER videos (Yi et al. 2020) as tokens, for Aloe (Ding et al. 2021) as SlotFormer trains it.

A question file is a list of scenes {scene_index, video_filename, questions}; a question has question_id, question,
question_type and an answer, or else choices [{choice_id, choice, answer: correct | wrong}]; test files have no answers.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from core.data.clevrer import SOURCE
from core.data.errors import DataError

KINDS = ("descriptive", "explanatory", "predictive", "counterfactual")
PREDICTIVE = KINDS.index("predictive")
NO_ANSWER = -1
UNROLLED_LEN = 150
"""Slots of more frames than this were unrolled beyond the end of the video; predictive questions look at those."""

Vocabulary = dict[str, int]


def words_of(text: str) -> list[str]:
    """Lower-case words between single blanks, without question marks; commas and 's stay parts of words."""
    return [word for word in text.lower().replace("?", "").split(" ") if word]


def tokenise(text: str, vocabulary: Vocabulary, length: int) -> tuple[Int32[np.ndarray, "L"], Bool[np.ndarray, "L"]]:
    """Numbers of the words of `text`, padded to `length`, and where the padding is. DataError if it does not fit."""
    words = words_of(text)
    if unknown := [word for word in words if word not in vocabulary]:
        raise DataError(f"{unknown[0]!r} in {text!r} is not in the vocabulary. Build it from all question files")
    if len(words) > length:
        raise DataError(f"{text!r} has {len(words)} words, expected at most {length}. Raise the length of its field")
    tokens = np.full(length, vocabulary["PAD"], np.int32)
    tokens[: len(words)] = [vocabulary[word] for word in words]
    return tokens, np.arange(length) >= len(words)


def build_vocabulary(question_files: Iterable[str | Path]) -> dict[str, Vocabulary]:
    """`q_vocab` and `a_vocab` of all words in question files: PAD is 0, the others are numbered in ASCII order.

    From the three official files this gives the vocabulary of the published weights (82 and 22 entries).
    """
    questions, answers = set(), set()
    for path in question_files:
        for _, question in _read_questions(Path(path)):
            questions.update(words_of(question["question"]))
            for choice in question.get("choices", []):
                questions.update(words_of(choice["choice"]))
            if "answer" in question:
                answers.add(question["answer"])
    return {
        name: {word: number for number, word in enumerate(["PAD", *sorted(words)])}
        for name, words in (("q_vocab", questions), ("a_vocab", answers))
    }


@dataclass(frozen=True)
class _Question:
    scene_index: int
    video: str
    question_id: int
    kind: int
    tokens: Int32[np.ndarray, "R L"]
    is_padding: Bool[np.ndarray, "R L"]
    labels: Int64[np.ndarray, "R"]
    choice_ids: Int64[np.ndarray, "_"]


class ClevrerQuestions:
    """The questions of one file with slots of their videos: first all descriptive ones, then those with choices.

    Text is `max_question_len` + `max_choice_len` = L words long. `slots` maps names like `video_00000.mp4` to arrays
    (T, N, C), of which every question sees `num_frames` evenly spaced ones.

    `batch(indices, starts)` gives, in the order of the batch: `scene_index`, `question_id` (n,) int64; of the n1
    descriptive questions `cls_index` (n1,), their places in the batch, `cls_q_tokens` (n1, L) int32, `cls_q_pad_mask`
    (n1, L) bool, `cls_label` (n1,) int64, `cls_video_emb` (n1, T, N, C) float32; of the n2 others `mc_index` (n2,),
    `mc_subtype` (n2,), `mc_video_emb` (n2, T, N, C), and one row for each of their choices: `mc_q_tokens` (R, L),
    `mc_q_pad_mask`, `mc_label` (R,), `mc_choice_id` (R,) and `mc_flag` (R,), the question it belongs to. Labels are -1
    where the file has no answers. Raises DataError.
    """

    def __init__(
        self,
        path: str | Path,
        vocabulary: Mapping[str, Vocabulary],
        slots: Mapping[str, np.ndarray],
        *,
        num_frames: int = 25,
        video_len: int = 128,
        max_question_len: int = 20,
        max_choice_len: int = 12,
    ):
        self.path = Path(path)
        self.slots = slots
        self.num_frames = num_frames
        self.video_len = video_len
        self.stride = video_len // num_frames
        self.num_starts = video_len - (num_frames - 1) * self.stride
        self._lengths = (max_question_len, max_choice_len)
        self._vocabulary = vocabulary
        questions = [self._encode(scene, question) for scene, question in _read_questions(self.path)]
        self.questions = sorted(questions, key=lambda question: question.kind != 0)
        if missing := sorted({question.video for question in self.questions} - set(slots)):
            raise DataError(
                f"{self.path}: there are no slots of {missing[0]} ({len(missing)} videos in all). Extract the slots "
                "of all videos that it asks about"
            )

    def __len__(self) -> int:
        return len(self.questions)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The batch of `indices` with every clip from its first frame on, as evaluations want it."""
        return self.batch(indices, np.zeros(len(indices), np.int64))

    def batch(self, indices: np.ndarray, starts: np.ndarray) -> dict[str, Tensor]:
        """The batch of `indices`; clip i starts at frame `starts[i]`, one of 0..num_starts - 1."""
        chosen = [self.questions[index] for index in indices]
        of_kind = {
            name: [place for place, question in enumerate(chosen) if (question.kind > 0) == (name == "mc")]
            for name in ("cls", "mc")
        }
        arrays: dict[str, Any] = {
            "scene_index": np.array([question.scene_index for question in chosen], np.int64),
            "question_id": np.array([question.question_id for question in chosen], np.int64),
        }
        for name, places in of_kind.items():
            members = [chosen[place] for place in places]
            rows = _rows(members, sum(self._lengths))
            arrays |= {f"{name}_{key}": value for key, value in rows.items()}
            arrays[f"{name}_index"] = np.array(places, np.int64)
            arrays[f"{name}_video_emb"] = self._video_slots(members, np.asarray(starts)[places])
        arrays["mc_subtype"] = np.array([chosen[place].kind for place in of_kind["mc"]], np.int64)
        # A descriptive question is its own only row.
        del arrays["cls_flag"], arrays["cls_choice_id"]
        return {key: torch.from_numpy(value) for key, value in arrays.items()}

    def frames(self, index: int, start: int) -> Int64[np.ndarray, "T"]:
        """Numbers of the frames that question `index` sees."""
        return self._frames(self.questions[index], start)

    def _frames(self, question: _Question, start: int) -> Int64[np.ndarray, "T"]:
        stored = len(self.slots[question.video])
        if question.kind == PREDICTIVE and stored > UNROLLED_LEN:
            start += stored - self.video_len
        frames = start + self.stride * np.arange(self.num_frames)
        if frames[-1] >= stored:
            raise DataError(
                f"slots of {question.video}: {stored} frames, expected {self.video_len}. Extract them again"
            )
        return frames

    def _video_slots(self, questions: Sequence[_Question], starts: np.ndarray) -> Float32[np.ndarray, "n T N C"]:
        found = [
            np.asarray(self.slots[question.video][self._frames(question, int(start))], np.float32)
            for question, start in zip(questions, starts)
        ]
        shape = next(iter(self.slots.values())).shape[1:]
        return np.stack(found) if found else np.zeros((0, self.num_frames, *shape), np.float32)

    def _encode(self, scene: dict[str, Any], question: dict[str, Any]) -> _Question:
        try:
            return self._encoded(scene, question)
        except (DataError, KeyError, TypeError, ValueError) as error:
            what = error if isinstance(error, DataError) else f"not as expected ({error!r}). Fetch the file again"
            raise DataError(
                f"{self.path}: scene {scene['scene_index']}, question {question['question_id']}: {what}"
            ) from error

    def _encoded(self, scene: dict[str, Any], question: dict[str, Any]) -> _Question:
        words, (question_len, choice_len) = self._vocabulary["q_vocab"], self._lengths
        choices = question["choices"] if question["question_type"] != KINDS[0] else []
        if choices:
            asked = tokenise(question["question"], words, question_len)
            rows = [
                tuple(map(np.concatenate, zip(asked, tokenise(choice["choice"], words, choice_len))))
                for choice in choices
            ]
            labels = [("wrong", "correct").index(item["answer"]) if "answer" in item else NO_ANSWER for item in choices]
        else:
            rows = [tokenise(question["question"], words, question_len + choice_len)]
            answer = question.get("answer")
            if answer is not None and answer not in self._vocabulary["a_vocab"]:
                raise DataError(f"answer {answer!r} is not in the vocabulary. Build it from all question files")
            labels = [NO_ANSWER if answer is None else self._vocabulary["a_vocab"][answer]]
        return _Question(
            scene["scene_index"],
            scene["video_filename"],
            question["question_id"],
            KINDS.index(question["question_type"]),
            np.stack([tokens for tokens, _ in rows]),
            np.stack([is_padding for _, is_padding in rows]),
            np.array(labels, np.int64),
            np.array([choice["choice_id"] for choice in choices], np.int64),
        )


def _rows(questions: Sequence[_Question], length: int) -> dict[str, np.ndarray]:
    """The rows of all questions one below the other."""
    counts = [len(question.labels) for question in questions]
    none = np.zeros(0, np.int64)
    return {
        "q_tokens": np.concatenate([np.zeros((0, length), np.int32), *(question.tokens for question in questions)]),
        "q_pad_mask": np.concatenate([np.zeros((0, length), bool), *(question.is_padding for question in questions)]),
        "label": np.concatenate([none, *(question.labels for question in questions)]),
        "choice_id": np.concatenate([none, *(question.choice_ids for question in questions)]),
        "flag": np.repeat(np.arange(len(questions)), counts),
    }


def _read_questions(path: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(scene, question) of every question, in the order of the file."""
    try:
        scenes = json.loads(path.read_text())
        pairs = [(scene, question) for scene in scenes for question in scene["questions"]]
        for scene, question in pairs:
            _ = scene["scene_index"], scene["video_filename"], question["question_id"], question["question"]
            if question["question_type"] not in KINDS:
                raise ValueError(f"question_type {question['question_type']!r} is not one of {', '.join(KINDS)}")
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file. validation.json is to be called val.json. Fetch the questions from {SOURCE}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a question file of CLEVRER ({error!r}). Fetch it again") from error
    return pairs
