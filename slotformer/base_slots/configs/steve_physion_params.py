from slotformer.framework.params import BaseParams


class SlotFormerParams(BaseParams):
    """STEVE on Physion: slots from which a transformer predicts the words of a frozen discrete VAE."""

    project = "SlotFormer"

    # Training. STEVE is stable: one run is enough.
    gpus = 4
    max_epochs = 10  # 460 k steps
    save_interval = 0.05
    save_epoch_end = True
    eval_interval = 1
    n_samples = 8  # one of each scenario

    optimizer = "Adam"
    lr = 1e-4
    dec_lr = 3e-4  # of the token decoder
    clip_grad = 0.05
    warmup_steps_pct = 0.05

    # Data.
    dataset = "physion_training"
    data_root = "./data/Physion"
    tasks = ["all"]
    n_sample_frames = 6
    frame_offset = 1  # no frame is left out
    video_len = 150
    train_batch_size = 48 // gpus
    val_batch_size = train_batch_size * 2
    num_workers = 8

    # Model.
    model = "STEVE"
    resolution = (128, 128)
    input_frames = 6

    num_slots = 6
    slot_size = 192
    slot_dict = dict(num_slots=num_slots, slot_size=slot_size, slot_mlp_size=slot_size * 2, num_iterations=2)
    dvae_dict = dict(down_factor=4, vocab_size=4096, dvae_ckp_path="pretrained/dvae_physion_params/model_20.pth")
    enc_dict = dict(enc_channels=(3, 64, 64, 64, 64), enc_ks=5, enc_out_channels=slot_size, enc_norm="")
    dec_dict = dict(dec_num_layers=4, dec_num_heads=4, dec_d_model=slot_size)
    pred_dict = dict(
        pred_type="transformer",
        pred_rnn=True,
        pred_norm_first=True,
        pred_num_layers=2,
        pred_num_heads=4,
        pred_ffn_dim=slot_size * 4,
        pred_sg_every=None,
    )

    # Loss.
    loss_dict = dict(use_img_recon_loss=False)
    token_recon_loss_w = 1.0
    img_recon_loss_w = 1.0
