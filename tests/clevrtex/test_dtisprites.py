"""Properties of DTI-Sprites and its training, whatever its weights."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from clevrtex.experiments.dtisprites import DTISprites as Experiment
from clevrtex.models.dti_clusters import RunningMean, unused_sprites
from clevrtex.models.dti_selection import visibility
from clevrtex.models.dtisprites import DTISprites
from clevrtex.original.dtisprites import from_original, to_original
from core.nn.noise import ShardedNoise

SIZE, SPRITE, SLOTS, SPRITES = (24, 32), (12, 10), 3, 4
LATE = 200


def dti(epoch: int = LATE, **options: object) -> DTISprites:
    """A small model whose sprites, networks and occlusions all differ."""
    torch.manual_seed(0)
    given = {"sprite_size": SPRITE, "mask_std": 4.0, "encoder": "small", "pool": (1, 1)}
    model = DTISprites(SIZE, SLOTS, SPRITES, **(given | options))
    for name, value in model.named_parameters():
        if name.startswith(("prototypes", "backgrounds")):
            value.data = torch.rand(value.shape)
        elif name.startswith(("sprites", "layers", "grounds", "occlusion")) and ".layers.2." in f".{name}.":
            value.data = 0.2 * torch.randn(value.shape)
    model.set_epoch(epoch)
    return model


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


class Pictures:
    """A source of random pictures."""

    def __init__(self, count: int):
        self.pictures = torch.randint(0, 256, (count, 3, *SIZE), generator=torch.Generator().manual_seed(2))
        self.asked: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, indices: np.ndarray) -> dict[str, Tensor]:
        self.asked.append(indices)
        return {"image": self.pictures[indices].byte()}


@pytest.mark.parametrize("epoch", [0, 60, LATE])
@pytest.mark.parametrize("options", [{}, {"num_backgrounds": 2}, {"sprite_transformations": "color_projective"}])
def test_decomposition_is_valid(options: dict, epoch: int) -> None:
    model = dti(epoch, **options).eval()
    with torch.no_grad():
        found = model.decompose({"image": images()}).validate()
    assert found.masks.shape == (3, SLOTS + 1, *SIZE)
    assert found.extras["sprites"].shape == (3, SLOTS)
    assert (found.extras["sprites"] < SPRITES).all() or epoch >= 40, "no slot stays empty while sprites are frozen"
    assert found.masks[:, 1:].sum() > 1


def test_images_do_not_see_each_other_and_are_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, together = dti().eval(), images(4)
    whole = model.decompose({"image": together})
    monkeypatch.setattr("clevrtex.models.dtisprites.FLOATS_AT_ONCE", 1)
    parts = model.decompose({"image": together})
    assert torch.equal(parts.extras["sprites"], whole.extras["sprites"])
    for i in range(4):
        alone = model.decompose({"image": together[i : i + 1]})
        torch.testing.assert_close(alone.recon, whole.recon[i : i + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("epoch", [0, 60, LATE])
@pytest.mark.parametrize("complex_chain", [False, True])
def test_gradients_reach_all_that_takes_part(epoch: int, complex_chain: bool) -> None:
    chain = "color_projective" if complex_chain else "identity_projective"
    model = dti(epoch, sprite_transformations=chain).train()
    terms = model.loss({"image": images()}, 0)
    assert terms.keys() == {"loss"}
    terms["loss"].backward()
    without = [name for name, value in model.named_parameters() if value.grad is None]
    assert sorted(without) == sorted(model.unused_parameters())
    assert ("prototypes" in without) == (epoch == 0)
    assert any(name.startswith("sprites.regressors.1") for name in without) == (epoch < LATE)
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


def test_gradients_are_those_of_layering_every_sprite() -> None:
    """The chosen sprites alone have a gradient; a sum over all of them, weighted by one or zero, gives the same."""
    gradients = []
    for everything in (False, True):
        model = dti(mask_noise=0.0).train()
        scene = model.describe(images())
        found = model.explain(images(), scene)
        error = found.error
        if everything:
            which = torch.arange(SPRITES + 1).expand(SLOTS, 3, -1)
            rgb, masks = model.place(scene, which)
            weights = torch.nn.functional.one_hot(found.chosen, SPRITES + 1).float()
            rgb = torch.einsum("lbk,lbkchw->blchw", weights, rgb)
            masks = torch.einsum("lbk,lbkhw->blhw", weights, masks)
            rgb = torch.cat((scene.backgrounds[0][:, None], rgb), dim=1)
            masks = torch.cat((torch.ones_like(masks[:, :1]), masks), dim=1)
            recon = (visibility(masks, scene.covers)[:, :, None] * rgb).sum(dim=1)
            error = (recon - images()).square().flatten(1).mean(dim=1)
        error.mean().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    for name, value in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], value, rtol=1e-4, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_noise_is_the_same_on_every_process() -> None:
    losses = []
    for index, count in ((0, 1), (0, 2), (1, 2)):
        model = dti().train()
        model.noise = ShardedNoise(seed=5, index=index, count=count)
        losses.append(model.loss({"image": images()}, 7)["loss"])
    assert losses[0] == losses[1] == losses[2]
    assert model.loss({"image": images()}, 8)["loss"] != losses[0]


def test_bfloat16_stays_close() -> None:
    model = dti().train()
    model.noise = ShardedNoise(seed=1)
    full = model.loss({"image": images()}, 0)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss({"image": images()}, 0)["loss"]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.05, atol=0)
    half.backward()
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)


def test_epochs_are_counted_and_saved() -> None:
    model = dti(epoch=0, freeze_epochs=2, sprite_milestones=(3,)).train()
    model.prepare_training(Pictures(8), 5, Experiment().build_optimizer(model))
    frozen, active = [], []
    for step in range(20):
        frozen.append(model.is_frozen)
        active.append(model.sprites.num_active(model.epoch))
        model.loss({"image": images()}, step)
        model.after_step(step, {})
    assert frozen == 10 * [True] + 10 * [False]
    assert active == 15 * [1] + 5 * [2]
    other = dti(epoch=0)
    other.load_state_dict(model.state_dict())
    assert other.epoch == 4
    torch.testing.assert_close(other.frequencies.mean(), model.frequencies.mean())


def test_backgrounds_begin_as_means_of_pictures_once() -> None:
    source, model = Pictures(250), dti(num_backgrounds=2)
    optimizer = Experiment().build_optimizer(model)
    model.prepare_training(source, 10, optimizer)
    assert [len(rows) for rows in source.asked] == [100, 100]
    assert not set(source.asked[0]) & set(source.asked[1])
    for background, rows in zip(model.backgrounds, source.asked):
        torch.testing.assert_close(background.data, source.pictures[rows].float().mean(dim=0) / 255)
    model.backgrounds.data.fill_(0.25)
    other = dti(num_backgrounds=2)
    other.load_state_dict(model.state_dict())
    other.prepare_training(source, 10, optimizer)
    assert len(source.asked) == 2
    assert (other.backgrounds == 0.25).all(), "a resumed run keeps its own"
    few, model = Pictures(30), dti()
    model.prepare_training(few, 10, optimizer)
    expected = np.bincount(few.asked[0], minlength=30)
    assert set(expected) == {3, 4}, "a small set is used several times"


def test_unused_sprites() -> None:
    assert unused_sprites(torch.tensor([0.1, 0.0049, 0.0051, 0.05])) == ([1], 0)
    assert unused_sprites(torch.tensor([0.0, 0.0])) == ([], 0)


def test_running_mean() -> None:
    mean = RunningMean(2)
    mean.update(torch.tensor([1.0, 2.0]), 3)
    mean.update(torch.tensor([5.0, 2.0]))
    assert mean.mean().tolist() == [2.0, 2.0]
    mean.reset()
    mean.update(torch.tensor([0.5, 1.0]), 7)
    assert mean.mean().tolist() == [0.5, 1.0]


def trained() -> DTISprites:
    """After a step, with moments for all parameters."""
    model = dti().train()
    model.noise = ShardedNoise(seed=3)
    optimizer = Experiment(slots=SLOTS).build_optimizer(model)
    model.prepare_training(Pictures(8), 1000, optimizer)
    model.loss({"image": images()}, 0)["loss"].backward()
    optimizer.step()
    return model


def test_unused_sprites_begin_anew() -> None:
    model = trained()
    before = copy.deepcopy(model.state_dict())
    model.frequencies.reset()
    model.frequencies.update(torch.tensor([0.5, 0.0, 0.4, 0.01, 0.09]).expand(SLOTS, -1))
    model.after_step(251, {})
    assert torch.equal(model.prototypes, before["prototypes"]), "only every 250 steps"
    model.after_step(250, {})
    assert not model.frequencies.weight
    assert (model.prototypes[2] == before["prototypes"][2]).all()
    for sprite in (0, 1, 3):
        difference = model.prototypes[sprite] - before["prototypes"][0]
        assert 0 < difference.abs().max() < 1e-3
        assert torch.equal(model.masks[sprite], before["masks"][0])
    for name, value in model.sprites.named_parameters():
        for sprite, source in ((1, 0), (3, 0), (2, 2), (4, 4)):
            assert torch.equal(value[:, sprite], before[f"sprites.{name}"][:, source]), name
    for parameter, axis in ((model.prototypes, 0), (model.masks, 0), (model.sprites.regressors[1].layers[0].weight, 1)):
        state = model.optimizer.state[parameter]
        for moment in (state["exp_avg"], state["exp_avg_sq"]):
            moment = moment.transpose(0, axis)
            assert torch.equal(moment[1], moment[0])
            moment[0] += 1
            assert not torch.equal(moment[1], moment[0]), "a copy, no alias"


def test_sprites_begin_anew_alike_on_all_processes() -> None:
    found = []
    for index in range(2):
        model = trained()
        model.noise = ShardedNoise(seed=3, index=index, count=2)
        torch.manual_seed(index)
        model.frequencies.update(torch.rand(SLOTS, SPRITES + 1, generator=torch.Generator().manual_seed(0)).pow(9))
        model.after_step(500, {})
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_nothing_begins_anew_while_sprites_are_frozen() -> None:
    model = dti(epoch=0).train()
    before = model.prototypes.detach().clone()
    model.frequencies.update(torch.eye(SPRITES + 1)[:1].expand(SLOTS, -1))
    model.after_step(0, {})
    assert torch.equal(model.prototypes, before)
    assert not model.frequencies.weight


def test_labels_of_slots_and_sprites() -> None:
    model = dti().eval()
    with torch.no_grad():
        found = model(images())
        slots, sprites = (model.labels({"image": images()}, by=by) for by in ("slot", "sprite"))
    masks = found.masks > 0.5
    for b in range(3):
        for slot in range(1, SLOTS + 1):
            here = slots[b] == slot
            assert masks[b, slot][here].all()
            assert (sprites[b][here] == found.chosen[slot - 1, b] + 1).all()
            for other in range(1, SLOTS + 1):
                assert not (masks[b, other][here] & (found.covers[b, other, slot] > 0.5)).any()
        assert (sprites[b][slots[b] == 0] == 0).all()
    assert slots.max() > 0


def test_as_original_forgets_the_epoch_in_evaluation() -> None:
    model = dti(as_original=True, empty_penalty=10.0)
    assert not model.train().is_frozen
    assert model.eval().is_frozen
    assert (model.decompose({"image": images()}).extras["sprites"] < SPRITES).all()
    model.as_original = False
    assert (model.decompose({"image": images()}).extras["sprites"] == SPRITES).all()


def test_pictures() -> None:
    found = dti(num_backgrounds=2).pictures()
    height, width = SPRITE
    assert found["sprites"].shape == (3, 3 * (height + 1) + 1, SPRITES * (width + 1) + 1)
    assert found["backgrounds"].shape == (3, SIZE[0] + 2, 2 * (SIZE[1] + 1) + 1)
    assert found["sprites"].dtype == torch.uint8


def test_original_names_there_and_back() -> None:
    state = dti().state_dict()
    theirs = to_original(state)
    assert theirs["sprite_transformers.2.tsf_sequences.4.tsf_modules.1.regressor.3.bias"].shape == (128,)
    encoder = {key: value for key, value in theirs.items() if key.startswith("encoder.")}
    constants = {f"bkg_transformer.{key}": value for key, value in encoder.items()}
    constants["sprite_transformers.0.tsf_sequences.0.activations"] = torch.tensor([True, True])
    constants["layer_transformer.tsf_sequences.0.tsf_modules.0.identity"] = torch.eye(3)
    constants["sprite_transformers.0.tsf_sequences.0.tsf_modules.0.regressor.0.weight"] = torch.zeros(0, 10)
    back = from_original({f"model.{key}": value for key, value in (theirs | constants).items()})
    assert back.keys() == state.keys()
    for name in state.keys() - {"epochs_done", "backgrounds_are_set"}:
        assert torch.equal(back[name], state[name]), name
    assert bool(back["backgrounds_are_set"])
    with pytest.raises(ValueError, match="'prototype_param' is no parameter of DTI-Sprites"):
        from_original({"prototype_param": torch.zeros(1)})


def test_epoch_of_an_original_is_guessed_from_its_weights() -> None:
    theirs = to_original(dti().state_dict())
    activations = "sprite_transformers.0.tsf_sequences.0.activations"
    for active, epoch in ((True, 150), (False, 40)):
        assert from_original(theirs | {activations: torch.tensor([True, active])})["epochs_done"] == epoch
    theirs["prototype_params"].fill_(0.9)
    assert from_original(theirs | {activations: torch.tensor([True, False])})["epochs_done"] == 0


def test_published_size_has_the_parameters_of_the_original() -> None:
    with torch.device("meta"):
        model = DTISprites()
    assert sum(value.numel() for value in model.parameters()) == 48_235_051
    assert sum(value.numel() for value in model.encoder.parameters()) == 11_176_512


def test_rates_of_what_is_drawn_and_of_networks() -> None:
    experiment, model = Experiment(slots=SLOTS), dti().train()
    optimizer, schedule = experiment.build_optimizer(model), experiment.rate_schedule(100)
    assert [schedule(step) for step in (0, 250, 1000, 90_000)] == [0, 0.25, 1, 1]
    drawn, networks = optimizer.param_groups
    assert [group["weight_decay"] for group in (drawn, networks)] == [0, 1e-6]
    assert {id(value) for value in drawn["params"]} == {
        id(value) for value in (model.prototypes, model.masks, model.backgrounds)
    }
    for epoch, factor in ((249, 1), (250, 0.1), (399, 0.1), (400, 0.01)):
        model.set_epoch(epoch)
        for group in optimizer.param_groups:
            group["lr"] = 1e-4
        optimizer.step()
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-4, factor * 1e-4])
    other = Experiment(slots=SLOTS, lr="").build_optimizer(model)
    other.step()
    assert other.param_groups[1]["lr"] == 1e-4, "a schedule of one's own is all there is"


def test_legacy_steps_of_the_encoder() -> None:
    for legacy, count in ((False, 1), (True, SLOTS + 2)):
        model = dti().train()
        optimizer = Experiment(slots=SLOTS, legacy_encoder_steps=legacy).build_optimizer(model)
        model.loss({"image": images()}, 0)["loss"].backward()
        optimizer.step()
        counts = {name: int(optimizer.state[value]["step"]) for name, value in model.named_parameters()}
        assert {value for name, value in counts.items() if name.startswith("encoder.")} == {count}
        assert {value for name, value in counts.items() if not name.startswith("encoder.")} == {1}
    with pytest.raises(ValueError, match="--legacy_encoder_steps is for --optim adam, found sgd"):
        Experiment(legacy_encoder_steps=True, optim="sgd").build_optimizer(dti())


def test_one_slot_alone() -> None:
    torch.manual_seed(0)
    model = DTISprites(SIZE, 1, 1, sprite_size=SPRITE, encoder="small", pool=(1, 1)).train()
    model.set_epoch(LATE)
    model.loss({"image": images()}, 0)["loss"].backward()
    with torch.no_grad():
        assert model.eval().decompose({"image": images()}).validate().masks.shape[1] == 2


@pytest.mark.parametrize(
    ("option", "flag"), [("num_slots", "slots"), ("num_sprites", "sprites"), ("num_backgrounds", "n_bg")]
)
def test_at_least_one_of_everything(option: str, flag: str) -> None:
    with pytest.raises(ValueError, match=f"--{flag} 0: expected at least 1"):
        DTISprites(SIZE, **{option: 0})
