from slotdiffusion.configs.latent import diffusion_decoder_dict, predictor_dict
from slotformer.framework.params import BaseParams


class SlotAttentionParams(BaseParams):
    """SlotDiffusion on Physion: slots as SAVi finds them, and latent diffusion that is told of them."""

    project = "SlotDiffusion"

    # Training.
    gpus = 2
    max_epochs = 10
    save_interval = 0.05
    save_epoch_end = True
    eval_interval = 1
    n_samples = 8

    optimizer = "Adam"
    lr = 1e-4
    dec_lr = 2e-4  # of the denoiser
    clip_grad = 0.05
    warmup_steps_pct = 0.05
    grad_accum_steps = 1

    # Data.
    dataset = "physion_training"
    data_root = "./data/Physion"
    tasks = ["all"]
    n_sample_frames = 3
    frame_offset = 1  # no frame is left out
    video_len = 150
    train_batch_size = 48 // gpus
    val_batch_size = train_batch_size * 2
    num_workers = 8

    # Model.
    model = "SAViDiffusion"
    resolution = (128, 128)
    input_frames = n_sample_frames

    num_slots = 8
    slot_size = 192
    slot_dict = dict(num_slots=num_slots, slot_size=slot_size, slot_mlp_size=slot_size * 2, num_iterations=2)
    enc_dict = dict(resnet="resnet18", use_layer4=False, enc_out_channels=slot_size)
    pred_dict = predictor_dict(slot_size)

    dec_dict = diffusion_decoder_dict(resolution, slot_size, "./pretrained/vqvae_physion_params-res128.pth")

    # Loss.
    loss_dict = dict(use_denoise_loss=True)
    denoise_loss_w = 1.0
