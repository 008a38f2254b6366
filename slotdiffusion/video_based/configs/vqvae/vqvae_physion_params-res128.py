from slotdiffusion.configs.latent import autoencoder_dict, quantiser_dict
from slotformer.framework.params import BaseParams


class SlotAttentionParams(BaseParams):
    """The VQ-VAE of SlotDiffusion on Physion: latents of frames, one for 4x4 pixels, and codes for them."""

    project = "SlotDiffusion"

    # Training.
    gpus = 2
    max_epochs = 20
    save_interval = 0.25
    save_epoch_end = True
    eval_interval = 1
    n_samples = 8

    optimizer = "Adam"
    lr = 5e-4
    warmup_steps_pct = 0.05

    # Data.
    dataset = "physion_training"
    data_root = "./data/Physion"
    tasks = ["all"]
    n_sample_frames = 1
    frame_offset = 1  # no frame is left out
    video_len = 150
    train_batch_size = 64 // gpus
    val_batch_size = train_batch_size * 2
    num_workers = 8

    # Model.
    model = "VQVAE"
    resolution = (128, 128)

    enc_dec_dict = autoencoder_dict(resolution)

    # Loss. Without perceptual loss, which needs LPIPS, pictures are compared by squared, not absolute, errors.
    recon_loss_w = 1.0
    quant_loss_w = 1.0
    percept_loss_w = 1.0
    vq_dict = quantiser_dict(percept_loss_w)
