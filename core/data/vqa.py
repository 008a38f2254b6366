"""Questions about CLEVRER videos (Yi et al. 2020) as tokens, for Aloe (Ding et al. 2021) as SlotFormer trains it.

A question file is a list of scenes {scene_index, video_filename, questions}; a question has question_id, question,
question_type and an answer, or else choices [{choice_id, choice, answer: correct | wrong}]; test files have no answers.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from core.data.clevrer import BROKEN_VIDEO, SOURCE
from core.data.errors import DataError

KINDS = ("descriptive", "explanatory", "predictive", "counterfactual")
PREDICTIVE = KINDS.index("predictive")
NO_ANSWER = -1

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


@runtime_checkable
class SlotsOfVideo(Protocol):
    """An array (T, N, C) of which some frames are read at a time."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, frames: slice) -> Float32[np.ndarray, "T N C"]: ...


class ClevrerQuestions:
    """The questions of one file with slots of their videos: first all descriptive ones, then those with choices.

    `slots` has the arrays (T, N, C) of videos by names like `video_00000.mp4`; every question sees `num_frames` evenly
    spaced frames of its own. Questions about the broken video of the validation, of which nobody has slots, are left
    out. A text has L = `max_question_len` + `max_choice_len` places, of which most are padding; batches leave padding
    out as far as all their texts have some.

    `batch(indices, starts)` gives, in the order of the batch: `scene_index`, `question_id` (n,) int64; of the n1
    descriptive questions `cls_index` (n1,), their places in the batch, `cls_q_tokens` (n1, W) int32, the words of each,
    then padding, `cls_q_places` (n1, W) int64, where in the text they stand, `cls_q_pad_mask` (n1, W) bool, `cls_label`
    (n1,) int64, `cls_video_emb` (n1, T, N, C) float32; of the n2 others `mc_index` (n2,), `mc_subtype` (n2,),
    `mc_video_emb` (n2, T, N, C), and one row for each of their choices: `mc_q_tokens` (R, W), `mc_q_places`,
    `mc_q_pad_mask`, `mc_label` (R,), `mc_choice_id` (R,) and `mc_flag` (R,), the question it belongs to. Labels are -1
    where the file has no answers. W is the length of the longest text, without padding. Raises DataError.

    Training lets every clip start anywhere and, with `shuffle_slots`, changes the order of its slots.
    """

    def __init__(
        self,
        path: str | Path,
        vocabulary: Mapping[str, Vocabulary],
        slots: Mapping[str, SlotsOfVideo],
        *,
        num_frames: int = 25,
        video_len: int = 128,
        max_question_len: int = 20,
        max_choice_len: int = 12,
        shuffle_slots: bool = False,
    ):
        if not 1 <= num_frames <= video_len:
            raise ValueError(
                f"n_sample_frames={num_frames}: expected 1 to the {video_len} frames of a video (video_len)"
            )
        self.path = Path(path)
        self.slots = slots
        self.num_frames = num_frames
        self.video_len = video_len
        self.shuffle_slots = shuffle_slots
        self.stride = video_len // num_frames
        self.num_starts = video_len - (num_frames - 1) * self.stride
        self.text_len = max_question_len + max_choice_len
        self._lengths = (max_question_len, max_choice_len)
        self._vocabulary = vocabulary
        asked = sorted(_read_questions(self.path), key=lambda pair: pair[1]["question_type"] != KINDS[0])
        asked = [(scene, question) for scene, question in asked if scene["scene_index"] not in BROKEN_VIDEO.values()]
        if not asked:
            raise DataError(f"{self.path}: there are no questions in it. Fetch it again")
        self.scenes = np.array([scene["scene_index"] for scene, _ in asked], np.int64)
        self.ids = np.array([question["question_id"] for _, question in asked], np.int64)
        self.kinds = np.array([KINDS.index(question["question_type"]) for _, question in asked], np.int64)
        self.videos, self._video_of = np.unique([scene["video_filename"] for scene, _ in asked], return_inverse=True)
        texts = [self._encode(scene, question) for scene, question in asked]
        self._first_rows = np.cumsum([0, *(len(text[0]) for text in texts)])
        self._tokens, self._is_padding, self._labels, self._choice_ids = map(np.concatenate, zip(*texts))
        self.slots_of_frame = self._check_slots()

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def has_answers(self) -> bool:
        """Whether all questions have one."""
        return bool((self._labels != NO_ANSWER).all())

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        """The batch of `indices` with every clip from its first frame on, as evaluations want it."""
        return self.batch(indices, np.zeros(len(indices), np.int64))

    def read_varied(self, indices: np.ndarray, generators: Sequence[np.random.Generator]) -> dict[str, Tensor]:
        """The batch of `indices` with clips that start anywhere, as training wants it."""
        starts = np.array([generator.integers(self.num_starts) for generator in generators])
        orders = None
        if self.shuffle_slots:
            orders = np.stack([generator.permutation(self.slots_of_frame[0]) for generator in generators])
        return self.batch(indices, starts, orders)

    def batch(
        self,
        indices: np.ndarray,
        starts: Int64[np.ndarray, "n"],
        orders: Int64[np.ndarray, "n N"] | None = None,
    ) -> dict[str, Tensor]:
        """The batch of `indices`; clip i starts at frame `starts[i]`, one of 0..num_starts - 1.

        Its slots are those of the file, in the order `orders[i]` if that is given.
        """
        of_kind = {"cls": np.flatnonzero(self.kinds[indices] == 0), "mc": np.flatnonzero(self.kinds[indices])}
        arrays: dict[str, Any] = {"scene_index": self.scenes[indices], "question_id": self.ids[indices]}
        all_rows, _ = self._rows(indices)
        longest = int((~self._is_padding[all_rows]).sum(axis=1).max())
        for name, places in of_kind.items():
            members = indices[places]
            rows, question_of = self._rows(members)
            words = np.argsort(self._is_padding[rows], axis=1, kind="stable")[:, :longest]
            arrays |= {
                f"{name}_index": places,
                f"{name}_q_tokens": np.take_along_axis(self._tokens[rows], words, axis=1),
                f"{name}_q_places": words,
                f"{name}_q_pad_mask": np.take_along_axis(self._is_padding[rows], words, axis=1),
                f"{name}_label": self._labels[rows],
                f"{name}_video_emb": self._video_slots(members, starts[places]),
            }
            if orders is not None:
                slots = arrays[f"{name}_video_emb"]
                arrays[f"{name}_video_emb"] = np.take_along_axis(slots, orders[places][:, None, :, None], axis=2)
            if name == "mc":
                arrays |= {"mc_flag": question_of, "mc_choice_id": self._choice_ids[rows]}
        arrays["mc_subtype"] = self.kinds[indices[of_kind["mc"]]]
        return {key: torch.from_numpy(value) for key, value in arrays.items()}

    def frames(self, index: int, start: int) -> slice:
        """Those that question `index` sees if its clip starts at `start`.

        Slots of more frames than the video has were unrolled beyond its end; predictive questions look at the last.
        """
        stored = self.slots[self._video_name(index)].shape[0]
        if self.kinds[index] == PREDICTIVE:
            start += max(0, stored - self.video_len)
        return slice(start, start + (self.num_frames - 1) * self.stride + 1, self.stride)

    def _video_name(self, index: int) -> str:
        return str(self.videos[self._video_of[index]])

    def _rows(self, indices: np.ndarray) -> tuple[Int64[np.ndarray, "R"], Int64[np.ndarray, "R"]]:
        """The rows of text of questions, one below the other, and which of the questions each is of."""
        firsts, counts = self._first_rows[indices], np.diff(self._first_rows)[indices]
        question_of = np.repeat(np.arange(len(indices)), counts)
        return np.arange(counts.sum()) + (firsts - np.cumsum(counts) + counts)[question_of], question_of

    def _video_slots(self, indices: np.ndarray, starts: np.ndarray) -> Float32[np.ndarray, "n T N C"]:
        found = np.empty((len(indices), self.num_frames, *self.slots_of_frame), np.float32)
        for row, (index, start) in enumerate(zip(indices.tolist(), starts.tolist())):
            found[row] = self.slots[self._video_name(index)][self.frames(index, start)]
        return found

    def _check_slots(self) -> tuple[int, int]:
        """Number and size of the slots of a frame. DataError unless all videos have enough frames of them."""
        names = self.videos.tolist()
        if missing := [name for name in names if name not in self.slots]:
            raise DataError(
                f"{self.path}: there are no slots of {missing[0]} ({len(missing)} videos in all). Extract the slots "
                "of all videos that it asks about"
            )
        size = tuple(self.slots[names[0]].shape[1:])
        for name in names:
            length, *found = self.slots[name].shape
            if length < self.video_len or tuple(found) != size:
                raise DataError(
                    f"slots of {name}: {length} frames of {found[0]} slots of size {found[1]}, expected "
                    f"{self.video_len} of {size[0]} slots of size {size[1]}. Extract them again"
                )
        return size

    def _encode(self, scene: dict[str, Any], question: dict[str, Any]) -> tuple[np.ndarray, ...]:
        try:
            return self._encoded(question)
        except (DataError, KeyError, TypeError, ValueError) as error:
            what = error if isinstance(error, DataError) else f"not as expected ({error!r}). Fetch the file again"
            raise DataError(
                f"{self.path}: scene {scene['scene_index']}, question {question['question_id']}: {what}"
            ) from error

    def _encoded(self, question: dict[str, Any]) -> tuple[np.ndarray, ...]:
        """Tokens (R, L), padding (R, L), labels (R,) and choice ids (R,) of a question's rows: one for each choice."""
        words, (question_len, choice_len) = self._vocabulary["q_vocab"], self._lengths
        if question["question_type"] == KINDS[0]:
            tokens, is_padding = tokenise(question["question"], words, question_len + choice_len)
            answer = question.get("answer")
            if answer is not None and answer not in self._vocabulary["a_vocab"]:
                raise DataError(f"answer {answer!r} is not in the vocabulary. Build it from all question files")
            label = NO_ANSWER if answer is None else self._vocabulary["a_vocab"][answer]
            return tokens[None], is_padding[None], np.array([label]), np.array([NO_ANSWER])
        asked, choices = tokenise(question["question"], words, question_len), question["choices"]
        if not choices:
            raise ValueError("no choices")
        rows = [map(np.concatenate, zip(asked, tokenise(item["choice"], words, choice_len))) for item in choices]
        labels = [("wrong", "correct").index(item["answer"]) if "answer" in item else NO_ANSWER for item in choices]
        return *map(np.stack, zip(*rows)), np.array(labels), np.array([item["choice_id"] for item in choices])


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
