"""Expert buffers: read without running what they hold, written so that torch and tensordict read them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.sources.expert_buffer.source import BUFFER, METADATA, README
from understudy.envs.sources.source import task_of
from understudy.envs.store.inspection import notes_of
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.transfer import export_store, import_file
from understudy.errors import DatasetError, UserError
from understudy.registry import sources

NAME = "expert:Pendulum-v1"
SOURCE = sources.get("expert_buffer")


def make_episodes(lengths=(5, 1, 8), dims=3, seed=0, terminated=(0,)) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    episodes = []
    for number, length in enumerate(lengths):
        looks = rng.normal(size=(length + 1, dims)).astype(np.float32)
        episodes.append(
            {
                "observations": looks[:-1],
                "actions": rng.uniform(-2, 2, (length, 1)).astype(np.float32),
                "rewards": rng.normal(size=length).astype(np.float32),
                "terminals": (np.arange(length) == length - 1) & (number in terminated),
                "final_observation": looks[-1],
            }
        )
    return episodes


def as_torchrl(episodes, **changes) -> dict:
    """Return the nested dict of rows that torchrl's collectors make of episodes."""
    following = [np.concatenate([e["observations"][1:], e["final_observation"][None]]) for e in episodes]
    terminated = np.concatenate([e["terminals"] for e in episodes])[:, None]
    done = np.concatenate([np.arange(len(e["actions"])) == len(e["actions"]) - 1 for e in episodes])[:, None]
    rows = {
        "observation": np.concatenate([e["observations"] for e in episodes]),
        "action": np.concatenate([e["actions"] for e in episodes]),
        "done": np.zeros_like(done),
        "next": {
            "observation": np.concatenate(following),
            "reward": np.concatenate([e["rewards"] for e in episodes])[:, None],
            "done": done,
            "terminated": terminated,
            "truncated": done & ~terminated,
        },
    }
    rows["next"].update(changes.pop("next", {}))
    rows.update(changes)
    return {
        key: {inner: torch.from_numpy(array) for inner, array in value.items() if array is not None}
        if isinstance(value, dict)
        else torch.from_numpy(value)
        for key, value in rows.items()
        if value is not None
    }


def save(path: Path, rows: dict) -> Path:
    torch.save(TensorDict(rows, batch_size=[len(rows["action"])]), path)
    return path


def assert_same(first, second) -> None:
    for one, other in zip(first, second, strict=True):
        assert set(one) == set(other)
        for key, value in one.items():
            np.testing.assert_array_equal(np.asarray(value), np.asarray(other[key]), err_msg=key)


def test_a_torchrl_buffer_is_read_with_its_episodes_and_finals(tmp_path) -> None:
    episodes = make_episodes()
    assert_same(episodes, SOURCE.task(NAME).read(save(tmp_path / BUFFER, as_torchrl(episodes))))


@pytest.mark.parametrize("states", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_torchrls_pixels_are_a_camera_and_come_back(tmp_path, states, first) -> None:
    episodes, rng = make_episodes(), np.random.default_rng(1)
    frames = [rng.integers(0, 256, (len(e["actions"]) + 1, 32, 48, 3), dtype=np.uint8) for e in episodes]
    turned = [np.moveaxis(part, -1, 1) if first else part for part in frames]
    rows = as_torchrl(
        episodes,
        pixels=np.concatenate([part[:-1] for part in turned]),
        next={"pixels": np.concatenate([part[1:] for part in turned])},
        **({} if states else {"observation": None}),
    )
    if not states:
        del rows["next"]["observation"]
    store = import_file(task_of(NAME), save(tmp_path / BUFFER, rows), tmp_path / "stores")
    kept = np.concatenate([part[:-1] for part in frames])
    np.testing.assert_array_equal(store.frames("images/pixels").gather(np.arange(len(kept))), kept)
    assert ("observations" in store.manifest.columns) is states
    back = export_store(store, tmp_path / "back", "expert_buffer")
    again = import_file(task_of(NAME), back, tmp_path / "again")
    assert again.manifest.content_hash == store.manifest.content_hash


def test_keys_that_are_not_read_are_named(tmp_path) -> None:
    rows = as_torchrl(make_episodes(), sample_log_prob=np.zeros(14, np.float32))
    store = import_file(task_of(NAME), save(tmp_path / BUFFER, rows), tmp_path / "stores")
    assert "left out: keys that are not read: sample_log_prob" in notes_of(store)


def test_whole_numbers_as_actions_are_said(tmp_path) -> None:
    rows = as_torchrl(make_episodes(), action=np.random.default_rng(0).integers(0, 3, (14, 1)))
    store = import_file(task_of(NAME), save(tmp_path / BUFFER, rows), tmp_path / "stores")
    assert any(note.startswith("actions: int64, are kept as float32") for note in notes_of(store))
    assert not any("actions:" in note for note in notes_of(plain_store(tmp_path)))


def plain_store(tmp_path: Path) -> EpisodeStore:
    return import_file(task_of(NAME), save(tmp_path / "plain.pt", as_torchrl(make_episodes())), tmp_path / "plain")


def test_flat_spellings_and_plain_dicts_are_read_too(tmp_path) -> None:
    episodes = make_episodes()
    nested = as_torchrl(episodes)
    flat = {
        "obs": nested["observation"],
        "action": nested["action"],
        "next_obs": nested["next"]["observation"],
        "reward": nested["next"]["reward"][:, 0],
        "done": nested["next"]["done"][:, 0].float(),
        "truncated": nested["next"]["truncated"][:, 0],
    }
    for name, rows in (("flat.pt", flat), ("nested.pt", nested)):
        torch.save(rows, tmp_path / name)
        assert_same(episodes, SOURCE.task(NAME).read(tmp_path / name))


def test_without_any_flag_episodes_end_where_the_next_observation_does_not_follow(tmp_path) -> None:
    episodes = make_episodes(terminated=())
    rows = as_torchrl(episodes, done=None, next={"done": None, "terminated": None, "truncated": None})
    assert_same(episodes, SOURCE.task(NAME).read(save(tmp_path / BUFFER, rows)))


def test_what_is_written_comes_back_and_is_a_tensordict_of_torchrls_keys(tmp_path) -> None:
    episodes = make_episodes()
    SOURCE.write(tmp_path / "out", episodes, NAME, {"metadata": {"seed": 42}})
    assert_same(episodes, SOURCE.task(NAME).read(tmp_path / "out"))
    assert_same(episodes, SOURCE.task(NAME).read(tmp_path / "out" / BUFFER))
    data = torch.load(tmp_path / "out" / BUFFER, weights_only=False)
    assert isinstance(data, TensorDict)
    assert data.batch_size == torch.Size([14])
    assert data["next", "done"].dtype == torch.bool
    assert data["next", "reward"].shape == (14, 1)
    assert torch.equal(data["next", "observation"][:4], data["observation"][1:5])
    metadata = torch.load(tmp_path / "out" / METADATA, weights_only=True)
    assert metadata["seed"] == 42
    said = [metadata[key] for key in ("env_name", "num_transitions", "num_expert_episodes")]
    assert said == ["Pendulum-v1", 14, 3]
    assert "Pendulum-v1" in (tmp_path / "out" / README).read_text()
    assert SOURCE.task(NAME).provenance(tmp_path / "out")["metadata"]["expert_avg_length"] == pytest.approx(14 / 3)


def test_data_of_another_source_become_a_buffer_of_their_environment(tmp_path) -> None:
    SOURCE.write(tmp_path, make_episodes(), "minari:pendulum/scripted-v0", {"made_by": "a test"})
    metadata = torch.load(tmp_path / METADATA, weights_only=True)
    assert (metadata["env_name"], metadata["made_by"]) == ("Pendulum-v1", "a test")


def test_it_is_read_and_written_where_tensordict_is_not_installed(tmp_path, monkeypatch) -> None:
    save(tmp_path / BUFFER, as_torchrl(make_episodes()))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensordict"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert_same(make_episodes(), SOURCE.task(NAME).read(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    SOURCE.write(tmp_path / "out", make_episodes(), NAME, {})
    assert_same(make_episodes(), SOURCE.task(NAME).read(tmp_path / "out"))
    assert type(torch.load(tmp_path / "out" / BUFFER, weights_only=True)) is dict


def test_a_buffer_whose_next_observations_repeat_is_read_by_its_done_flags_and_says_so(tmp_path) -> None:
    episodes = make_episodes()
    rows = as_torchrl(episodes)
    rows["next"]["observation"] = rows["observation"].clone()
    save(tmp_path / BUFFER, rows)
    read = list(SOURCE.task(NAME).read(tmp_path))
    assert [len(e["actions"]) for e in read] == [5, 1, 8]
    assert all("final_observation" not in e for e in read)
    assert "repeats its own" in SOURCE.task(NAME).provenance(tmp_path)["next_observations"]
    store = import_file(task_of(NAME), tmp_path, tmp_path / "stores")
    assert "final_observations" not in store.manifest.episode_columns
    rows["step_count"] = torch.cat([torch.arange(n) for n in (5, 1, 8)])[:, None]
    rows["next"]["done"][:] = False
    save(tmp_path / BUFFER, rows)
    assert [len(e["actions"]) for e in SOURCE.task(NAME).read(tmp_path)] == [5, 1, 8]
    del rows["step_count"]
    save(tmp_path / BUFFER, rows)
    with pytest.raises(DatasetError, match="where episodes end cannot be told"):
        list(SOURCE.task(NAME).read(tmp_path))


def test_constant_observations_are_no_defect(tmp_path) -> None:
    episodes = [{**e, "observations": e["observations"] * 0, "final_observation": e["final_observation"] * 0}
                for e in make_episodes()]  # fmt: skip
    SOURCE.write(tmp_path / "out", episodes, NAME, {})
    assert_same(episodes, SOURCE.task(NAME).read(tmp_path / "out"))


class Hostile:
    def __reduce__(self):
        return os.system, ("touch $UNDERSTUDY_HOSTILE",)


@pytest.mark.parametrize("where", [BUFFER, METADATA])
def test_a_hostile_pickle_runs_nothing(tmp_path, monkeypatch, where) -> None:
    mark = tmp_path / "ran"
    monkeypatch.setenv("UNDERSTUDY_HOSTILE", str(mark))
    SOURCE.write(tmp_path / "x", make_episodes(), NAME, {})
    rows = as_torchrl(make_episodes())
    torch.save({**rows, "extra": Hostile()}, tmp_path / "x" / where)
    with pytest.raises(DatasetError, match=r"holds (posix|nt)\.system"):
        import_file(task_of(NAME), tmp_path / "x", tmp_path / "stores")
    assert not mark.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.999])
def test_a_half_downloaded_buffer_is_one_line(tmp_path, share) -> None:
    file = save(tmp_path / BUFFER, as_torchrl(make_episodes((200,))))
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(DatasetError) as error:
        import_file(task_of(NAME), file, tmp_path / "stores")
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"action": None}, "no key 'action'"),
        ({"next": {"reward": None}}, "no key 'next/reward'"),
        ({"observation": np.zeros((9, 3), np.float32)}, "the actions have 14 rows"),
        ({"next": {"observation": np.zeros((14, 2), np.float32)}}, "must be alike"),
        ({"next": {"reward": np.zeros((14, 2), np.float32)}}, "must be [N, A]"),
        ({"action": np.zeros((14,), np.float32)}, "must be [N, A]"),
        ({"next": {"done": np.zeros((14, 2), bool)}}, "one flag a row"),
        ({"observation": np.full((14, 3), np.nan, np.float32)}, "NaN"),
    ],
)
def test_wrong_keys_and_shapes_are_refused(tmp_path, changes, said) -> None:
    torch.save(as_torchrl(make_episodes(), **changes), tmp_path / BUFFER)
    with pytest.raises(DatasetError) as error:
        import_file(task_of(NAME), tmp_path / BUFFER, tmp_path / "stores")
    assert said in str(error.value)


def test_files_of_other_things_are_refused(tmp_path) -> None:
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    torch.save(TensorDict({"action": torch.zeros(4, 5, 1)}, batch_size=[4, 5]), tmp_path / "batch.pt")
    (tmp_path / "text.pt").write_text("no data here")
    for name, said in (("tensor.pt", "holds a Tensor"), ("batch.pt", "flat rows"), ("text.pt", "not a readable"),
                       ("none.pt", "no such file")):  # fmt: skip
        with pytest.raises(DatasetError, match=said):
            list(SOURCE.task(NAME).read(tmp_path / name))


def test_the_environment_is_the_registered_one_and_repeats_by_seed() -> None:
    factory = EnvFactory(NAME)
    assert task_of(NAME).source is SOURCE
    assert SOURCE.task(NAME).max_episode_steps == 200
    env, other = factory(), factory()
    actions = np.random.default_rng(0).uniform(-2, 2, (20, 1)).astype(np.float32)

    def play(env, seed):
        looks = [env.reset(seed=seed)[0]]
        return np.stack(looks + [env.step(action)[0] for action in actions])

    first = play(env, 3)
    assert not np.array_equal(play(env, 4), first)
    np.testing.assert_array_equal(play(env, 3), first)
    np.testing.assert_array_equal(play(other, 3), first)


@pytest.mark.parametrize("name", ["expert:Pendulun-v1", "expert:Nothing-v0"])
def test_an_environment_that_is_not_registered_is_one_line(name) -> None:
    with pytest.raises(UserError) as error:
        EnvFactory(name)()
    assert "\n" not in str(error.value)
    assert "registered" in str(error.value)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    dims=st.integers(1, 4),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
    seed=st.integers(0, 99),
)
def test_round_trips_are_exact(tmp_path_factory, lengths, dims, scale, seed) -> None:
    folder = tmp_path_factory.mktemp("round") / "données é"
    episodes = make_episodes(lengths, dims, seed, terminated=range(0, 9, 2))
    for episode in episodes:
        for key in ("observations", "rewards", "final_observation"):
            episode[key] = (episode[key] * np.float32(scale)).astype(np.float32)
    SOURCE.write(folder, episodes, NAME, {})
    assert_same(episodes, SOURCE.task(NAME).read(folder))
