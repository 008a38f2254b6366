#!/usr/bin/env python3
"""Extract the frames of all CLEVRER videos: `videos/<split>/*/video_NNNNN.mp4` to `video_NNNNN/%06d.jpg` beside it.

    python slotformer/scripts/data_preproc/clevrer_video2frames.py --root ./data/CLEVRER

The same command continues an interrupted run. Exit codes: 0 done, 1 some videos could not be extracted.
"""

import sys
from pathlib import Path

from core.data.frame_folders import extract_frames
from slotformer.scripts.data_preproc.commandline import parse_arguments, report


def main(words: list[str]) -> int:
    arguments = parse_arguments(words, "clevrer_video2frames.py", __doc__, Path("data/CLEVRER"))
    root = arguments.root
    videos = [path for split in ("train", "val", "test") for path in sorted(root.glob(f"videos/{split}/*/*.mp4"))]
    if not videos:
        print(
            f"error: {root}: no videos/<train, val or test>/video_AAAAA-BBBBB/video_NNNNN.mp4 in it. Set --root to the "
            "folder that holds videos/; they come from http://clevrer.csail.mit.edu",
            file=sys.stderr,
        )
        return 1
    return report(lambda: extract_frames(root, videos, workers=arguments.workers))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
