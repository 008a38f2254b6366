"""Run all commands of a data set, from its videos to the numbers of the paper, one after the other.

    python slotdiffusion/scripts/run_chain.py physion --dry-run
    python slotdiffusion/scripts/run_chain.py physion --fp16 --ddp --cudnn

What is done is not done again: every command continues its own work, and so does this one. Settings go to the one
configuration that they name, as in readout_physion_params:lr=2e-4, or to all. Exit codes: 0 done, 2 misuse, else that
of the command that failed.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from core.outcome import exit_code_of
from slotdiffusion.chains import CHAINS
from slotformer.scripts.run_chain import build_chain_parser, chain_of, run


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    return build_chain_parser("slotdiffusion/scripts/run_chain.py", __doc__, CHAINS).parse(words)


def main(words: Sequence[str]) -> int:
    """Run a chain as the command line says; the exit code."""
    arguments = parse_arguments(words)

    def run_steps() -> int:
        chain = chain_of(arguments, package="slotdiffusion")
        return run(arguments, chain, list(CHAINS[arguments.chain](chain)))

    return exit_code_of(run_steps)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
