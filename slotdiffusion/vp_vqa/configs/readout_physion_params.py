from slotformer.framework.params import BaseParams


class SlotAttentionParams(BaseParams):
    """Whether red and yellow touch, from the slots that ldmslotformer_physion_params-res128 has predicted."""

    project = "SlotDiffusion"

    # Training.
    gpus = 1
    max_epochs = 50
    eval_interval = 2
    save_epoch_end = True
    n_samples = 8  # videos to look at, if they are there

    optimizer = "Adam"
    lr = 1e-3
    warmup_steps_pct = 0.0

    # Data.
    dataset = "physion_slots_label_readout"
    data_root = "./data/Physion"  # its lists and labels
    # What rollout_physion_slots.py makes, or .h5, whichever is there. Those of the test subset lie beside it.
    slots_root = "./data/Physion/slots/rollout-physion_readout_slots.pkl"
    tasks = ["all"]
    frame_offset = 1
    video_len = 75  # frames, of which the first 45 were seen
    train_batch_size = 64 // gpus
    val_batch_size = train_batch_size * 2
    num_workers = 8

    # Model.
    model = "PhysionReadout"
    resolution = (128, 128)  # of videos to look at

    num_slots = 8
    slot_size = 192
    readout_dict = dict(
        num_slots=num_slots,
        slot_size=slot_size,
        agg_func="max",  # or mean, sum
        feats_dim=slot_size,
    )

    # Loss.
    vqa_loss_w = 1.0
