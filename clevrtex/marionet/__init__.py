"""MarioNette's own workflow: `python -m clevrtex.marionet.train` and `python -m clevrtex.marionet.evaluate`."""
