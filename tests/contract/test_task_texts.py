"""Task texts as a part of what policies see: each method that takes them, batches, evaluations, resume and refusals.

Shapes: K members, B samples, H steps of the chunk, A action dims, D numbers of a text's vector.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.task_texts import LEFT, RIGHT, Letters, demonstrations, write
from tests.contract.test_algorithms import ACTION, OBSERVATION, batch, config, fitted
from tests.unit.command_line import understudy as command_line

import understudy
from understudy.algorithm import Algorithm, Batch
from understudy.cli.train import read_run
from understudy.envs.rollouts.acting import decide
from understudy.envs.serving.sessions import Session, described
from understudy.envs.store.row_texts import TASK_TEXTS
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.windows import Windows
from understudy.errors import DatasetError, SpecError, UserError
from understudy.exporting.function import PolicyFunction
from understudy.language import open_encoder, text_of
from understudy.observations import LANGUAGE, STATE, each
from understudy.policy import Policy
from understudy.randomness import numpy_generator, torch_generator
from understudy.registry import algorithms
from understudy.runs.directory import RunDir
from understudy.runs.episodes import load_episodes
from understudy.runs.launch import launch
from understudy.spec.data import DataSpec
from understudy.spec.keys import build_run
from understudy.spec.learning import Sampling
from understudy.spec.parts import Language
from understudy.trainables.loops.offline import OfflineLoop
from understudy.trainables.packs.pack import Pack

WITH_TEXTS = [name for name in algorithms.names() if issubclass(algorithms.get(name).Config, Language)]
ENV = "tests.contract.task_texts:Sides"
SMALL = ("hidden_dims=[16]", "batch_size=16", "launcher=inline", "tracking_uri=none", "device=cpu", "lr=3e-3")
TOLD = "language_encoder=letters"


def told(name: str, **settings: Any) -> Algorithm:
    """Return a small instance of a method that sees a state and a text of three numbers."""
    shape = {STATE: (OBSERVATION,), LANGUAGE: (3,)}
    made = algorithms.get(name)(shape, ACTION, config(name, language_encoder="letters", language_dim=4, **settings))
    return fitted(made)


def with_texts(plain: Batch) -> Batch:
    """Return a batch with a vector for each sample beside what is seen, and what follows."""
    seen = plain["observations"]
    vectors = torch.as_tensor(numpy_generator(3, "texts").normal(size=(*seen.shape[:2], 3)).astype(np.float32))
    shown = {name: {STATE: plain[name], LANGUAGE: vectors} for name in plain if name.endswith("observations")}
    return {**plain, **shown}


def test_every_method_that_learns_from_data_alone_takes_texts() -> None:
    online = {"sac", "hilserl", "ipmd"}
    assert set(WITH_TEXTS) == set(algorithms.names()) - online - {"reward_classifier"}


@pytest.mark.parametrize("name", WITH_TEXTS)
def test_a_member_of_a_pack_that_is_told_texts_equals_its_seed_alone(name: str) -> None:
    algorithm = told(name)
    pack, alone = Pack(algorithm, [3, 5]), Pack(algorithm, [5])
    before = alone.weights(0)
    for step in range(1, 4):
        two = with_texts(batch(algorithm, step, members=2))
        mine = {key: each(lambda part: part[1:], value) for key, value in two.items()}
        both, one = pack.update(two, step), alone.update(mine, step)
        for metric, values in one.items():
            torch.testing.assert_close(both[metric][1:], values, rtol=2e-4, atol=2e-5)
    for key, value in alone.weights(0).items():
        torch.testing.assert_close(pack.weights(1)[key], value, rtol=1e-3, atol=2e-5)
    layers = [key for key in before if key.endswith("text.weight")]
    assert layers
    assert all(not torch.equal(before[key], alone.weights(0)[key]) for key in layers)


@pytest.mark.parametrize("name", WITH_TEXTS)
def test_what_a_policy_learns_and_does_depends_on_its_text(name: str) -> None:
    algorithm = told(name)
    network = algorithm.network(torch_generator(0, "weights"))
    for parameter in network.parameters():  # some begin as zeros
        torch.nn.init.normal_(parameter, std=0.1, generator=torch_generator(1, "weights"))
    both = {key: each(lambda part: part[0], value) for key, value in with_texts(batch(algorithm, 1)).items()}
    seen = both["observations"]
    other = {**both, "observations": {**seen, LANGUAGE: -seen[LANGUAGE]}}
    targets = {part: network.get_submodule(part) for part in algorithm.targets}
    draws = algorithm.draw(16, torch_generator(2, "draws"))
    losses = [algorithm.loss(network, targets, one, draws)[0] for one in (both, other)]
    assert losses[0] != losses[1]
    actions = algorithm.act(network, seen, torch.zeros(16, *algorithm.noise_shape()))
    assert actions.shape == (16, algorithm.chunk_length, ACTION)


def test_batches_hold_the_vector_of_each_rows_text_and_paraphrases_in_turn(tmp_path) -> None:
    write(tmp_path, texts=("go left\nmove to the left side", RIGHT))
    windows = Windows(EpisodeStore.open(tmp_path / "sides"), texts=Letters())
    assert windows.observation_shape == {STATE: (1,), LANGUAGE: (26,)}
    rows = np.arange(12)
    seen = windows.gather(rows, (-1,))["observations"]
    lines = ["go left", "move to the left side"]
    wanted = Letters().embed([lines[row % 2] for row in range(6)] + [RIGHT] * 6)
    np.testing.assert_array_equal(seen[LANGUAGE].numpy(), wanted)
    after = Windows(EpisodeStore.open(tmp_path / "sides"), DataSpec(), Sampling(transitions=True), texts=Letters())
    following = after.gather(rows[6:8], (-1,))["next_observations"]
    np.testing.assert_array_equal(following[LANGUAGE].numpy(), wanted[6:8])
    scaling = windows.normaliser("zscore")
    assert set(scaling.parts) == {STATE}


def test_texts_that_change_within_an_episode_are_those_of_their_rows(tmp_path) -> None:
    with StoreWriter(tmp_path / "two", name="two", source="test", env_id="none") as writer:
        for episode in demonstrations(2, texts=()):
            rows = {"observations": episode["observations"][:6], "actions": episode["actions"]}
            numbers = {"task_index": np.array([7, 7, 7, 2, 2, 2])}
            writer.add_episode({**rows, **numbers, "rewards": np.zeros(6), "terminals": np.zeros(6)})
        writer.provenance[TASK_TEXTS] = {"7": LEFT, "2": RIGHT}
    windows = Windows(EpisodeStore.open(tmp_path / "two"), texts=Letters())
    seen = windows.gather(np.array([0, 3, 8, 11]), (-1,))["observations"]
    np.testing.assert_array_equal(seen[LANGUAGE].numpy(), Letters().embed([LEFT, RIGHT, LEFT, RIGHT]))


@pytest.mark.parametrize("texts", [(), ("", " ")])
def test_data_without_texts_are_refused_in_a_line(tmp_path, texts) -> None:
    write(tmp_path, texts=texts)
    with pytest.raises(DatasetError, match="'sides' has no task texts, which language_encoder= is for"):
        Windows(EpisodeStore.open(tmp_path / "sides"), texts=Letters())


def trained(tmp_path: Path, *words: str, env: str | None = ENV) -> Any:
    """Train flow_bc on the sides and return the run's result."""
    data = write(tmp_path / "data", env=env)
    spec = read_run(["env_name=sides", *SMALL, f"data_dir={data}", f"save_dir={tmp_path / 'runs'}", *words])
    return launch(spec, RunDir.create(spec))


def test_a_policy_goes_where_its_episodes_texts_say(tmp_path) -> None:
    words = ("training_steps=150", "eval_episodes=6", "seeds=[0,1]")
    result = trained(tmp_path, *words, TOLD)
    assert result.metrics["success"] == 1.0
    rows = load_episodes(result.path).to_pylist()
    assert all(row["text"] == (LEFT, RIGHT)[row["reset_seed"] % 2] for row in rows)
    policy = understudy.load_policy(str(result.path))
    left, right = policy.act({"state": [[0.0], [0.0]], "language": [LEFT, RIGHT]})[:, 0, 0]
    assert left < -0.5 < 0.5 < right
    assert policy.act({"state": [0.0], "language": RIGHT})[0, 0, 0] == pytest.approx(right, abs=1e-5)
    assert policy.with_config(eval_language=LEFT).act(np.zeros(1))[0, 0, 0] == pytest.approx(left, abs=1e-5)
    vectors = {"state": np.zeros((2, 1)), "language": policy.embed([LEFT, RIGHT])}
    np.testing.assert_allclose(policy.act(vectors)[:, 0, 0], [left, right], atol=1e-5)
    runner = policy.runner()
    runner.reset(np.zeros(1), {"language": RIGHT})
    assert runner.act(np.zeros(1))[0] == pytest.approx(right, abs=1e-4)
    # Saved and read again it does the same, and says which table it was trained with.
    policy.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/policy.json").read_text())["config"]["language_table"] == "letters"
    again = Policy.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.act(vectors), policy.act(vectors))
    with pytest.raises(UserError, match="goes by a task's text: give it as the part 'language'"):
        policy.act(np.zeros(1))


def test_a_text_is_an_evaluation_time_parameter_with_several_values(tmp_path) -> None:
    words = ("training_steps=150", "eval_episodes=6", f"eval_language={LEFT},{RIGHT}")
    result = trained(tmp_path, *words, TOLD)
    grid = json.loads((result.path / "run.json").read_text())
    assert grid["status"] == "finished"
    rows = load_episodes(result.path).to_pylist()
    for text, side in ((LEFT, 0), (RIGHT, 1)):
        mine = [row for row in rows if f"eval_language={text}" in row["setting"]]
        assert len(mine) == 6
        assert {row["text"] for row in mine} == {text}
        assert all((row["reset_seed"] % 2 == side) == (row["success"] == 1.0) for row in mine)


def test_an_evaluation_prints_the_rate_of_each_text(tmp_path, monkeypatch, capsys) -> None:
    result = trained(tmp_path, "training_steps=5", "eval_episodes=0", TOLD)
    said = command_line(monkeypatch, capsys, "evaluate", str(result.path), "eval_episodes=4", "eval_max_steps=3")
    assert said.code == 0, said.err
    assert re.search(r"text +episodes +success", said.out)
    assert all(re.search(rf"{text} +2 +0", said.out) for text in (LEFT, RIGHT))
    said = command_line(monkeypatch, capsys, "evaluate", str(result.path), "eval_episodes=1", f"eval_language={LEFT}")
    assert said.code == 0, said.err
    assert "text  " not in said.out


def test_a_server_takes_its_clients_texts(tmp_path) -> None:
    result = trained(tmp_path, "training_steps=150", "eval_episodes=0", TOLD)
    policy = understudy.load_policy(str(result.path))
    told = described(policy, 0, None)
    assert (told["observation"], told["language"]) == ({"state": [1]}, "")

    def first(message: dict[str, Any]) -> float:
        session = Session(policy, 0, None, 0)
        acting = session.take(message, 0)
        decide(policy.act_members, [acting], 0)
        return float(acting.next_action()[0])

    place = np.zeros(1)
    assert first({"observation": place, "language": RIGHT}) > 0.5
    assert first({"observation": place, "language": LEFT}) < -0.5
    assert first({"observation": {"state": place, "prompt": RIGHT}}) > 0.5
    assert first({"state": place, "prompt": LEFT}) < -0.5
    with pytest.raises(UserError, match="goes by its task's text and the request tells none"):
        first({"observation": place})


def test_an_exported_policy_takes_a_texts_vector(tmp_path) -> None:
    result = trained(tmp_path, "training_steps=5", "eval_episodes=0", TOLD)
    policy = understudy.load_policy(str(result.path))
    function = PolicyFunction(policy)
    assert [(port.name, port.shape) for port in function.inputs] == [("state", (1,)), ("language", (26,))]
    seen, vectors = torch.zeros(2, 1), torch.as_tensor(policy.embed([LEFT, RIGHT]))
    wanted = policy.act({"state": seen.numpy(), "language": [LEFT, RIGHT]})
    torch.testing.assert_close(function(seen, vectors), torch.as_tensor(wanted))


@pytest.mark.parametrize("algo", ["bc", "diffusion_policy"])
@pytest.mark.parametrize("state", [True, False])
def test_pictures_and_histories_are_seen_beside_texts(tmp_path, algo, state) -> None:
    random, episodes = np.random.default_rng(0), demonstrations(4)
    for episode in episodes:
        episode["images/front"] = random.integers(0, 256, (7, 16, 16, 3), np.uint8)
        if not state:
            del episode["observations"]
    understudy.write_dataset("film", episodes, data_dir=tmp_path / "data")
    keys = {"encoder": "impala_small", "obs_horizon": 2, "training_steps": 2, "batch_size": 4, "eval_episodes": 0}
    sizes = {"hidden_dims": [8]} if algo == "bc" else {"down_dims": [8, 16], "step_embed_dim": 8, "n_groups": 4}
    sizes |= {"horizon_length": 4} if algo == "diffusion_policy" else {}
    here = {"launcher": "inline", "tracking_uri": "none", "device": "cpu", "quiet": True, "loader_workers": 0}
    places = {"data_dir": str(tmp_path / "data"), "save_dir": str(tmp_path / "runs")}
    run = understudy.train(algo=algo, env_name="film", language_encoder="letters", **keys, **sizes, **here, **places)
    policy = run.policy()
    parts = {"pixels" if not state else "front": random.integers(0, 256, (2, 16, 16, 3), np.uint8)}
    parts |= {"state": np.zeros(2)} if state else {}
    assert set(policy.algorithm.observation_shape) == {*parts, "language"}
    assert policy.act({**parts, "language": LEFT}).shape[0] == 1
    runner = policy.runner()
    seen = {**({"state": np.zeros(1)} if state else {}), "front": parts[next(iter(parts))][0]}
    runner.reset(seen, {"language": RIGHT})
    assert runner.act(seen).shape == (1,)


def test_a_critic_that_learns_from_the_data_is_told_texts_too(tmp_path) -> None:
    words = ("training_steps=3", "use_critic=true", "eval_episodes=1", "action_chunking=true", "horizon_length=2")
    assert "success" in trained(tmp_path, *words, TOLD).metrics


def test_a_policy_that_is_told_nothing_does_not_know_the_way(tmp_path) -> None:
    result = trained(tmp_path, "training_steps=150", "eval_episodes=6")
    assert result.metrics["success"] <= 0.5


def test_an_environment_that_tells_no_text_is_refused_before_training(tmp_path) -> None:
    silent = "tests.contract.task_texts:Silent"
    with pytest.raises(UserError, match="goes by a task's text and is told none"):
        trained(tmp_path, "training_steps=5", "eval_episodes=2", TOLD, env=silent)
    said = trained(tmp_path, "training_steps=5", "eval_episodes=2", TOLD, f"eval_language={LEFT}", env=silent)
    assert "success" in said.metrics


class Stopped(Exception):
    """What a test ends a training with."""


def test_a_stopped_training_with_texts_goes_on_as_if_it_had_not(tmp_path) -> None:
    data = write(tmp_path / "data")
    words = ("env_name=sides", *SMALL, TOLD, f"data_dir={data}", "seeds=[0,1]", "training_steps=30", "eval_episodes=0")
    weights = []
    for name in ("whole", "stopped"):
        spec = read_run([*words, f"save_dir={tmp_path / name}", "checkpoint_seconds=0", "log_interval=1"])
        run = RunDir.create(spec)

        def stop(step: int, *_: Any, last: int = 12 if name == "stopped" else 99) -> None:
            if step >= last:
                raise Stopped

        try:
            OfflineLoop(spec).run(run.path, progress=stop)
        except Stopped:
            assert any(run.resume.glob("*.pt"))
            OfflineLoop(spec).run(run.path)
        files = sorted(run.path.rglob("final_model.pt"))
        assert len(files) == 2
        weights.append([torch.load(file, weights_only=True)["weights"] for file in files])
    for mine, other in zip(*weights, strict=True):
        assert all(torch.equal(mine[key], other[key]) for key in other)


def test_a_run_and_a_policy_refuse_another_table_than_they_were_trained_with(tmp_path, monkeypatch) -> None:
    data = write(tmp_path / "data")
    words = ("env_name=sides", *SMALL, TOLD, f"data_dir={data}", f"save_dir={tmp_path}", "eval_episodes=0")
    spec = read_run([*words, "training_steps=10", "checkpoint_seconds=0"])
    run = RunDir.create(spec)

    def stop(step: int, *_: Any) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        OfflineLoop(spec).run(run.path, progress=stop)
    result = trained(tmp_path / "other", "training_steps=2", "eval_episodes=0", TOLD)
    monkeypatch.setattr(open_encoder("letters"), "digest", "another")
    with pytest.raises(UserError, match=r"embedded by another table \(letters\) than language_encoder= has now"):
        OfflineLoop(spec).run(run.path)
    with pytest.raises(UserError, match=r"language_encoder=letters: its table of token vectors is another"):
        understudy.load_policy(str(result.path)).act({"state": [0.0], "language": LEFT})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["language_encoder=letter"], "unknown text encoder 'letter'.*letters"),
        (["language_encoder=letters", "language_dim=0"], "greater than or equal to 1"),
        (["eval_language=left"], "is for policies that are told texts, which need language_encoder="),
        (["language_dim=8"], "is for policies that are told texts"),
        (["algo=sac", "env_name=Pendulum-v1", "language_encoder=letters"], "language_encoder"),
        (["language_encoder=letters", "use_critic=true", "online_steps=10"], "learning from a dataset alone"),
    ],
)
def test_keys_of_texts_that_change_nothing_or_do_not_fit_are_refused(words, said) -> None:
    with pytest.raises(SpecError, match=said):
        read_run(["env_name=hopper-medium-v2", *words])


def test_a_text_is_part_of_what_is_trained_only_where_there_is_an_encoder() -> None:
    told_texts = {"algo": "bc", "language_encoder": "letters"}
    plain, with_text = build_run({"algo": "bc"}), build_run(told_texts)
    assert plain.fingerprint() != with_text.fingerprint()
    assert with_text.fingerprint() == build_run({**told_texts, "eval_language": LEFT}).fingerprint()
    assert not [key for key in plain.shared() if "language" in key]


def test_an_environment_tells_its_text_at_reset_or_as_an_attribute() -> None:
    class Env:
        language = "lift it"

    assert text_of({}) is None
    assert text_of({}, Env()) == "lift it"
    assert text_of({"language": "push it"}, Env()) == "push it"
    with pytest.raises(UserError, match="an environment's language is a text, not a int"):
        text_of({"language": 3})
