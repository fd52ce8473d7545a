"""torch's own dropout layers, which draw from its global generator where they are trained."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from torch import nn

LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def drops(network: nn.Module) -> bool:
    """Return whether a network has such layers."""
    return any(isinstance(module, LAYERS) for module in network.modules())


@contextmanager
def without_dropout(networks: Sequence[nn.Module]) -> Generator[None]:
    """Let the layers of some networks pass everything, as in acting and in held-out losses."""
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network in networks:
            network.train()
