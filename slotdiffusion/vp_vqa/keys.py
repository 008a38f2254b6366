"""What the configurations of models of dynamics and of read-outs say."""


class Keys:
    """Keys beside those of BaseParams, which the configurations explain."""

    dataset: str
    tasks: list[str]
    slots_root: str
    n_sample_frames: int
    frame_offset: int
    video_len: int
    resolution: tuple[int, int]
    input_frames: int
    model: str
    dropout: float
    warmup_steps_pct: float
    num_slots: int
    slot_size: int
    slot_dict: dict
    rollout_dict: dict
    dec_dict: dict
    readout_dict: dict
    loss_dict: dict
    slot_recon_loss_w: float
    denoise_loss_w: float
    img_recon_loss_w: float
    use_loss_decay: bool
    loss_decay_pct: float
    vqa_loss_w: float
