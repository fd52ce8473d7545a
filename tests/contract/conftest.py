"""Every registered source, for the suites that all of them pass."""

from __future__ import annotations

import pytest
from tests.contract.source_examples import EXAMPLES, Example

from understudy.envs.sources.source import Source
from understudy.registry import sources


@pytest.fixture(params=sorted(EXAMPLES))
def kind(request) -> str:
    """The name of a source."""
    return request.param


@pytest.fixture
def source(kind) -> Source:
    """The source itself."""
    return sources.get(kind)


@pytest.fixture
def example(kind) -> Example:
    """What its files look like."""
    return EXAMPLES[kind]
