"""Goal-conditioned behaviour cloning: bc that is shown a later state or picture of the same episode as its goal.

BridgeData's GC-BC (Walke et al. 2023, arXiv 2308.12952; goals relabelled in hindsight: Ghosh et al. 2019, arXiv
1912.06088). Goals are drawn by `goal_relabelling`; `goal_fusion` says where pictures of goals join.
"""

from __future__ import annotations

from understudy.registry import algorithms
from understudy.trainables.algorithms.bc import BC


@algorithms.register("gc_bc")
class GCBC(BC):
    """Fit a policy that is told a goal to the actions that led there."""

    name = "gc_bc"
    example = (
        "understudy train algo=gc_bc env_name=cube-single-scripted-oraclerep-v0 training_steps=6000"
        " hidden_dims=[256,256] lr=1e-3 action_chunking=true horizon_length=5 seeds=[0,1,2] eval_episodes=50"
    )
    expected = (
        "Success 0.99 [0.96, 1.00] over 3 seeds x 50 episodes of five tasks, on 200 demonstrations of OGBench's oracle."
    )
    goal_conditioned = True
