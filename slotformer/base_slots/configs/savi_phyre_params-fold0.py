from slotformer.framework.params import BaseParams


class SlotFormerParams(BaseParams):
    """SAVi on PHYRE (within-template protocol, fold 0): as on OBJ3D, for pictures of 128x128."""

    project = "SlotFormer"

    # Training. SAVi is unstable: start three runs and keep the best (scripts/dup_run_sbatch.sh).
    gpus = 2
    max_epochs = 30  # 370 k steps
    save_interval = 0.2
    save_epoch_end = True
    eval_interval = 2
    n_samples = 25  # one of each template

    optimizer = "Adam"
    lr = 1e-4
    clip_grad = 0.05
    warmup_steps_pct = 0.025

    # Data.
    dataset = "phyre"
    data_root = "./data/PHYRE"
    phyre_protocal = "within"
    phyre_fold = 0
    data_ratio = 0.1  # of 2000 actions per task (validation: 500)
    pos_ratio = 0.2  # of these solve it
    reverse_color = True  # black background: on the white one single slots take several objects
    n_sample_frames = 6
    frame_offset = 1  # no frame is left out
    fps = 1
    video_len = 15
    train_batch_size = 32 // gpus
    val_batch_size = int(train_batch_size * 1.5)
    num_workers = 8

    # Model.
    model = "StoSAVi"
    resolution = (128, 128)
    input_frames = 6

    num_slots = 8
    slot_size = 128
    slot_dict = dict(num_slots=num_slots, slot_size=slot_size, slot_mlp_size=slot_size * 2, num_iterations=2)
    enc_dict = dict(enc_channels=(3, 64, 64, 64, 64), enc_ks=5, enc_out_channels=128, enc_norm="")
    dec_dict = dict(dec_channels=(128, 64, 64, 64, 64), dec_resolution=(16, 16), dec_ks=5, dec_norm="")
    pred_dict = dict(
        pred_type="transformer",
        pred_rnn=True,
        pred_norm_first=True,
        pred_num_layers=2,
        pred_num_heads=4,
        pred_ffn_dim=slot_size * 4,
        pred_sg_every=None,
    )

    # Loss. Without a KL slot attention begins at the means, so the same video always has the same slots.
    loss_dict = dict(use_post_recon_loss=True, kld_method="none")
    post_recon_loss_w = 1.0
    kld_loss_w = 1e-4
