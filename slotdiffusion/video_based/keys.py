"""What the configurations of models of videos say."""

Pair = tuple[int, int]


class Keys:
    """Keys beside those of BaseParams, which the configurations explain."""

    dataset: str
    movi_level: str
    load_mask: bool
    tasks: list[str]
    n_sample_frames: int
    frame_offset: int
    video_len: int
    resolution: Pair
    input_frames: int
    cache_latents: bool
    """Keep what the frozen VQ-VAE or dVAE says of the training frames in the cache folder; True unless said."""
    model: str
    dropout: float
    as_original: bool
    frames_per_part: int | None
    warmup_steps_pct: float
    dec_lr: float
    use_dpm: bool
    """In the original's files; it has no effect there, nor here."""
    num_slots: int
    slot_size: int
    slot_dict: dict
    enc_dict: dict
    pred_dict: dict
    dec_dict: dict
    dvae_dict: dict
    enc_dec_dict: dict
    vq_dict: dict
    vocab_size: int
    init_tau: float
    final_tau: float
    tau_decay_pct: float
    loss_dict: dict
    recon_loss_w: float
    quant_loss_w: float
    percept_loss_w: float
    img_recon_loss_w: float
    token_recon_loss_w: float
    denoise_loss_w: float
