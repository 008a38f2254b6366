"""osrt/render.py and osrt/compile_video.py, on checkpoints of untrained models in the original's format."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from core.data.cameras import cast_rays
from core.files import occupy
from core.training.checkpoint import save
from core.viz.palette import palette, truncated_bytes
from osrt import compile_video, render
from osrt.camera_paths import MOTIONS, CameraPath
from osrt.config import load_config
from osrt.data import open_split
from osrt.models import build_model
from osrt.plots import HEIGHT, WIDTH
from osrt.rendering import read_scene
from tests.conftest import ROOT, Runner
from tests.osrt_runs import train_words

SRT = {"num_octaves": 5, "base_channels": 4, "dim": 16, "num_heads": 2, "dim_head": 8, "mlp_dim": 16}
SLOTS = {**SRT, "pos_start_octave": -5, "num_slots": 4, "slot_dim": 24, "slot_hidden_dim": 24}
OF_SLOTS = {"num_octaves": 5, "latent_dim": 24, "num_heads": 2, "pos_start_octave": -5}
OF_VOLUMES = {"num_octaves": 5, "latent_dim": 16, "num_heads": 2, "dim_head": 8, "mlp_dim": 16}
MODELS = {
    "osrt": ("osrt", SLOTS, "slot_mixer", {**OF_SLOTS, "hidden_dim": 16}),
    "srt": ("srt", SRT, "srt", {"num_octaves": 5, "latent_dim": 16, "num_heads": 2, "hidden_dim": 16}),
    "nerf": ("srt", SRT, "nerf", {**OF_VOLUMES, "max_density": 0.1}),
}
TRAINING = {
    "batch_size": 2,
    "model_selection_metric": "psnr",
    "model_selection_mode": "maximize",
    **{f"{event}_every": 0 for event in ("print", "checkpoint", "validate", "visualize", "backup")},
}


@pytest.fixture
def make_run(views: Path, tmp_path: Path) -> Callable[..., Path]:
    """`make_run(model, dataset)`: the configuration of a run with the original's checkpoint of an untrained model."""

    def made(model: str = "osrt", dataset: str = "clevr3d") -> Path:
        encoder, encoder_kwargs, decoder, decoder_kwargs = MODELS[model]
        folder = views / ("clevr3d" if dataset == "clevr3d" else "msn")
        data = {"dataset": dataset, "path": str(folder), "num_points": 16}
        if dataset == "clevr3d":
            data["kwargs"] = {"downsample": 1}
        described = {"encoder": encoder, "encoder_kwargs": encoder_kwargs, "decoder": decoder}
        path = tmp_path / "run" / "config.yaml"
        path.parent.mkdir()
        sections = {"data": data, "model": {**described, "decoder_kwargs": decoder_kwargs}, "training": TRAINING}
        path.write_text(yaml.safe_dump(sections))
        write_original(path.parent / "model.pt", build(path, seed=1))
        return path

    return made


def build(config: Path, seed: int) -> nn.Module:
    """The model of a configuration, its slots and colours spread out."""
    torch.manual_seed(seed)
    model = build_model(**load_config(config).model_arguments((0.035, 35.0)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("decoder") and weight.ndim == 2:
                weight.mul_(2)
    return model.eval()


def write_original(path: Path, model: nn.Module) -> None:
    """A checkpoint as stelzner/osrt writes it."""
    parts = {
        part: {key: value.clone() for key, value in getattr(model, part).state_dict().items()}
        for part in ("encoder", "decoder")
    }
    rest = {"epoch_it": 0, "it": 7, "t": 1.0, "loss_val_best": -float("inf"), "run_id": None}
    save(path, {**parts, "optimizer": {"state": {}, "param_groups": []}, **rest})


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def numbered(count: int) -> list[str]:
    return sorted(f"{number}.png" for number in range(count))


def video_shape(path: Path) -> tuple[int, int, int]:
    """Frames, height and width of a video of 60 frames a second in yuv420p."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 60
        assert stream.pix_fmt == "yuv420p"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    return len(frames), *frames[0].shape[:2]


def colours(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}


def test_a_render_and_its_videos_as_a_user_makes_them(make_run: Callable[..., Path], run: Runner):
    config = make_run()
    # Nothing but Python is on the path: no ffmpeg is needed.
    done = run("osrt/render.py", config, "--no-cuda", "--num-frames", 5, PATH="")
    assert done.returncode == 0, done.stderr
    scene = config.parent / "render/rotate/0"
    assert done.stdout == f"{scene / 'video.mp4'}\n"
    assert names(scene) == [
        *("depths", "frames", "input_0.png", "provenance.json", "renders", "segmentations", "video.mp4")
    ]
    assert names(scene / "depths") == []
    for kind in ("renders", "segmentations", "frames"):
        assert names(scene / kind) == numbered(5)
    assert picture(scene / "frames/4.png").shape == (HEIGHT, WIDTH, 3)
    assert video_shape(scene / "video.mp4") == (5, HEIGHT, WIDTH)

    done = run("osrt/compile_video.py", scene, PATH="")
    assert done.returncode == 0, done.stderr
    assert video_shape(scene / "video-renders.mp4") == (5, 12, 16)
    for flags in (["--plot"], ["--plot", "--noframes"]):
        (scene / "video.mp4").unlink()
        assert compile_video.main([str(scene), *flags]) == 0
        assert video_shape(scene / "video.mp4") == (5, HEIGHT, WIDTH)


@pytest.mark.parametrize("fade", [False, True])
@pytest.mark.parametrize("motion", MOTIONS)
def test_frames_are_what_the_model_sees_from_the_cameras_path(make_run: Callable[..., Path], motion: str, fade: bool):
    config = make_run()
    words = [str(config), "--motion", motion, "--num-frames", "3", "--novideo", "--no-cuda", *["--fade"] * fade]
    assert render.main(words) == 0
    scene = config.parent / "render" / motion / "0"
    model = build(config, seed=1)
    source = open_split(load_config(config).data, "val")
    sample = read_scene(source, 0, 0)
    assert torch.equal(torch.tensor(picture(scene / "input_0.png")).permute(2, 0, 1), sample["input_images"][0, 0])
    given = cast_rays(sample)
    path = CameraPath(motion, given["input_camera_pos"][0, 0], 3, fade=fade)
    allowed = truncated_bytes(palette(5))[1:5]
    for frame in range(3):
        position, rays = path.frame(frame, 12, 16)
        with torch.no_grad():
            latents = model.encode(given["input_images"], given["input_camera_pos"], given["input_rays"])
            expected = model.render(latents, position[None], rays[None], 100)
        shown = picture(scene / f"renders/{frame}.png")
        assert np.abs(shown - expected.pixels[0].numpy() * 255 + 0.5).max() < 0.51
        labels = picture(scene / f"segmentations/{frame}.png")
        assert colours(labels) <= {tuple(colour) for colour in allowed.tolist()}
        agree = labels == allowed[expected.segmentation[0].argmax(dim=-1).numpy()]
        assert agree.mean() > 0.999
    assert names(scene / "renders") == numbered(3)
    assert not (scene / "video.mp4").exists()
    assert len({picture(scene / f"renders/{frame}.png").tobytes() for frame in range(3)}) == 3


def test_scenes_of_multishapenet_in_the_originals_order(make_run: Callable[..., Path]):
    config = make_run(dataset="osrt")
    flags = ["--train", "--sceneid-start", "3", "--sceneid-stop", "5", "--num-frames", "2", "--name", "several"]
    size = ["--height", "10", "--width", "21", "--chunk", "50"]
    assert render.main([str(config), *flags, *size, "--gif", "--no-cuda"]) == 0
    folder = config.parent / "render/several"
    assert names(folder) == ["3", "4"]
    source = open_split(load_config(config).data, "train")
    for number in (3, 4):
        scene = folder / str(number)
        sample = read_scene(source, number, 0)
        # Of two scenes in each shard of the training split the original reads both before it turns to the next shard.
        assert sample["sceneid"].item() == number
        for view in range(5):
            expected = sample["input_images"][0, view].permute(1, 2, 0).numpy()
            assert np.array_equal(picture(scene / f"input_{view}.png"), expected)
        assert picture(scene / "renders/1.png").shape == (10, 21, 3)
        assert picture(scene / "segmentations/1.png").shape == (10, 21, 3)
        assert video_shape(scene / "video.mp4") == (2, HEIGHT, WIDTH)
        with Image.open(scene / "video.gif") as gif:
            assert gif.size == (WIDTH, HEIGHT)


def test_other_seeds_draw_other_input_views(make_run: Callable[..., Path]):
    source = open_split(load_config(make_run(dataset="msn")).data, "val")
    drawn = [read_scene(source, 1, seed)["input_images"] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_srt_has_no_segmentations_and_a_video_all_the_same(make_run: Callable[..., Path]):
    config = make_run("srt")
    assert render.main([str(config), "--num-frames", "2", "--no-cuda", "--bf16"]) == 0
    scene = config.parent / "render/rotate/0"
    assert names(scene / "segmentations") == []
    assert video_shape(scene / "video.mp4") == (2, HEIGHT, WIDTH)


def test_a_decoder_of_volumes_gives_depths(make_run: Callable[..., Path], capsys: pytest.CaptureFixture):
    config = make_run("nerf")
    words = [str(config), "--num-frames", "1", "--no-cuda", "--novideo"]
    samples = {"num_coarse_samples": 6, "num_fine_samples": 3, "max_dist": 1.0}
    assert render.main([*words, "--render-kwargs", json.dumps(samples)]) == 0
    scene = config.parent / "render/rotate/0"
    depths = picture(scene / "depths/0.png")
    assert depths.shape == (12, 16)
    assert "--render_kwargs: max_dist has no effect, the data set has its own: 35.0" in capsys.readouterr().err
    # Distances in parts of the data set's own 35, which wins over the flag.
    assert 20 < depths.mean() <= 255
    assert json.loads((scene / "provenance.json").read_text())["model"]["render_kwargs"] == {
        **samples,
        "min_dist": 0.035,
        "max_dist": 35.0,
    }


def test_an_interrupted_rendering_continues_and_another_one_begins_anew(
    make_run: Callable[..., Path], capsys: pytest.CaptureFixture
):
    config = make_run()
    words = [str(config), "--num-frames", "4", "--no-cuda", "--novideo"]
    assert render.main(words) == 0
    renders = config.parent / "render/rotate/0/renders"
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in renders.iterdir()}
    for frame in (2, 3):
        (renders / f"{frame}.png").unlink()
    assert render.main(words) == 0
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in renders.iterdir()}
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    assert [name for name in numbered(4) if after[name] == before[name]] == ["0.png", "1.png"]
    assert "anew" not in capsys.readouterr().out

    for name in ("video.mp4", "video.gif", "video-renders.mp4", "video-renders.gif"):
        (renders.parent / name).touch()
    write_original(config.parent / "model.pt", build(config, seed=2))
    assert render.main([*words[:2], "3", *words[3:]]) == 0
    said = capsys.readouterr().out
    assert "rendering anew" in said
    assert "weight_sha256" in said
    assert "shot.num_frames: 4 -> 3" in said
    assert names(renders) == numbered(3)
    assert all((renders / name).read_bytes() != before[name][0] for name in numbered(3))
    assert not list(renders.parent.glob("video*")), "they showed the old frames"


def test_only_one_process_renders_into_a_folder(make_run: Callable[..., Path], capsys: pytest.CaptureFixture):
    config = make_run()
    scene = config.parent / "render/rotate/0"
    scene.mkdir(parents=True)
    with occupy(scene):
        assert render.main([str(config), "--no-cuda", "--novideo", "--num-frames", "1"]) == 1
    assert f"{scene}: another process renders into it" in capsys.readouterr().err
    assert render.main([str(config), "--no-cuda", "--novideo", "--num-frames", "1"]) == 0


def test_a_backup_and_the_training_split_are_chosen_by_flags(make_run: Callable[..., Path]):
    config = make_run()
    save(config.parent / "model_25.pt", {"model": build(config, seed=3).state_dict()})
    words = [str(config), "--num-frames", "1", "--no-cuda", "--novideo", "--sharpen", "--parallel"]
    assert render.main([*words, "--name", "a"]) == 0
    assert render.main([*words, "--name", "b", "--it", "25"]) == 0
    assert render.main([*words, "--name", "c", "--train", "--sceneid-start", "2"]) == 0
    assert render.main([*words, "--name", "d", "--set", "data.kwargs={}"]) == 0
    folder = config.parent / "render"
    shown = {name: picture(folder / name / ("2" if name == "c" else "0") / "renders/0.png") for name in "abcd"}
    assert not np.array_equal(shown["a"], shown["b"])
    assert not np.array_equal(shown["a"], shown["c"])
    assert shown["d"].shape == (24, 32, 3)
    assert names(folder / "c") == ["2"]


def test_weights_are_rendered_as_they_were_trained(make_run: Callable[..., Path], capsys: pytest.CaptureFixture):
    config = make_run()
    model, trained = build(config, seed=1), load_config(config).to_dict()
    save(config.parent / "model.pt", {"model": model.state_dict(), "config": trained})
    words = [str(config), "--num-frames", "1", "--no-cuda", "--novideo"]
    assert render.main([*words, "--name", "a"]) == 0
    assert "as it was trained" not in capsys.readouterr().out
    sections = yaml.safe_load(config.read_text())
    sections["data"]["kwargs"] = {"downsample": 0, "canonical_view": True}
    sections["model"]["encoder_kwargs"] |= {"pos_start_octave": 0, "slot_iters": 2}
    config.write_text(yaml.safe_dump(sections))
    assert render.main([*words, "--name", "b"]) == 0
    said = capsys.readouterr().out
    assert f"{config.parent}/model.pt: rendering as it was trained, not as configured:\n" in said
    assert "\n  data.kwargs.downsample: 0 -> 1\n" in said
    assert "\n  model.encoder_kwargs.pos_start_octave: 0 -> -5\n" in said
    assert render.main([*words, "--name", "c", "--set", "model.encoder_kwargs.slot_iters=2"]) == 0
    shown = [picture(config.parent / "render" / name / "0/renders/0.png") for name in "abc"]
    assert np.array_equal(shown[0], shown[1])
    assert not np.array_equal(shown[0], shown[2])
    save(config.parent / "model.pt", {"model": model.state_dict(), "config": {"num_slots": 4}})
    assert render.main(words) == 1
    assert "model.pt: a checkpoint of something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--motion", "rotat"], "no motion 'rotat'; did you mean 'rotate'?"),
        (["--sceneid", "3"], "no scene 3; its val split has 0 to 2"),
        (["--it", "5"], "model_5.pt: no such checkpoint. Train first: python osrt/train.py"),
        (["--render-kwargs", '{"max_dst": 2}'], "no option 'max_dst'; did you mean 'max_dist'?"),
        (["--set", "data.num_pts=3"], "num_points"),
        (["--set", "model.encoder_kwargs.slot_dim=32"], "slot_dim"),
        (["--set", "model.encoder_kwargs.num_slots=5"], "encoder.slot_attention.initial_slots"),
        (["--render-kwargs", '{"num_coarse_samples": "x"}'], "--render_kwargs: num_coarse_samples is 'x', expected"),
    ],
)
def test_errors_say_what_to_do(
    make_run: Callable[..., Path], flags: list[str], message: str, capsys: pytest.CaptureFixture
):
    assert render.main([str(make_run()), "--no-cuda", *flags]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-frame", "3"], "did you mean '--num_frames'?"),
        (["--num-frames", "0"], "expected a whole number of at least 1, found '0'"),
        (["--render-kwargs", "[1]"], "expected a JSON object"),
        (["--sceneid-stop", "3"], "say --sceneid_start, too"),
        (["--sceneid-start", "3", "--sceneid-stop", "3"], "expected more than --sceneid_start"),
    ],
)
def test_misuse_is_answered_before_anything_is_read(flags: list[str], message: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as ended:
        render.main(["nowhere.yaml", *flags])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_that_was_trained_here_is_rendered(views: Path, tmp_path: Path, run: Runner):
    words = train_words(tmp_path, views, max_it=1)
    trained = run(*words)
    assert trained.returncode == 0, trained.stderr
    done = run("osrt/render.py", *words[1:], "--no-cuda", "--num-frames", 2)
    assert done.returncode == 0, done.stderr
    assert video_shape(tmp_path / "render/rotate/0/video.mp4") == (2, HEIGHT, WIDTH)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 75), (signal.SIGKILL, -9)])
def test_a_rendering_that_is_stopped_leaves_whole_frames_and_continues(
    make_run: Callable[..., Path], run: Runner, number: signal.Signals, code: int
):
    config = make_run()
    words = ["osrt/render.py", str(config), "--no-cuda", "--novideo", "--num-frames", "400", "--height", "96"]
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    renders = config.parent / "render/rotate/0/renders"
    deadline = time.monotonic() + 120
    while not (renders / "5.png").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    done = list(renders.glob("*.png"))
    assert 5 < len(done) < 400
    stamps = {path: path.stat().st_mtime_ns for path in done}
    for path in done:
        assert picture(path).shape == (96, 16, 3)
        assert picture(config.parent / "render/rotate/0/segmentations" / path.name).shape == (96, 16, 3)
    finished = run(*words)
    assert finished.returncode == 0, finished.stderr
    assert names(renders) == numbered(400)
    assert {path: path.stat().st_mtime_ns for path in done} == stamps
