from slotformer.framework.params import BaseParams


class SlotFormerParams(BaseParams):
    """SlotFormer on the slots that steve_physion_params has found in Physion."""

    project = "SlotFormer"

    # Training.
    gpus = 1
    max_epochs = 25  # 230 k steps
    save_interval = 0.125
    save_epoch_end = True
    eval_interval = 2
    n_samples = 8  # one of each scenario

    optimizer = "Adam"
    lr = 2e-4
    warmup_steps_pct = 0.05

    # Data.
    dataset = "physion_slots_training"
    data_root = "./data/Physion"
    slots_root = "./data/Physion/training_slots.pkl"  # or .h5, whichever is there
    tasks = ["all"]
    n_sample_frames = 15 + 10  # seen and predicted
    frame_offset = 3  # every third frame
    video_len = 150
    train_batch_size = 128 // gpus
    val_batch_size = train_batch_size
    num_workers = 8

    # Model.
    model = "STEVESlotFormer"
    resolution = (128, 128)
    input_frames = 15

    num_slots = 6
    slot_size = 192
    slot_dict = dict(num_slots=num_slots, slot_size=slot_size)
    dvae_dict = dict(down_factor=4, vocab_size=4096, dvae_ckp_path="pretrained/dvae_physion_params/model_20.pth")
    dec_dict = dict(
        dec_num_layers=4,
        dec_num_heads=4,
        dec_d_model=slot_size,
        dec_ckp_path="pretrained/steve_physion_params/model_10.pth",
    )
    rollout_dict = dict(
        num_slots=num_slots,
        slot_size=slot_size,
        history_len=input_frames,
        t_pe="sin",
        slots_pe="",  # slots have no order
        d_model=256,
        num_layers=8,
        num_heads=8,
        ffn_dim=256 * 4,
        norm_first=True,
    )

    # Loss.
    loss_dict = dict(rollout_len=n_sample_frames - input_frames, use_img_recon_loss=False)
    slot_recon_loss_w = 1.0
    img_recon_loss_w = 1.0
