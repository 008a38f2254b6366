"""The discrete VAE of SLATE on pictures: one of 4096 words for every 4x4 pixels."""

from slotdiffusion.img_based.configs.pictures import DATA_ROOTS
from slotformer.framework.params import BaseParams


def make_params(name: str) -> type[BaseParams]:
    """For the data set clevrtex or celeba."""

    class SlotAttentionParams(BaseParams):
        """Discrete VAE."""

        project = "SlotDiffusion"

        # Training.
        gpus = 1
        max_epochs = 100
        save_interval = 0.5
        save_epoch_end = True
        eval_interval = 4
        n_samples = 10

        optimizer = "Adam"
        lr = 1e-3
        warmup_steps_pct = 0.05

        # Data.
        dataset = name
        data_root = DATA_ROOTS[name]
        load_mask = False
        train_batch_size = 64 // gpus
        val_batch_size = train_batch_size * 2
        num_workers = 8

        # Model.
        model = "dVAE"
        resolution = (128, 128)
        vocab_size = 4096

        # Temperature of the relaxed words: a cosine from first to last over this part of the training.
        init_tau = 1.0
        final_tau = 0.1
        tau_decay_pct = 0.15

        # Loss.
        recon_loss_w = 1.0

    return SlotAttentionParams
