"""Videos of rendered frames, decoded again."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from core.viz.palette import segmentation_picture, truncated_bytes
from osrt.compile_video import main
from osrt.plots import HEIGHT, WIDTH, Plot
from tests.video_files import smooth_frames, write_frames

NUM_FRAMES = 7


def write_scene(folder: Path, height: int = 24, width: int = 32, has_segmentations: bool = True) -> Path:
    """What osrt/render.py leaves of a scene: the input is red, the renders drift, slot 1 has the left half."""
    write_frames(folder, np.full((1, height, width, 3), (255, 0, 0), np.uint8), "input_{}.png")
    write_frames(folder / "renders", smooth_frames(NUM_FRAMES, height, width), "{}.png")
    if has_segmentations:
        labels = np.where(np.arange(width) < width // 2, 1, 2)[None].repeat(height, axis=0)
        colours = truncated_bytes(segmentation_picture(labels, 3))
        write_frames(folder / "segmentations", np.stack([colours] * NUM_FRAMES), "{}.png")
    return folder


def decode(path: Path) -> np.ndarray:
    """[T, H, W, 3] uint8 of a video of 60 frames a second in H.264, yuv420p."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == 60
        assert stream.pix_fmt == "yuv420p"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


def difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(int) - second).mean())


def test_renders_become_a_video(tmp_path: Path):
    scene = write_scene(tmp_path)
    assert main([str(scene)]) == 0
    video = decode(scene / "video-renders.mp4")
    assert video.shape == (NUM_FRAMES, 24, 32, 3)
    for frame, shown in enumerate(video):
        assert difference(shown, picture(scene / f"renders/{frame}.png")) < 6
    assert not (scene / "frames").exists()


def test_odd_sizes_grow_by_one_pixel(tmp_path: Path):
    assert main([str(write_scene(tmp_path, 23, 31))]) == 0
    assert decode(tmp_path / "video-renders.mp4").shape == (NUM_FRAMES, 24, 32, 3)


def test_plots_show_input_render_and_segmentation(tmp_path: Path):
    scene = write_scene(tmp_path)
    write_frames(scene / "frames", np.zeros((NUM_FRAMES + 2, 4, 4, 3), np.uint8), "{}.png")
    assert main([str(scene), "--plot", "--gif"]) == 0
    # Frames of an older and longer video are gone.
    assert sorted(path.name for path in (scene / "frames").iterdir()) == [f"{i}.png" for i in range(NUM_FRAMES)]
    video = decode(scene / "video.mp4")
    assert video.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
    for number, shown in enumerate(video):
        plot = picture(scene / f"frames/{number}.png")
        assert difference(shown, plot) < 4
        render, labels = picture(scene / f"renders/{number}.png"), picture(scene / f"segmentations/{number}.png")
        middle = HEIGHT // 2 - 11
        assert plot[middle, 150].tolist() == [255, 0, 0]
        assert np.abs(plot[middle, WIDTH // 2].astype(int) - render[11:13, 15:17].mean(axis=(0, 1))).max() < 6
        assert plot[middle, 680].tolist() == labels[12, 5].tolist()
        assert plot[middle, 820].tolist() == labels[12, 25].tolist()
    with Image.open(scene / "video.gif") as gif:
        assert gif.n_frames == -(-NUM_FRAMES // 2)
        assert gif.size == (WIDTH, HEIGHT)


def test_noframes_takes_the_plots_that_are_there(tmp_path: Path):
    scene = write_scene(tmp_path)
    write_frames(scene / "frames", np.full((3, 16, 20, 3), 200, np.uint8), "{}.png")
    assert main([str(scene), "--plot", "--noframes"]) == 0
    assert decode(scene / "video.mp4").shape == (3, 16, 20, 3)
    assert picture(scene / "frames/0.png").shape == (16, 20, 3)


def test_without_segmentations_there_are_two_panels(tmp_path: Path):
    assert main([str(write_scene(tmp_path, has_segmentations=False)), "--plot"]) == 0
    plot = picture(tmp_path / "frames/0.png")
    panels = np.split(plot[150], [WIDTH // 2], axis=0)
    assert (panels[0] == (255, 0, 0)).all(axis=-1).sum() > 400
    assert (panels[1] != 255).any(axis=-1).sum() > 400
    assert len(decode(tmp_path / "video.mp4")) == NUM_FRAMES


def test_a_checkerboard_shows_where_the_render_is_transparent():
    clear = Image.new("RGBA", (320, 240), (0, 0, 0, 0))
    frame = np.asarray(Plot(Image.new("RGB", (320, 240)), (320, 240), True).frame(clear, None))
    left, top, right, bottom = Plot(Image.new("RGB", (320, 240)), (320, 240), True).boxes[1]
    shown = frame[top:bottom, left:right]
    assert set(np.unique(shown)) == {int(0.85 * 255), int(0.5 * 255)}
    assert shown[2, 2, 0] > shown[2, 2 + 12 * (right - left) // 320, 0]


@pytest.mark.parametrize(
    ("spoil", "flags", "message"),
    [
        (lambda scene: (scene / "renders/0.png").unlink(), [], "renders/0.png: no such file. Render the scene first"),
        (lambda scene: (scene / "input_0.png").unlink(), ["--plot"], "input_0.png: cannot be read as a picture"),
        (lambda scene: (scene / "segmentations/3.png").unlink(), ["--plot"], "segmentations/3.png: cannot be read"),
        (lambda scene: (scene / "renders/2.png").write_bytes(b"no"), [], "renders/2.png: cannot be read as a picture"),
        (lambda scene: None, ["--plot", "--noframes"], "frames/0.png: no such file"),
    ],
)
def test_errors_name_the_file(
    spoil: Callable[[Path], object], flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    spoil(write_scene(tmp_path))
    assert main([str(tmp_path), *flags]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("video*"))


def test_frames_are_left_alone_only_where_they_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as ended:
        main([str(write_scene(tmp_path)), "--noframes"])
    assert ended.value.code == 2
    assert "--noframes: say --plot, too" in capsys.readouterr().err


def test_a_misspelt_flag_is_answered_with_the_nearest(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        main(["folder", "--no-frame"])
    assert "did you mean '--noframes'" in capsys.readouterr().err
