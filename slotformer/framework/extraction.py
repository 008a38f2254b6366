"""What the scripts that send whole data sets through a trained model have in common."""

import hashlib
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from core.data.clip_reader import ClipReader
from core.data.errors import DataError
from core.data.loader import Batch, BatchSource, to_device
from core.data.slot_writer import SlotWriter
from core.data.slots import HDF5, SlotFile
from core.nn.noise import Noise, derive_seed
from core.provenance import Provenance, file_hash, read_provenance
from core.training.checkpoint import State, config_differences, load, load_weights
from core.training.launch import end_processes, launch_processes, make_accelerator
from core.training.signals import StopSignals, leave_stop_signals_to_parent
from slotformer import original
from slotformer.framework.params import BaseParams, ParamsError, file_of, load_params, parse_overrides

IRRELEVANT = {
    *BaseParams.__annotations__,
    "slots_root",
    "slot_root",
    "dataset",
    "tasks",
    "filter_enter",
    "load_img",
    "n_sample_frames",
    "rollout_len",
    "use_img_recon_loss",
    "use_denoise_loss",
    "use_loss_decay",
    "load_mask",
    "load_anno",
    "max_obj",
    "cache_latents",
    "use_dpm",
    "loss_decay_pct",
    "frames_per_part",
    "dropout",
    "warmup_steps_pct",
    "dec_lr",
    "init_tau",
    "final_tau",
    "tau_decay_pct",
}
"""Keys of a configuration that do not change what a trained model says of a video, beside weights of losses."""
VIDEOS_AT_A_TIME = {"cpu": 4, "cuda": 32}


def read_params(arguments: Namespace, task: ModuleType, *models: str) -> BaseParams:
    """The configuration that the flags name. Raises ParamsError, also for that of a model which is none of `models`."""
    params = load_params(file_of(arguments.params), task.Keys, parse_overrides(arguments.set))
    if params.model not in models:
        raise ParamsError(
            f"--params {arguments.params}: a configuration of {params.model}, expected one of {' or '.join(models)}"
        )
    return params


def launched(arguments: Namespace, params: BaseParams, words: Sequence[str]) -> int | None:
    """With --ddp, the exit code of the processes that did the work; None if this process is to do it."""
    processes = torch.cuda.device_count() or params.gpus
    if arguments.ddp and "RANK" not in os.environ and processes > 1:
        return launch_processes(processes, [sys.argv[0], *words])
    return None


@dataclass
class Trained:
    """A model in evaluation mode, in one of the processes of an extraction."""

    model: nn.Module
    accelerator: Accelerator
    provenance: Provenance
    num_frames: int = field(default=0, init=False)
    """Frames, or pictures, that have gone through the model so far, and the seconds that it took."""
    seconds: float = field(default=0.0, init=False)

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    def go_through(
        self,
        source: BatchSource,
        samples: Sequence[int],
        batch_size: int,
        use: Callable[[Batch, np.ndarray], Any],
        what: str,
        workers: int = 0,
    ) -> bool:
        """`use(batch, samples)` on the batches of this process's part of `samples`; False if a signal stopped it."""
        count = self.accelerator.num_processes
        own = np.array_split(np.asarray(samples, np.int64), count)[self.accelerator.process_index]
        chunks = [own[begin : begin + batch_size] for begin in range(0, len(own), batch_size)]
        length = getattr(source, "num_frames", 1)
        bar = tqdm(total=len(own) * length, desc=what, unit=" frames", disable=None if self.is_main else True)
        began = None
        with StopSignals() as signals, bar, torch.inference_mode(), self.accelerator.autocast():
            for chunk, batch in zip(chunks, read_ahead(source, chunks, workers)):
                began = began or time.perf_counter()  # the first reading may have decoded all videos
                use(to_device(batch, self.accelerator.device), chunk)
                bar.update(len(chunk) * length)
                if signals.received:
                    if self.is_main:
                        tqdm.write(f"{signals.received.name}: stopping; the same command continues")
                    return False
        if began:
            self.num_frames += len(samples) * length
            self.seconds += time.perf_counter() - began
        return True

    def report_speed(self) -> None:
        """Print the frames per second, of all processes together."""
        if self.is_main and self.seconds:
            rate = self.num_frames / self.seconds
            print(f"{self.num_frames:,} frames in {self.seconds:,.1f} s: {rate:,.0f} frames per second")


def open_trained(
    arguments: Namespace, params: BaseParams, task: ModuleType, decisive: Mapping[str, Any] | None = None
) -> Trained:
    """The model of the flags, on its device. Results also depend on what is `decisive`.

    Raises CheckpointError for weights of another model.
    """
    accelerator = make_accelerator("bf16" if arguments.bf16 else "fp32")
    model = task.build_model(params)
    checkpoint = load(arguments.weight)
    load_weights(model, original.read_weights(arguments.weight, model), arguments.weight)
    if accelerator.is_main_process:
        for note in notes(checkpoint, params):
            print(f"note: {note}", file=sys.stderr)
    decides = {
        "weight_sha256": file_hash(arguments.weight),
        "config": settings_of(params.to_dict()),
        "precision": "bf16" if arguments.bf16 else "fp32",
        **(decisive or {}),
    }
    remarks = {
        "weight": arguments.weight.name,
        "params": file_of(arguments.params).stem,
        "torch": str(torch.__version__),
        "run": checkpoint.get("run"),
        "step": checkpoint.get("step", checkpoint.get("it")),
    }
    model.to(accelerator.device, memory_format=torch.channels_last)
    return Trained(model.eval(), accelerator, Provenance(decides, remarks))


def notes(checkpoint: State, params: BaseParams) -> Iterator[str]:
    """What about a checkpoint and the configuration deserves a second look."""
    if original.is_original(checkpoint):
        sees_frames = "resolution" in params
        if sees_frames and params.dataset in ("clevrer", "clevrer_slots") and not params.get("as_original", False):
            yield (
                "the original's models have seen CLEVRER as blue, green, red. If this is such a weight, add --set "
                "as_original=True"
            )
    elif saved := checkpoint.get("params"):
        ours, theirs = settings_of(params.to_dict()), settings_of(saved)
        keys = ours.keys() & theirs.keys()
        if differences := config_differences({key: theirs[key] for key in keys}, {key: ours[key] for key in keys}):
            yield "the weight was trained with another configuration:\n  " + "\n  ".join(differences)


def settings_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a configuration that may change what a trained model says of a video."""
    kept = {key: value for key, value in values.items() if not (key in IRRELEVANT or key.endswith(("_w", "_ckp_path")))}
    return {key: settings_of(value) if isinstance(value, dict) else value for key, value in kept.items()}


class _Chunks(Dataset):
    """Hands an error over as a value: one that a worker raises reaches the user as the text of its traceback."""

    def __init__(self, source: BatchSource, chunks: Sequence[np.ndarray]):
        self.source = source
        self.chunks = chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> Batch | DataError:
        try:
            return self.source.read(self.chunks[index])
        except DataError as error:
            return error


def read_ahead(source: BatchSource, chunks: Sequence[np.ndarray], workers: int) -> Iterator[Batch]:
    """The batches of samples in their order, read by `workers` processes, or here if there are none."""
    most = len(os.sched_getaffinity(0)) - 1
    settings: dict[str, Any] = {"num_workers": min(workers, most), "batch_size": None, "collate_fn": lambda item: item}
    for batch in DataLoader(_Chunks(source, chunks), worker_init_fn=leave_stop_signals_to_parent, **settings):
        if isinstance(batch, DataError):
            raise batch
        yield batch


def videos_at_a_time(model: nn.Module, device: torch.device, wanted: int | None = None) -> int:
    """As many as are wanted, or suit the device.

    On the CPU `model` gets one frame of each in a pass, whose features stay in the caches; this changes no number.
    """
    if device.type == "cpu":
        model.clip_len = 1
    return wanted or VIDEOS_AT_A_TIME[device.type]


def write_slots(trained: Trained, path: Path, sources: Mapping[str, ClipReader], seed: int, batch_size: int) -> bool:
    """Write the slots of all videos of `sources`, by split, to the file `path`; False if a signal stopped it.

    The last thing that the processes do together: afterwards the main one finishes the file. Where that is there
    already, of the same weights and settings, nothing is done.
    """
    writer, names = SlotWriter(path, trained.provenance), {split: source.names for split, source in sources.items()}
    is_done = writer.is_done(names)
    if not is_done:
        if trained.is_main:
            note_replaced(path, trained.provenance)
            writer.begin()
        trained.accelerator.wait_for_everyone()
        missing = {
            split: [index for index, name in enumerate(source.names) if not writer.has(split, name)]
            for split, source in sources.items()
        }
        trained.accelerator.wait_for_everyone()  # all processes share out the same list
        for split, source in sources.items():
            if not _write_split(trained, writer, split, source, missing[split], seed, batch_size):
                return False
    end_processes(trained.accelerator)
    if trained.is_main:
        if is_done:
            writer.remove_parts()
        else:
            writer.finish(names)
    return True


def note_replaced(path: Path, provenance: Provenance) -> None:
    """Say what made a finished file of slots that others are to replace, where that was something else."""
    if not path.is_file():
        return
    try:
        described = path.with_name(f"{path.name}.json")
        made_by = SlotFile(path).provenance if path.suffix == HDF5 else read_provenance(described)
    except DataError:  # damaged
        made_by = None
    differences = provenance.differences(made_by) if made_by else ["nothing says what made it"]
    what = "\n  ".join(differences or ["it holds other videos"])
    print(f"note: {path} is there already, and is replaced once all slots are made:\n  {what}", file=sys.stderr)


def _write_split(
    trained: Trained,
    writer: SlotWriter,
    split: str,
    source: ClipReader,
    videos: Sequence[int],
    seed: int,
    batch_size: int,
) -> bool:
    """Add the slots of these videos to the writer; False if a signal stopped it."""

    def add(batch: Batch, indices: np.ndarray) -> None:
        names = [source.names[index] for index in indices]
        device = batch["video"].device
        noise = video_noise(seed, [f"{split}/{name}" for name in names], source.num_frames, device)
        for name, slots in zip(names, trained.model.extract(batch, noise).float().cpu().numpy()):
            writer.add(split, name, slots)

    return trained.go_through(source, videos, batch_size, add, f"slots of {split}")


def video_noise(seed: int, videos: Sequence[str], num_frames: int, device: torch.device) -> Noise:
    """Draws keyed by (seed, video), so that a video has the same slots in any batch.

    A model makes one draw for each of `num_frames` frames; the first axis is `videos`.
    """
    drawn: Iterator[Tensor] | None = None

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        nonlocal drawn
        if drawn is None:
            generators = [torch.Generator().manual_seed(derive_seed(seed, _number(video))) for video in videos]
            frames = [torch.randn(num_frames, *shape[1:], generator=generator) for generator in generators]
            drawn = iter(torch.stack(frames, dim=1).to(device))
        return next(drawn)

    return draw


def _number(video: str) -> int:
    return int.from_bytes(hashlib.sha256(video.encode()).digest()[:8], "big")


def link_beside(weight: Path, name: str, target: Path, instead_of: str | None = None) -> None:
    """Make `name` in the folder of `weight` a link to `target`, and remove a link `instead_of`.

    What is there and no link stays, which is said.
    """
    link, target = weight.parent / name, target.resolve()
    partial = link.with_name(f".{name}.{os.getpid()}.partial")
    try:
        if instead_of and (link.parent / instead_of).is_symlink():
            (link.parent / instead_of).unlink()
        if link.resolve() == target:
            return
        if link.exists() and not link.is_symlink():
            print(f"note: {link} is not replaced by a link to {target}: it is no link itself", file=sys.stderr)
            return
        partial.symlink_to(target)
        partial.replace(link)
    except OSError as error:
        print(f"note: {link}: no link to {target} ({error.strerror})", file=sys.stderr)
        return
    print(f"{link} -> {target}")
