"""SlotDiffusion on MOVi: slots as SAVi finds them, and latent diffusion that is told of them."""

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
        pred_dict = dict(
            pred_type="transformer",
            pred_rnn=False,
            pred_norm_first=True,
            pred_num_layers=2,
            pred_num_heads=4,
            pred_ffn_dim=slot_size * 4,
            pred_sg_every=None,
        )

        dec_dict = dict(
            resolution=(resolution[0] // 4, resolution[1] // 4),
            vae_dict=dict(
                vae_type="VQVAE",
                enc_dec_dict=dict(
                    resolution=resolution[0],
                    in_channels=3,
                    z_channels=3,
                    ch=64,
                    ch_mult=[1, 2, 4],
                    num_res_blocks=2,
                    attn_resolutions=[],
                    out_ch=3,
                    dropout=0.0,
                ),
                vq_dict=dict(n_embed=4096, embed_dim=3, percept_loss_w=1.0),
                vqvae_ckp_path=f"./pretrained/vqvae_movi{level}_params-res128.pth",
            ),
            unet_dict=dict(
                in_channels=3,
                model_channels=128,
                out_channels=3,
                num_res_blocks=2,
                attention_resolutions=(8, 4, 2),
                dropout=0.1,
                channel_mult=(1, 2, 3, 4),
                dims=2,
                use_checkpoint=False,
                num_head_channels=32,
                resblock_updown=False,
                conv_resample=True,
                transformer_depth=1,
                context_dim=slot_size,
                n_embed=None,
            ),
            use_ema=False,
            diffusion_dict=dict(
                pred_target="eps",
                z_scale_factor=1.0,
                timesteps=1000,
                beta_schedule="linear",
                linear_start=0.0015,
                linear_end=0.0195,
                cosine_s=8e-3,
                log_every_t=200,
                logvar_init=0.0,
            ),
            conditioning_key="crossattn",
            cond_stage_key="slots",
        )

        # Loss.
        loss_dict = dict(use_denoise_loss=True)
        denoise_loss_w = 1.0

    return SlotAttentionParams
