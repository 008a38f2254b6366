"""Which of CLEVRER's questions are answered rightly (Yi et al. 2020), and the file that its evaluation server wants.

Shapes: Q1 descriptive questions with A possible answers; Q2 others with R choices in all. A choice is said to be
correct if its logit is above 0. A question is answered rightly if the right thing is said of all its choices.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Bool, Float
from torch import Tensor

from core.data.errors import DataError
from core.data.loader import Batch
from core.data.vqa import KINDS, NO_ANSWER, ClevrerQuestions, Vocabulary
from slotformer.framework.extraction import Trained
from slotformer.video_prediction.evaluation import batches

TEST_SCENES = range(15_000, 20_000)
CHOICES = "multiple-choice"
"""All kinds of questions that have choices."""


class Choice(NamedTuple):
    """What is said of a choice: the label is 1 if it is correct, 0 if not, -1 if that is not known."""

    number: int
    is_correct: bool
    label: int


class Answer(NamedTuple):
    """What is said to a question: the number of a word, or something of each of its choices, which only others have."""

    place: int
    """Of the question in its set."""
    scene: int
    question: int
    kind: int
    word: int
    label: int
    choices: list[Choice]

    @property
    def is_right(self) -> bool:
        if self.choices:
            return all(choice.is_correct == choice.label for choice in self.choices)
        return self.word == self.label


def right_choices(choices: Float[Tensor, " R"], batch: Batch) -> tuple[Bool[Tensor, " R"], Bool[Tensor, " Q2"]]:
    """Of which choices the right thing is said, and of which questions of all choices."""
    right = (choices > 0) == batch["mc_label"].bool()
    all_right = torch.ones(len(batch["mc_subtype"]), dtype=torch.int32, device=right.device)
    all_right.scatter_reduce_(0, batch["mc_flag"].long(), right.int(), "amin")
    return right, all_right.bool()


def accuracies(
    descriptive: Float[Tensor, "Q1 A"], choices: Float[Tensor, " R"], batch: Batch
) -> dict[str, Float[Tensor, "_"]]:
    """1 for what is right, 0 for what is wrong.

    `acc` of all questions, `descriptive_acc`, `multiple-choice_acc`, `explanatory_acc` and so on of those of a kind;
    `multiple-choice_option_acc` and so on of single choices.
    """
    of_descriptive = descriptive.argmax(dim=1) == batch["cls_label"]
    options, questions = right_choices(choices, batch)
    found = {"acc": torch.cat([of_descriptive, questions]), f"{KINDS[0]}_acc": of_descriptive}
    found |= {f"{CHOICES}_acc": questions, f"{CHOICES}_option_acc": options}
    for kind, name in enumerate(KINDS[1:], 1):
        is_kind = batch["mc_subtype"] == kind
        found |= {f"{name}_acc": questions[is_kind], f"{name}_option_acc": options[is_kind[batch["mc_flag"].long()]]}
    return {name: values.float() for name, values in found.items()}


def answers_of(
    descriptive: Float[Tensor, "Q1 A"], choices: Float[Tensor, " R"], batch: Batch, places: Sequence[int]
) -> list[Answer]:
    """The answers to the questions of a batch, in its order; they are at these `places` of their set."""
    found: dict[int, tuple[int, int, int, list[Choice]]] = {}
    words, asked = descriptive.argmax(dim=1).tolist(), batch["mc_index"].tolist()
    for index, word, label in zip(batch["cls_index"].tolist(), words, batch["cls_label"].tolist()):
        found[index] = (0, word, label, [])
    for index, kind in zip(asked, batch["mc_subtype"].tolist()):
        found[index] = (kind, NO_ANSWER, NO_ANSWER, [])
    rows = (batch["mc_flag"], batch["mc_choice_id"], choices > 0, batch["mc_label"])
    for question, *choice in zip(*(values.tolist() for values in rows)):
        found[asked[question]][-1].append(Choice(*choice))
    names = zip(places, batch["scene_index"].tolist(), batch["question_id"].tolist())
    return [Answer(*name, *found[index]) for index, name in enumerate(names)]


def answer_all(trained: Trained, source: ClevrerQuestions, batch_size: int) -> list[Answer]:
    """The answers to all questions in the order of the set; the same in any number of processes."""
    accelerator, found = trained.accelerator, []
    own = np.array_split(np.arange(len(source)), accelerator.num_processes)[accelerator.process_index]
    with torch.inference_mode():
        for places, batch in batches(trained, source, own, batch_size, f"questions of {source.path.stem}"):
            found += answers_of(*trained.model.answer(batch), batch, places.tolist())
    if accelerator.num_processes > 1:
        found = gather_object(found)
    return sorted(found, key=lambda answer: answer.place)


def scores(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """By the kind of question, and of `all`: the number of `questions`, of which the share `acc` is answered rightly.

    Where there are choices also the number of `options`, and the share `option_acc` of which the right thing is said.
    """
    groups = {KINDS[0]: [0], CHOICES: [1, 2, 3], **{name: [kind] for kind, name in enumerate(KINDS) if kind}}
    found = {}
    for name, kinds in {**groups, "all": range(len(KINDS))}.items():
        members = [answer for answer in answers if answer.kind in kinds]
        options = [choice.is_correct == choice.label for answer in members for choice in answer.choices]
        if members:
            found[name] = {"questions": len(members), "acc": _share([answer.is_right for answer in members])}
        if options and name != "all":
            found[name] |= {"options": len(options), "option_acc": _share(options)}
    return found


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right)


def submission(
    answers: Iterable[Answer], vocabulary: Vocabulary, scenes: Sequence[int] = TEST_SCENES
) -> list[dict[str, Any]]:
    """What the evaluation server wants: an entry for each of `scenes`, also where nothing is asked.

    Choices of a question that comes again join those that it had. DataError for another scene.
    """
    words = {number: word for word, number in vocabulary.items()}
    entries: dict[int, dict[int, dict[str, Any]]] = {scene: {} for scene in scenes}
    for answer in answers:
        if answer.scene not in entries:
            raise DataError(
                f"question {answer.question} is about scene {answer.scene}, but the server expects scenes "
                f"{scenes[0]} to {scenes[-1]}. Are these CLEVRER's test questions?"
            )
        entry = entries[answer.scene].setdefault(answer.question, {"question_id": answer.question})
        if answer.choices:
            entry.setdefault("choices", []).extend(
                {"choice_id": choice.number, "answer": "correct" if choice.is_correct else "wrong"}
                for choice in answer.choices
            )
        else:
            entry["answer"] = words[answer.word]
    return [{"scene_index": scene, "questions": list(found.values())} for scene, found in entries.items()]
