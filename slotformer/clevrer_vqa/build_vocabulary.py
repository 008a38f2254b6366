"""Number the words of question files that have others than CLEVRER's.

    python slotformer/clevrer_vqa/build_vocabulary.py --data_root ./data/CLEVRER --save_path vocabulary.json

Reads questions/{train,val,test}.json. Configurations name the file as vocab_file, and the numbers of its entries as
question_vocab_size and answer_vocab_size; it says which. Exit codes: 0 done, 1 error, 2 misuse.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from core.commandline import StrictParser
from core.outcome import exit_code_of


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = StrictParser("slotformer/clevrer_vqa/build_vocabulary.py", __doc__)
    parser.add_argument("--data_root", type=Path, required=True, metavar="DIR", help="folder with questions/")
    parser.add_argument("--save_path", type=Path, required=True, metavar="FILE", help="file to write")
    return parser.parse(words)


def build(arguments: Namespace) -> int:
    """Write the vocabulary; the exit code."""
    from core.data.vqa import build_vocabulary
    from core.files import replacing

    folder = arguments.data_root / "questions"
    vocabulary = build_vocabulary(folder / f"{split}.json" for split in ("train", "val", "test"))
    with replacing(arguments.save_path) as partial:
        partial.write_text(json.dumps(vocabulary, indent=2) + "\n")
    sizes = f"question_vocab_size={len(vocabulary['q_vocab'])} answer_vocab_size={len(vocabulary['a_vocab'])}"
    print(f"{arguments.save_path}; --set vocab_file={arguments.save_path} {sizes}")
    return 0


def main(words: Sequence[str]) -> int:
    """Build the vocabulary as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: build(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
