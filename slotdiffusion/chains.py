"""The commands that lead from a data set to the numbers of SlotDiffusion's paper (Wu et al. 2023), in their order."""

from collections.abc import Callable, Iterator

from slotformer.framework.chains import Chain, Step


def physion(chain: Chain) -> Iterator[Step]:
    """What happens next in videos of Physion, and whether two bodies touch."""
    vqvae, base = "vqvae/vqvae_physion_params-res128", "savi_ldm/savi_ldm_physion_params-res128"
    model, readout = "ldmslotformer_physion_params-res128", "readout_physion_params"
    data = chain.data_root / "Physion"
    root = {"data_root": data}
    yield chain.train("video_based", vqvae, "codes for patches", [data], root)
    with_codes = {**root, "dec_dict.vae_dict.vqvae_ckp_path": chain.weight(vqvae)}
    yield chain.train("video_based", base, "find objects, and draw them", [data, chain.weight(vqvae)], with_codes)
    slots = {subset: data / "slots" / f"physion_{subset}_slots.h5" for subset in ("training", "readout", "test")}
    for subset, path in slots.items():
        write = {"flags": ("--save_path", path, "--subset", subset), "writes": [path], "keys": with_codes}
        yield chain.apply("video_based/extract_slots.py", base, f"slots of the {subset} videos", **write)
    keys = {**root, "slots_root": slots["training"], "dec_dict.dec_ckp_path": chain.weight(base)}
    yield chain.train("vp_vqa", model, "learn how slots move", [slots["training"], chain.weight(base)], keys)
    shown = [chain.weight(model).with_name(f"best-vp-{model}.json"), chain.weight(model).with_name("eval")]
    score = {"reads": [data, slots["test"]], "writes": shown, "keys": keys}
    yield chain.apply("vp_vqa/test_vp.py", model, "score predicted videos", **score)
    rollouts = {subset: data / "slots" / f"rollout-physion_{subset}_slots.h5" for subset in ("readout", "test")}
    for subset, path in rollouts.items():
        write = {"flags": ("--save_path", path, "--subset", subset), "writes": [path], "keys": keys}
        what = f"what happens in the {subset} videos"
        yield chain.apply("vp_vqa/rollout_physion_slots.py", model, what, reads=[slots[subset]], **write)
    keys = {**root, "slots_root": rollouts["readout"]}
    yield chain.train("vp_vqa", readout, "learn to say whether they touch", [data, rollouts["readout"]], keys)
    result = chain.weight(readout).with_name(f"best-vqa-{readout}.json")
    say = {"reads": list(rollouts.values()), "writes": [result], "keys": keys}
    yield chain.apply("vp_vqa/test_physion_vqa.py", readout, "say whether they touch", **say)


CHAINS: dict[str, Callable[[Chain], Iterator[Step]]] = {"physion": physion}
