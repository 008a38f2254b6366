"""Several optimisers, each of its own parameters, that a training treats as one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


class JointOptimizer(torch.optim.Optimizer):
    """Steps `members` one after the other; their parameter groups, whose rates a schedule sets, in one list."""

    def __init__(self, members: Sequence[torch.optim.Optimizer]):
        self.members = list(members)
        super().__init__(self._groups(), {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every member, from the gradients that are there.

        A `closure` that makes gradients anew is called before each member's step, so that later members see what
        earlier ones have changed; the value of the first call is returned.
        """
        values = []
        for member in self.members:
            if closure is not None:
                with torch.enable_grad():
                    values.append(closure())
            member.step()
        return values[0] if values else None

    def state_dict(self) -> dict[str, Any]:
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for member, state in zip(self.members, state_dict["members"], strict=True):
            member.load_state_dict(state)
        self.param_groups = self._groups()  # the members have made new ones

    def _groups(self) -> list[dict[str, Any]]:
        return [group for member in self.members for group in member.param_groups]
