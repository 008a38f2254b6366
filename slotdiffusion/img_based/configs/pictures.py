"""What the configurations for pictures have in common: where the data lie, and how slots look at them."""

from typing import Any

DATA_ROOTS = {"clevrtex": "./data/CLEVRTex", "celeba": "./data/CelebA", "coco": "./data/COCO", "voc": "./data/VOC"}
NUM_SLOTS = {"clevrtex": 11, "celeba": 4, "coco": 7, "voc": 6}
"""Objects and background: ClevrTex shows up to ten objects."""
SIDES = {"clevrtex": 128, "celeba": 128, "coco": 224, "voc": 224}


def autoencoder_path(kind: str, dataset: str) -> str:
    """Where the trained weights of the `vqvae` or `dvae` lie."""
    return f"./pretrained/{kind}_{dataset}_params-res{SIDES[dataset]}.pth"


def resnet_dict(slot_size: int) -> dict[str, Any]:
    """`enc_dict`: the first three stages of a ResNet-18."""
    return dict(resnet="resnet18", use_layer4=False, enc_out_channels=slot_size)


def slots_dict(num_slots: int, slot_size: int) -> dict[str, Any]:
    """`slot_dict` of all models with slots."""
    return dict(num_slots=num_slots, slot_size=slot_size, slot_mlp_size=slot_size * 2, num_iterations=3)
