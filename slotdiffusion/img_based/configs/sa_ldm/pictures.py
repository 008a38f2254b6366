"""SlotDiffusion on pictures: slots as Slot Attention finds them, and latent diffusion that is told of them."""

from slotdiffusion.configs.latent import diffusion_decoder_dict
from slotdiffusion.img_based.configs.pictures import DATA_ROOTS, NUM_SLOTS, autoencoder_path, resnet_dict, slots_dict
from slotformer.framework.params import BaseParams


def make_params(name: str) -> type[BaseParams]:
    """For the data set clevrtex or celeba."""

    class SlotAttentionParams(BaseParams):
        """SlotDiffusion."""

        project = "SlotDiffusion"

        # Training.
        gpus = 1
        max_epochs = {"clevrtex": 400, "celeba": 200}[name]
        save_interval = {"clevrtex": 2, "celeba": 0.5}[name]
        save_epoch_end = True
        eval_interval = {"clevrtex": 4, "celeba": 2}[name]
        n_samples = 10

        optimizer = "Adam"
        lr = 1e-4
        dec_lr = 2e-4  # of the denoiser
        clip_grad = 1.0
        warmup_steps_pct = 0.05

        # Data.
        dataset = name
        data_root = DATA_ROOTS[name]
        load_mask = name == "clevrtex"
        max_obj = -1  # pictures of ClevrTex with more objects, background among them, are left out; -1: none is
        train_batch_size = 64 // gpus
        val_batch_size = train_batch_size * 2
        num_workers = 8

        # Model.
        model = "SADiffusion"
        resolution = (128, 128)

        num_slots = NUM_SLOTS[name]
        slot_size = 192
        slot_dict = slots_dict(num_slots, slot_size)
        enc_dict = resnet_dict(slot_size)
        dec_dict = diffusion_decoder_dict(resolution, slot_size, autoencoder_path("vqvae", name))

        # Loss.
        loss_dict = dict(use_denoise_loss=True)
        denoise_loss_w = 1.0

    return SlotAttentionParams
