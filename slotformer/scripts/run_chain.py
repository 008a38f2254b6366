"""Run all commands of a data set, from its videos to the numbers of the paper, one after the other.

    python slotformer/scripts/run_chain.py obj3d --dry-run
    python slotformer/scripts/run_chain.py clevrer --fp16 --ddp --cudnn

What is done is not done again: every command continues its own work, and so does this one. Settings go to the one
configuration that they name, as in savi_obj3d_params:lr=2e-4, or to all. Exit codes: 0 done, 2 misuse, else that of the
command that failed.
"""

import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from core.commandline import StrictParser, positive
from core.outcome import Misuse, exit_code_of
from slotformer.framework.chains import CHAINS, FOLDS, Chain, Step

ROOT = Path(__file__).parents[2]
FOR_ALL = ("ddp", "bf16")
FOR_TRAININGS = ("fp16", "cudnn", "resident")


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = build_chain_parser("slotformer/scripts/run_chain.py", __doc__, CHAINS)
    parser.add_argument("--fold", type=int, choices=range(FOLDS), default=0, help="of PHYRE (default: 0)")
    return parser.parse(words)


def build_chain_parser(script: str, description: str, chains: Collection[str]) -> StrictParser:
    """The flags of all scripts that run chains."""
    parser = StrictParser(script, description)
    parser.add_argument("chain", choices=chains, help="data set")
    what = "only list the commands, and what each reads and writes"
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help=what)
    what = "folder that holds those of the data sets (default: data)"
    parser.add_argument("--data_root", type=Path, default=Path("data"), metavar="DIR", help=what)
    parser.add_argument("--first", type=positive, default=1, metavar="N", help="step to begin with (default: 1)")
    parser.add_argument("--last", type=positive, metavar="N", help="step to end with (default: the last)")
    what = "settings of all configurations, or of CONFIG:KEY=VALUE"
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=what)
    what = "flags of one script, as in rollout_clevrer_slots:num_observed=64"
    parser.add_argument(
        "--script_flags", nargs="+", action="extend", default=[], metavar="SCRIPT:FLAG=VALUE", help=what
    )
    for flag in (*FOR_ALL, *FOR_TRAININGS):
        where = "of all commands" if flag in FOR_ALL else "of the trainings"
        parser.add_argument(f"--{flag}", action="store_true", help=f"flag {where}")
    return parser


def chain_of(arguments: Namespace, **others: Any) -> Chain:
    """What the command line says of all steps; `others` are further fields of the chain. Raises Misuse."""
    settings: dict[str, list[str]] = {}
    for word in arguments.set:
        config, colon, setting = word.partition(":")
        named = colon and "=" not in config
        settings.setdefault(config if named else "", []).append(setting if named else word)
    for_all, for_trainings = _given(arguments, FOR_ALL), _given(arguments, FOR_TRAININGS)
    script_flags: dict[str, list[str]] = {}
    for word in arguments.script_flags:
        script, colon, flag = word.partition(":")
        if not colon or "=" not in flag:
            raise Misuse(f"--script_flags {word!r}: expected SCRIPT:FLAG=VALUE")
        script_flags.setdefault(script, []).append(f"--{flag}")
    return Chain(arguments.data_root, settings, for_all, for_trainings, script_flags, **others)


def _given(arguments: Namespace, flags: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"--{flag}" for flag in flags if getattr(arguments, flag))


def check_names(chain: Chain, steps: Sequence[Step]) -> None:
    """Raises Misuse for settings of a configuration, and flags of a script, that are not used."""
    from core.spelling import nearest

    scripts = sorted({Path(step.words[0]).stem for step in steps})
    if unknown := sorted(chain.script_flags.keys() - set(scripts)):
        raise Misuse(f"--script_flags {unknown[0]}:...: no such script in this chain{nearest(unknown[0], scripts)}")
    used = sorted({Path(word).stem for step in steps for word in step.words if "/configs/" in word})
    if unknown := sorted(chain.settings.keys() - {*used, ""}):
        raise Misuse(f"--set {unknown[0]}:...: no such configuration in this chain{nearest(unknown[0], used)}")


def describe(number: int, step: Step) -> list[str]:
    """The lines of a dry run."""
    lines = [f"{number}. {step.what}", f"   python {shlex.join(step.words)}"]
    for verb, paths in (("reads", step.reads), ("writes", step.writes)):
        lines += [f"   {verb:6} {path}{'' if path.exists() else '  (not there)'}" for path in paths]
    return lines


def run(arguments: Namespace, chain: Chain, steps: Sequence[Step]) -> int:
    """Run or list the steps; the exit code. Raises Misuse."""
    check_names(chain, steps)
    last = arguments.last or len(steps)
    if not arguments.first <= last <= len(steps):
        raise Misuse(f"--first {arguments.first} --last {last}: the steps of {arguments.chain} are 1 to {len(steps)}")
    chosen = list(enumerate(steps, start=1))[arguments.first - 1 : last]
    if arguments.dry_run:
        print("\n".join(line for number, step in chosen for line in describe(number, step)))
        return 0
    from core.training.launch import run_process

    took = []
    for number, step in chosen:
        print("\n".join(describe(number, step)[:2]), flush=True)
        began = time.perf_counter()
        script, *flags = step.words
        if code := run_process(
            [str(ROOT / script), *(str(ROOT / word) if "/configs/" in word else word for word in flags)]
        ):
            print(f"step {number} ended with exit code {code}; the same command goes on there", file=sys.stderr)
            return code
        took.append(f"{number}. {step.what}: {time.perf_counter() - began:.0f} s")
    print("\n".join(took))
    return 0


def main(words: Sequence[str]) -> int:
    """Run a chain as the command line says; the exit code."""
    arguments = parse_arguments(words)

    def run_steps() -> int:
        chain = chain_of(arguments, fold=arguments.fold)
        return run(arguments, chain, list(CHAINS[arguments.chain](chain)))

    return exit_code_of(run_steps)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
