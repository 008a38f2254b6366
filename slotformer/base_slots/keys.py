"""What the configurations of base models say."""

Pair = tuple[int, int]


class Keys:
    """Keys beside those of BaseParams, which the configurations explain."""

    # Data.
    dataset: str
    n_sample_frames: int
    frame_offset: int
    video_len: int
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
    enc_dict: dict
    dec_dict: dict
    pred_dict: dict
    dvae_dict: dict
    loss_dict: dict
    dropout: float
    frames_per_part: int | None
    post_recon_loss_w: float
    kld_loss_w: float
    recon_loss_w: float
    token_recon_loss_w: float
    img_recon_loss_w: float

    # Training.
    warmup_steps_pct: float
    dec_lr: float
    vocab_size: int
    init_tau: float
    final_tau: float
    tau_decay_pct: float
