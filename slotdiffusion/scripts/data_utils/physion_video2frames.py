#!/usr/bin/env python3
"""Extract the first 200 frames of the Physion videos: `x.mp4` to `x/%06d.jpg` beside it.

    python slotdiffusion/scripts/data_utils/physion_video2frames.py --root ./data/Physion

This is slotformer/scripts/data_preproc/physion_video2frames.py where the original SlotDiffusion has it.
"""

import sys

from slotformer.scripts.data_preproc.physion_video2frames import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
