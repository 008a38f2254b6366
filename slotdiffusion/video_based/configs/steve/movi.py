"""STEVE on MOVi, as SlotDiffusion compares itself with it."""

from slotdiffusion.configs.latent import predictor_dict
from slotdiffusion.video_based.configs.movi import dataset_of, encoder_of, level_of, slots_of
from slotformer.framework.params import BaseParams


def make_params(level: str) -> type[BaseParams]:
    """For MOVi-`level`: d, e, solid or tex."""

    class SlotAttentionParams(BaseParams):
        """STEVE."""

        project = "SlotDiffusion"

        # Training.
        gpus = 2
        max_epochs = 30
        save_interval = 0.1
        save_epoch_end = True
        eval_interval = 1
        n_samples = 8

        optimizer = "Adam"
        lr = 1e-4
        dec_lr = 3e-4  # of the token decoder
        clip_grad = 0.05
        warmup_steps_pct = 0.05

        # Data.
        dataset = dataset_of(level)
        data_root = "./data/MOVi"
        movi_level = level_of(level)
        n_sample_frames = 3
        frame_offset = 1  # no frame is left out
        video_len = 24
        load_mask = True
        train_batch_size = 32 // gpus
        val_batch_size = train_batch_size * 2
        num_workers = 8

        # Model.
        model = "STEVE"
        resolution = (128, 128)
        input_frames = n_sample_frames

        num_slots = slots_of(level)
        slot_size = 192
        slot_dict = dict(num_slots=num_slots, slot_size=slot_size, slot_mlp_size=slot_size * 2, num_iterations=2)
        enc_dict = encoder_of(level, slot_size)
        dvae_dict = dict(
            down_factor=4,
            vocab_size=4096,
            dvae_ckp_path=f"./pretrained/dvae_movi{level}_params-res128.pth",
        )
        dec_dict = dict(dec_num_layers=8, dec_num_heads=4, dec_d_model=slot_size)
        pred_dict = predictor_dict(slot_size)

        # Loss.
        loss_dict = dict(use_img_recon_loss=False)
        token_recon_loss_w = 1.0
        img_recon_loss_w = 1.0

    return SlotAttentionParams
