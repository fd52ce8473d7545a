"""What ends the import of a module that a registry looks for: a plug-in's own mistake, or a signal to the process."""

from __future__ import annotations

import sys

import pytest

from understudy.errors import UserError
from understudy.plugins import imported


def test_a_signal_while_a_module_of_the_package_is_imported_is_no_broken_plug_in() -> None:
    with pytest.raises(SystemExit) as ended:
        imported("understudy.trainables.loops.offline", lambda: sys.exit(15))
    assert ended.value.code == 15


def test_a_plug_in_that_ends_the_process_is_one_line() -> None:
    with pytest.raises(UserError, match="plug-in mine cannot be imported: SystemExit: 3"):
        imported("mine", lambda: sys.exit(3))
