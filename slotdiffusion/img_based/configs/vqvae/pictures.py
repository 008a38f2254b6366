"""The VQ-VAE of SlotDiffusion on pictures: latents, one for 4x4 pixels, and codes for them."""

from slotdiffusion.configs.latent import autoencoder_dict, quantiser_dict
from slotdiffusion.img_based.configs.pictures import DATA_ROOTS, SIDES
from slotformer.framework.params import BaseParams


def make_params(name: str) -> type[BaseParams]:
    """For the data set clevrtex, celeba, coco or voc."""

    class SlotAttentionParams(BaseParams):
        """VQ-VAE."""

        project = "SlotDiffusion"

        # Training.
        gpus = 4 if name in ("coco", "voc") else 2
        max_epochs = 800 if name == "voc" else 100
        save_interval = 1 if name == "voc" else 0.5
        save_epoch_end = name != "voc"
        eval_interval = 16 if name == "voc" else 4
        n_samples = 10

        optimizer = "Adam"
        lr = 1e-3
        warmup_steps_pct = 0.05

        # Data.
        dataset = name
        data_root = DATA_ROOTS[name]
        load_mask = False
        load_anno = False
        train_batch_size = 64 // gpus
        val_batch_size = train_batch_size * 2
        num_workers = 8

        # Model.
        model = "VQVAE"
        resolution = (SIDES[name], SIDES[name])
        enc_dec_dict = autoencoder_dict(resolution)

        # Loss. Without perceptual loss, which needs LPIPS, pictures are compared by squared, not absolute, errors.
        recon_loss_w = 1.0
        quant_loss_w = 1.0
        percept_loss_w = 1.0
        vq_dict = quantiser_dict(percept_loss_w)

    return SlotAttentionParams
