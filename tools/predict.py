"""Let a trained model of any paper look at pictures or videos of your own.

    python tools/predict.py runs/demo --input my_pictures --out runs/predictions

RUN is a run folder or a weight, of this project or imported by tools/import_weights.py. --input is a picture, a video,
or a folder: of pictures, of videos, or of folders of numbered frames. Pictures may have any size: the model sees them
at its own, masks come back at theirs. DIR gets masks, overlays, reconstructions, panels, slots.h5 and predictions.json;
the same command again replaces them. Exit codes: 0 done, 1 error, 2 misuse, 130 interrupted.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from core.commandline import StrictParser, natural, positive
from core.outcome import exit_code_of


def parse_arguments(words: Sequence[str]) -> Namespace:
    """The command line. Ends the process if it cannot be understood."""
    parser = StrictParser("tools/predict.py", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or checkpoint file")
    parser.add_argument("--input", type=Path, required=True, metavar="PATH", help="what to look at; see above")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of everything")
    what = "another number of slots than in training, for models whose slots begin at draws from one distribution"
    parser.add_argument("--num_slots", type=positive, metavar="N", help=what)
    parser.add_argument("--frames", type=positive, metavar="T", help="the first so many of every video (default: all)")
    what = "pictures, or frames of a video, that go through the model at a time (default: 8)"
    parser.add_argument("--batch_size", type=positive, default=8, metavar="B", help=what)
    parser.add_argument("--device", help="as torch calls it (default: cuda if there is one, else cpu)")
    parser.add_argument("--seed", type=natural, help="of the model's draws (default: that of its run)")
    what = "STEVE and SLATE: draw pictures from the slots alone, word by word, which is slow"
    parser.add_argument("--generate", action="store_true", help=what)
    return parser.parse(words)


def predict(arguments: Namespace) -> int:
    """Predict as the command line says; the exit code."""
    import torch

    from core.benchmark.prediction import Settings
    from core.benchmark.prediction import predict as predict_here
    from core.benchmark.subjects import Subject

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device}: torch cannot use it ({str(error).splitlines()[0]})") from error
    subject = Subject.open(arguments.run, device, arguments.num_slots)
    settings = Settings(arguments.frames, arguments.batch_size, arguments.seed, arguments.generate)
    files = predict_here(subject, arguments.input, arguments.out, settings)
    print(
        f"{subject.name} ({subject.paper}), {subject.num_slots} slots: {len(files)} {files[0].kind} in {arguments.out}"
    )
    return 0


def main(words: Sequence[str]) -> int:
    """Predict as the command line says; the exit code."""
    arguments = parse_arguments(words)
    return exit_code_of(lambda: predict(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
