from slotformer.framework.params import BaseParams


class SlotFormerParams(BaseParams):
    """Whether a task of PHYRE is solved, from the slots that slotformer_phyre_params-fold0 has predicted."""

    project = "SlotFormer"

    # Training.
    gpus = 1
    max_epochs = 50  # 77 k steps
    eval_interval = 2
    save_epoch_end = True
    n_samples = 25  # one of each template

    optimizer = "Adam"
    lr = 1e-3
    warmup_steps_pct = 0.1

    # Data.
    dataset = "phyre_rollout_slots"
    data_root = "./data/PHYRE"
    # What rollout_phyre_slots.py makes: links beside the weight, in this folder, its models/ or its models/epoch/; {}
    # is train or val.
    slot_root = "checkpoint/slotformer_phyre_params-fold0/{}_slots"
    phyre_protocal = "within"
    phyre_fold = 0
    data_ratio = 0.1  # of 2000 actions per task (validation: 500)
    pos_ratio = 0.2  # of these solve it
    reverse_color = True  # black background
    n_sample_frames = 11
    frame_offset = 1  # no frame is left out
    fps = 1
    video_len = 11
    train_batch_size = 256 // gpus
    val_batch_size = train_batch_size * 2
    num_workers = 8

    # Model.
    model = "PHYREReadout"
    resolution = (128, 128)

    slot_size = 128
    readout_dict = dict(
        num_slots=8,
        slot_size=slot_size,
        t_pe="sin",  # or learnable
        d_model=slot_size,
        num_layers=4,
        num_heads=8,
        ffn_dim=slot_size * 4,
        norm_first=True,
        sel_slots=[0, 3],  # frames that are looked at: others are not read, nor predicted when planning
    )

    # Loss.
    vqa_loss_w = 1.0
