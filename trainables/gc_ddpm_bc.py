"""Goal-conditioned diffusion behaviour cloning: ddpm_bc that is shown a later state or picture of the episode.

BridgeData's GC-DDPM-BC (Walke et al. 2023, arXiv 2308.12952). Goals are drawn by `goal_relabelling`.
"""

from __future__ import annotations

from understudy.registry import algorithms
from understudy.trainables.ddpm_bc import DDPMBC


@algorithms.register("gc_ddpm_bc")
class GCDDPMBC(DDPMBC):
    """Predict the noise that was mixed into the chunk, told the goal that it led to."""

    name = "gc_ddpm_bc"
    example = (
        "understudy train algo=gc_ddpm_bc env_name=cube-single-scripted-oraclerep-v0 seeds=[0,1,2] action_chunking=true"
    )
    expected = "Not measured in a simulator yet."
    goal_conditioned = True
