from slotformer.framework.params import BaseParams


class SlotFormerParams(BaseParams):
    """Stochastic SAVi on CLEVRER: slots begin at samples, around what an MLP says of each slot by itself."""

    project = "SlotFormer"

    # Training. SAVi is unstable: start three runs and keep the best (scripts/dup_run_sbatch.sh).
    gpus = 4
    max_epochs = 12  # 230 k steps
    save_interval = 0.2
    save_epoch_end = True
    eval_interval = 1
    n_samples = 5

    optimizer = "Adam"
    lr = 1e-4
    clip_grad = 0.05
    warmup_steps_pct = 0.025

    # Data.
    dataset = "clevrer"
    data_root = "./data/CLEVRER"
    filter_enter = False  # also clips in which an object enters
    n_sample_frames = 6
    frame_offset = 1  # no frame is left out
    train_batch_size = 64 // gpus
    val_batch_size = train_batch_size * 2
    num_workers = 8

    # Model.
    model = "StoSAVi"
    resolution = (64, 64)
    input_frames = 6

    num_slots = 7  # at most six objects, and the background
    slot_size = 128
    slot_dict = dict(
        num_slots=num_slots, slot_size=slot_size, slot_mlp_size=slot_size * 2, num_iterations=2, kernel_mlp=False
    )
    enc_dict = dict(enc_channels=(3, 64, 64, 64, 64), enc_ks=5, enc_out_channels=128, enc_norm="")
    dec_dict = dict(dec_channels=(128, 64, 64, 64, 64), dec_resolution=(8, 8), dec_ks=5, dec_norm="")
    pred_dict = dict(
        pred_type="mlp",
        pred_rnn=False,
        pred_norm_first=True,
        pred_num_layers=2,
        pred_num_heads=4,
        pred_ffn_dim=slot_size * 4,
        pred_sg_every=None,
    )

    # Loss. The KL keeps the variance near 0.01, so that the model cannot become deterministic.
    loss_dict = dict(use_post_recon_loss=True, kld_method="var-0.01")
    post_recon_loss_w = 1.0
    kld_loss_w = 1e-4
