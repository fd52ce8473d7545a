"""Signals become a notice in a run's folder; a second Ctrl-C ends the block at once."""

from __future__ import annotations

import os
import shlex
import signal
import threading

import pytest

from understudy.errors import Interrupted, Preempted
from understudy.runs.stop import Notice, noted_signals, on_signals, stopped


@pytest.mark.parametrize(
    ("number", "kind", "code", "said"),
    [(signal.SIGTERM, Preempted, 143, "stopped by SIGTERM"), (signal.SIGINT, Interrupted, 130, "interrupted")],
)
def test_a_signal_becomes_a_notice_that_says_which_one_it_was(tmp_path, number, kind, code, said) -> None:
    with on_signals(tmp_path):
        assert not Notice(tmp_path).given()
        os.kill(os.getpid(), number)
        notice = Notice(tmp_path)
        assert notice.given()
        error = notice.error(7)
    assert type(error) is kind
    assert error.exit_code == code
    assert str(error) == f"{said} at step 7; `understudy resume {tmp_path}` goes on"
    assert not stopped(tmp_path)


def test_the_command_that_goes_on_can_be_typed_whatever_the_folder_is_called(tmp_path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    with on_signals(folder):
        os.kill(os.getpid(), signal.SIGTERM)
        said = str(Notice(folder).error(7))
    assert shlex.split(said.split("`")[1]) == ["understudy", "resume", str(folder)]


def test_the_trials_of_a_sweep_see_the_sweeps_notice(tmp_path) -> None:
    trial = tmp_path / "trials" / "0003"
    trial.mkdir(parents=True)
    with on_signals(tmp_path):
        os.kill(os.getpid(), signal.SIGINT)
        assert Notice(trial).given()
        assert isinstance(Notice(trial).error(1), Interrupted)


def test_a_second_ctrl_c_ends_the_block_at_once_and_names_the_folder(tmp_path) -> None:
    ended = []
    with (
        pytest.raises(Interrupted, match=f"ended at once; `understudy resume {tmp_path}` goes on"),
        on_signals(tmp_path),
    ):
        os.kill(os.getpid(), signal.SIGINT)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
        except KeyboardInterrupt:
            ended.append(True)
            raise
    assert ended == [True]
    assert not stopped(tmp_path)


def test_a_second_sigterm_lets_the_first_one_take_its_course(tmp_path) -> None:
    with on_signals(tmp_path):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped(tmp_path)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, Preempted), (signal.SIGINT, Interrupted)])
def test_a_block_that_cannot_end_by_itself_is_left_once_its_work_has_ended(tmp_path, number, kind) -> None:
    asked = []

    def ended() -> bool:
        asked.append(stopped(tmp_path))
        return len(asked) == 3

    with pytest.raises(kind), on_signals(tmp_path, ended):
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        except kind:
            raise RuntimeError("as compiled code makes of it") from None
    assert asked == [True, True, True]


def test_the_handlers_from_before_come_back_and_another_thread_changes_none(tmp_path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def elsewhere() -> None:
        with on_signals(tmp_path):
            assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    with on_signals(tmp_path):
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, Preempted), (signal.SIGINT, Interrupted)])
def test_work_that_is_best_ended_learns_of_a_signal_between_its_stages(number, kind) -> None:
    before = signal.getsignal(number)
    with pytest.raises(kind, match=r"; try again$"), noted_signals("try again") as poll:
        poll()
        os.kill(os.getpid(), number)
        assert signal.getsignal(number) != before  # what is being done is not broken off
        poll()
    assert signal.getsignal(number) == before
    with pytest.raises(KeyboardInterrupt), noted_signals("try again"):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
