"""Served policies: the policy's own actions, each client's own episode, and what is wrong in one line."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from tests.unit.served import SETTINGS, TOKEN, flow_policy, listening, server, walk

from understudy.envs.serving.running import check_address
from understudy.envs.serving.settings import Settings, server_token, token_file
from understudy.envs.serving.wire import pack, unpack
from understudy.errors import UserError
from understudy.policy import Policy

KEY = {"authorization": f"Bearer {TOKEN}"}


def client(policy: Policy, settings: Settings = SETTINGS, **headers: str) -> TestClient:
    """Return a client without a network."""
    return TestClient(server(policy, settings).app(), headers=headers or KEY)


def own_actions(policy: Policy, observations: np.ndarray, goal: Any = None, episode: int = 0) -> np.ndarray:
    """Return what the policy's runner does, which is what evaluations do."""
    runner = policy.runner(temperature=SETTINGS.temperature, seed=SETTINGS.noise_seed)
    runner.episode = episode - 1
    runner.reset(observations[0], {} if goal is None else {"goal": goal})
    return np.stack([runner.act(observation) for observation in observations])


def asked(socket: Any, message: Any) -> Any:
    """Send one message over a WebSocket and return the answer, a text where it was refused."""
    socket.send_bytes(pack(message))
    answer = socket.receive()
    return answer["text"] if answer.get("text") is not None else unpack(answer["bytes"])


def test_a_client_that_asks_as_chunks_end_does_what_the_policy_does_itself() -> None:
    policy, seen = flow_policy(history=2, goal=1, n_action_steps=3), walk(9)
    with client(policy) as http, http.websocket_connect("/") as socket:
        assert unpack(socket.receive_bytes())["history"] == 2
        done: list[np.ndarray] = []
        for step in range(0, 9, 3):
            begin = {"reset": True, "goal": np.float32([0.5])} if step == 0 else {}
            since = seen[:1] if step == 0 else seen[step - 2 : step + 1]
            reply = asked(socket, {"observations": list(since), **begin})
            done += list(reply["actions"][: reply["executed"]])
    np.testing.assert_allclose(done, own_actions(policy, seen, np.float32([0.5])), atol=1e-6)


def test_http_sessions_are_episodes_that_go_on_and_requests_without_one_stand_alone() -> None:
    policy, seen = flow_policy(n_action_steps=3), walk(6)
    with client(policy) as http:

        def post(**message: Any) -> Any:
            return unpack(http.post("/act", content=pack(message)).content)

        first = post(observation=seen[0], session="a", reset=True, episode=4)
        second = post(observations=list(seen[1:4]), session="a")
        alone = post(observation=seen[0], episode=4)
    done = np.concatenate([first["actions"][:3], second["actions"][:3]])
    np.testing.assert_allclose(done, own_actions(policy, seen, episode=4), atol=1e-6)
    np.testing.assert_array_equal(alone["actions"], first["actions"])
    assert (second["episode"], second["decision"]) == (4, 1)


def test_requests_that_wait_together_are_one_call_and_each_gets_its_own_actions() -> None:
    policy, seen = flow_policy(), walk(5)
    served = server(policy)

    async def together() -> list[Any]:
        sessions = [served.session() for _ in seen]
        messages = [{"observation": one, "episode": place} for place, one in enumerate(seen)]
        return await asyncio.gather(*map(served.answer, sessions, messages))

    replies = asyncio.run(together())
    assert (served.batcher.calls, served.batcher.decisions) == (1, 5)
    for place, reply in enumerate(replies):
        own = own_actions(policy, np.repeat(seen[place : place + 1], 6, axis=0), episode=place)
        np.testing.assert_allclose(reply["actions"], own, atol=1e-6)
    served.batcher.close()


def test_json_is_answered_in_json() -> None:
    with client(flow_policy(), replace(SETTINGS, temperature=0.0)) as http:
        answer = http.post("/act", json={"observation": [0.0, 1.0, 2.0]})
        packed = unpack(http.post("/act", content=pack({"observation": np.float32([0, 1, 2])})).content)
    np.testing.assert_allclose(answer.json()["actions"], packed["actions"], atol=1e-6)


def test_an_observation_by_itself_is_a_request_as_openpis_clients_send_it() -> None:
    with client(flow_policy(), replace(SETTINGS, temperature=0.0)) as http, http.websocket_connect("/") as socket:
        socket.receive_bytes()
        whole = asked(socket, {"observation": np.float32([0, 1, 2]), "reset": True})
        bare = asked(socket, {"state": np.float32([0, 1, 2]), "prompt": "lift the cube"})
    np.testing.assert_array_equal(bare["actions"], whole["actions"])


def test_an_ensembled_policy_answers_one_action_at_a_time() -> None:
    policy, seen = flow_policy(n_action_steps=1, temporal_ensemble_coeff=0.01), walk(4)
    with client(policy) as http, http.websocket_connect("/") as socket:
        assert unpack(socket.receive_bytes())["chunk_length"] == 1
        done = [asked(socket, {"observation": one})["actions"] for one in seen]
    np.testing.assert_allclose(np.concatenate(done), own_actions(policy, seen), atol=1e-6)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ({"observation": np.zeros(4, np.float32)}, r"the policy has observations \(3,\), the request has \(4,\)"),
        ({"observation": np.float32([0, np.nan, 0])}, "state of the observation holds NaN or infinity"),
        ({"observation": "left"}, "holds no numbers"),
        ({"observation": np.zeros(3), "resett": True}, "'resett' is no key of a request .did you mean 'reset'"),
        ({"observation": np.zeros(3), "episode": -1}, "episode=-1: give a whole number from 0 on"),
        ({"observations": []}, "`observations` is a list"),
        ({}, "the request has no `observation`"),
        ([1, 2], "a request is a map with `observation`, not list"),
        ({"observation": np.zeros(3), "session": "x"}, "no session 'x': begin it with reset=true"),
    ],
)
def test_a_wrong_request_is_answered_by_one_line(message: Any, line: str) -> None:
    with client(flow_policy()) as http:
        answer = http.post("/act", content=pack(message))
        said = answer.json()["error"]
        assert answer.status_code == 400
        assert "\n" not in said
        assert re.search(line, said), said


@pytest.mark.parametrize("kind", ["|O", "<U4", "V8", "<M8[s]", "nonsense"])
def test_arrays_of_anything_but_numbers_are_refused(kind: str) -> None:
    described = {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": kind, b"shape": [1]}
    with pytest.raises(UserError, match="numbers alone"):
        unpack(msgpack.packb({"observation": described}))


def test_arrays_that_claim_more_than_they_hold_are_refused() -> None:
    described = {b"__ndarray__": True, b"data": b"\0" * 8, b"dtype": "<f4", b"shape": [2**40, 2**40]}
    with pytest.raises(UserError, match="bytes are of another length"):
        unpack(msgpack.packb(described))


def test_arrays_come_back_as_they_were_sent_in_msgpack_numpys_form_too() -> None:
    sent = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(unpack(pack({"a": [sent]}))["a"][0], sent)
    theirs = {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [2], b"data": np.float32([1, 2]).tobytes()}
    np.testing.assert_array_equal(unpack(msgpack.packb(theirs)), np.float32([1, 2]))


def test_only_who_has_the_token_is_answered_and_no_web_page_is() -> None:
    policy = flow_policy()
    for headers in ({}, {"authorization": "Bearer another-token"}, {"authorization": TOKEN}):
        with client(policy, **{"x": "y", **headers}) as http:
            assert http.get("/").status_code == 401
            assert http.post("/act", content=pack({"observation": np.zeros(3)})).status_code == 401
            with pytest.raises(WebSocketDisconnect), http.websocket_connect("/"):
                pass
            assert http.get("/healthz").status_code == 200
    with client(policy, **KEY, origin="http://evil.example") as http:
        assert http.get("/").status_code == 403


def test_where_several_replicas_answer_an_http_session_is_told_to_use_a_websocket() -> None:
    with client(flow_policy(), replace(SETTINGS, http_sessions=False)) as http:
        answer = http.post("/act", content=pack({"observation": np.zeros(3), "session": "b", "reset": True}))
    assert "`session` needs a WebSocket" in answer.json()["error"]


def test_a_request_that_is_too_large_is_refused_before_it_is_read() -> None:
    with client(flow_policy(), replace(SETTINGS, max_request=100)) as http:
        answer = http.post("/act", content=b"x" * 101)
    assert answer.status_code == 413
    assert "at most 100 are taken" in answer.json()["error"]


def test_more_clients_than_allowed_are_asked_to_come_again() -> None:
    with client(flow_policy(), replace(SETTINGS, max_clients=1)) as http, http.websocket_connect("/"):
        answer = http.post("/act", content=pack({"observation": np.zeros(3), "session": "b", "reset": True}))
    assert answer.status_code == 503


def test_a_wrong_request_over_a_websocket_leaves_the_connection_and_its_episode_as_they_were() -> None:
    policy, seen = flow_policy(n_action_steps=6), walk(1)
    with client(policy) as http, http.websocket_connect("/") as socket:
        socket.receive_bytes()
        assert "the policy has observations (3,)" in asked(socket, {"observation": np.zeros(5)})
        reply = asked(socket, {"observation": seen[0], "reset": True, "episode": 0})
    np.testing.assert_allclose(reply["actions"], own_actions(policy, np.repeat(seen, 6, axis=0)), atol=1e-6)


def test_the_token_is_made_once_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path))
    first, place = server_token(None)
    assert (server_token(None)[0], place) == (first, str(token_file()))
    assert token_file().stat().st_mode & 0o777 == 0o600
    token_file().chmod(0o644)
    with pytest.raises(UserError, match="may be read by others: chmod 600"):
        server_token(None)


def test_other_addresses_than_this_machines_need_a_token() -> None:
    with pytest.raises(UserError, match="leave out --no_token"):
        check_address(replace(SETTINGS, host="0.0.0.0", token=""))


# ---- a robot's client ----


def test_the_robots_client_has_under_sixty_lines_and_imports_nothing_of_ours() -> None:
    from understudy.envs import serving

    lines = Path(serving.__file__).with_name("client.py").read_text().splitlines()
    assert len(lines) < 60
    assert not [line for line in lines if "import" in line and ("torch" in line or "understudy." in line)]


def test_a_robot_that_asks_as_chunks_end_does_what_the_policy_does_itself() -> None:
    pytest.importorskip("websockets")
    from understudy.envs.serving.client import PolicyClient

    policy, seen = flow_policy(history=2, n_action_steps=4), walk(10)
    with listening(policy) as port:
        robot = PolicyClient(f"ws://127.0.0.1:{port}", TOKEN)
        for episode in (3, 5):
            robot.reset(seen[0], episode=episode)
            done = [robot.act(one) for one in seen]
            np.testing.assert_allclose(done, own_actions(policy, seen, episode=episode), atol=1e-6)
        with pytest.raises(RuntimeError, match="holds NaN or infinity"):
            robot.reset(np.full(3, np.nan))


def test_a_robot_that_asks_ahead_executes_each_chunk_from_the_step_on_that_it_is_for() -> None:
    pytest.importorskip("websockets")
    from understudy.envs.serving.client import PolicyClient

    policy, seen = flow_policy(n_action_steps=4), walk(14)
    with listening(policy, replace(SETTINGS, temperature=0.0)) as port:
        robot = PolicyClient(f"ws://127.0.0.1:{port}", TOKEN, lead=2)
        robot.reset(seen[0])
        done = [robot.act(one) for one in seen]
    chunks = {step: policy.act(seen[step : step + 1], temperature=0)[0] for step in (0, 4, 8)}
    expected = [*chunks[0][:6], *chunks[4][2:6], *chunks[8][2:6]]  # seen at 4, needed from 6 on
    np.testing.assert_allclose(done, expected, atol=1e-6)
