"""SlotDiffusion on photographs: slots look through a frozen DINO, whose features tell objects of a class alike."""

from slotdiffusion.configs.latent import diffusion_decoder_dict
from slotdiffusion.img_based.configs.pictures import DATA_ROOTS, NUM_SLOTS, autoencoder_path, slots_dict
from slotformer.framework.params import BaseParams


def make_params(name: str) -> type[BaseParams]:
    """For the data set coco or voc."""

    class SlotAttentionParams(BaseParams):
        """SlotDiffusion with DINO."""

        project = "SlotDiffusion"

        # Training.
        gpus = 1
        max_epochs = {"coco": 100, "voc": 500}[name]
        save_interval = {"coco": 0.25, "voc": 0.5}[name]
        save_epoch_end = False
        eval_interval = {"coco": 4, "voc": 10}[name]
        n_samples = 10

        optimizer = "Adam"
        lr = 1e-4
        dec_lr = 2e-4  # of the denoiser
        clip_grad = 0.05
        warmup_steps_pct = 0.05
        grad_accum_steps = 1

        # Data.
        dataset = name
        data_root = DATA_ROOTS[name]
        load_anno = True
        norm_mean = 0.5
        norm_std = 0.5
        train_batch_size = 64 // gpus
        val_batch_size = train_batch_size
        num_workers = 8

        # Model.
        model = "SADiffusion"
        resolution = (224, 224)

        num_slots = NUM_SLOTS[name]
        slot_size = {"coco": 256, "voc": 192}[name]
        slot_dict = slots_dict(num_slots, slot_size)
        enc_dict = dict(dino="dino-vits8", patch_size=8, small_size=True, enc_out_channels=slot_size)
        dec_dict = diffusion_decoder_dict(resolution, slot_size, autoencoder_path("vqvae", name))

        # Loss.
        loss_dict = dict(use_denoise_loss=True)
        denoise_loss_w = 1.0

    return SlotAttentionParams
