"""What the configurations of base models say."""

Pair = tuple[int, int]


class SharedKeys:
    """Keys that models of videos and models of their slots have in common; a value is what holds if none is said."""

    dataset: str
    n_sample_frames: int
    frame_offset: int = 1
    video_len: int
    filter_enter: bool = False
    tasks: list[str]
    fps: int
    phyre_protocal: str
    phyre_fold: int
    data_ratio: float
    pos_ratio: float
    reverse_color: bool = False
    num_actions: int
    num_tasks: int
    as_original: bool = False
    resolution: Pair
    input_frames: int
    model: str
    dropout: float
    frames_per_part: int | None = None
    warmup_steps_pct: float = 0.0
    num_slots: int
    slot_size: int
    slot_dict: dict
    dec_dict: dict
    dvae_dict: dict
    loss_dict: dict
    img_recon_loss_w: float


class Keys(SharedKeys):
    """Keys beside those of BaseParams, which the configurations explain."""

    enc_dict: dict
    pred_dict: dict
    post_recon_loss_w: float
    kld_loss_w: float
    recon_loss_w: float
    token_recon_loss_w: float
    dec_lr: float
    vocab_size: int
    init_tau: float
    final_tau: float
    tau_decay_pct: float
