"""What the configurations of models of dynamics say."""

from slotformer.base_slots.keys import SharedKeys


class Keys(SharedKeys):
    """Keys beside those of BaseParams, which the configurations explain."""

    slots_root: str
    load_img: bool = True
    rollout_dict: dict
    slot_recon_loss_w: float
    use_loss_decay: bool = False
    loss_decay_pct: float
