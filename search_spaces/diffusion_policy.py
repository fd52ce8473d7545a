"""Diffusion Policy: learning rate and chunk length; the sampler's steps without training of their own."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

DIFFUSION_POLICY = search_spaces.register("diffusion_policy")(
    SearchSpace(
        algo="diffusion_policy",
        dimensions={
            "lr": Interval(low=1e-5, high=1e-3, log=True),
            "horizon_length": Choice(values=(8, 16, 32)),
            "sampling_steps": Choice(values=(5, 10, 20)),
        },
        fixed={"sampler": "ddim"},
    )
)
