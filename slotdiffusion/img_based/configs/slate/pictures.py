"""SLATE on pictures, as SlotDiffusion compares itself with it."""

from slotdiffusion.img_based.configs.pictures import DATA_ROOTS, NUM_SLOTS, autoencoder_path, resnet_dict, slots_dict
from slotformer.framework.params import BaseParams


def make_params(name: str) -> type[BaseParams]:
    """For the data set clevrtex or celeba."""

    class SlotAttentionParams(BaseParams):
        """SLATE."""

        project = "SlotDiffusion"

        # Training.
        gpus = 1
        max_epochs = {"clevrtex": 200, "celeba": 100}[name]
        save_interval = 0.5
        save_epoch_end = True
        eval_interval = {"clevrtex": 4, "celeba": 2}[name]
        n_samples = 10

        optimizer = "Adam"
        lr = 1e-4
        dec_lr = 3e-4  # of the token decoder
        clip_grad = 1.0
        warmup_steps_pct = 0.05

        # Data.
        dataset = name
        data_root = DATA_ROOTS[name]
        load_mask = name == "clevrtex"
        train_batch_size = 64 // gpus
        val_batch_size = train_batch_size * 2
        num_workers = 8

        # Model.
        model = "SLATE"
        resolution = (128, 128)

        num_slots = NUM_SLOTS[name]
        slot_size = 192
        slot_dict = slots_dict(num_slots, slot_size)
        enc_dict = resnet_dict(slot_size)
        dvae_dict = dict(down_factor=4, vocab_size=4096, dvae_ckp_path=autoencoder_path("dvae", name))
        dec_dict = dict(dec_num_layers=8, dec_num_heads=4, dec_d_model=slot_size)

        # Loss.
        loss_dict = dict(use_img_recon_loss=False)
        token_recon_loss_w = 1.0
        img_recon_loss_w = 1.0

    return SlotAttentionParams
