"""A robot's side of `understudy serve`, with numpy, msgpack and websockets alone: copy this file to the robot.

policy = PolicyClient("ws://gpu:8000", token, lead=4)  # asks for the next chunk 4 steps ahead of need
policy.reset(observation)
robot.do(policy.act(observation))  # each 20 ms, say
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import msgpack
import numpy as np
from websockets.sync.client import connect  # pyright: ignore[reportMissingImports]


def _pack(x):
    return {"__ndarray__": True, "data": np.ascontiguousarray(x).tobytes(), "dtype": x.dtype.str, "shape": x.shape}


def _unpack(m):
    m = {key.decode() if isinstance(key, bytes) else key: value for key, value in m.items()}
    return np.frombuffer(m["data"], m["dtype"]).reshape(m["shape"]) if "__ndarray__" in m else m


class PolicyClient:
    def __init__(self, address, token="", lead=0):
        self._socket = connect(address, additional_headers={"Authorization": f"Bearer {token}"}, max_size=None)
        self.about, self.waits, self._asked = self._receive(), 0, []  # what is served: shapes, lengths
        self.lead = min(lead, self.about["chunk_length"] - 1)
        self._pool = ThreadPoolExecutor(1)  # one request at a time, beside the control loop

    def _receive(self):
        if isinstance(reply := self._socket.recv(timeout=10), str):
            raise RuntimeError(f"the policy's server: {reply}")
        return msgpack.unpackb(reply, object_hook=_unpack, strict_map_key=False)

    def _ask(self, **more):
        data = msgpack.packb({"observations": list(self._unsent), **more}, default=_pack) or b""
        self._asked.append((self._step, self._pool.submit(lambda: (self._socket.send(data), self._receive())[1])))
        self._unsent.clear()

    def reset(self, observation, **more):  # goal=..., language=..., episode=...: wait for the first chunk
        self._step, self._end, self._asked, self._unsent = 0, 0, [], deque([observation], self.about["history"])
        self._ask(reset=True, **more)
        self._asked[0][1].result()

    def act(self, observation):  # `waits` counts the steps whose action was not there in time
        self._unsent.extend([observation] if self._step else [])
        if self._step >= self._end:  # what was decided is done
            if not self._asked:
                self._ask()
            self._from, asked = self._asked.pop()
            self.waits += not asked.done()
            self._chunk = asked.result()["actions"]
            self._end = self._from + min(len(self._chunk), self.about["executed"] + self.lead)
        if not self._asked and self._step + self.lead >= self._end:
            self._ask()
        self._step += 1
        return self._chunk[self._step - 1 - self._from]
