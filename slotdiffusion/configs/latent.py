"""What configurations of all tasks say alike: of the VQ-VAE, and of the latent diffusion that stands on it."""

from typing import Any


def autoencoder_dict(resolution: tuple[int, int]) -> dict[str, Any]:
    """`enc_dec_dict` of a VQ-VAE for pictures of `resolution` (h, w): a latent describes 4x4 pixels."""
    return dict(
        resolution=resolution[0],
        in_channels=3,
        z_channels=3,
        ch=64,
        ch_mult=[1, 2, 4],
        num_res_blocks=2,
        attn_resolutions=[],
        out_ch=3,
        dropout=0.0,
    )


def quantiser_dict(percept_loss_w: float = 1.0) -> dict[str, Any]:
    """`vq_dict` of a VQ-VAE; without perceptual loss pictures are compared by squared, not absolute, errors."""
    return dict(n_embed=4096, embed_dim=3, percept_loss_w=percept_loss_w)


def diffusion_decoder_dict(resolution: tuple[int, int], slot_size: int, vqvae_ckp_path: str) -> dict[str, Any]:
    """`dec_dict`: latent diffusion for pictures of `resolution` (h, w), of the VQ-VAE whose weights lie at the path."""
    return dict(
        resolution=(resolution[0] // 4, resolution[1] // 4),
        vae_dict=dict(
            vae_type="VQVAE",
            enc_dec_dict=autoencoder_dict(resolution),
            vq_dict=quantiser_dict(),
            vqvae_ckp_path=vqvae_ckp_path,
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


def predictor_dict(slot_size: int) -> dict[str, Any]:
    """`pred_dict` of SAVi, STEVE and SlotDiffusion: a transformer without a recurrent part."""
    return dict(
        pred_type="transformer",
        pred_rnn=False,
        pred_norm_first=True,
        pred_num_layers=2,
        pred_num_heads=4,
        pred_ffn_dim=slot_size * 4,
        pred_sg_every=None,
    )
