"""What the configurations of read-outs of Physion say."""

from slotformer.base_slots.keys import SharedKeys


class Keys(SharedKeys):
    """Keys beside those of BaseParams, which the configuration explains."""

    slots_root: str
    readout_dict: dict
    vqa_loss_w: float
