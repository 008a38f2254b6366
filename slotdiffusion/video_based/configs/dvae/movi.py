"""The discrete VAE of STEVE on MOVi: one of 4096 words for every 4x4 pixels."""

from slotdiffusion.video_based.configs.movi import dataset_of, level_of
from slotformer.framework.params import BaseParams


def make_params(level: str) -> type[BaseParams]:
    """For MOVi-`level`: d, e, solid or tex."""

    class SlotAttentionParams(BaseParams):
        """Discrete VAE."""

        project = "SlotDiffusion"

        # Training.
        gpus = 1
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
