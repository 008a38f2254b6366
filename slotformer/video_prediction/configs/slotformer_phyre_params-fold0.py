from slotformer.framework.params import BaseParams


class SlotFormerParams(BaseParams):
    """SlotFormer on the slots that savi_phyre_params-fold0 has found in PHYRE: from the first frame alone."""

    project = "SlotFormer"

    # Training.
    gpus = 1
    max_epochs = 50  # 300 k steps
    save_interval = 0.2
    save_epoch_end = True
    eval_interval = 5
    n_samples = 25  # one of each template

    optimizer = "Adam"
    lr = 2e-4
    warmup_steps_pct = 0.05

    # Data.
    dataset = "phyre_slots"
    data_root = "./data/PHYRE"
    slots_root = "checkpoint/savi_phyre_params-fold0/{}_slots"  # {} is train or val
    phyre_protocal = "within"
    phyre_fold = 0
    data_ratio = 0.1  # of 2000 actions per task (validation: 500)
    pos_ratio = 0.2  # of these solve it
    reverse_color = True  # black background
    n_sample_frames = 1 + 10  # seen and predicted
    frame_offset = 1  # no frame is left out
    fps = 1
    video_len = 11
    train_batch_size = 64 // gpus
    val_batch_size = 8
    num_workers = 8

    # Model.
    model = "SingleStepSlotFormer"
    resolution = (128, 128)
    input_frames = 1

    num_slots = 8
    slot_size = 128
    slot_dict = dict(num_slots=num_slots, slot_size=slot_size)
    dec_dict = dict(
        dec_channels=(128, 64, 64, 64, 64),
        dec_resolution=(16, 16),
        dec_ks=5,
        dec_norm="",
        dec_ckp_path="pretrained/savi_phyre_params-fold0/model_30.pth",
    )
    rollout_dict = dict(
        num_slots=num_slots,
        slot_size=slot_size,
        history_len=input_frames,
        cond_len=6,  # the window that predictions fill
        t_pe="sin",
        slots_pe="",  # slots have no order
        d_model=slot_size * 2,
        num_layers=8,
        num_heads=8,
        ffn_dim=slot_size * 2 * 4,
        norm_first=True,
    )

    # Loss. Pictures are compared in validation only.
    loss_dict = dict(rollout_len=n_sample_frames - input_frames, use_img_recon_loss=False)
    slot_recon_loss_w = 1.0
    img_recon_loss_w = 0.1
    use_loss_decay = False  # True: later frames count less at first, until
    loss_decay_pct = 0.8  # of all steps
