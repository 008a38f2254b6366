from slotformer.framework.params import BaseParams


class SlotFormerParams(BaseParams):
    """The discrete VAE on Physion whose words STEVE predicts: one of 4096 for every 4x4 pixels."""

    project = "SlotFormer"

    # Training.
    gpus = 2
    max_epochs = 20  # 700 k steps
    save_interval = 0.25
    save_epoch_end = True
    eval_interval = 1
    n_samples = 8  # one of each scenario

    optimizer = "Adam"
    lr = 1e-3
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
    model = "dVAE"
    resolution = (128, 128)
    vocab_size = 4096

    # Temperature of the relaxed words: a cosine from first to last over this part of the training.
    init_tau = 1.0
    final_tau = 0.1
    tau_decay_pct = 0.15

    # Loss.
    recon_loss_w = 1.0
