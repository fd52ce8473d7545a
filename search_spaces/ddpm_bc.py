"""Diffusion: learning rate, chunk length, denoising steps, the last without training of their own."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

DDPM_BC = search_spaces.register("ddpm_bc")(
    SearchSpace(
        algo="ddpm_bc",
        dimensions={
            "lr": Interval(low=1e-5, high=1e-3, log=True),
            "horizon_length": Choice(values=(1, 5, 10)),
            "sampling_steps": Choice(values=(5, 10, 20)),
        },
        fixed={"action_chunking": True, "sampler": "ddim"},
    )
)
