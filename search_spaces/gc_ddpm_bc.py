"""Goal-conditioned diffusion: learning rate, which later states are goals, chunk length, denoising steps."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

GC_DDPM_BC = search_spaces.register("gc_ddpm_bc")(
    SearchSpace(
        algo="gc_ddpm_bc",
        dimensions={
            "lr": Interval(low=1e-5, high=1e-3, log=True),
            "goal_relabelling": Choice(values=("uniform", "geometric", "final")),
            "horizon_length": Choice(values=(1, 5, 10)),
            "sampling_steps": Choice(values=(5, 10, 20)),
        },
        fixed={"action_chunking": True, "sampler": "ddim"},
    )
)
