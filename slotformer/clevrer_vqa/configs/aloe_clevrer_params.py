from slotformer.framework.params import BaseParams


class SlotFormerParams(BaseParams):
    """Aloe on the slots that stosavi_clevrer_params has found in CLEVRER."""

    project = "SlotFormer"

    # Training.
    gpus = 2
    max_epochs = 400  # 240 k steps
    save_epoch_end = True
    eval_interval = 20
    n_samples = 5  # has no effect: there is nothing to look at

    optimizer = "Adam"
    lr = 1e-3
    warmup_steps_pct = 0.1

    # Data.
    dataset = "clevrer_slots"
    data_root = "./data/CLEVRER"
    slots_root = "./data/CLEVRER/clevrer_slots.pkl"  # or .h5, whichever is there
    vocab_file = None  # slotformer/clevrer_vqa/vocabulary.json, that of the published weights
    n_sample_frames = 25  # of 128, evenly spaced
    max_n_objects = 6
    max_question_len = 20  # words
    max_choice_len = 12
    shuffle_obj = False  # True: slots of a clip in another order each time
    train_batch_size = 256 // gpus  # questions
    val_batch_size = train_batch_size * 2
    num_workers = 8

    # Model.
    model = "CLEVRERAloe"
    question_only = False  # True: a baseline that sees no slots

    slot_size = 128
    transformer_dict = dict(
        input_len=(max_n_objects + 1) * n_sample_frames + max_question_len + max_choice_len,
        input_dim=16,
        pos_enc="learnable",
        num_layers=12,
        num_heads=8,
        ffn_dim=512,
        norm_first=True,
        cls_mlp_size=128,
    )
    vision_dict = dict(vision_dim=slot_size)

    # Loss.
    loss_dict = dict(use_mask_obj_loss=False)  # True is not offered
    cls_answer_loss_w = 1.0
    mc_answer_loss_w = 1.0
    mask_obj_loss_w = 0.01  # has no effect
