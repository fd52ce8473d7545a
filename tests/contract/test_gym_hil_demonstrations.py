"""Demonstrations of gym-hil's pick cube: pictures as they were seen, files that say how, and a kill survived."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from tests.contract.pick_cube import NAME, SMALL, STATE, seen_in
from tests.contract.source_examples import can_render, one_line, same_episodes
from tests.integration.commands import kill_when, start
from tests.unit.command_line import understudy

from understudy.envs.experts.attempts import AttemptSpec, attempt_file, pictures_file, play, render
from understudy.envs.experts.demonstrations import Demonstrations
from understudy.envs.experts.generate import OutputFiles, generate
from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.sources.gym_hil import source as gym_hil
from understudy.envs.sources.gym_hil.env import Pictures
from understudy.envs.sources.source import task_of
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.transfer import ImportOptions, episodes_of, import_file
from understudy.errors import DatasetError, UserError
from understudy.normaliser import Normaliser
from understudy.policy import Policy
from understudy.randomness import stream_key, torch_generator
from understudy.registry import algorithms, sources


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pick_cube")


@pytest.fixture(scope="module")
def store(folder) -> EpisodeStore | None:
    """Two demonstrations with small pictures of both cameras."""
    if not can_render():
        return None
    made = generate(Demonstrations(NAME, 2, rendering=SMALL), OutputFiles(folder / "two.hdf5", formats=["lerobot"]))
    assert made.extra == (folder / "two.lerobot",)
    return import_file(task_of(NAME), made.path, folder / "stores")


@pytest.mark.slow
def test_pictures_rendered_afterwards_are_those_seen_while_playing_bit_for_bit(store) -> None:
    if store is None:
        return
    settings = store.manifest.provenance["environment"]
    for number, episode in enumerate(episodes_of(store)):
        seen = seen_in(NAME, settings, stream_key(0, "expert", number) % 2**31, episode["executed_actions"])
        for camera in ("front", "wrist"):
            np.testing.assert_array_equal(episode[f"images/{camera}"], np.stack([look[camera] for look in seen[:-1]]))
            np.testing.assert_array_equal(episode[f"final_images/{camera}"], seen[-1][camera])
        np.testing.assert_array_equal(episode["observations"], np.stack([look["state"] for look in seen[:-1]]))
        np.testing.assert_array_equal(episode["final_observation"], seen[-1]["state"])
        assert episode["rewards"][-1] == 1


def test_the_same_demonstrations_are_a_lerobot_dataset_with_two_cameras_that_names_their_environment(
    store, folder
) -> None:
    if store is None:
        return
    made = folder / "two.lerobot"
    written = import_file(task_of(f"lerobot:{made}"), made, folder / "stores", ImportOptions(name="two"))
    assert written.cameras() == ["front", "wrist"]
    provenance = written.manifest.provenance
    assert (provenance["env_name"], provenance["fps"]) == (NAME, 10)
    assert provenance["environment"] == store.manifest.provenance["environment"]
    for ours, theirs in zip(episodes_of(store), episodes_of(written), strict=True):
        for column in ("observations", "actions", "executed_actions", "rewards", "terminals", "final_observation"):
            np.testing.assert_array_equal(ours[column], theirs[column])
        for camera in ("images/front", "images/wrist"):
            difference = np.abs(ours[camera].astype(int) - theirs[camera])
            assert difference.mean() < 12  # videos are lossy
    info = json.loads((made / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"]) == ("v3.0", 10, 2)


def test_the_rendering_is_kept_in_the_manifest_and_evaluations_draw_alike(tmp_path) -> None:
    if not can_render():
        return
    chosen = {"cameras": "wrist", "height": "16", "width": "40", "reflections": "true", "offsamples": "4"}
    made = generate(Demonstrations(NAME, 1, rendering=chosen, noise=0.0), OutputFiles(tmp_path / "one.hdf5"))
    store = import_file(task_of(NAME), made.path, tmp_path)
    settings = store.manifest.provenance["environment"]
    drawing = {"shadows": False, "offsamples": 4, "reflections": True}
    assert settings == {"cameras": ["wrist"], "height": 16, "width": 40, "rendering": drawing}
    assert store.cameras() == ["wrist"]
    env = EnvFactory(NAME, settings=json.dumps(settings, sort_keys=True))()
    look, _ = env.reset(seed=stream_key(0, "expert", 0) % 2**31)
    np.testing.assert_array_equal(look["wrist"], store.frames("images/wrist").gather(np.array([0]))[0])
    with pytest.raises(UserError, match=r"was begun with settings=.*not"):
        attempts = tmp_path / "attempts"
        generate(
            Demonstrations(NAME, 1, rendering=chosen, noise=0.0),
            OutputFiles(tmp_path / "x.hdf5", attempts_dir=attempts),
        )
        generate(
            Demonstrations(NAME, 1, rendering=SMALL, noise=0.0), OutputFiles(tmp_path / "x.hdf5", attempts_dir=attempts)
        )


@pytest.mark.slow
def test_a_killed_generation_renders_only_what_is_missing(store, tmp_path, monkeypatch, capsys) -> None:
    if store is None:
        return
    words = ["data", "generate", "gym_hil/PandaPickCube-v0", "--episodes", "2", "--workers", "1"]
    words += ["--data_dir", str(tmp_path), *(f"--rendering={name}={value}" for name, value in SMALL.items())]
    attempts = tmp_path / ".generating" / "gym_hil__PandaPickCube-scripted-v0"
    process = start(*words, cwd=tmp_path, fresh=True)  # which chooses a renderer for itself
    kill_when(process, attempt_file(attempts, 1).exists)
    assert pictures_file(attempts, 0).exists()  # the first one's are rendered at once, to be written on trial
    assert not pictures_file(attempts, 1).exists()
    before = {file.name: file.stat().st_mtime_ns for file in attempts.glob("0*.npz")}

    other = understudy(monkeypatch, capsys, *words, "--rendering", "shadows=true")
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert "--overwrite drops what was made" in other.err
    assert {file.name: file.stat().st_mtime_ns for file in attempts.glob("0*.npz")} == before
    pictures_file(attempts, 1).write_bytes(b"half")

    done = understudy(monkeypatch, capsys, *[word if word != "1" else "2" for word in words])
    assert done.code == 0, done.err
    again = EpisodeStore.open(tmp_path / attempts.name)
    assert again.manifest.content_hash == store.manifest.content_hash
    assert sorted(p.name for p in tmp_path.iterdir()) == [attempts.name, "raw"]


def test_states_are_played_before_any_picture_and_failed_attempts_have_none(tmp_path) -> None:
    episode, solved = play(AttemptSpec(NAME, noise=4.0), 0)
    assert (solved, episode["observations"].shape[1]) == (False, 18)
    assert not [name for name in episode if name.startswith("images/")]
    np.testing.assert_array_equal(episode["last/qpos"].shape, (22,))
    if not can_render():
        return
    task = AttemptSpec(NAME, settings=json.dumps(Pictures(height=16, width=16).settings()))
    pictures = render(task, 0, {name: rows if name.startswith("last/") else rows[:3] for name, rows in episode.items()})
    assert sorted(pictures) == ["final_images/front", "final_images/wrist", "images/front", "images/wrist"]
    assert pictures["images/front"].shape == (3, 16, 16, 3)


def test_a_policy_that_sees_pictures_plays_with_them_and_they_are_what_is_recorded(
    store, tmp_path, monkeypatch
) -> None:
    if store is None:
        return
    monkeypatch.setattr(gym_hil, "MAX_STEPS", 6)
    kind, settings = algorithms.get("bc"), store.manifest.provenance["environment"]
    shape = {"state": (18,), "front": (24, 32, 3), "wrist": (24, 32, 3)}
    algorithm = kind(shape, 4, kind.Config(hidden_dims=(8,), encoder="impala_small"))
    weights = [dict(algorithm.network(torch_generator(0, "a test")).named_parameters())]
    normaliser = Normaliser.of_parts({"state": Normaliser.identity((18,))})
    policy = Policy(algorithm, weights, normaliser, env_name=NAME, environment=settings).save(tmp_path / "policy")
    task = AttemptSpec(NAME, policy=str(policy), settings=json.dumps(settings))
    monkey, _ = play(task, 0)
    steps = len(monkey["actions"])
    looks = seen_in(NAME, settings, task.reset_seed(0), monkey["actions"])
    np.testing.assert_array_equal(monkey["images/wrist"], np.stack([look["wrist"] for look in looks[:-1]]))
    np.testing.assert_array_equal(monkey["final_images/front"], looks[steps]["front"])
    assert not [name for name in monkey if name.startswith("last/")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rendering": {"shadow": "true"}}, "no rendering option 'shadow' (did you mean 'shadows'"),
        ({"rendering": {"cameras": "front,back"}}, "no camera 'back'"),
        ({"rendering": {"height": "tall"}}, "height='tall': must be a whole number"),
        ({"env_name": STATE, "rendering": SMALL}, "has no pictures, so it takes no rendering options"),
        ({"policy": "/no/where", "rendering": SMALL}, "leave the rendering options out"),
    ],
)
def test_bad_rendering_options_are_refused_before_any_work(tmp_path, options, said) -> None:
    with pytest.raises(UserError) as error:
        generate(Demonstrations(**{"env_name": NAME, "episodes": 1, **options}), OutputFiles(tmp_path / "none.hdf5"))
    one_line(error, said)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_rendering_option_without_a_value_is_one_line(tmp_path, monkeypatch, capsys) -> None:
    words = ["data", "generate", NAME, "--rendering", "shadows", "--data_dir", str(tmp_path)]
    said = understudy(monkeypatch, capsys, *words)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "--rendering shadows: must be OPTION=VALUE" in said.err
    assert not list(tmp_path.iterdir())


# ---- the file ----


def test_every_column_of_an_episode_with_pictures_survives_a_file(tmp_path) -> None:
    rng = np.random.default_rng(0)
    episodes = []
    for length in (3, 1, 12):
        pictures = rng.integers(0, 256, (length + 1, 128, 128, 3), np.uint8)
        state = rng.normal(size=(length + 1, 18)).astype(np.float32)
        episodes.append(
            {
                "observations": state[:-1], "final_observation": state[-1],
                "actions": rng.normal(size=(length, 4)), "rewards": np.zeros(length), "terminals": np.zeros(length),
                "images/front": pictures[:-1], "final_images/front": pictures[-1],
                "images/wrist": pictures[1:], "final_images/wrist": pictures[0],
                "language": f"pick up the cube, {length} ☃", "qpos": rng.normal(size=(length, 22)),
                "mask/valid": np.asarray(length == 1), "task_index": np.arange(length) + 2**40,
            }
        )  # fmt: skip
    source, path = sources.get("gym_hil"), tmp_path / "x.hdf5"
    source.write(path, iter(episodes), NAME, {"environment": Pictures().settings(), "made_by": "a test"})
    found = list(source.task(NAME).read(path))
    same_episodes(found, episodes)
    np.testing.assert_array_equal(found[2]["qpos"], episodes[2]["qpos"])  # in float64
    note = {"environment": Pictures().settings(), "made_by": "a test", "fps": 10.0}
    assert source.task(NAME).provenance(path) == note
    stored = import_file(task_of(NAME), path, tmp_path / "stores")
    same_episodes(episodes_of(stored), episodes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"environment": {"height": 64}}, "images/front (24, 32, 3), "),
        ({"environment": {"cameras": ["front"], "height": 24, "width": 32, "rendering": {"shadow": 1}}}, "'shadow'"),
        ({"environment": [1]}, "no object with names and values"),
        ({"environment": "{"}, "damaged"),
        ({"drop": "wrist"}, "no 'images/wrist'"),
    ],
)
def test_a_file_whose_pictures_are_not_what_it_says_is_refused(store, folder, tmp_path, change, said) -> None:
    if store is None:
        return
    path = tmp_path / "changed.hdf5"
    path.write_bytes((folder / "two.hdf5").read_bytes())
    with h5py.File(path, "r+") as file:
        if "drop" in change:
            for place in ("images", "final_images"):
                del file[f"episodes/1/{place}/{change['drop']}"]
        else:
            kept = change["environment"]
            file.attrs["environment"] = kept if isinstance(kept, str) else json.dumps(kept)
    with pytest.raises((DatasetError, UserError)) as error:
        import_file(task_of(NAME), path, tmp_path / "stores")
    one_line(error, said)
