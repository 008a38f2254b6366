"""What one training step of a model costs at its published size, beside what its original costs.

    python tools/bench.py emorl-tetrominoes --threads 1
    python tools/bench.py all --threads 1

A step is forward, backward, clipping and optimiser on random pictures, or where sampling is measured a decomposition.
Costs are in a unit that makes machines comparable: the time of one forward and backward pass of a 5x5 convolution,
64 -> 64 channels, of a (16, 64, 64, 64) float32 batch on the same device with the same number of threads. On one CPU
thread both are CPU time, which other work on the machine disturbs least; otherwise wall time.
"""

import argparse
import difflib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from core.commandline import StrictParser, natural, positive
from core.outcome import ERROR, complain
from tools.benchmarks import BENCHMARKS, Benchmark


def clock(device: str, threads: int) -> Callable[[], float]:
    """Milliseconds; CPU time for one CPU thread, else wall time after the device is idle."""
    import torch

    if device == "cpu" and threads == 1:
        return lambda: 1000 * time.process_time()

    def wall() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return 1000 * time.perf_counter()

    return wall


def unit_ms(device: str, now: Callable[[], float]) -> float:
    """Median of 9 passes of the unit convolution, after two warm-up passes."""
    import torch

    convolution = torch.nn.Conv2d(64, 64, 5, padding=2).to(device)
    batch = torch.randn(16, 64, 64, 64, device=device, requires_grad=True)
    times = []
    for _ in range(11):
        begin = now()
        convolution(batch).sum().backward()
        times.append(now() - begin)
    return statistics.median(times[2:])


def make_optimizer(kind: str | Callable[[Any], Any], model: Any) -> Any:
    import torch

    if callable(kind):
        return kind(model)
    fused = {"fused": True} if kind in ("Adam", "AdamW") else {}
    return getattr(torch.optim, kind)(model.parameters(), lr=1e-4, **fused)


def make_step(benchmark: Benchmark, model: Any, batch: dict[str, Any], autocast: Any) -> Callable[[int], None]:
    """What is timed, by its number."""
    import torch

    if benchmark.optimizer is None:
        model.eval()

        @torch.no_grad()
        def decompose(step: int) -> None:
            with autocast:
                model.decompose(batch)

        return decompose
    optimizer = make_optimizer(benchmark.optimizer, model)

    def train(step: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = model.loss(batch, step)["loss"]
        loss.backward()
        if benchmark.clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), benchmark.clip_norm)
        optimizer.step()

    return train


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Median step time, throughput and peak memory of one model, in this process."""
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    benchmark, device = BENCHMARKS[name], arguments.device
    model, shapes = benchmark.build()
    model = model.to(device).train()
    if arguments.compile:
        for part in model.children():
            part.compile()
    batch_size = arguments.batch or benchmark.batch
    torch.manual_seed(0)
    batch = {key: torch.rand(batch_size, *shape, device=device) for key, shape in shapes.items()}
    if benchmark.inputs is not None:
        batch = {key: value.to(device) for key, value in benchmark.inputs(batch_size).items()}
    autocast = torch.autocast(device, torch.bfloat16) if arguments.precision == "bf16" else nullcontext()
    run = make_step(benchmark, model, batch, autocast)
    now, times = clock(device, torch.get_num_threads()), []
    for step in range(arguments.warmup + arguments.steps):
        begin = now()
        run(step)
        times.append(now() - begin)
    # The unit allocates more than a small model: memory is read before it.
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else _peak_resident_kb() / 2**10
    step_ms, unit = statistics.median(times[arguments.warmup :]), unit_ms(device, now)
    return {
        "name": name,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "precision": arguments.precision,
        "compile": arguments.compile,
        "batch": batch_size,
        "ms_per_step": round(step_ms, 2),
        "samples_per_second": round(1000 * batch_size / step_ms, 2),
        "peak_mb": round(peak),
        "unit_ms": round(unit, 2),
        "units_per_step": round(step_ms / unit, 3),
        "original_units": benchmark.original_units,
        "original_mb": benchmark.original_mb,
        "torch": str(torch.__version__),
    }


def _peak_resident_kb() -> int:
    """Of this program alone; Linux carries the parent's peak over in `ru_maxrss`."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


HEADER = (
    f"{'model':<30} {'batch':>5} {'ms/step':>9} {'images/s':>9} {'MB':>6} {'units':>7} | "
    f"{'original: units':>15} {'MB':>5} {'ratio':>6}"
)


def row(result: dict[str, Any]) -> str:
    """One line of the table; the ratio compares units and stands only where the batch is that of the original's."""
    same = result["batch"] == BENCHMARKS[result["name"]].batch
    ratio = f"{result['units_per_step'] / result['original_units']:.2f}" if same else "-"
    return (
        f"{result['name']:<30} {result['batch']:>5} {result['ms_per_step']:>9.1f} {result['samples_per_second']:>9.1f} "
        f"{result['peak_mb']:>6} {result['units_per_step']:>7.2f} | "
        f"{result['original_units']:>15.2f} {result['original_mb']:>5} {ratio:>6}"
    )


def parse(words: list[str]) -> argparse.Namespace:
    parser = StrictParser("tools/bench.py", __doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"all, or of {', '.join(BENCHMARKS)}")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=natural, default=1, help="CPU threads (1); 0 for all")
    parser.add_argument("--batch", type=natural, default=0, help="samples per step (as the original was measured)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true", help="torch.compile the parts of the model")
    parser.add_argument("--steps", type=positive, default=5, help="timed steps, of which the median counts")
    parser.add_argument("--warmup", type=natural, default=2)
    parser.add_argument("--json", type=Path, help="also append one line per model to this file")
    parser.add_argument("--one_line", action="store_true", help=argparse.SUPPRESS)  # a measuring child process
    arguments = parser.parse(words)
    if arguments.models == ["all"]:
        arguments.models = list(BENCHMARKS)
    for name in arguments.models:
        if name not in BENCHMARKS:
            near = difflib.get_close_matches(name, BENCHMARKS, n=1, cutoff=0.3)
            parser.error(f"no model {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return arguments


def refusal(arguments: argparse.Namespace) -> str | None:
    """Why nothing can be measured, or the results not be written."""
    if arguments.json and not arguments.json.parent.is_dir():
        return f"--json {arguments.json}: no such folder {arguments.json.parent}. Make it first"
    if arguments.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return "--device cuda: torch finds no GPU that it can use. Measure on the CPU with --device cpu"
    return None


def main(words: list[str]) -> int:
    arguments = parse(words)
    if arguments.one_line:
        print(json.dumps(measure(arguments.models[0], arguments)))
        return 0
    if reason := refusal(arguments):
        return complain(reason, ERROR)
    print(HEADER)
    options = [word for word in words if word not in (*BENCHMARKS, "all")]
    for name in arguments.models:
        # A process each, so that the peak of memory is the model's own.
        command = [sys.executable, __file__, name, *options, "--one_line"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return done.returncode
        result = json.loads(done.stdout)
        print(row(result), flush=True)
        if arguments.json:
            with arguments.json.open("a") as file:
                file.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
