"""The training loop on a toy: what it computes, how it resumes, and what it does when the loss is no number."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from core.data.loader import TrainingLoader
from core.nn.noise import derive_seed, standard_normal
from core.training.checkpoint import load
from core.training.schedules import warmup_then_cosine
from core.training.trainer import NonFiniteLoss
from tests.core.toy_training import SEED, Pictures, Toy, make_trainer


def toy() -> Toy:
    torch.manual_seed(SEED)
    return Toy()


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "tb" / "scalars.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [row["train/loss"] for row in rows(folder)]


def assert_same_run(first: Path, second: Path, last_step: int = 59) -> None:
    """Weights, optimiser, generators and log are the same bit for bit."""
    one, other = (load(folder / f"toy-state-{last_step}.pth") for folder in (first, second))
    for part in ("model", "optimizer", "generators"):
        left, left_spec = torch.utils._pytree.tree_flatten(one[part])
        right, right_spec = torch.utils._pytree.tree_flatten(other[part])
        assert left_spec == right_spec
        for a, b in zip(left, right):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert (first / "tb" / "scalars.jsonl").read_text() == (second / "tb" / "scalars.jsonl").read_text()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = make_trainer(folder)
    assert trainer.run() is True
    trainer.tracker.close()
    return folder


def test_the_loss_falls(uninterrupted):
    seen = losses(uninterrupted)
    assert len(seen) == 60
    assert sum(seen[-10:]) < 0.3 * sum(seen[:10])


def test_checkpoints_and_log_of_a_run(uninterrupted):
    steps = sorted(int(path.stem.split("-")[-1]) for path in uninterrupted.glob("*.pth"))
    assert steps == [10, 20, 30, 40, 50, 59]
    assert [row["step"] for row in rows(uninterrupted)] == list(range(60))
    assert rows(uninterrupted)[0].keys() == {"step", "train/loss", "train/mse", "train/size", "train/lr"}
    state = load(uninterrupted / "toy-state-20.pth")
    assert (state["step"], state["seed"]) == (20, SEED)


def test_schedule_and_clipping_against_a_hand_written_loop(tmp_path):
    schedule = warmup_then_cosine(4, 20)
    trainer = make_trainer(tmp_path, 24, clip_norm=0.05, schedule=schedule)
    trainer.run()
    model = toy()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batches = TrainingLoader(Pictures(), 8, seed=SEED, device=torch.device("cpu")).batches(0)
    clipped, rates = 0, []
    for step, batch in zip(range(25), batches):
        rates.append(0.01 * schedule(step))
        optimizer.param_groups[0]["lr"] = rates[-1]
        terms = model.loss(batch, step)
        optimizer.zero_grad()
        terms["loss"].backward()
        norm = torch.sqrt(sum(value.grad.square().sum() for value in model.parameters()))
        if norm > 0.05:
            clipped += 1
            for value in model.parameters():
                value.grad *= 0.05 / norm
        optimizer.step()
        model.ema.mul_(0.9).add_(0.1 * terms["mse"].detach())
    assert clipped > 3
    assert [row["train/lr"] for row in rows(tmp_path)] == rates
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_batch_equal_the_batch(tmp_path, accumulate):
    for name, parts in (("whole", 1), ("parts", accumulate)):
        trainer = make_trainer(tmp_path / name, 30, accumulate=parts)
        trainer.run()
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)
    whole, parts = (load(tmp_path / name / "toy-state-30.pth")["model"] for name in ("whole", "parts"))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-6)


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a batch of 8 has no 3 equal parts"):
        make_trainer(tmp_path, accumulate=3).run()


class Interrupted(Exception):
    """Raised in the middle of a run."""


def fail(step: int, *_: object) -> None:
    raise Interrupted


def stop(step: int, *_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def at(wanted: int, action) -> object:
    return lambda step, *more: action(step, *more) if step == wanted else None


def run_interrupted(folder: Path, model=toy, **changes) -> None:
    """Three interruptions in a row; every start has other numbers of workers and other fresh weights."""

    def start(seed: int, **more):
        fresh = model()
        if seed:
            torch.manual_seed(seed)
            nn.init.normal_(fresh.encoder.weight)
        trainer = make_trainer(folder, model=fresh, **changes, **more)
        trainer.tracker.FLUSH_EVERY = 3
        return trainer

    with pytest.raises(Interrupted):
        start(0, hooks=[(1, at(17, fail))]).run()
    assert rows(folder)[-1]["step"] > 10, "nothing was logged beyond the checkpoint"
    trainer = start(1, num_workers=2, hooks=[(1, at(33, stop))])
    assert trainer.first_step == 11
    assert trainer.run() is False
    trainer = start(2, resident=True)
    assert trainer.first_step == 34
    trainer.controllers = [*trainer.controllers, at(38, fail)]
    with pytest.raises(Interrupted):
        trainer.run()
    trainer = start(3)
    assert trainer.first_step == 34
    assert trainer.run() is True
    trainer.tracker.close()


def test_resume_is_the_uninterrupted_run_bit_for_bit(tmp_path, uninterrupted, capfd):
    run_interrupted(tmp_path)
    assert_same_run(tmp_path, uninterrupted)
    assert "SIGTERM: saving after step 33 and stopping; the same command continues" in capfd.readouterr().err


class Dropping(Toy):
    """Draws from the global generator."""

    class _Global:
        def at(self, step: int, device: torch.device):
            return standard_normal(device)

    def __init__(self):
        super().__init__()
        self.noise = self._Global()

    def loss(self, batch, step):
        return super().loss({"image": functional.dropout(batch["image"], 0.1)}, step)


def test_resume_of_a_model_that_draws_from_the_global_generator(tmp_path):
    def dropping() -> Dropping:
        torch.manual_seed(SEED)
        return Dropping()

    trainer = make_trainer(tmp_path / "whole", model=dropping())
    trainer.run()
    trainer.tracker.close()
    run_interrupted(tmp_path / "parts", model=dropping)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_step_starts_from_its_seed(tmp_path):
    drawn = []

    class Drawing(Toy):
        def loss(self, batch, step):
            drawn.append(torch.rand(3).tolist())
            return super().loss(batch, step)

    make_trainer(tmp_path, 3, model=Drawing()).run()
    for step in range(4):
        torch.manual_seed(derive_seed(SEED, step, 0))
        assert drawn[step] == torch.rand(3).tolist()


def test_a_finished_run_stays_as_it_is(tmp_path):
    make_trainer(tmp_path, 12).run()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.pth")}
    trainer = make_trainer(tmp_path, 12)
    assert trainer.first_step == 13
    assert trainer.run() is True
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.pth")} == before


class Diverging(Toy):
    """From step 10 on, the loss (`what` = "loss") or the gradient only (`what` = "gradient") is not finite."""

    def __init__(self, what: str):
        torch.manual_seed(SEED)
        super().__init__()
        self.what = what

    def loss(self, batch, step):
        terms = super().loss(batch, step)
        if step < 10:
            return terms
        if self.what == "loss":
            return terms | {"loss": terms["loss"] * torch.inf}
        # The derivative of a square root at zero is infinite.
        return terms | {"loss": terms["loss"] + (0 * self.decoder.bias.sum()).sqrt()}


@pytest.mark.parametrize("clip_norm", [0.1, None])
@pytest.mark.parametrize(("what", "parameter"), [("loss", r"encoder\.weight"), ("gradient", r"decoder\.bias")])
def test_a_loss_or_gradient_that_is_no_number_stops_the_run(tmp_path, what, parameter, clip_norm):
    trainer = make_trainer(tmp_path / "bad", model=Diverging(what), clip_norm=clip_norm, checkpoint_every=5)
    message = (
        rf"step 10: the loss or its gradient is not finite; .* parameter with a non-finite gradient is {parameter}"
        r"\. The newest checkpoint is .*toy-state-5\.pth\. Lower the learning rate"
    )
    with pytest.raises(NonFiniteLoss, match=message):
        trainer.run()
    assert trainer.checkpoints.steps() == [5]
    good = make_trainer(tmp_path / "good", 9, clip_norm=clip_norm)
    good.run()
    for name, value in good.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value)


def test_without_a_checkpoint_the_error_says_so(tmp_path):
    with pytest.raises(NonFiniteLoss, match="There is no checkpoint yet"):
        make_trainer(tmp_path, model=Diverging("loss"), checkpoint_every=100).run()
    rows = [json.loads(line) for line in (tmp_path / "tb/scalars.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows][:3] == [0, 1, 2]  # what waited is written


def test_a_loss_scale_that_no_step_survives_stops_the_run(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=0.5)
    try:
        with pytest.raises(NonFiniteLoss, match=r"overflows fp16 whatever .* \(by 0\.5 at last\).* Use bf16"):
            trainer.run()
    finally:
        trainer.accelerator.scaler = None
    assert trainer.checkpoints.steps() == []


def test_what_is_stored_besides_may_depend_on_the_step(tmp_path):
    make_trainer(tmp_path, 4, extra_state=lambda step: {"twice": 2 * step}, checkpoint_every=3).run()
    assert [load(tmp_path / f"toy-state-{step}.pth")["twice"] for step in (3, 4)] == [6, 8]


def test_hooks_log_and_checkpoints_come_as_often_as_asked(tmp_path):
    called = []
    trainer = make_trainer(
        tmp_path,
        20,
        hooks=[(7, lambda step, batch: called.append((step, tuple(batch["image"].shape))))],
        log_every=6,
        scalars_of=lambda terms: {"train/total_loss": terms["loss"], "train/mse": terms["mse"]},
        extra_scalars=lambda: {"train/beta": torch.tensor(0.5)},
        extra_state={"config": {"seed": 1}},
        checkpoint_every=8,
    )
    trainer.run()
    assert called == [(0, (8, 3, 4, 4)), (7, (8, 3, 4, 4)), (14, (8, 3, 4, 4))]
    assert [row["step"] for row in rows(tmp_path)] == [0, 6, 12, 18]
    assert {"train/total_loss", "train/mse", "train/beta", "train/lr"} <= rows(tmp_path)[0].keys()
    assert "train/loss" not in rows(tmp_path)[0]
    assert trainer.checkpoints.steps() == [8, 16, 20]
    assert load(tmp_path / "toy-state-16.pth")["config"] == {"seed": 1}


def test_validations_come_after_their_steps_and_may_end_the_training(tmp_path):
    called = []
    trainer = make_trainer(
        tmp_path, 20, validate=lambda step: called.append(step) or step > 10, validate_every=6, checkpoint_every=100
    )
    assert trainer.run()
    assert called == [5, 11]
    assert trainer.checkpoints.steps() == [5, 11]
    called.clear()
    trainer = make_trainer(tmp_path / "whole", 7, validate=lambda step: bool(called.append(step)), validate_every=6)
    assert trainer.run()
    assert called == [5, 7], "and after the last"


def test_means_since_the_last_log_survive_an_interruption(tmp_path):
    make_trainer(tmp_path / "every", 12).run()
    losses = [row["train/loss"] for row in rows(tmp_path / "every")]
    settings = {"log_every": 5, "log_means": True, "checkpoint_every": lambda step: step == 7}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make_trainer(whole, 12, **settings).run()
    assert [row["step"] for row in rows(whole)] == [0, 5, 10]
    expected = [losses[0], sum(losses[1:6]) / 5, sum(losses[6:11]) / 5]
    assert [row["train/loss"] for row in rows(whole)] == pytest.approx(expected, rel=1e-6)
    make_trainer(parts, 7, **settings).run()
    assert make_trainer(parts, 12, **settings).first_step == 8
    make_trainer(parts, 12, **settings).run()
    assert rows(parts) == rows(whole)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, run) -> Path:
    """The toy trained by two processes with half the batch each."""
    folder = tmp_path_factory.mktemp("two")
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = run(*launch, "-m", "tests.core.toy_training", folder, "--batch-size", 4)
    assert done.returncode == 0, done.stderr
    return folder


def test_two_processes_equal_one(two_processes, uninterrupted):
    assert [row["step"] for row in rows(two_processes)] == list(range(60))
    assert losses(two_processes) == pytest.approx(losses(uninterrupted), abs=1e-6)
    one, two = (load(folder / "toy-state-59.pth")["model"] for folder in (uninterrupted, two_processes))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6)


def test_all_processes_end_with_equal_weights(two_processes):
    first, second = (json.loads((two_processes / f"process-{rank}.json").read_text()) for rank in range(2))
    assert first["weights"] == second["weights"]
    saved = load(two_processes / "toy-state-59.pth")
    assert {name: value.tolist() for name, value in saved["model"].items()} == first["weights"]
    assert len(saved["generators"]) == 2
    assert not torch.equal(saved["generators"][0]["cpu"], saved["generators"][1]["cpu"])


def test_controllers_see_the_average_over_processes(two_processes, uninterrupted):
    first, second = (json.loads((two_processes / f"process-{rank}.json").read_text()) for rank in range(2))
    assert first["averages"] == second["averages"]
    assert first["averages"] == pytest.approx(losses(uninterrupted), abs=1e-6)


def test_hooks_run_on_the_main_process_only(two_processes):
    first, second = (json.loads((two_processes / f"process-{rank}.json").read_text()) for rank in range(2))
    assert first["hooked"] == list(range(60))
    assert second["hooked"] == []


def test_one_process_continues_what_two_began(two_processes, tmp_path, uninterrupted):
    (tmp_path / "tb").mkdir()
    (tmp_path / "toy-state-30.pth").write_bytes((two_processes / "toy-state-30.pth").read_bytes())
    trainer = make_trainer(tmp_path)
    assert trainer.first_step == 31
    trainer.run()
    assert losses(tmp_path) == pytest.approx(losses(uninterrupted)[31:], abs=1e-6)
