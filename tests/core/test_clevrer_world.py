"""Generated CLEVRER videos: the published files, numbers and readers, and what they say is what is to be seen."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from core.data.clevrer import Clevrer, mask_boxes
from core.data.clips import enter_times
from core.data.run_length import decode_run_lengths
from core.data.video import mp4_frames
from core.data.vqa import ClevrerQuestions, build_vocabulary, words_of
from core.synth import clevr, clevrer
from core.synth.catalogue import write_set
from core.synth.clevrer_questions import ask
from core.synth.h5_writer import sample_rng
from core.synth.physics import Body, simulate
from core.synth.scene import Camera, SceneObject, rotation_about_z
from tests.conftest import Runner
from tests.core.clevrer_logs import random_log
from tests.video_files import write_json

FRAMES, FPS, WIDTH, HEIGHT = 16, 8, 96, 64
OPTIONS = {"frames": FRAMES, "fps": FPS, "width": WIDTH, "height": HEIGHT, "samples": 1, "most": 4}
CAMERA = Camera(clevr.CAMERA, clevr.TARGET, fov=clevrer.FOV, width=480, height=320)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, _, made = write_set("clevrer", tmp_path_factory.mktemp("made"), 10, **OPTIONS)
    assert made == 10
    return folder


def load(path: Path) -> dict:
    return json.loads(path.read_text())


def annotation_of(root: Path, number: int) -> dict:
    return load(next(root.glob(f"annotations/*/*/annotation_{number:05d}.json")))


def proposals_of(root: Path, number: int) -> list[list[dict]]:
    return [frame["objects"] for frame in load(root / f"derender_proposals/proposal_{number:05d}.json")["frames"]]


# ---- files ----


def test_numbers_are_the_published_ones():
    assert [clevrer.place_of(index) for index in (0, 7, 8, 9, 10)] == [
        ("train", 0),
        ("train", 7),
        ("val", 10_000),
        ("test", 15_000),
        ("train", 8),
    ]
    assert clevrer.place_of(7998) == ("val", 10_799)
    assert clevrer.place_of(8008) == ("val", 10_801)  # the annotation of 10800 is broken in the published set
    assert clevrer.place_of(12_497) == ("train", 9_999)
    numbers = {clevrer.place_of(index) for index in range(12_500)}
    assert len(numbers) == 12_500
    with pytest.raises(ValueError, match=r"scene 12500 does not fit, split train ends at video 9999"):
        clevrer.place_of(12_500)
    assert clevrer.path_of("video", "val", 10_801, "mp4") == "videos/val/video_10000-11000/video_10801.mp4"


def test_the_files_are_those_of_the_published_set(root: Path):
    names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    numbers = {"train": range(8), "val": [10_000], "test": [15_000]}
    expected = {
        ".entries",
        "dataset.json",
        "preview.png",
        "preview.gif",
        *(f"questions/{split}.json" for split in numbers),
    }
    for split, members in numbers.items():
        for number in members:
            expected |= {f"derender_proposals/proposal_{number:05d}.json", f"questions/scenes/{number:05d}.json"}
            expected.add(clevrer.path_of("video", split, number, "mp4"))
            if split != "test":
                expected.add(clevrer.path_of("annotation", split, number, "json"))
    assert names == expected


def test_annotations_have_the_published_form(root: Path):
    for number in (0, 10_000):
        found = annotation_of(root, number)
        assert (found["scene_index"], found["video_filename"]) == (number, f"video_{number:05d}.mp4")
        properties = found["object_property"]
        assert [item["object_id"] for item in properties] == list(range(len(properties)))
        assert 3 <= len(properties) <= 4
        assert len({(item["color"], item["material"], item["shape"]) for item in properties}) == len(properties)
        assert [frame["frame_id"] for frame in found["motion_trajectory"]] == list(range(FRAMES))
        for frame in found["motion_trajectory"]:
            for item in frame["objects"]:
                for key in ("location", "orientation", "velocity", "angular_velocity"):
                    assert len(item[key]) == 3
                assert isinstance(item["inside_camera_view"], bool)
        for collision in found["collision"]:
            first, second = collision["object_ids"]
            assert first < second < len(properties)
            objects = found["motion_trajectory"][collision["frame_id"]]["objects"]
            assert objects[first]["inside_camera_view"]
            assert objects[second]["inside_camera_view"]
            between = np.linalg.norm(np.subtract(objects[first]["location"], objects[second]["location"]))
            assert between < 2 * 2**0.5 * clevrer.SIZE + 5 / FPS  # they may have come apart since the touch


def test_the_reader_takes_videos_masks_and_boxes(root: Path):
    sizes = {}
    for split in ("train", "val", "test"):
        source = Clevrer(root, split, 6, video_len=FRAMES, size=(HEIGHT, WIDTH), masks=True)
        sizes[split] = len(source)
    assert sizes == {"train": 8 * 11, "val": 2, "test": 2}
    whole = Clevrer(root, "train", None, video_len=FRAMES, size=(HEIGHT, WIDTH), masks=True)
    batch = whole.read(np.arange(8))
    assert batch["video"].shape == (8, FRAMES, 3, HEIGHT, WIDTH)
    assert ((batch["video"][:, 1:].int() - batch["video"][:, :-1].int()).abs() > 40).any()
    assert batch["mask"].shape == (8, FRAMES, HEIGHT, WIDTH)
    assert batch["bbox"].shape == (8, FRAMES, 7, 4)
    for number in range(8):
        for t, objects in enumerate(proposals_of(root, number)):
            masks = np.array([decode_run_lengths(item["mask"]["counts"], (HEIGHT, WIDTH)) for item in objects])
            assert all(item["mask"]["size"] == [HEIGHT, WIDTH] for item in objects)
            assert masks.sum(axis=0).max(initial=0) <= 1  # exact masks do not overlap
            labels = batch["mask"][number, t].numpy()
            for k, mask in enumerate(masks):
                np.testing.assert_array_equal(labels == k + 1, mask)
            assert int(batch["visible"][number, t].sum()) == len(objects)
            np.testing.assert_array_equal(batch["bbox"][number, t, : len(objects)], mask_boxes(masks))


def test_masks_lie_where_the_trajectories_say_and_have_the_colours_of_the_objects(root: Path):
    camera = Camera(clevr.CAMERA, clevr.TARGET, fov=clevrer.FOV, width=WIDTH, height=HEIGHT)
    hits = total = 0
    vivid = []
    for number in range(8):
        found = annotation_of(root, number)
        frames = list(mp4_frames(root / clevrer.path_of("video", "train", number, "mp4")))
        names = [{key: item[key] for key in ("color", "material", "shape")} for item in found["object_property"]]
        for frame, state, objects in zip(frames, found["motion_trajectory"], proposals_of(root, number)):
            seen = camera.project(np.array([item["location"] for item in state["objects"]]))
            masks = {
                names.index({key: item[key] for key in names[0]}): decode_run_lengths(
                    item["mask"]["counts"], (HEIGHT, WIDTH)
                )
                for item in objects
            }
            for k, item in enumerate(state["objects"]):
                column, row = seen[k, :2]
                in_picture = 0 < column < WIDTH and 0 < row < HEIGHT and seen[k, 2] > 0
                assert item["inside_camera_view"] == in_picture
                if in_picture:
                    total += 1
                    hits += k in masks and bool(masks[k][int(row), int(column)])
                if k in masks and masks[k].sum() > 30 and names[k]["color"] in ("red", "green", "blue"):
                    mean = frame[masks[k]].mean(axis=0)
                    vivid.append(("red", "green", "blue")[int(mean.argmax())] == names[k]["color"])
    assert hits / total > 0.9  # others are hidden
    assert total > 300
    assert np.mean(vivid) > 0.95
    assert len(vivid) > 50


def test_entrances_that_the_reader_filters_are_those_of_the_trajectories(root: Path):
    entered = 0
    for number in range(8):
        trajectory = annotation_of(root, number)["motion_trajectory"]
        inside = np.array([[item["inside_camera_view"] for item in frame["objects"]] for frame in trajectory])
        assert inside.any(axis=0).all(), "every object is seen"
        entered += len(enter_times(inside))
    assert entered >= 8
    source = Clevrer(root, "train", 6, video_len=FRAMES, size=(16, 16))
    filtered = Clevrer(root, "train", 6, video_len=FRAMES, size=(16, 16), filter_enter=True, warmup_len=3)
    assert 0 < len(filtered) < len(source)


def test_questions_are_read_with_one_vocabulary(root: Path):
    files = [root / f"questions/{split}.json" for split in ("train", "val", "test")]
    vocabulary = build_vocabulary(files)
    videos = {path.name for path in root.glob("videos/*/*/*.mp4")}
    slots = {name: np.zeros((128, 2, 3), np.float32) for name in videos}
    counts = []
    for path in files:
        source = ClevrerQuestions(path, vocabulary, slots)
        labels = source.read(np.arange(len(source)))["cls_label"]
        assert bool((labels >= 0).all()) == (path.stem != "test")
        counts.append(len(source))
        scenes = json.loads(path.read_text())
        assert [scene["video_filename"] for scene in scenes] == sorted(scene["video_filename"] for scene in scenes)
    assert counts[0] > 8 * 11
    assert min(counts) >= 8
    assert "answer" not in files[2].read_text()
    assert "answer" in (root / "questions/scenes/15000.json").read_text()


def test_files_do_not_depend_on_workers_and_a_larger_count_continues(run: Runner, root: Path, tmp_path: Path):
    words = [word for key, value in OPTIONS.items() for word in (f"--{key}", value)]
    write_set("clevrer", tmp_path, 1, **OPTIONS)
    done = run("tools/make_data.py", "clevrer", "--root", tmp_path, "--scenes", 2, "--workers", 2, *words)
    assert done.returncode == 0, done.stderr
    assert "2 scenes, 1 of them made by this call" in done.stdout
    made = {str(path.relative_to(tmp_path / "CLEVRER")): path for path in (tmp_path / "CLEVRER").rglob("*.*")}
    same = [name for name in made if "/" in name and (root / name).is_file() and not name.startswith("questions/t")]
    assert len(same) == 2 * 4 + 1
    for name in same:
        if name != "questions/val.json":
            assert made[name].read_bytes() == (root / name).read_bytes(), name
    assert json.loads(made["questions/val.json"].read_text()) == []
    assert len(json.loads(made["questions/train.json"].read_text())) == 2


def test_what_cannot_be_made_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"--most 7: there is room for 6 objects"):
        write_set("clevrer", tmp_path, 1, **{**OPTIONS, "most": 7})
    with pytest.raises(ValueError, match=r"--fewest 1: at least 2 objects"):
        write_set("clevrer", tmp_path, 1, **{**OPTIONS, "fewest": 1})
    with pytest.raises(ValueError, match=r"--width 95 --height 64: videos need even numbers of pixels"):
        write_set("clevrer", tmp_path, 1, **{**OPTIONS, "width": 95})


# ---- what happens ----


def test_events_are_those_of_the_motion():
    ball = SceneObject("sphere", clevrer.SIZE, (-3.6, -4.8, clevrer.SIZE))  # left of the picture
    target = SceneObject("cube", clevrer.SIZE, (0.0, 0.0, clevrer.SIZE), rotation_about_z(float(np.arctan2(4, 3))))
    motion = simulate([ball, target], [Body((2.4, 3.2, 0.0)), Body()], 100, 25, friction=0.0, restitution=0.9)
    inside = clevrer.is_inside(motion, CAMERA)
    events = clevrer.events_of(motion, inside, 25, 100)
    assert [event.kind for event in events[:2]] == ["enter", "collision"]
    enter, collision = events[:2]
    assert enter.objects == (0,)
    assert inside[enter.frame, 0]
    assert not inside[enter.frame - 1, 0]
    assert (collision.kind, collision.objects) == ("collision", (0, 1))
    assert collision.frame == pytest.approx((6 - 2 * clevrer.SIZE) / 4 * 25, abs=1)
    assert [event.frame for event in events] == sorted(event.frame for event in events)
    assert ("exit", (1,)) in {(event.kind, event.objects) for event in events}
    assert clevrer.events_of(motion, inside, 25, collision.frame) == [enter]
    assert clevrer.events_of(motion, np.zeros_like(inside), 25, 100) == []  # what nobody sees is no event


def test_a_body_gets_its_speed_at_its_start():
    ball = SceneObject("sphere", clevrer.SIZE, (0.0, 0.0, clevrer.SIZE))
    motion = simulate([ball], [Body((2.0, 0.0, 0.0), start=1.0)], 51, 25, friction=0.0)
    np.testing.assert_allclose(motion.positions[:26, 0, 0], 0, atol=1e-6)
    assert motion.positions[50, 0, 0] == pytest.approx(2.0, abs=0.01)


def test_drawn_videos_show_collisions_and_nothing_out_of_sight():
    collisions = entrances = changes = 0
    for index in range(4):
        world, motion, log = clevrer.draw_video(sample_rng(1, "clevrer", index), CAMERA, 3, 5, 64, 12.5)
        assert 3 <= len(world.things) == len(log.things) <= 5
        assert motion.positions.shape[0] == 64 + clevrer.FRAMES_AFTER
        assert log.inside.shape == log.speeds.shape == (64, len(world.things))
        assert log.inside.any(axis=0).all()
        assert all(event.frame < 64 for event in log.events)
        assert all(64 <= event.frame < 64 + clevrer.FRAMES_AFTER for event in log.future)
        collisions += sum(event.kind == "collision" for event in log.events)
        entrances += sum(event.kind == "enter" for event in log.events)
        outcomes = {(event.kind, event.objects) for event in log.events}
        for gone, events in enumerate(log.without):
            assert all(gone not in event.objects for event in events)
            left = {outcome for outcome in outcomes if gone not in outcome[1]}
            changes += left != {(event.kind, event.objects) for event in events}
            if not any(gone in event.objects for event in log.events if event.kind == "collision"):
                assert left == {(event.kind, event.objects) for event in events}
    assert collisions >= 4
    assert entrances >= 4
    assert changes >= 1


def test_euler_angles():
    quaternions = np.array([[[1.0, 0, 0, 0], rotation_about_z(0.7), [np.cos(0.2), np.sin(0.2), 0, 0]]])
    np.testing.assert_allclose(clevrer.euler_angles(quaternions), [[[0, 0, 0], [0, 0, 0.7], [0.4, 0, 0]]], atol=1e-12)


# ---- questions about any events ----


PUBLISHED_WORDS = """
after and any are before begins between blue brown collide collides colliding collision collisions color cube cube's
cube, cubes cyan cylinder cylinder's cylinder, cylinders ends enter entering enters entrance event exit exiting exits
first following for gray green happen how if is last many material metal moving next not object object's object, objects
of presence purple red removed removed, responsible rubber scene second shape sphere sphere's sphere, spheres stationary
that the there to video what when which will with without yellow
"""
PUBLISHED_ANSWERS = "0 1 2 3 4 5 blue brown cube cyan cylinder gray green metal no purple red rubber sphere yellow yes"


SEEDS = range(40)


def test_every_word_and_every_answer_is_published_and_no_text_is_too_long():
    words, answers = set(), set()
    for seed in SEEDS:
        for question in ask(random_log(seed), np.random.default_rng(seed)):
            choices = [choice["choice"] for choice in question.get("choices", [])]
            asked = words_of(question["question"])
            assert len(asked) <= (20 if choices else 32)
            assert all(len(words_of(choice)) <= 12 for choice in choices)
            words.update(asked, *map(words_of, choices))
            if not choices:
                answers.add(question["answer"])
    assert words == set(PUBLISHED_WORDS.split())
    assert answers == set(PUBLISHED_ANSWERS.split())


def test_numbers_and_shape_of_questions():
    kinds: Counter[str] = Counter()
    for seed in SEEDS:
        questions = ask(random_log(seed), np.random.default_rng(seed))
        assert [question["question_id"] for question in questions] == list(range(len(questions)))
        assert len({question["question"] for question in questions if "answer" in question}) == 11
        for question in questions:
            kinds[question["question_type"]] += 1
            assert ("answer" in question) == (question["question_type"] == "descriptive") == ("choices" not in question)
            choices = question.get("choices", [])
            assert [choice["choice_id"] for choice in choices] == list(range(len(choices)))
            if choices:
                assert {choice["answer"] for choice in choices} == {"correct", "wrong"}
                assert len(choices) <= (2 if question["question_type"] == "predictive" else 4)
                assert len({choice["choice"] for choice in choices}) == len(choices)
    assert kinds["descriptive"] == 11 * len(SEEDS)
    assert min(kinds[kind] for kind in ("explanatory", "predictive", "counterfactual")) > 10


def test_the_reader_and_the_vocabulary_take_them(tmp_path: Path):
    scenes = [
        {
            "scene_index": seed,
            "video_filename": f"video_{seed:05d}.mp4",
            "questions": ask(random_log(seed), np.random.default_rng(seed)),
        }
        for seed in SEEDS
    ]
    bare = [{**scene, "questions": clevrer.without_answers(scene["questions"])} for scene in scenes]
    assert "answer" not in {key for scene in bare for question in scene["questions"] for key in question}
    files = [write_json(tmp_path / "train.json", scenes), write_json(tmp_path / "test.json", bare)]
    vocabulary = build_vocabulary(files)
    assert {name: len(words) for name, words in vocabulary.items()} == {"q_vocab": 82, "a_vocab": 22}
    slots = {scene["video_filename"]: np.zeros((128, 2, 3), np.float32) for scene in scenes}
    for path, has_answers in zip(files, (True, False)):
        source = ClevrerQuestions(path, vocabulary, slots)
        assert len(source) == sum(len(scene["questions"]) for scene in scenes)
        batch = source.read(np.arange(len(source)))
        for labels in (batch["cls_label"], batch["mc_label"]):
            assert bool((labels >= 0).all()) == has_answers
            assert bool((labels == -1).all()) != has_answers
