"""Read all of a data set and say what it holds, or which file is wrong, and how to mend it.

    python tools/check_data.py folder:/my/pictures-(128,128)
    python tools/check_data.py clevrtex:full --root data --split val

SPEC is a data string: a set with its variant and flags, see core/data/spec. One's own data are `folder:PATH`. What is
read is kept in the cache, so that a training with the same size begins at once.
"""

import sys
from pathlib import Path

from core.commandline import StrictParser
from core.outcome import exit_code_of


def main(words: list[str]) -> int:
    parser = StrictParser("tools/check_data.py", __doc__)
    parser.add_argument("spec", metavar="SPEC", help="a data string, such as movi:e or folder:PATH-(64,64)")
    parser.add_argument("--root", type=Path, help="folder of the data; else ool_data and data")
    parser.add_argument("--split", help="train, val or test; all splits by default")
    arguments = parser.parse(words)
    return exit_code_of(lambda: check(arguments.spec, arguments.root, arguments.split))


def check(text: str, root: Path | None, split: str | None) -> int:
    """Print what the split, or every split that there is, holds; 0.

    Raises DataError for the first bad file, of all splits when each has been read.
    """
    from core.data.checking import check_split
    from core.data.errors import DataError, MissingSplit
    from core.data.spec import SPLITS, DataSpec
    from core.data.spec.datasets import MissingData

    spec = DataSpec.parse(text)
    if split:
        print(f"{text}, {split}:", *check_split(spec, split, root).lines(), sep="\n  ")
        return 0
    lacking, bad = [], []
    for name in SPLITS:
        try:
            lines = check_split(spec, name, root).lines()
        except (MissingData, MissingSplit, ValueError) as error:  # not every set has all splits
            lacking.append(error)
            lines = [str(error)]
        except DataError as error:
            bad.append(error)
            lines = [str(error)]
        print(f"{text}, {name}:", *lines, sep="\n  ")
    if bad or len(lacking) == len(SPLITS):
        raise (bad or lacking)[0]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
