"""What the configurations of models of videos say."""

from slotdiffusion.framework.keys import ModelKeys


class Keys(ModelKeys):
    """Keys beside those of all models."""

    movi_level: str
    tasks: list[str]
    n_sample_frames: int
    frame_offset: int
    video_len: int
    input_frames: int
    use_dpm: bool
    """In the original's files; it has no effect there, nor here."""
    pred_dict: dict
