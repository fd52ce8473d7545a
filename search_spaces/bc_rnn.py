"""BC-RNN: learning rate, the window's length, the LSTM's width."""

from __future__ import annotations

from understudy.registry import search_spaces
from understudy.spec.space import Choice, Interval, SearchSpace

BC_RNN = search_spaces.register("bc_rnn")(
    SearchSpace(
        algo="bc_rnn",
        dimensions={
            "lr": Interval(low=1e-5, high=1e-3, log=True),
            "obs_horizon": Choice(values=(5, 10, 20)),
            "rnn_hidden_dim": Choice(values=(100, 400, 1000)),
        },
    )
)
