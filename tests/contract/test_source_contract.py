"""What every registered source keeps: episodes written are episodes read, bit for bit, and environments are pure.

`source_examples.EXAMPLES` has an entry for each; a source that has none fails here. Damage: test_source_damage.py.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contract.source_examples import (
    EXAMPLES,
    LAYOUTS,
    NUMBERS,
    Example,
    any_episodes,
    copy,
    made_up,
    one_line,
    place,
    same_episodes,
)

from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.sources.source import Source, task_of
from understudy.envs.store.transfer import ImportOptions, episodes_of, import_file
from understudy.errors import DatasetError, UserError
from understudy.registry import sources

KINDS = sorted(EXAMPLES)


def written(source: Source, path: Path, episodes: list, example: Example, **provenance: Any) -> Path:
    source.write(path, iter(episodes), example.env_name, provenance)
    return path


OWN = ["arrays", "hdf5", "npz", "own_env", "zarr"]
"""Layouts and environments of one's own have no published names; tests/integration/test_own_data.py has some."""


def test_every_registered_source_has_an_example_here() -> None:
    assert sources.names() == sorted([*KINDS, *OWN])
    assert not [name for kind in OWN for name in sources.get(kind).known_names()]


def test_a_name_belongs_to_one_source(kind, source, example) -> None:
    for name in (example.env_name, *source.known_names()):
        assert [other for other, item in sources.items() if item.matches(name)] == [kind], name
    assert task_of(example.env_name).source is source


def check_round_trip(kind: str, folder: Path, episodes: list) -> None:
    source, example = sources.get(kind), EXAMPLES[kind]
    path = written(source, place(source, folder), episodes, example)
    same_episodes(source.task(example.env_name).read(path), episodes)
    store = import_file(task_of(example.env_name), path, folder / "stores")
    same_episodes(episodes_of(store), episodes)
    assert [p for p in folder.iterdir() if p not in (path, folder / "stores")] == []


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_written_is_read_back_bit_for_bit(kind, tmp_path_factory, data) -> None:
    check_round_trip(kind, tmp_path_factory.mktemp("data"), data.draw(any_episodes(EXAMPLES[kind])))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_great_many_odd_episodes_are_read_back_bit_for_bit(kind, tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("data")
    check_round_trip(kind, folder, data.draw(any_episodes(EXAMPLES[kind])))
    shutil.rmtree(folder)


@pytest.mark.parametrize("numbers", sorted(NUMBERS))
def test_numbers_of_every_size_survive(kind, example, tmp_path, numbers) -> None:
    check_round_trip(kind, tmp_path, made_up(example, [1, 4, 1, 2], numbers=numbers))


def test_odd_dtypes_and_memory_layouts_survive(kind, example, tmp_path) -> None:
    for number, (dtype, layout) in enumerate(zip([">f4", "<f8", "<f2", ">i4"], LAYOUTS, strict=True)):
        folder = tmp_path / str(number)
        folder.mkdir()
        check_round_trip(kind, folder, made_up(example, [3, 1], numbers="whole", dtype=dtype, layout=layout))


def test_many_episodes_keep_their_order(kind, example, tmp_path) -> None:
    check_round_trip(kind, tmp_path, made_up(example, [1 + i % 3 for i in range(120)]))


def test_rewards_that_a_convention_would_round_are_kept_or_refused(source, example, tmp_path) -> None:
    episodes = made_up(example, [4])
    episodes[0]["rewards"] = np.array([1e-30, -0.1, 3.3e38, -0.0], np.float32)
    path = place(source, tmp_path)
    try:
        written(source, path, episodes, example)
    except DatasetError as error:
        assert example.shift
        one_line(error, "episode 0", "reward")
        assert list(tmp_path.iterdir()) == []
        return
    found = np.concatenate(
        [np.asarray(item["rewards"], np.float32) for item in source.task(example.env_name).read(path)]
    )
    if not example.shift:
        assert found.tobytes() == episodes[0]["rewards"].tobytes()
    np.testing.assert_allclose(found, episodes[0]["rewards"], rtol=1e-7, atol=1e-15)


def test_terminals_before_an_episodes_end_do_not_cut_it(kind, example, tmp_path) -> None:
    episodes = made_up(example, [6, 5])
    episodes[0]["terminals"][[1, 2, 5]] = True
    check_round_trip(kind, tmp_path, episodes)


def test_names_and_files_may_have_any_letters(kind, source, example, tmp_path) -> None:
    episodes = made_up(example, [2, 3])
    path = written(source, place(source, tmp_path / "Größe 数据", "données ☃"), episodes, example, made_by="Zoë 🤖")
    store = import_file(task_of(example.env_name), path, tmp_path / "stores", ImportOptions(name="été-数据-☃"))
    assert store.path.name == "été-数据-☃"
    same_episodes(episodes_of(store), episodes)


def test_the_hash_of_a_store_is_of_its_content_whatever_the_file_is_called(kind, source, example, tmp_path) -> None:
    episodes = made_up(example, [4, 2])
    first = written(source, place(source, tmp_path, "first"), episodes, example)
    copied = copy(first, place(source, tmp_path, "second"))
    again = written(source, place(source, tmp_path / "elsewhere"), episodes, example, made_by="another hand")
    others = written(source, place(source, tmp_path, "others"), episodes[::-1], example)
    stores = [
        import_file(task_of(example.env_name), path, tmp_path / f"stores-{number}")
        for number, path in enumerate((first, copied, again, others))
    ]
    hashes = [store.manifest.content_hash for store in stores]
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]


def test_a_store_written_as_a_file_and_imported_again_is_the_same_store(kind, source, example, tmp_path) -> None:
    path = written(source, place(source, tmp_path), made_up(example, [5, 1, 3]), example)
    store = import_file(task_of(example.env_name), path, tmp_path / "stores")
    exported = place(source, tmp_path / "exported")
    source.write(exported, episodes_of(store), example.env_name, store.manifest.provenance)
    again = import_file(task_of(example.env_name), exported, tmp_path / "again")
    assert again.manifest.content_hash == store.manifest.content_hash
    assert again.manifest.provenance.get("environment") == store.manifest.provenance.get("environment")
    same_episodes(episodes_of(again), episodes_of(store))


def test_writing_twice_leaves_the_second(source, example, tmp_path) -> None:
    path = place(source, tmp_path)
    written(source, path, made_up(example, [5]), example)
    second = made_up(example, [2, 3], seed=1)
    written(source, path, second, example)
    same_episodes(source.task(example.env_name).read(path), second)
    assert list(tmp_path.iterdir()) == [path]


def test_no_episodes_at_all_are_refused(source, example, tmp_path) -> None:
    with pytest.raises(DatasetError) as error:
        written(source, place(source, tmp_path), [], example)
    one_line(error, "no episodes")
    assert list(tmp_path.iterdir()) == []


def test_an_episode_without_steps_is_refused(source, example, tmp_path) -> None:
    empty = {name: array[:0] for name, array in made_up(example, [1], final=False)[0].items()}
    empty["final_observation"] = np.zeros(example.observation_dim, np.float32)
    with pytest.raises(DatasetError) as error:
        written(source, place(source, tmp_path), [*made_up(example, [2]), empty], example)
    one_line(error, "episode 1", "no steps")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_final_observation_is_kept_so_or_refused(kind, source, example, tmp_path) -> None:
    episodes = made_up(example, [2, 3], final=False)
    if not example.needs_final:
        check_round_trip(kind, tmp_path, episodes)
        return
    with pytest.raises(DatasetError) as error:
        written(source, place(source, tmp_path), episodes, example)
    one_line(error, "episode 0", "no final observation")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("column", ["observations", "actions", "rewards", "final_observation"])
@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e39])
def test_what_is_no_finite_float32_is_refused_with_episode_and_step(
    kind, source, example, tmp_path, column, value
) -> None:
    episodes = made_up(example, [3, 3], dtype="<f8")
    episodes[1][column].reshape(-1)[-1] = value
    with pytest.raises(DatasetError) as error:
        written(source, place(source, tmp_path), episodes, example)
    one_line(error, "episode 1", column, "step 0" if column == "final_observation" else "step 2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"actions": np.zeros((2, 4))},
        {"observations": np.zeros((3, 2, 2))},
        {"rewards": np.zeros(2)},
        {"rewards": np.array(["a", "b", "c"])},
        {"final_observation": np.zeros(2)},
    ],
    ids=lambda change: f"{next(iter(change))} {next(iter(change.values())).shape}",
)
def test_arrays_that_do_not_fit_together_are_refused(source, example, tmp_path, change) -> None:
    with pytest.raises(DatasetError) as error:
        written(source, place(source, tmp_path), [{**made_up(example, [3])[0], **change}], example)
    one_line(error, "episode 0")
    assert list(tmp_path.iterdir()) == []


def test_episodes_that_are_not_alike_are_refused(source, example, tmp_path) -> None:
    other = made_up(replace(example, action_dim=example.action_dim + 1), [3])
    with pytest.raises(DatasetError) as error:
        written(source, place(source, tmp_path), [*made_up(example, [3]), *other], example)
    one_line(error)
    assert list(tmp_path.iterdir()) == []


def environment(example: Example):
    """Return the source's environment, None where its simulator is not installed (or is none) and the error says so."""
    try:
        return EnvFactory(example.env_name)()
    except UserError as error:
        one_line(error, "pip install" if example.has_simulator else "no simulator")
        return None


def play(env, seed: int, steps: int) -> list[np.ndarray]:
    """Return what an episode of random actions gives, a row a step; the success column is nan where none is told."""
    rng = np.random.default_rng(seed)
    look, info = env.reset(seed=seed)
    rows = [np.r_[look, 0.0, 0.0, 0.0, np.nan]]
    for _ in range(steps):
        action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        look, reward, ended, late, info = env.step(action)
        rows.append(np.r_[look, float(reward), ended, late, float(info.get("success", np.nan))])
        if ended or late:
            break
    return rows


def test_the_environment_has_the_datas_dims_and_tells_success_if_the_source_says_so(source, example) -> None:
    env = environment(example)
    if env is None:
        return
    assert env.observation_space.shape == (example.observation_dim,)
    assert env.action_space.shape == (example.action_dim,)
    rows = np.stack(play(env, 0, 5))
    assert rows.shape[1] == example.observation_dim + 4
    assert np.isfinite(rows[:, :-1]).all()
    assert np.isfinite(rows[1:, -1]).all() == source.task(example.env_name).has_success


def test_an_episode_is_a_function_of_its_seed_and_actions_whatever_ran_before(example) -> None:
    env = environment(example)
    if env is None:
        return
    first = np.stack(play(env, 3, 20))
    other = np.stack(play(env, 4, 20))
    np.random.random(7)  # the global stream must not matter
    second = np.stack(play(env, 3, 20))
    assert first.tobytes() == second.tobytes()
    assert first[0].tobytes() != other[0].tobytes()


def test_no_episode_is_longer_than_the_sources_limit(source, example) -> None:
    env = environment(example)
    if env is None:
        return
    limit = source.task(example.env_name).max_episode_steps
    rows = play(env, 0, limit + 5)
    ended, late = rows[-1][-3:-1]
    assert ended or late
    assert len(rows) - 1 == limit if not ended else len(rows) - 1 <= limit
