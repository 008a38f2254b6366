"""What the configurations of classifiers of PHYRE say."""

from slotformer.base_slots.keys import SharedKeys


class Keys(SharedKeys):
    """Keys beside those of BaseParams, which the configuration explains."""

    slot_root: str
    readout_dict: dict
    vqa_loss_w: float
