"""Questions about CLEVRER videos: words, tokens, batches, and files that are not as they should be."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.errors import DataError
from core.data.vqa import KINDS, ClevrerQuestions, build_vocabulary, tokenise, words_of
from tests.video_files import write_json

SCENES = [
    {
        "scene_index": 7,
        "video_filename": "video_00007.mp4",
        "questions": [
            {
                "question_id": 0,
                "question_type": "predictive",
                "question": "What is next?",
                "choices": [
                    {"choice_id": 0, "choice": "The cube exits", "answer": "wrong"},
                    {"choice_id": 1, "choice": "The cube, enters", "answer": "correct"},
                ],
            },
            {"question_id": 1, "question_type": "descriptive", "question": "Is the cube  red?", "answer": "yes"},
        ],
    },
    {
        "scene_index": 8,
        "video_filename": "video_00008.mp4",
        "questions": [
            {"question_id": 0, "question_type": "descriptive", "question": "what color is next?", "answer": "red"},
            {
                "question_id": 1,
                "question_type": "counterfactual",
                "question": "if the cube is red?",
                "choices": [{"choice_id": 0, "choice": "the cube exits", "answer": "correct"}],
            },
        ],
    },
]
WORDS = ["PAD", "color", "cube", "cube,", "enters", "exits", "if", "is", "next", "red", "the", "what"]


def slots_of(length: int, start: int = 0) -> np.ndarray:
    """[T, N, C] in which every entry is the number of its frame."""
    return np.broadcast_to(np.arange(start, start + length, dtype=np.float32)[:, None, None], (length, 2, 3))


SLOTS = {"video_00007.mp4": slots_of(160), "video_00008.mp4": slots_of(128, 1000)}


@pytest.fixture
def path(tmp_path) -> Path:
    return write_json(tmp_path / "questions" / "val.json", SCENES)


def open_questions(path: Path, **more) -> ClevrerQuestions:
    settings = {"max_question_len": 6, "max_choice_len": 4} | more
    return ClevrerQuestions(path, build_vocabulary([path]), SLOTS, **settings)


def without_answers(scenes: list[dict]) -> list[dict]:
    def stripped(value):
        if isinstance(value, list):
            return [stripped(entry) for entry in value]
        if isinstance(value, dict):
            return {key: stripped(entry) for key, entry in value.items() if key != "answer"}
        return value

    return stripped(scenes)


def test_words():
    assert words_of("  What is the cube's  COLOR, if?any ?") == ["what", "is", "the", "cube's", "color,", "ifany"]


def test_vocabulary_is_in_ascii_order_of_all_files(path, tmp_path):
    vocabulary = build_vocabulary([path])
    assert vocabulary == {"q_vocab": {w: i for i, w in enumerate(WORDS)}, "a_vocab": {"PAD": 0, "red": 1, "yes": 2}}
    test = write_json(tmp_path / "test.json", without_answers(SCENES))
    assert build_vocabulary([test, path]) == vocabulary


def test_tokens_are_padded():
    tokens, is_padding = tokenise("Is next?", {"PAD": 0, "is": 3, "next": 5}, 4)
    assert (tokens.tolist(), tokens.dtype) == ([3, 5, 0, 0], np.int32)
    assert is_padding.tolist() == [False, False, True, True]


def test_questions_with_choices_come_last(path):
    source = open_questions(path)
    assert list(zip(source.scenes, source.ids)) == [(7, 1), (8, 0), (7, 0), (8, 1)]
    assert [KINDS[kind] for kind in source.kinds] == ["descriptive", "descriptive", "predictive", "counterfactual"]


def test_a_batch_keeps_its_order_whatever_kinds_it_mixes(path):
    source = open_questions(path)
    assert len(source) == 4
    batch = source.read(np.array([2, 0, 3]))
    assert batch["scene_index"].tolist() == [7, 7, 8]
    assert batch["question_id"].tolist() == [0, 1, 1]
    assert (batch["cls_index"].tolist(), batch["mc_index"].tolist()) == ([1], [0, 2])
    assert batch["cls_label"].tolist() == [2]
    assert batch["cls_q_tokens"].tolist() == [[WORDS.index(word) for word in ("is", "the", "cube", "red")] + [0] * 4]
    assert batch["cls_q_places"].tolist() == [list(range(8))]
    assert batch["mc_subtype"].tolist() == [2, 3]
    assert batch["mc_flag"].tolist() == [0, 0, 1]
    assert batch["mc_label"].tolist() == [0, 1, 1]
    assert batch["mc_choice_id"].tolist() == [0, 1, 0]
    second = [WORDS.index(word) for word in ("what", "is", "next", "the", "cube,", "enters")]
    assert batch["mc_q_tokens"][1].tolist() == [*second, 0, 0]
    assert batch["mc_q_places"][1].tolist() == [0, 1, 2, 6, 7, 8, 3, 4]
    assert batch["mc_q_pad_mask"][1].tolist() == [False] * 6 + [True] * 2
    types = {key: value.dtype for key, value in batch.items()}
    assert types["mc_q_tokens"] == torch.int32
    assert types["mc_q_pad_mask"] == torch.bool
    assert types["mc_video_emb"] == torch.float32


def test_predictive_questions_see_the_unrolled_frames(path):
    source = open_questions(path)
    assert source.num_starts == 8
    batch = source.batch(np.array([0, 1, 2, 3]), np.array([0, 7, 7, 1]))
    frames = np.arange(25) * 5
    np.testing.assert_array_equal(batch["cls_video_emb"][:, :, 1, 2], [frames, 1007 + frames])
    np.testing.assert_array_equal(batch["mc_video_emb"][:, :, 0, 0], [32 + 7 + frames, 1001 + frames])
    assert range(200)[source.frames(2, 7)][-1] == 159
    assert batch["mc_video_emb"].shape == (2, 25, 2, 3)


def test_slots_of_short_videos_are_unrolled_too(path):
    slots = {name: frames[:20] for name, frames in SLOTS.items()}
    words = {"max_question_len": 6, "max_choice_len": 4, "num_frames": 4, "video_len": 16}
    source = ClevrerQuestions(path, build_vocabulary([path]), slots, **words)
    assert KINDS[source.kinds[2]] == "predictive"
    assert source.frames(2, 1).start == 1 + 4
    assert source.frames(0, 1).start == 1


def test_training_varies_starts_and_the_order_of_slots(path):
    indices, slots = np.array([0, 2, 1]), {}
    for name, frames in SLOTS.items():
        slots[name] = frames + 0.25 * np.arange(2, dtype=np.float32)[:, None]
    words = {"max_question_len": 6, "max_choice_len": 4}
    source = ClevrerQuestions(path, build_vocabulary([path]), slots, **words, shuffle_slots=True)
    starts, orders = set(), set()
    for seed in range(40):
        generators = [np.random.default_rng((seed, index)) for index in range(3)]
        batch = source.read_varied(indices, generators)
        first = batch["mc_video_emb"][0, :, :, 0]
        starts.add(int(first[0].min()) - 32)
        orders.add(tuple((first[0] % 1).tolist()))
        assert torch.equal(first - first[0], 5.0 * torch.arange(25)[:, None].expand(25, 2)), "one order for the clip"
    assert starts == set(range(8))
    assert orders == {(0.0, 0.25), (0.25, 0.0)}
    again = source.read_varied(indices, [np.random.default_rng((39, index)) for index in range(3)])
    assert all(torch.equal(again[key], batch[key]) for key in batch)
    evaluated = source.read(indices)
    assert evaluated["cls_video_emb"][:, 0, :, 0].tolist() == [[0.0, 0.25], [1000.0, 1000.25]]


def test_the_broken_video_is_not_asked_about(tmp_path):
    broken = SCENES[0] | {"scene_index": 10800, "video_filename": "video_10800.mp4"}
    path = write_json(tmp_path / "val.json", [*SCENES, broken])
    assert len(open_questions(path)) == 4
    with pytest.raises(DataError, match=r"none\.json: there are no questions in it"):
        open_questions(write_json(tmp_path / "none.json", [broken]))


def test_a_kind_that_is_absent_has_no_rows(path):
    source = open_questions(path)
    descriptive, choices = source.read(np.array([0, 1])), source.read(np.array([2]))
    assert {key: list(descriptive[key].shape) for key in ("mc_q_tokens", "mc_label", "mc_video_emb")} == {
        "mc_q_tokens": [0, 4],
        "mc_label": [0],
        "mc_video_emb": [0, 25, 2, 3],
    }
    assert list(choices["cls_q_pad_mask"].shape) == [0, 6]
    assert set(descriptive) == set(choices)
    assert all(descriptive[key].dtype == choices[key].dtype for key in descriptive)


def test_files_without_answers_have_labels_minus_one(tmp_path, path):
    test = write_json(tmp_path / "test.json", without_answers(SCENES))
    source = ClevrerQuestions(test, build_vocabulary([path]), SLOTS)
    batch = source.read(np.arange(4))
    assert batch["cls_label"].tolist() == [-1, -1]
    assert batch["mc_label"].tolist() == [-1, -1, -1]
    assert batch["cls_q_tokens"].shape == (2, 8)


def test_words_that_are_not_known_or_too_many(path):
    vocabulary = build_vocabulary([path])
    del vocabulary["q_vocab"]["exits"]
    with pytest.raises(
        DataError, match=r"val\.json: scene 7, question 0: 'exits' in 'The cube exits' is not in the voc"
    ):
        ClevrerQuestions(path, vocabulary, SLOTS)
    with pytest.raises(DataError, match=r"scene 8, question 1: 'if the cube is red\?' has 5 words, expected at most 4"):
        open_questions(path, max_question_len=4)
    vocabulary = build_vocabulary([path])
    del vocabulary["a_vocab"]["yes"]
    with pytest.raises(DataError, match=r"scene 7, question 1: answer 'yes' is not in the vocabulary"):
        ClevrerQuestions(path, vocabulary, SLOTS)


def test_missing_and_short_slots(path):
    vocabulary = build_vocabulary([path])
    with pytest.raises(DataError, match=r"val\.json: there are no slots of video_00008\.mp4 \(1 videos in all\)"):
        ClevrerQuestions(path, vocabulary, {"video_00007.mp4": SLOTS["video_00007.mp4"]})
    short = SLOTS | {"video_00008.mp4": slots_of(60)}
    with pytest.raises(
        DataError, match=r"slots of video_00008\.mp4: 60 frames of 2 slots of size 3, expected 128 of 2"
    ):
        ClevrerQuestions(path, vocabulary, short)
    other = SLOTS | {"video_00008.mp4": np.zeros((128, 4, 3), np.float32)}
    with pytest.raises(DataError, match=r"video_00008\.mp4: 128 frames of 4 slots .*expected 128 of 2 slots of size 3"):
        ClevrerQuestions(path, vocabulary, other)


@pytest.mark.parametrize("text", ["", "{", "{}x", "[1]", '[{"questions": [{}]}]', '{"a": 1}'])
def test_damaged_question_files(path, text):
    vocabulary = build_vocabulary([path])
    path.write_text(text)
    with pytest.raises(DataError, match=r"val\.json: not a question file of CLEVRER .*Fetch it again"):
        ClevrerQuestions(path, vocabulary, SLOTS)


def test_question_types_and_answers_that_do_not_exist(tmp_path, path):
    vocabulary = build_vocabulary([path])
    text = path.read_text()
    path.write_text(text.replace("counterfactual", "causal"))
    with pytest.raises(DataError, match=r"question_type 'causal' is not one of descriptive, explanatory"):
        ClevrerQuestions(path, vocabulary, SLOTS)
    path.write_text(text.replace('"correct"', '"right"'))
    with pytest.raises(DataError, match=r"val\.json: scene 7, question 0: not as expected .*Fetch the file again"):
        ClevrerQuestions(path, vocabulary, SLOTS)
    with pytest.raises(DataError, match=r"nowhere\.json: no such file\. .*val\.json"):
        ClevrerQuestions(tmp_path / "nowhere.json", vocabulary, SLOTS)


def test_more_frames_than_a_video_has(path):
    with pytest.raises(ValueError, match=r"n_sample_frames=25: expected 1 to the 16 frames of a video"):
        open_questions(path, num_frames=25, video_len=16)
