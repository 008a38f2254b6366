"""SlotDiffusion on MOVi: slots as SAVi finds them, and latent diffusion that is told of them."""

from slotdiffusion.configs.latent import diffusion_decoder_dict, predictor_dict
from slotdiffusion.video_based.configs.movi import dataset_of, encoder_of, level_of, slots_of
from slotformer.framework.params import BaseParams


def make_params(level: str) -> type[BaseParams]:
    """For MOVi-`level`: d, e, solid or tex."""

    class SlotAttentionParams(BaseParams):
        """SlotDiffusion."""

        project = "SlotDiffusion"

        # Training.
        gpus = 1
        max_epochs = 30
        save_interval = 0.1
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
        dataset = dataset_of(level)
        data_root = "./data/MOVi"
        movi_level = level_of(level)
        n_sample_frames = 3
        frame_offset = 1  # no frame is left out
        video_len = 24
        load_mask = True
        train_batch_size = 32 // gpus
        val_batch_size = train_batch_size
        num_workers = 8

        # Model.
        model = "SAViDiffusion"
        resolution = (128, 128)
        input_frames = n_sample_frames

        num_slots = slots_of(level)
        slot_size = 192
        slot_dict = dict(num_slots=num_slots, slot_size=slot_size, slot_mlp_size=slot_size * 2, num_iterations=2)
        enc_dict = encoder_of(level, slot_size)
        pred_dict = predictor_dict(slot_size)

        dec_dict = diffusion_decoder_dict(resolution, slot_size, f"./pretrained/vqvae_movi{level}_params-res128.pth")

        # Loss.
        loss_dict = dict(use_denoise_loss=True)
        denoise_loss_w = 1.0

    return SlotAttentionParams
