"""Goal-conditioned diffusion behaviour cloning: ddpm_bc that is shown a later state or picture of the episode.

BridgeData's GC-DDPM-BC (Walke et al. 2023, arXiv 2308.12952). Goals are drawn by `goal_relabelling`.
"""

from __future__ import annotations

from understudy.registry import algorithms
from understudy.trainables.algorithms.ddpm_bc import DDPMBC


@algorithms.register("gc_ddpm_bc")
class GCDDPMBC(DDPMBC):
    """Predict the noise that was mixed into the chunk, told the goal that it led to."""

    name = "gc_ddpm_bc"
    example = (
        "understudy train algo=gc_ddpm_bc env_name=cube-single-scripted-oraclerep-v0 target_update_rate=0.01"
        " training_steps=8000 hidden_dims=[256,256] lr=1e-3 action_chunking=true horizon_length=5 seeds=[0,1,2]"
        " eval_episodes=50"
    )
    expected = (
        "Success 0.93 [0.77, 1.00] over 3 seeds x 50 episodes of five tasks, on 200 demonstrations of OGBench's oracle."
    )
    goal_conditioned = True
