"""Experts in the simulator: episodes generated, killed, taken up, written in every format, replayed, filmed."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.integration.commands import run, start
from tests.unit.command_line import understudy

from understudy.envs.commands.generate import make_dataset
from understudy.envs.experts import attempt_pool
from understudy.envs.experts.attempts import AttemptSpec, attempt_file, play, was_kept
from understudy.envs.experts.demonstrations import Demonstrations, supported_names
from understudy.envs.experts.generate import OutputFiles, _claimed, generate
from understudy.envs.experts.policy_expert import PolicyExpert
from understudy.envs.rollouts.acting import ROWS, Execution
from understudy.envs.rollouts.evaluation import Episodes, Stepping, evaluate
from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.simulators.video import rendering_available, write_mp4
from understudy.envs.sources.names import made_name
from understudy.envs.sources.ogbench.experts import lights_out
from understudy.envs.sources.robomimic.robosuite import published_settings
from understudy.envs.sources.source import task_of
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.transfer import ImportOptions, episodes_of, import_file
from understudy.envs.store.verification import verify_store
from understudy.errors import DatasetError, UnderstudyError, UserError
from understudy.files import sha256
from understudy.normaliser import Normaliser
from understudy.policy import Policy
from understudy.randomness import numpy_generator, stream_key, torch_generator
from understudy.registry import algorithms, sources

NAME = "cube-single-scripted-singletask-task1-v0"
HOPPER = "hopper-policy-v2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("generated")


@pytest.fixture(scope="module")
def store(folder) -> EpisodeStore:
    made = generate(Demonstrations(NAME, 4), OutputFiles(folder / "one.npz"), workers=1)
    assert (made.episodes, made.failures) == (4, made.attempts - 4)
    assert [p.name for p in folder.iterdir()] == ["one.npz"]
    return import_file(task_of(NAME), made.path, folder / "stores")


def random_policy(shape: tuple[int, ...] = (11,), actions: int = 3, **config) -> Policy:
    """Return an untrained policy of two members that predicts chunks of four actions."""
    kind = algorithms.get("bc")
    settings = {"hidden_dims": (16,), "action_chunking": True, "horizon_length": 4}
    algorithm = kind(shape, actions, kind.Config(**settings))
    networks = [algorithm.network(torch_generator(seed, "a test")) for seed in (0, 1)]
    weights = [dict(network.named_parameters()) for network in networks]
    normaliser = Normaliser.identity(shape)
    return Policy(algorithm, weights, normaliser, env_name="hopper-medium-v2", **config)


@pytest.fixture(scope="module")
def policy(folder) -> Path:
    return random_policy().save(folder / "policies" / "random")


# ---- scripted experts ----


def test_the_expert_solves_the_task_and_the_store_says_how_it_was_made(store) -> None:
    assert store.manifest.num_episodes == 4
    ends = store.starts + store.lengths
    assert (store.column("rewards")[ends - 1] == 0).all()
    assert (np.abs(store.column("actions")) <= 1).all()
    assert verify_store(store) == []
    assert "clean actions recorded" in store.manifest.provenance["made_by"]
    assert store.manifest.env_id == "cube-single-singletask-task1-v0"


def test_recorded_actions_are_the_oracles_and_executed_ones_are_noisy(store) -> None:
    difference = store.column("executed_actions") - store.column("actions")
    free = np.abs(store.column("actions")) < 0.3  # far from the clipping
    assert 0.15 < difference[free].std() < 0.25


def test_the_file_does_not_depend_on_the_number_of_workers(store, folder) -> None:
    again = generate(Demonstrations(NAME, 4), OutputFiles(folder / "two.npz"), workers=2)
    assert sha256(again.path) == sha256(folder / "one.npz")


def test_fewer_episodes_are_the_first_of_more_and_another_seed_gives_others(store, folder) -> None:
    made = generate(Demonstrations(NAME, 2), OutputFiles(folder / "fewer.npz"))
    fewer = import_file(task_of(NAME), made.path, folder / "fewer")
    rows = fewer.manifest.num_transitions
    np.testing.assert_array_equal(fewer.column("observations"), store.column("observations")[:rows])
    other = generate(Demonstrations(NAME, 1, seed=1, noise=0.0), OutputFiles(folder / "three.npz"))
    episode = next(sources.get("ogbench").task(NAME).read(other.path))
    assert not np.array_equal(episode["observations"][:20], store.column("observations")[:20])
    assert "executed_actions" not in episode


def test_replaying_the_executed_actions_meets_the_stored_observations(store) -> None:
    env = EnvFactory(NAME)()
    observation, _ = env.reset(seed=stream_key(0, "expert", 0) % 2**31)
    for step in range(30):
        stored = store.column("observations")[step]
        np.testing.assert_allclose(observation, stored, rtol=0, atol=2e-4)  # executed actions are stored in float32
        observation = env.step(store.column("executed_actions")[step])[0]


def test_only_noise_that_the_expert_survives_is_kept(folder, monkeypatch) -> None:
    episode, solved = play(AttemptSpec(NAME, noise=3.0), 0)
    assert not solved
    assert len(episode["actions"]) == 200
    monkeypatch.setattr(attempt_pool, "HOPELESS", 2)
    with pytest.raises(UnderstudyError, match=r"solved in only 0 of 2 attempts; use less noise than 3"):
        generate(Demonstrations(NAME, 9, noise=3.0), OutputFiles(folder / "none.npz"))
    everything = generate(Demonstrations(NAME, 1, noise=3.0, keep="all"), OutputFiles(folder / "all.npz"))
    assert (everything.episodes, everything.transitions) == (1, 200)


def test_buttons_are_pressed_as_seldom_as_the_puzzle_can_be_solved() -> None:
    rng = np.random.default_rng(0)
    for rows, columns in ((3, 3), (4, 4)):
        touches = [press(index, rows, columns) for index in range(rows * columns)]
        for _ in range(5):
            pressed = rng.random(rows * columns) < 0.5
            wrong = np.bitwise_xor.reduce(
                [t for t, on in zip(touches, pressed, strict=True) if on] or [np.zeros(1, int)]
            )
            found = lights_out(np.broadcast_to(wrong, rows * columns) == 1, rows, columns)
            assert len(found) <= pressed.sum()
            np.testing.assert_array_equal(np.bitwise_xor.reduce([touches[i] for i in found]), wrong)


def press(index: int, rows: int, columns: int) -> np.ndarray:
    lights = np.zeros((rows, columns), int)
    x, y = divmod(index, columns)
    for nx, ny in ((x, y), (x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)):
        if 0 <= nx < rows and 0 <= ny < columns:
            lights[nx, ny] = 1
    return lights.ravel()


def test_the_puzzles_expert_presses_what_must_be_pressed() -> None:
    episode, solved = play(AttemptSpec("puzzle-3x3-scripted-singletask-task1-v0", noise=0.2), 0)
    assert solved
    assert episode["button_states"].shape[1] == 9
    assert len(episode["actions"]) < 80


@pytest.mark.slow
@pytest.mark.parametrize("family", ["cube-single", "cube-double", "cube-triple", "scene", "puzzle-3x3", "puzzle-4x4"])
def test_experts_solve_most_attempts_of_every_task_that_they_are_offered_for(family) -> None:
    names = [name for name in supported_names() if name.startswith(family)]
    assert len(names) >= 5
    solved = [play(AttemptSpec(name, noise=0.2), number)[1] for name in names for number in range(2)]
    assert np.mean(solved) >= 0.75


# ---- killed and taken up ----


@pytest.mark.slow
def test_a_killed_generation_goes_on_where_it_was(store, tmp_path, monkeypatch, capsys) -> None:
    words = ["data", "generate", NAME, "--episodes", "4", "--workers", "2", "--data_dir", str(tmp_path)]
    attempts = tmp_path / ".generating" / NAME
    process = start(*words, cwd=tmp_path)
    deadline = time.monotonic() + 600
    while not attempt_file(attempts, 0).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)  # the driver alone: its workers must end by themselves
    process.communicate()
    assert psutil.wait_procs(workers, timeout=600)[1] == []
    before = {file.name: file.stat().st_mtime_ns for file in attempts.glob("0*.npz")}
    assert before

    other = understudy(monkeypatch, capsys, *words, "--seed", "5")
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "was begun with seed=0, not 5; --overwrite drops what was made" in other.err
    assert {file.name: file.stat().st_mtime_ns for file in attempts.glob("0*.npz")} == before

    run(*words, cwd=tmp_path)
    again = EpisodeStore.open(tmp_path / NAME)
    assert again.manifest.content_hash == store.manifest.content_hash
    assert sorted(p.name for p in tmp_path.iterdir()) == [NAME, "raw"]


def test_finished_attempts_are_not_played_again_and_damaged_ones_are(store, tmp_path) -> None:
    attempts = tmp_path / "attempts"
    first = generate(Demonstrations(NAME, 2), OutputFiles(tmp_path / "two.npz", attempts_dir=attempts))
    stamp = attempt_file(attempts, 0).stat().st_mtime_ns
    attempt_file(attempts, 1).write_bytes(b"half")
    assert was_kept(attempts, 1) is None
    more = generate(Demonstrations(NAME, 4), OutputFiles(tmp_path / "four.npz", attempts_dir=attempts))
    assert attempt_file(attempts, 0).stat().st_mtime_ns == stamp
    assert (first.episodes, more.episodes, more.transitions) == (2, 4, store.manifest.num_transitions)
    with pytest.raises(UserError, match=r"noise=0\.2, not 0\.1; --overwrite"):
        generate(Demonstrations(NAME, 2, noise=0.1), OutputFiles(tmp_path / "two.npz", attempts_dir=attempts))
    anew = generate(
        Demonstrations(NAME, 1, noise=0.1), OutputFiles(tmp_path / "x.npz", attempts_dir=attempts, overwrite=True)
    )
    assert anew.attempts == 1
    with _claimed(attempts, NAME), pytest.raises(UserError, match="another process is generating it"):
        generate(Demonstrations(NAME, 2), OutputFiles(tmp_path / "two.npz", attempts_dir=attempts))


# ---- trained policies ----


def test_a_policy_executes_its_chunks_in_full_and_every_episode_is_kept(folder, policy) -> None:
    made = generate(
        Demonstrations("hopper-medium-v2", 3, policy=str(policy), member=1), OutputFiles(folder / "hopper.hdf5")
    )
    assert (made.env_name, made.attempts) == (HOPPER, 3)
    expert = Policy.load(policy)
    for episode in task_of(HOPPER).read(made.path):
        assert "executed_actions" not in episode
        length = len(episode["actions"])
        for begin in range(0, length, 4):
            chunk = expert.act(episode["observations"][begin], member=1)[0][: length - begin]
            np.testing.assert_allclose(episode["actions"][begin : begin + 4], np.clip(chunk, -1, 1), atol=1e-5)
        assert bool(episode["terminals"][-1])  # a hopper that does not know how to hop falls
    assert "policy (bc " in made.made_by


def test_a_policy_sees_its_history_and_its_goal() -> None:
    env = EnvFactory("hopper-medium-v2")()
    env.action_space.seed(0)
    policy = random_policy((2 * 11 + 5,), spec={"obs_horizon": 2})
    expert = PolicyExpert(policy)
    looks = [np.full(11, value, np.float32) for value in (1, 2, 3, 4, 5)]
    info = {"goal": np.arange(5, dtype=np.float64)}
    expert.reset(env, looks[0], info, numpy_generator(0, "a test"))
    given = [expert.act(env, look, {}) for look in looks]
    first = policy.act(np.concatenate([looks[0], looks[0], info["goal"]]).astype(np.float32))[0]
    np.testing.assert_array_equal(np.stack(given[:4]), first)
    second = policy.act(np.concatenate([looks[3], looks[4], info["goal"]]).astype(np.float32))[0]
    np.testing.assert_array_equal(given[4], second[0])


def test_a_policy_of_another_task_is_one_line(folder, policy) -> None:
    with pytest.raises(UserError, match=r"the policy has observations \(11,\).*\(28,\) \(it was trained on hopper"):
        generate(Demonstrations(NAME, 1, policy=str(policy), keep="all"), OutputFiles(folder / "other.npz"))


@pytest.mark.slow
def test_a_policy_plays_in_the_settings_that_it_was_trained_in_and_its_data_say_so(tmp_path) -> None:
    name, slow = "lift-policy-low_dim", published_settings("Lift")
    slow["env_kwargs"]["controller_configs"]["body_parts"]["right"]["output_max"] = [0.01] * 6
    slow["env_kwargs"]["controller_configs"]["body_parts"]["right"]["output_min"] = [-0.01] * 6
    trained_in = {"env_name": "lift-mh-low_dim", "environment": slow}
    policy = random_policy((19,), 7, environment=trained_in).save(tmp_path / "random")
    wanted = Demonstrations("lift-mh-low_dim", 1, policy=str(policy), keep="all")
    store = import_file(task_of(name), generate(wanted, OutputFiles(tmp_path / "x.hdf5")).path, tmp_path / "stores")
    assert store.manifest.provenance["environment"] == slow
    env = task_of(name).make_env(settings=slow)
    seen = [env.reset(seed=AttemptSpec(name).reset_seed(0))[0]]
    seen += [env.step(action)[0] for action in store.column("actions")[:9]]
    env.close()
    np.testing.assert_array_equal(store.column("observations")[:10], np.stack(seen))


def test_a_policy_of_another_task_does_not_bring_its_settings(tmp_path) -> None:
    trained_in = {"env_name": "lift-mh-low_dim", "environment": published_settings("Lift")}
    policy = random_policy(environment=trained_in).save(tmp_path / "random")
    files = OutputFiles(tmp_path / "x.hdf5", attempts_dir=tmp_path / "attempts")
    generate(Demonstrations(HOPPER, 1, policy=str(policy)), files)
    assert json.loads((tmp_path / "attempts" / "settings.json").read_text())["settings"] == ""


# ---- formats ----


def test_the_same_episodes_are_written_in_every_format_that_was_asked_for(folder, policy) -> None:
    made = generate(
        Demonstrations(HOPPER, 2, policy=str(policy)),
        OutputFiles(folder / "many.hdf5", formats=["minari", "ogbench", "d4rl", "minari"]),
    )
    assert [path.name for path in made.extra] == ["many.minari", "many.ogbench.npz"]
    own = list(task_of(HOPPER).read(made.path))
    other = list(sources.get("minari").task("minari:hopper/policy-v2").read(made.extra[0]))
    for ours, theirs in zip(own, other, strict=True):
        for name in ("observations", "actions", "rewards", "terminals", "final_observation"):
            np.testing.assert_array_equal(np.asarray(ours[name], np.float32), np.asarray(theirs[name], np.float32))
    with np.load(made.extra[1], allow_pickle=False) as archive:
        assert archive["terminals"].sum() == 2


def test_a_format_that_does_not_fit_is_known_after_the_first_episode(tmp_path, policy) -> None:
    attempts = tmp_path / "attempts"
    with pytest.raises(DatasetError, match="robomimic"):
        generate(
            Demonstrations(HOPPER, 20, policy=str(policy)),
            OutputFiles(tmp_path / "x.hdf5", formats=["robomimic"], attempts_dir=attempts),
        )
    assert len(list(attempts.glob("0*.npz"))) == 1
    assert not (tmp_path / "x.hdf5").exists()


def test_a_dataset_is_exported_and_imported_again_unchanged(store, folder, tmp_path, monkeypatch, capsys) -> None:
    data_dir = ["--data_dir", str(folder / "stores")]
    file = tmp_path / "out" / "cubes.npz"
    done = understudy(monkeypatch, capsys, "data", "export", NAME, str(file), *data_dir)
    assert done.code == 0, done.err
    again = import_file(task_of(NAME), file, tmp_path)
    assert again.manifest.content_hash == store.manifest.content_hash
    assert again.manifest.provenance["made_by"] == store.manifest.provenance["made_by"]
    refused = understudy(monkeypatch, capsys, "data", "export", NAME, str(file), *data_dir)
    assert (refused.code, "give --overwrite" in refused.err) == (2, True)
    replaced = understudy(
        monkeypatch, capsys, "data", "export", NAME, str(file), "--overwrite", "--format", "d4rl", *data_dir
    )
    assert replaced.code == 0, replaced.err
    kept = sources.get("d4rl").task("hopper-medium-v2").read(file)
    with pytest.raises(DatasetError, match="28"):  # the task is another, the file is whole
        next(kept)
    unknown = understudy(monkeypatch, capsys, "data", "export", NAME, str(file), "--format", "d4l", *data_dir)
    assert "did you mean 'd4rl'" in unknown.err


def test_lerobots_own_settings_are_given_to_an_export_and_to_no_other_format(
    folder, tmp_path, monkeypatch, capsys
) -> None:
    words = ["data", "export", NAME, str(tmp_path / "cubes"), "--data_dir", str(folder / "stores"), "--fps", "20"]
    refused = understudy(monkeypatch, capsys, *words)
    assert (refused.code, refused.err) == (2, "understudy: --fps is for --format lerobot, not ogbench\n")
    wrong = understudy(monkeypatch, capsys, *words, "--format", "lerobot", "--pictures", "av2")
    assert (wrong.code, "did you mean 'av1'" in wrong.err) == (2, True)
    assert not (tmp_path / "cubes").exists()
    done = understudy(monkeypatch, capsys, *words, "--format", "lerobot", "--pictures", "image")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "cubes" / "meta" / "info.json").read_text())["fps"] == 20


def test_episodes_of_a_store_are_what_was_put_in(store) -> None:
    episodes = list(episodes_of(store))
    assert [len(episode["actions"]) for episode in episodes] == store.lengths.tolist()
    np.testing.assert_array_equal(episodes[1]["final_observation"], store.episode_column("final_observations")[1])


# ---- names and the command line ----


@pytest.mark.parametrize(
    ("published", "scripted", "policy"),
    [
        ("cube-single-play-singletask-task1-v0", NAME, "cube-single-policy-singletask-task1-v0"),
        (NAME, NAME, "cube-single-policy-singletask-task1-v0"),
        ("hopper-medium-replay-v2", "hopper-scripted-v2", HOPPER),
        ("pen-human-v1", "pen-scripted-v1", "pen-policy-v1"),
        ("lift-mh-low_dim", "lift-scripted-low_dim", "lift-policy-low_dim"),
        ("antmaze-umaze-v2", "antmaze-umaze-scripted-v2", "antmaze-umaze-policy-v2"),
        ("antmaze-large-diverse-v2", "antmaze-large-scripted-v2", "antmaze-large-policy-v2"),
        ("minari:pendulum/scripted-v0", "minari:pendulum/scripted-v0", "minari:pendulum/policy-v0"),
        ("expert:Pendulum-v1", "expert:Pendulum-v1", "expert:Pendulum-v1"),
    ],
)
def test_data_made_here_are_named_after_who_made_them(published, scripted, policy) -> None:
    assert made_name(published, "scripted") == scripted
    assert made_name(published, "policy") == policy


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"env_name": "hopper-medium-v2"}, "no scripted expert for 'hopper-scripted-v2': give --policy a model"),
        ({"env_name": "hopper-medium-v2", "policy": "/no/where"}, "no policy at '/no/where'"),
        ({"env_name": HOPPER, "keep": "successful"}, "tells no success; use --keep all"),
        ({"keep": "some"}, "keep='some'"),
        ({"episodes": 0}, "episodes=0"),
        ({"noise": -1.0}, "noise=-1.0"),
    ],
)
def test_bad_requests_are_refused_before_any_work(tmp_path, options, said) -> None:
    with pytest.raises(UserError, match=said):
        generate(Demonstrations(**{"env_name": NAME, "episodes": 1, **options}), OutputFiles(tmp_path / "none.npz"))
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_unknown_formats_and_too_few_workers_are_refused_before_any_work(tmp_path) -> None:
    for formats, workers, said in ((("d4l",), 1, "did you mean 'd4rl'"), ((), 0, "workers=0")):
        with pytest.raises(UserError, match=said):
            generate(Demonstrations(NAME, 1), OutputFiles(tmp_path / "none.npz", formats), workers=workers)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_dataset_that_is_there_is_not_made_again(tmp_path, capsys) -> None:
    for _ in range(2):
        make_dataset(Demonstrations(NAME, episodes=1), tmp_path, ImportOptions(), workers=1)
    said = capsys.readouterr().out
    assert f"{NAME}: 1 episodes" in said
    assert "--overwrite makes it again" in said


def replay(store: EpisodeStore):
    """Act as the stored expert of episode 0 does, whatever is seen: enough to see a success counted."""
    chunks = iter(np.array_split(store.column("executed_actions")[: store.lengths[0]], store.lengths[0]))

    def act(observations, noise, members):
        action = next(chunks, np.zeros((1, 5), np.float32))
        return np.broadcast_to(action, (len(members), ROWS, 1, 5))

    return act


@pytest.mark.slow
def test_a_rollout_counts_the_success_and_ends_at_it_with_or_without_a_video(store, tmp_path) -> None:
    seed = stream_key(0, "expert", 0) % 2**31
    factory = EnvFactory(NAME, size=64)
    plain = evaluate(replay(store), factory, Episodes(1, seed), Execution(), Stepping())
    assert plain.summary() == {"return": plain.returns[0, 0], "length": plain.lengths[0, 0], "success": 1.0}
    assert plain.lengths[0, 0] == store.lengths[0] - 9  # the task ends at the first of the ten solved steps
    reason = rendering_available()
    if reason is not None:
        assert "no videos" in reason
        assert "\n" not in reason
        return
    filmed = evaluate(replay(store), factory, Episodes(1, seed, filmed=1), Execution(), Stepping(processes=1))
    np.testing.assert_array_equal(plain.returns, filmed.returns)
    frames = filmed.frames[0][0]
    assert frames.shape[1:] == (64, 64, 3)
    assert frames.std() > 10
    video = write_mp4(frames, tmp_path / "videos" / "policy.mp4", fps=10)
    assert video.stat().st_size > 1000
    assert video.read_bytes()[4:8] == b"ftyp"
    assert [p.name for p in video.parent.iterdir()] == ["policy.mp4"]
