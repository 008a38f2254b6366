"""What the configurations of question answering say."""

from slotformer.base_slots.keys import SharedKeys


class Keys(SharedKeys):
    """Keys beside those of BaseParams, which the configurations explain."""

    slots_root: str
    vocab_file: str | None
    question_vocab_size: int
    answer_vocab_size: int
    max_n_objects: int
    max_question_len: int
    max_choice_len: int
    shuffle_obj: bool = False
    question_only: bool = False
    transformer_dict: dict
    vision_dict: dict
    cls_answer_loss_w: float
    mc_answer_loss_w: float
    mask_obj_loss_w: float
