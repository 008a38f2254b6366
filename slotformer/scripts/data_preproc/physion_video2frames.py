#!/usr/bin/env python3
"""Extract the first 200 frames of the Physion videos that the split lists name: `x.mp4` to `x/%06d.jpg` beside it.

    python slotformer/scripts/data_preproc/physion_video2frames.py --root ./data/Physion

The same command continues an interrupted run. Exit codes: 0 done, 1 some videos could not be extracted.
"""

import sys
from pathlib import Path

from core.data.frame_folders import extract_frames
from core.data.physion import SPLITS, listed_videos
from slotformer.scripts.data_preproc.commandline import parse_arguments, report

MAX_FRAMES = 200


def main(words: list[str]) -> int:
    script, root = "physion_video2frames.py", Path("data/Physion")
    arguments = parse_arguments(words, script, __doc__, root, subsets=tuple(SPLITS))
    root, subsets = arguments.root, arguments.subset or SPLITS

    def extract():
        listed = [
            video for subset in subsets for split in SPLITS[subset] for video in listed_videos(root, subset, split)
        ]
        return extract_frames(root, [root / video.path for video in listed], MAX_FRAMES, arguments.workers)

    return report(extract)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
