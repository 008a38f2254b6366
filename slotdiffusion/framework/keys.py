"""What the configurations of models of videos and of pictures say alike."""


class ModelKeys:
    """Keys beside those of BaseParams, which the configurations explain."""

    dataset: str
    load_mask: bool
    resolution: tuple[int, int]
    cache_latents: bool
    """Keep what the frozen VQ-VAE or dVAE says of the training frames in the cache folder; True unless said."""
    dino_ckp_path: str
    """Published weights of the transformer that `enc_dict.dino` names; torch hub's cache unless said, see `load_dino`.
    """
    model: str
    dropout: float
    as_original: bool
    frames_per_part: int | None
    warmup_steps_pct: float
    dec_lr: float
    num_slots: int
    slot_size: int
    slot_dict: dict
    enc_dict: dict
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
