from slotformer.framework.params import BaseParams


class SlotFormerParams(BaseParams):
    """SlotFormer on the slots that stosavi_clevrer_params has found in CLEVRER."""

    project = "SlotFormer"

    # Training.
    gpus = 4
    max_epochs = 80  # 450 k steps
    save_interval = 0.25
    save_epoch_end = True
    eval_interval = 4
    n_samples = 5

    optimizer = "Adam"
    lr = 2e-4
    warmup_steps_pct = 0.05

    # Data.
    dataset = "clevrer_slots"
    data_root = "./data/CLEVRER"
    slots_root = "./data/CLEVRER/clevrer_slots.pkl"  # or .h5, whichever is there
    n_sample_frames = 6 + 10  # seen and predicted
    frame_offset = 2  # every other frame
    load_img = True
    filter_enter = True  # no clips in which an object enters that nobody could foresee
    train_batch_size = 128 // gpus
    val_batch_size = train_batch_size * 2
    num_workers = 8

    # Model.
    model = "SlotFormer"
    resolution = (64, 64)
    input_frames = 6

    num_slots = 7
    slot_size = 128
    slot_dict = dict(num_slots=num_slots, slot_size=slot_size)
    dec_dict = dict(
        dec_channels=(128, 64, 64, 64, 64),
        dec_resolution=(8, 8),
        dec_ks=5,
        dec_norm="",
        dec_ckp_path="pretrained/stosavi_clevrer_params/model_12.pth",
    )
    rollout_dict = dict(
        num_slots=num_slots,
        slot_size=slot_size,
        history_len=input_frames,
        t_pe="sin",
        slots_pe="",  # slots have no order
        d_model=slot_size * 2,
        num_layers=4,
        num_heads=8,
        ffn_dim=slot_size * 2 * 4,
        norm_first=True,
    )

    # Loss.
    loss_dict = dict(rollout_len=n_sample_frames - input_frames, use_img_recon_loss=True)
    slot_recon_loss_w = 1.0
    img_recon_loss_w = 1.0
