"""Film episodes of policies: at the end of a training, of a sweep's best, and later on demand.

Filmed episodes are played as an evaluation plays them, so that each is the one that the table of episodes has.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from understudy.algorithm import Algorithm
from understudy.envs.rollouts.acting import Execution
from understudy.envs.rollouts.filming import Filmed, film
from understudy.envs.rollouts.pools import Poll
from understudy.envs.simulators.video import rendering_available, write_mp4
from understudy.errors import UserError
from understudy.language import Told
from understudy.policy import Policy
from understudy.runs.clips import FOLDER, Clip, fps_of, write_clip
from understudy.spec.run import RunSpec
from understudy.trainables.loops.evaluation import Evaluator, PolicyAct, played, setting_of

logger = logging.getLogger("understudy")
Chosen = Sequence[tuple[int, int]]
"""Which (member, episode) are filmed."""


def films(
    evaluator: Evaluator, act: PolicyAct, algorithm: Algorithm, chosen: Chosen, poll: Poll | None = None
) -> Iterator[Filmed]:
    """Play the chosen episodes, one after the other, with pictures."""
    settings = evaluator.spec.evaluation
    return film(
        lambda observations, noise, members: act(observations, noise, members, algorithm),
        evaluator.factory,
        Execution.of(algorithm),
        settings.eval_seed,
        chosen,
        settings.video_frame_skip,
        poll,
    )


def record(
    evaluator: Evaluator,
    act: PolicyAct,
    algorithm: Algorithm,
    path: Path,
    chosen: Chosen,
    *,
    step: int | None = None,
    poll: Poll | None = None,
) -> str | None:
    """Write one video of the chosen episodes; return why not, where none can be made.

    With a `step` each of them becomes a clip too, in `videos/` beside it, and the evaluator's table of episodes is told
    where in the video it ends.
    """
    reason = rendering_available()
    if reason is not None:
        return reason
    spec, frames, ends = evaluator.spec, list[np.ndarray](), dict[tuple[int, int], int]()
    taken = list(films(evaluator, act, algorithm, chosen, poll))
    for one in taken:
        frames.append(one.frames)
        ends[spec.all_seeds[one.ended.member], one.ended.episode] = sum(map(len, frames)) - 1
    write_mp4(np.concatenate(frames), path, fps_of(spec.evaluation.video_frame_skip))
    if step is not None:
        list(clips(taken, path.parent / FOLDER, algorithm, spec, spec.all_seeds, step))
    if evaluator.recorder is not None:
        evaluator.recorder.film(setting_of(algorithm), ends)
    return None


def clips(
    taken: Iterable[Filmed], folder: Path, algorithm: Algorithm, spec: RunSpec, seeds: Sequence[int], step: int
) -> Iterator[Clip]:
    """Write each filmed episode as a clip and yield it."""
    setting, skip = setting_of(algorithm).text, spec.evaluation.video_frame_skip
    for filmed in taken:
        one = played(filmed.ended, seeds[filmed.ended.member])
        clip = Clip(
            one.seed, one.episode, one.reset_seed, step, setting, one.returns, one.length, one.success,
            skip, fps_of(skip), spec.env_name,
        )  # fmt: skip
        write_mp4(filmed.frames, folder / f"{clip.stem}.mp4", clip.fps)
        yield write_clip(folder, clip, filmed.columns)


def record_policy(
    policy: Policy,
    spec: RunSpec,
    path: Path,
    member: int = 0,
    *,
    episodes: Sequence[int] | None = None,
    poll: Poll | None = None,
) -> None:
    """Write a video of one member; where this machine cannot render, say why in the log and go on without.

    `episodes` are filmed; the first `video_episodes` where none are named. `poll` is called between steps; what it
    raises ends the recording.
    """
    reason = f"no video: {policy.algorithm.name} gives no actions"
    if policy.algorithm.acts:
        wanted = range(spec.evaluation.video_episodes) if episodes is None else episodes
        chosen = [(member, episode) for episode in wanted]
        reason = record(Evaluator.of(policy, spec), policy.act_members, policy.algorithm, path, chosen, poll=poll)
    if reason:
        logger.warning("%s", reason)


def film_policy(
    policy: Policy, spec: RunSpec, folder: Path, chosen: Chosen, *, step: int = 0, poll: Poll | None = None
) -> Iterator[Clip]:
    """Film the chosen episodes of a saved policy, each as a clip in `folder`, and yield each once it is written.

    UserError where this machine cannot render, or for a policy that gives no actions.
    """
    if not policy.algorithm.acts:
        raise UserError(f"no video: {policy.algorithm.name} gives no actions")
    reason = rendering_available()
    if reason is not None:
        raise UserError(reason)
    torch.set_num_threads(spec.placement.cpus)
    evaluator = Evaluator.of(policy, spec)
    algorithm = policy.algorithm
    evaluator.check(algorithm.observation_shape, algorithm.action_dim, Told.of(algorithm.config.language))
    taken = films(evaluator, policy.act_members, policy.algorithm, chosen, poll)
    yield from clips(taken, folder, policy.algorithm, spec, policy.seeds, step)
