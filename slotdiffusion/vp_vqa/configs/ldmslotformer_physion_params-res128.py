from slotdiffusion.configs.latent import diffusion_decoder_dict
from slotformer.framework.params import BaseParams


class SlotAttentionParams(BaseParams):
    """SlotFormer on the slots that savi_ldm_physion_params-res128 has found in Physion."""

    project = "SlotDiffusion"

    # Training.
    gpus = 2
    max_epochs = 25
    save_interval = 0.125
    save_epoch_end = True
    eval_interval = 2
    n_samples = 8  # one of each scenario

    optimizer = "Adam"
    lr = 1e-4
    warmup_steps_pct = 0.05

    # Data.
    dataset = "physion_slots_training"
    data_root = "./data/Physion"
    slots_root = "./data/Physion/slots/physion_training_slots.pkl"  # or .h5, whichever is there
    tasks = ["all"]
    n_sample_frames = 15 + 10  # seen and predicted
    frame_offset = 3  # every third frame
    video_len = 150
    train_batch_size = 128 // gpus
    val_batch_size = train_batch_size * 2
    num_workers = 8

    # Model.
    model = "LDMSlotFormer"
    resolution = (128, 128)
    input_frames = 15

    num_slots = 8
    slot_size = 192
    slot_dict = dict(num_slots=num_slots, slot_size=slot_size)
    rollout_dict = dict(
        num_slots=num_slots,
        slot_size=slot_size,
        history_len=input_frames,
        t_pe="sin",
        slots_pe="",  # slots have no order
        d_model=256,
        num_layers=12,
        num_heads=8,
        ffn_dim=256 * 4,
        norm_first=True,
    )
    dec_dict = dict(
        diffusion_decoder_dict(resolution, slot_size, "./pretrained/vqvae_physion_params-res128.pth"),
        dec_ckp_path="./pretrained/savi_ldm_physion_params-res128.pth",  # has the VQ-VAE, too
    )

    # Loss.
    loss_dict = dict(
        rollout_len=n_sample_frames - input_frames,
        use_denoise_loss=False,
        use_img_recon_loss=False,
    )
    slot_recon_loss_w = 1.0
    denoise_loss_w = 1.0
    img_recon_loss_w = 1.0
