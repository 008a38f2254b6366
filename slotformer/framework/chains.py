"""The commands that lead from a data set to the numbers of SlotFormer's paper (Wu et al. 2023), in their order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOLDS = 10
PHYRE_SECONDS = 11


@dataclass(frozen=True)
class Step:
    """One command: a script and its flags, and the files and folders that it reads and writes."""

    what: str
    words: tuple[str, ...]
    reads: tuple[Path, ...]
    writes: tuple[Path, ...]


@dataclass(frozen=True)
class Chain:
    """What the commands of a chain share.

    `settings` are those of --set by the name of a configuration; those under "" go to all of them. `flags` are for all
    scripts, `training_flags` for trainings, `script_flags` for one by its name. `fold` is PHYRE's. The scripts are
    those of `package`; a configuration is named as in the folder of its task, in which it may have a folder of its own.
    """

    data_root: Path = Path("data")
    settings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    training_flags: tuple[str, ...] = ()
    script_flags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fold: int = 0
    package: str = "slotformer"

    def run_name(self, config: str) -> str:
        """Of the training of a configuration; PHYRE's are written for fold 0."""
        return Path(config).name.replace("-fold0", f"-fold{self.fold}")

    def weight(self, config: str) -> Path:
        """The best checkpoint of a training."""
        return Path("checkpoint") / self.run_name(config) / "models" / "best.pth"

    def config_file(self, task: str, config: str) -> str:
        """Where a configuration lies."""
        return f"{self.package}/{task}/configs/{config}.py"

    def train(
        self, task: str, config: str, what: str, reads: Sequence[Path] = (), keys: Mapping[str, object] | None = None
    ) -> Step:
        """The training of a configuration, with `keys` besides the user's settings."""
        words = [f"{self.package}/scripts/train.py", "--task", task, "--params", self.config_file(task, config)]
        if self.run_name(config) != Path(config).name:
            words += ["--name", self.run_name(config)]
        words += [*self.flags, *self.training_flags, *self._set(config, keys)]
        return Step(what, tuple(words), tuple(reads), (self.weight(config),))

    def apply(
        self,
        script: str,
        config: str,
        what: str,
        *,
        reads: Sequence[Path] = (),
        writes: Sequence[Path] = (),
        keys: Mapping[str, object] | None = None,
        flags: Sequence[object] = (),
    ) -> Step:
        """A script of a task's package, with the trained model of `config`."""
        task = script.partition("/")[0]
        words = [
            f"{self.package}/{script}",
            "--params",
            self.config_file(task, config),
            "--weight",
            self.weight(config),
        ]
        words += [*flags, *self.script_flags.get(Path(script).stem, ()), *self.flags, *self._set(config, keys)]
        return Step(what, tuple(map(str, words)), (self.weight(config), *reads), tuple(writes))

    def settings_of(self, config: str, keys: Mapping[str, object]) -> list[str]:
        """`keys`, and what the user sets, which goes before them."""
        words = [f"{key}={value}" for key, value in keys.items()]
        return [*words, *self.settings.get("", ()), *self.settings.get(Path(config).name, ())]

    def _set(self, config: str, keys: Mapping[str, object] | None) -> list[str]:
        words = self.settings_of(config, keys or {})
        return ["--set", *words] if words else []


def obj3d(chain: Chain) -> Iterator[Step]:
    """Video prediction on OBJ3D."""
    savi, model = "savi_obj3d_params", "slotformer_obj3d_params"
    data = chain.data_root / "OBJ3D"
    slots, root = data / "obj3d_slots.h5", {"data_root": data}
    yield chain.train("base_slots", savi, "find objects", [data], root)
    write = {"flags": ("--save_path", slots), "writes": [slots], "reads": [data], "keys": root}
    yield chain.apply("base_slots/extract_slots.py", savi, "slots of all videos", **write)
    keys = {**root, "slots_root": slots, "dec_dict.dec_ckp_path": chain.weight(savi)}
    yield chain.train("video_prediction", model, "learn how slots move", [data, slots, chain.weight(savi)], keys)
    shown = [chain.weight(model).with_name(f"best-vp-{model}.json"), Path("vis/obj3d") / model]
    yield chain.apply(
        "video_prediction/test_vp.py", model, "score predicted videos", reads=[data, slots], writes=shown, keys=keys
    )


def clevrer(chain: Chain) -> Iterator[Step]:
    """Video prediction and question answering on CLEVRER."""
    savi, model, aloe = "stosavi_clevrer_params", "slotformer_clevrer_params", "aloe_clevrer_params-rollout"
    data = chain.data_root / "CLEVRER"
    slots, rollouts, root = data / "clevrer_slots.h5", data / "rollout_clevrer_slots.h5", {"data_root": data}
    yield chain.train("base_slots", savi, "find objects", [data], root)
    write = {"flags": ("--save_path", slots), "writes": [slots], "reads": [data], "keys": root}
    yield chain.apply("base_slots/extract_slots.py", savi, "slots of all videos", **write)
    keys = {**root, "slots_root": slots, "dec_dict.dec_ckp_path": chain.weight(savi)}
    yield chain.train("video_prediction", model, "learn how slots move", [data, slots, chain.weight(savi)], keys)
    shown = [chain.weight(model).with_name(f"best-vp-{model}.json"), Path("vis/clevrer") / model]
    yield chain.apply(
        "video_prediction/test_vp.py", model, "score predicted videos", reads=[data, slots], writes=shown, keys=keys
    )
    write = {"flags": ("--save_path", rollouts), "writes": [rollouts], "reads": [slots], "keys": keys}
    yield chain.apply("video_prediction/rollout_clevrer_slots.py", model, "what happens afterwards", **write)
    keys = {**root, "slots_root": rollouts}
    yield chain.train("clevrer_vqa", aloe, "learn to answer questions", [data / "questions", rollouts], keys)
    yield chain.apply(
        "clevrer_vqa/test_clevrer_vqa.py",
        aloe,
        "answer questions",
        reads=[data / "questions", rollouts],
        writes=[chain.weight(aloe).with_name("CLEVRER.json")],
        keys=keys,
    )


def physion(chain: Chain) -> Iterator[Step]:
    """Whether two bodies of Physion touch."""
    dvae, steve = "dvae_physion_params", "steve_physion_params"
    model, readout = "slotformer_physion_params", "readout_physion_params"
    data = chain.data_root / "Physion"
    root = {"data_root": data}
    yield chain.train("base_slots", dvae, "words for patches", [data], root)
    words = data / f"PhysionTrainNpys-{dvae}"
    yield chain.apply("base_slots/tokenize_images.py", dvae, "words of all frames", writes=[words], keys=root)
    with_words = {**root, "dvae_dict.dvae_ckp_path": chain.weight(dvae)}
    yield chain.train("base_slots", steve, "find objects", [data, words, chain.weight(dvae)], with_words)
    slots = {subset: data / f"{subset}_slots.h5" for subset in ("training", "readout", "test")}
    for subset, path in slots.items():
        write = {"flags": ("--save_path", path, "--subset", subset), "writes": [path], "keys": with_words}
        yield chain.apply("base_slots/extract_slots.py", steve, f"slots of the {subset} videos", **write)
    keys = {**with_words, "slots_root": slots["training"], "dec_dict.dec_ckp_path": chain.weight(steve)}
    yield chain.train("video_prediction", model, "learn how slots move", [slots["training"]], keys)
    rollouts = {subset: data / f"rollout_{subset}_slots.h5" for subset in ("readout", "test")}
    links = [chain.weight(model).with_name(f"{subset}_slots.h5") for subset in rollouts]
    for (subset, path), link in zip(rollouts.items(), links):
        write = {"flags": ("--save_path", path, "--subset", subset), "writes": [path, link], "keys": keys}
        what = f"what happens in the {subset} videos"
        script = "video_prediction/rollout_physion_slots.py"
        yield chain.apply(script, model, what, reads=[slots[subset]], **write)
    keys = {**root, "slots_root": links[0]}
    yield chain.train("physion_vqa", readout, "learn to say whether they touch", [data, links[0]], keys)
    result = chain.weight(readout).with_name(f"best-vqa-{readout}.json")
    say = {"reads": links, "writes": [result], "keys": keys}
    yield chain.apply("physion_vqa/test_physion_vqa.py", readout, "say whether they touch", **say)


def phyre(chain: Chain) -> Iterator[Step]:
    """Actions that solve PHYRE's tasks."""
    savi, model, readout = (f"{name}_phyre_params-fold0" for name in ("savi", "slotformer", "readout"))
    fold = {"phyre_fold": chain.fold}
    seconds, target = ("--vid_len", PHYRE_SECONDS), ("--save_path", chain.data_root / "PHYRE")
    yield chain.train("base_slots", savi, "find objects", keys=fold)
    slots = chain.weight(savi).with_name("{}_slots")
    links = [slots.with_name(f"{split}_slots") for split in ("train", "val")]
    write = {"flags": (*target, *seconds), "writes": links, "keys": fold}
    yield chain.apply("base_slots/extract_phyre_slots.py", savi, "slots of all trials", **write)
    keys = {**fold, "slots_root": slots, "dec_dict.dec_ckp_path": chain.weight(savi)}
    yield chain.train("video_prediction", model, "learn how slots move", [*links, chain.weight(savi)], keys)
    rollouts = chain.weight(model).with_name("{}_slots")
    predicted = [rollouts.with_name(f"{split}_slots") for split in ("train", "val")]
    write = {"flags": (*target, *seconds), "writes": predicted, "reads": links, "keys": keys}
    yield chain.apply("video_prediction/rollout_phyre_slots.py", model, "what follows the first frame", **write)
    classify = {**fold, "slot_root": rollouts}
    yield chain.train("phyre_planning", readout, "learn which roll-outs solve the task", predicted, classify)
    parts = chain.weight(readout).with_name("test")
    yield _plan(chain, savi, model, readout, parts)
    collect = ("slotformer/phyre_planning/test_phyre_planning.py", "--collect", str(parts))
    yield Step("rank the actions", collect, (parts,), (parts / "auccess.json",))


def _plan(chain: Chain, savi: str, model: str, readout: str, parts: Path) -> Step:
    """Confidence in every action of the test tasks, from three trained models."""
    script = "slotformer/phyre_planning/test_phyre_planning.py"
    words = [script, *chain.script_flags.get(Path(script).stem, ()), *chain.flags]
    models = {"savi_": ("base_slots", savi), "": ("video_prediction", model), "task_cls_": ("phyre_planning", readout)}
    for prefix, (task, config) in models.items():
        words += [f"--{prefix}params", chain.config_file(task, config), f"--{prefix}weight", str(chain.weight(config))]
        words += [f"--{prefix}set", *chain.settings_of(config, {"phyre_fold": chain.fold})]
    weights = tuple(chain.weight(config) for _, config in models.values())
    return Step("how likely each action solves its task", tuple(words), weights, (parts,))


CHAINS: dict[str, Callable[[Chain], Iterator[Step]]] = {
    "obj3d": obj3d,
    "clevrer": clevrer,
    "physion": physion,
    "phyre": phyre,
}
