from slotformer.framework.params import BaseParams


class SlotFormerParams(BaseParams):
    """Whether red and yellow touch, from the slots that slotformer_physion_params has predicted."""

    project = "SlotFormer"

    # Training.
    gpus = 1
    max_epochs = 50  # 5.9 k steps
    eval_interval = 5
    save_epoch_end = True
    n_samples = 8  # videos to look at, if they are there

    optimizer = "Adam"
    lr = 1e-3
    warmup_steps_pct = 0.0

    # Data.
    dataset = "physion_slots_label_readout"
    data_root = "./data/Physion"  # its lists and labels
    # What rollout_physion_slots.py makes: a link beside the weight, in this folder, its models/ or its models/epoch/;
    # test_slots beside it. Or .h5, whichever is there.
    slots_root = "checkpoint/slotformer_physion_params/readout_slots.pkl"
    tasks = ["all"]
    n_sample_frames = 6  # has no effect: videos are whole
    frame_offset = 1
    video_len = 75  # frames, of which the first 45 were seen
    train_batch_size = 64 // gpus
    val_batch_size = train_batch_size * 2
    num_workers = 8

    # Model.
    model = "PhysionReadout"
    resolution = (128, 128)  # of videos to look at

    slot_size = 192
    readout_dict = dict(
        num_slots=6,
        slot_size=slot_size,
        agg_func="max",  # or mean, sum
        feats_dim=slot_size,
    )

    # Loss.
    vqa_loss_w = 1.0
