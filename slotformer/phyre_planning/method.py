"""How classifiers of PHYRE are trained, validated and shown, beside their loss."""

from functools import cached_property

from jaxtyping import UInt8
from torch import Tensor

from core.data.clips import visualised_videos
from slotformer.framework.answers import AnswerMethod
from slotformer.framework.params import BaseParams
from slotformer.phyre_planning.data import RolloutSlots, open_slots, open_videos


class SuccessMethod(AnswerMethod):
    """Right answers are counted, and some trials shown, which are simulated for it unless `n_samples` is 0."""

    fps = 8

    @cached_property
    def validation(self) -> RolloutSlots:
        """The trials of the test fold."""
        return open_slots(self.params, "val")

    @cached_property
    def shown(self) -> dict[int, UInt8[Tensor, "T 3 H W"]]:
        """`n_samples` trials by their places in the set."""
        if not self.params.n_samples:
            return {}
        trials, videos = visualised_videos(self.params.n_samples, len(self.validation)), open_videos(self.params)
        return dict(zip(trials.tolist(), videos.read(trials)["video"]))


def build_method(params: BaseParams) -> SuccessMethod:
    """The method of the classifier."""
    return SuccessMethod(params)
