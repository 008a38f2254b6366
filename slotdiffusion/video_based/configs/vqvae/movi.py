"""The VQ-VAE of SlotDiffusion on MOVi: latents of frames, one for 4x4 pixels, and codes for them."""

from slotdiffusion.configs.latent import autoencoder_dict, quantiser_dict
from slotdiffusion.video_based.configs.movi import dataset_of, level_of
from slotformer.framework.params import BaseParams


def make_params(level: str) -> type[BaseParams]:
    """For MOVi-`level`: d, e, solid or tex."""

    class SlotAttentionParams(BaseParams):
        """VQ-VAE."""

        project = "SlotDiffusion"

        # Training.
        gpus = 2
        max_epochs = 50
        save_interval = 0.5
        save_epoch_end = True
        eval_interval = 2
        n_samples = 8

        optimizer = "Adam"
        lr = 1e-3
        warmup_steps_pct = 0.05

        # Data.
        dataset = dataset_of(level)
        data_root = "./data/MOVi"
        movi_level = level_of(level)
        n_sample_frames = 1
        frame_offset = 1  # no frame is left out
        video_len = 24
        load_mask = False
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

    return SlotAttentionParams
