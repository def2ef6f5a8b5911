"""What a process holds after many steps is what it held after a few; several processes share folders without harm."""

import contextvars
import errno
import os
import threading

import pytest
import torch

from oeu_ref import locks

from . import crowds, figures, long_runs

MIB = 2**20


def assert_nothing_grows(measure):
    found = long_runs.lasting(measure, figures.SLACK)
    assert found["tensors"] == 0
    assert found["handles"] in (0, None)
    assert (found["memory"] or 0) < figures.SLACK


def test_a_thousand_steps_hold_what_ten_held():
    assert_nothing_grows(lambda: long_runs.steps(10, 1000))


@pytest.mark.parametrize(
    ("memory", "tensors", "expected"),
    [([6, 0], [0, 0], (0, 0)), ([6, 6, 6], [0, 0, 0], (6, 0)), ([6, 0], [1, 0], (0, 1)), ([0], [2], (0, 2))],
    ids=["once", "each time", "a tensor once", "a tensor at once"],
)
def test_what_grows_once_is_no_leak_and_what_grows_each_time_is(memory, tensors, expected):
    found = iter([{"memory": m, "tensors": t, "handles": None} for m, t in zip(memory, tensors)])
    kept = long_runs.lasting(lambda: next(found), 4)
    assert (kept["memory"], kept["tensors"]) == expected and kept["handles"] is None
    assert next(found, None) is None


def test_a_kept_graph_is_seen():
    """The control: 200 losses whose graphs are kept."""
    found = long_runs.steps(10, 210, leak=[])
    assert found["tensors"] >= 200


def test_epochs_and_their_checkpoints_leave_nothing(tmp_path):
    assert_nothing_grows(lambda: long_runs.epochs(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["long.pt"]


def test_checkpoints_leave_no_tensor_and_no_open_file(tmp_path):
    assert_nothing_grows(lambda: long_runs.checkpoints(tmp_path, 10, 100))


def test_open_files_and_memory_are_counted(tmp_path):
    """The control: files and 64 MiB a call that are kept, four of each."""
    kept = []

    def work(i):
        # above 32 MiB memory comes from the system: smaller pieces may be what earlier tests have left to the allocator
        kept.append((open(tmp_path / str(i), "w"), torch.ones(16 * MIB)))

    found = long_runs.growth(work, 1, 5)
    for file, _ in kept:
        file.close()
    assert found["tensors"] == 4
    assert found["handles"] in (4, None)
    assert found["memory"] is None or 250 * MIB < found["memory"] < 262 * MIB


def test_the_stop_rule_s_history_grows_by_a_pair_of_numbers():
    assert long_runs.history(100) < 500


# Several processes in one place


def test_a_second_run_in_the_same_folder_is_one_error(tmp_path):
    found = crowds.second_runs(tmp_path)
    assert {command: verdict for command, verdict in found.items() if verdict != "refused"} == {}


def test_two_runs_at_one_moment_are_one_run_and_one_error(tmp_path):
    found = crowds.at_once(tmp_path)
    assert found == {"codes": [0, 2], "differences": []}


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    assert crowds.lock_of_a_killed_process(tmp_path) < 5


def test_processes_that_fill_one_cache_see_the_same_data(tmp_path):
    assert crowds.one_cache(tmp_path, 3) == {"digests": 1, "cached": True, "left": []}


def enter(folder):
    with locks.alone(folder):
        pass


def test_a_folder_is_held_by_one_and_entered_again_by_the_same(tmp_path):
    with locks.alone(tmp_path), locks.alone(tmp_path / ".." / tmp_path.name):
        with pytest.raises(ValueError, match="out must be a folder of this run's own, another run is at work in"):
            contextvars.Context().run(enter, tmp_path)
        with locks.alone(tmp_path, work="other"), locks.alone(tmp_path / "inner"):
            pass
    contextvars.Context().run(enter, tmp_path)


def test_who_waits_goes_on_when_the_other_is_done(tmp_path):
    seen = []

    def work():
        with locks.alone(tmp_path, busy="wait"):
            seen.append("second")

    with locks.alone(tmp_path):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(0.2)
        seen.append("first")
    thread.join(10)
    assert seen == ["first", "second"]


@pytest.mark.parametrize("word", ["no", True])
def test_busy_is_a_word(tmp_path, word):
    with pytest.raises(ValueError, match="busy must be one of 'refuse', 'wait'"), locks.alone(tmp_path, busy=word):
        pass


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="out_dir must be a directory that can be written to, got .*file"):
        locks.alone(tmp_path / "file", "out_dir").__enter__()


def test_a_file_system_without_locks_still_keeps_runs_of_one_machine_apart(tmp_path, monkeypatch):
    """As on some network file systems: every lock in that folder fails; a warning says what is not noticed."""
    fcntl = pytest.importorskip("fcntl", reason="Windows' file systems have locks")
    flock = fcntl.flock
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path.parent))

    def without_locks(file, how):
        if os.fstat(file).st_ino == (tmp_path / ".lock").stat().st_ino:
            raise OSError(errno.ENOLCK, "No locks available")
        return flock(file, how)

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with pytest.warns(UserWarning, match="has no locks: a run of another machine"), locks.alone(tmp_path):
        with pytest.raises(ValueError, match="another run is at work in"):
            contextvars.Context().run(enter, tmp_path)
    with pytest.warns(UserWarning), locks.alone(tmp_path):
        pass
