"""What the configurations of models of dynamics say."""

Pair = tuple[int, int]


class Keys:
    """Keys beside those of BaseParams, which the configurations explain."""

    # Data.
    dataset: str
    slots_root: str
    n_sample_frames: int
    frame_offset: int
    video_len: int
    load_img: bool
    filter_enter: bool
    tasks: list[str]
    fps: int
    phyre_protocal: str
    phyre_fold: int
    data_ratio: float
    pos_ratio: float
    reverse_color: bool
    num_actions: int
    num_tasks: int
    as_original: bool
    resolution: Pair
    input_frames: int

    # Model.
    model: str
    num_slots: int
    slot_size: int
    slot_dict: dict
    dvae_dict: dict
    dec_dict: dict
    rollout_dict: dict
    loss_dict: dict
    dropout: float
    frames_per_part: int | None
    slot_recon_loss_w: float
    img_recon_loss_w: float

    # Training.
    warmup_steps_pct: float
    use_loss_decay: bool
    loss_decay_pct: float
