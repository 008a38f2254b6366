"""What the configurations of models of pictures say."""

from slotdiffusion.framework.keys import ModelKeys


class Keys(ModelKeys):
    """Keys beside those of all models."""

    load_anno: bool
    max_obj: int
    norm_mean: float
    """And `norm_std`: 0.5 each, which take pixels to [-1, 1]; in the original's files, for no other range is known."""
    norm_std: float
    use_dpm: bool
    """In the original's files; it has no effect there, nor here."""
