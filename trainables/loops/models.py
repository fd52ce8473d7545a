"""Write a pack's policies into its run directory: one file a seed, loadable alone, and no more of them than wanted."""

from __future__ import annotations

from collections.abc import Collection

from understudy import checkpoints
from understudy.policy_document import policy_document
from understudy.runs.directory import RunDir
from understudy.spec.run import RunSpec
from understudy.trainables.loops.data import describe_environment, environment_of
from understudy.trainables.packs.pack import Pack


def save_models(
    run: RunDir, spec: RunSpec, pack: Pack, step: int, name: str, only: Collection[int] | None = None
) -> None:
    """Write `name` for every seed (or those of the members `only`): weights, optimiser, spec, policy description."""
    environment = describe_environment(environment_of(spec))
    document = policy_document(spec, pack.algorithm, pack.normaliser, environment)
    for index, seed in enumerate(spec.all_seeds):
        if only is not None and index not in only:
            continue
        checkpoints.save(
            run.member(seed, spec.all_seeds) / name,
            {
                "step": step,
                "seed": seed,
                "spec": spec.flat(),
                "policy": document,
                "weights": pack.weights(index),
                "training": pack.member_state(index),
            },
        )


def drop_old_models(run: RunDir, spec: RunSpec) -> None:
    """Remove all but the newest `save_total_limit` of each seed's kept checkpoints."""
    if not spec.hooks.save_total_limit:
        return
    for seed in spec.all_seeds:
        files = list(run.member(seed, spec.all_seeds).glob("checkpoint_*.pt"))
        files.sort(key=lambda file: int(file.stem.removeprefix("checkpoint_")))
        for old in files[: -spec.hooks.save_total_limit]:
            checkpoints.remove(old)
