"""The downloader of MOVi, on records as the publishers write them, from a folder and from a server."""

import io
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.data.movi import Movi
from core.data.tfrecord import encode_example, write_records
from slotdiffusion.scripts.data_utils.download_movi import main

SIDE, FRAMES = 16, 3
LENGTHS = {"train": [2, 1], "validation": [1], "test": [1]}


def encoded(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def video_of(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of one colour, and masks that say which video they are of."""
    frames = np.full((FRAMES, SIDE, SIDE, 3), 40 * number + 10, np.uint8)
    masks = np.zeros((FRAMES, SIDE, SIDE), np.uint8)
    masks[:, : number + 1] = 1
    return frames, masks


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bucket")
    place = folder / "movi_d" / f"{SIDE}x{SIDE}" / "1.0.0"
    place.mkdir(parents=True)
    splits = [{"name": name, "shardLengths": [str(length) for length in of]} for name, of in LENGTHS.items()]
    (place / "dataset_info.json").write_text(json.dumps({"name": "movi_d", "splits": splits}))
    for split, lengths in LENGTHS.items():
        number = 0
        for shard, length in enumerate(lengths):
            payloads = []
            for _ in range(length):
                frames, masks = video_of(number)
                features = {"video": [encoded(frame) for frame in frames], "metadata/video_name": [b"name"]}
                features["segmentations"] = [encoded(mask) for mask in masks]
                payloads.append(encode_example(features))
                number += 1
            write_records(place / f"movi_d-{split}.tfrecord-{shard:05d}-of-{len(lengths):05d}", payloads)
    return folder


def words_of(out: Path, source: object, *more: str) -> list[str]:
    return ["--out_path", str(out), "--level", "d", "--image_size", str(SIDE), "--source", str(source), *more]


def check(out: Path) -> None:
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        source = Movi(out, "d", split, None, video_len=FRAMES, size=(SIDE, SIDE), masks=True)
        assert source.names == [f"{number:08d}" for number in range(sum(LENGTHS[name]))]
        batch = source.read(np.arange(len(source)))
        for number, (video, mask) in enumerate(zip(batch["video"].numpy(), batch["mask"].numpy())):
            frames, masks = video_of(number)
            np.testing.assert_allclose(video, frames.transpose(0, 3, 1, 2), atol=2)  # JPEG
            np.testing.assert_array_equal(mask, masks)


def test_a_folder_is_unpacked_and_an_interrupted_one_goes_on(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(words_of(tmp_path, bucket, "--split", "train")) == 0
    folder = tmp_path / "MOVi-D" / "train"
    assert sorted(path.name for path in (folder / "00000001").iterdir())[:2] == ["000000.jpg", "000000_mask.png"]
    kept = (folder / "00000000").stat().st_mtime_ns
    for file in (folder / "00000001").iterdir():
        file.unlink()
    (folder / "00000001").rmdir()
    assert main(words_of(tmp_path, bucket)) == 0
    assert (folder / "00000000").stat().st_mtime_ns == kept
    assert "train: 3 videos" in capsys.readouterr().out
    check(tmp_path)


def test_a_server_is_read(bucket: Path, tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(bucket))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert main(words_of(tmp_path, f"http://127.0.0.1:{server.server_port}/")) == 0
        server.shutdown()
    check(tmp_path)


def test_errors_say_what_is_wrong(bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(words_of(tmp_path, tmp_path / "nowhere")) == 1
    assert "Is --source the folder that holds movi_<level>/?" in capsys.readouterr().err
    assert main(words_of(tmp_path, "http://127.0.0.1:9")) == 1
    assert "cannot be fetched" in capsys.readouterr().err
    copy = tmp_path / "copy" / "movi_d" / f"{SIDE}x{SIDE}" / "1.0.0"
    copy.mkdir(parents=True)
    for file in (bucket / "movi_d" / f"{SIDE}x{SIDE}" / "1.0.0").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "movi_d-train.tfrecord-00000-of-00002").write_bytes(
        (copy / "movi_d-test.tfrecord-00000-of-00001").read_bytes()
    )
    assert main(words_of(tmp_path / "out", tmp_path / "copy")) == 1
    assert "holds 1 videos, expected 2" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--level", "f"])
