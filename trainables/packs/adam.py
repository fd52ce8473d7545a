"""AdamW by torch's fused kernel, to the bit what torch.optim.AdamW(fused=True) computes.

torch's class imports torch's compiler when it is made (a second and a half in every process), and looks up at each step
what costs a small network as much as the step itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch


class Adam:
    """AdamW over groups of parameters, each with `params`, `lr`, `weight_decay`, `betas` and `eps` of its own."""

    def __init__(self) -> None:
        self.state: dict[torch.Tensor, dict[str, torch.Tensor]] = {}
        """By parameter: `step` [], `exp_avg` and `exp_avg_sq` like it; none before its first step."""

    @torch.no_grad()
    def step(self, groups: Iterable[dict[str, Any]]) -> None:
        """Take a step of these groups with the gradients as they are."""
        for group in groups:
            beta1, beta2 = group["betas"]
            parameters: list[torch.Tensor] = group["params"]
            states = [self.state.get(one) or self._begun(one) for one in parameters]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
            torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
                parameters,
                [cast(torch.Tensor, parameter.grad) for parameter in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def _begun(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """Make a parameter's state, which is zero."""
        state = {"step": torch.zeros((), device=parameter.device)}
        state |= {name: torch.zeros_like(parameter, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
        self.state[parameter] = state
        return state
