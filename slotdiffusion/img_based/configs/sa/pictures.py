"""Slot Attention on pictures, as SlotDiffusion compares itself with it."""

from slotdiffusion.img_based.configs.pictures import DATA_ROOTS, NUM_SLOTS, resnet_dict, slots_dict
from slotformer.framework.params import BaseParams


def make_params(name: str) -> type[BaseParams]:
    """For the data set clevrtex or celeba."""

    class SlotAttentionParams(BaseParams):
        """Slot Attention."""

        project = "SlotDiffusion"

        # Training.
        gpus = 1
        max_epochs = {"clevrtex": 200, "celeba": 100}[name]
        save_interval = 2
        save_epoch_end = False
        eval_interval = 5
        n_samples = 10

        optimizer = "Adam"
        lr = 4e-4
        warmup_steps_pct = 0.025

        # Data.
        dataset = name
        data_root = DATA_ROOTS[name]
        load_mask = name == "clevrtex"
        train_batch_size = 64 // gpus
        val_batch_size = train_batch_size * 2
        num_workers = 8

        # Model.
        model = "SA"
        resolution = (128, 128)

        num_slots = NUM_SLOTS[name]
        slot_size = 192
        slot_dict = slots_dict(num_slots, slot_size)
        enc_dict = resnet_dict(slot_size)
        dec_dict = dict(dec_channels=(slot_size, 128, 128, 128, 128), dec_resolution=(8, 8), dec_ks=5, dec_norm="")

        # Loss.
        loss_dict = dict(use_img_recon_loss=True)
        img_recon_loss_w = 1.0

    return SlotAttentionParams
