"""Runs that are killed at any moment, or interrupted, go on to the same bits; their workers end with them."""

import concurrent.futures
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from oeu_ref import files
from oeu_ref.data import archives
from oeu_ref.lab import cells, jobs
from oeu_ref.lab.cells import Cell, Runner, run_cell

from ..test_experiments import SETTINGS, TINY
from . import kills, runs

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and forks are POSIX's")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return {"data_root": str(runs.make_data(tmp_path_factory.mktemp("data"))), "cache_dir": None, "download": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which the run that nobody disturbs is made once."""
    return tmp_path_factory.mktemp("runs")


def test_a_table_killed_anywhere_also_while_writing_ends_with_the_same_bits(place):
    """As the table of figures has it of 24 kills of one seed; seeds that differ from call to call."""
    seed = int.from_bytes(os.urandom(2), "little")
    found = kills.killed(place, 6, seed)
    assert found["kills"] >= 6 and found["in_writes"] >= 2
    assert found["differences"] == [], f"seed {seed}"


def test_workers_end_with_their_killed_parent_and_the_run_goes_on(place):
    found = kills.killed_with_workers(place, 1)
    assert found["kills"] == 1 and found["differences"] == []
    assert max(found["seconds"]) < 20


def test_the_comparison_sees_a_flipped_weight_a_changed_figure_a_missing_and_a_leftover_file(tmp_path):
    """The control of every test above: what `differences` is for."""
    data = runs.make_data(tmp_path / "data")
    for name in ("a", "b"):
        runs.finish(runs.table(data, tmp_path / name, methods="ft"), tmp_path / "log.txt")
    assert runs.differences(tmp_path / "a", tmp_path / "b") == []
    (kept,) = (tmp_path / "b" / "seed-1").glob("ft*.pt")
    checkpoint = cells.Checkpoint(kept, cells.read(kept)["identity"])
    checkpoint.notes, state = cells.read(kept)["notes"], cells.read(kept)["state"]
    weight = state["model"]["network.fc.bias"]
    weight[0] = -weight[0] if weight[0] else 1e-45
    checkpoint.save(**state)
    path = tmp_path / "b" / "seed-1" / "original.json"
    path.write_text(path.read_text().replace('"FA": ', '"FA": 1'))
    (tmp_path / "b" / "seed-1" / "retrain.json").unlink()
    (tmp_path / "b" / "seed-1" / f".x{files.HALF}").touch()
    assert runs.differences(tmp_path / "a", tmp_path / "b") == [
        f"seed-1/.x{files.HALF}: in one folder alone",
        "seed-1/retrain.json: in one folder alone",
        f"seed-1/.x{files.HALF}: left over",
        f"seed-1/{kept.name}: other contents",
        "seed-1/original.json: other contents",
    ]


@pytest.mark.parametrize("point", runs.POINTS)
def test_a_write_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path, point):
    """Each point of a write in turn: what is there afterwards is whole, and what is left over is cleared away."""
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    program = (
        "import pathlib, sys\nfrom oeu_ref import files\nfrom tests.reliability import runs\n"
        "runs.die_at(sys.argv[1], 1)\nfiles.write_json(sys.argv[2], {'new': list(range(1000))})\n"
        "pathlib.Path(sys.argv[2]).unlink()"
    )
    ended = subprocess.run([sys.executable, "-c", program, point, str(path)], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    expected = {"after a removal": None, "half written": "old", "before a rename": "old"}.get(point, "new")
    assert path.exists() == (expected is not None)
    assert expected is None or f'"{expected}"' in path.read_text()
    leftovers = {p.name for p in tmp_path.iterdir()} - {"a.json"}
    assert len(leftovers) == (expected == "old")
    other = tmp_path / ".somebody-elses.tmp"
    other.touch()
    files.clear_halves(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} - {"a.json"} == {other.name}


# Ctrl-C. Latency is 0.3 seconds or so on a quiet machine; a busy one gets more time here, `figures` says how long.


def tidy(found):
    return found["code"] == 130 and len(found["lines"]) == 1 and found["lines"][0].endswith(": interrupted")


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_is_one_line_and_the_run_goes_on(place, jobs):
    found = kills.interrupted(place, jobs)
    assert tidy(found) and found["lines"] == ["oeu_ref table: interrupted"]
    assert found["differences"] == []
    assert found["seconds"] < 10


def test_ctrl_c_twice_is_one_line_as_well(place):
    found = kills.interrupted(place, 2, twice=True)
    assert tidy(found) and found["differences"] == []


def test_ctrl_c_while_workers_are_still_starting_is_one_line(place):
    """A terminal sends it to them as well: they must not answer with tracebacks."""
    found = kills.interrupted_at_start(place, after=0.8)
    assert tidy(found) and found["seconds"] < 20


def test_ctrl_c_in_the_demo_leaves_no_file(tmp_path):
    found = kills.interrupted_demo(tmp_path)
    assert tidy(found) and found["files"] == []


# What a kill between two steps leaves


@pytest.fixture
def broken_pool(monkeypatch):
    """In place of the real pool one whose workers have been ended; returns the signals blocked while each started."""
    blocked = []

    class Pool(concurrent.futures.ThreadPoolExecutor):
        def __init__(self, jobs, context, initializer):
            super().__init__(jobs)

        def submit(self, *arguments):
            blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
            future = concurrent.futures.Future()
            future.set_exception(concurrent.futures.process.BrokenProcessPool("a child process terminated abruptly"))
            return future

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Pool)
    return blocked


def test_a_worker_that_is_ended_from_outside_is_one_error(tmp_path, source, broken_pool):
    """As the system does where memory runs out: a ChildProcessError, which the command line shows as one line."""
    with pytest.raises(ChildProcessError, match="ended from outside.*goes on where it was"):
        jobs.run_cells(Runner(tmp_path, source, jobs=2, progress=False), TINY, [Cell(1, "retrain")])


def test_processes_are_started_such_that_ctrl_c_never_reaches_them(tmp_path, source, broken_pool):
    """Signals that are blocked stay so in a child, from its first instruction on; here they are free again after."""
    with pytest.raises(ChildProcessError):
        jobs.run_cells(Runner(tmp_path, source, jobs=2, progress=False), TINY, [Cell(1, "retrain")])
    assert broken_pool and all(signal.SIGINT in signals for signals in broken_pool)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(KeyboardInterrupt), jobs._without_interrupts():
        signal.raise_signal(signal.SIGINT)
        waited = True
    assert waited


def test_only_our_own_processes_are_ended(tmp_path, source, monkeypatch):
    """A child that the calling program has started goes on."""
    import multiprocessing

    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    child.start()
    (tmp_path / "seed-1").mkdir()
    (tmp_path / "seed-1" / "original.json").write_text("{")
    with pytest.raises(ValueError, match="must be a JSON file"):
        jobs.run_cells(Runner(tmp_path, source, jobs=2, progress=False), TINY, [Cell(1, "original")])
    assert child.is_alive()
    child.kill()
    child.join()


def test_remains_of_a_run_that_was_killed_after_its_last_file_are_removed(tmp_path, source, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cells.Checkpoint, "discard", lambda self: None)
        run_cell(Runner(tmp_path, source), TINY, Cell(1, "original"))
    assert (tmp_path / "seed-1" / "original.partial.pt").is_file()
    run_cell(Runner(tmp_path, source), TINY, Cell(1, "original"))
    assert not (tmp_path / "seed-1" / "original.partial.pt").exists()


def test_an_original_model_that_is_missing_is_made_again(tmp_path, source):
    first = run_cell(Runner(tmp_path, source), TINY, Cell(1, "original"))
    (tmp_path / "seed-1" / "original.pt").unlink()
    again = run_cell(Runner(tmp_path, source), TINY, Cell(1, "original"))
    assert (tmp_path / "seed-1" / "original.pt").is_file()
    assert runs.without_times(again) == runs.without_times(first)


@pytest.mark.parametrize(
    "changes, difference",
    [
        ({"epochs": 2}, "experiment.epochs is 3, expected 2"),
        ({"weight_bits": 3}, "experiment.weight_bits is 4, expected 3"),
        ({"test_size": 30}, "experiment.test_size is None, expected 30"),
    ],
)
def test_a_finished_cell_of_another_experiment_is_refused_not_taken_for_this_one_s(
    tmp_path, source, changes, difference
):
    """Else a second table in the same folder would show the first one's figures under its own name."""
    first = run_cell(Runner(tmp_path, source), TINY, Cell(1, "retrain"))
    with pytest.raises(ValueError, match=f"retrain.json must be of this plan.*{difference}.*--redo"):
        run_cell(Runner(tmp_path, source), dataclasses.replace(TINY, **changes), Cell(1, "retrain"))
    assert run_cell(Runner(tmp_path, source), TINY, Cell(1, "retrain")) == first


def test_a_finished_cell_of_other_data_is_refused(tmp_path, source):
    run_cell(Runner(tmp_path, source), TINY, Cell(1, "retrain"))
    arrays = dict(np.load(pathlib.Path(source["data_root"]) / "tiny.npz", allow_pickle=False))
    arrays["x_test"][0, 0, 0, 0] ^= 1
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "tiny.npz", **arrays)
    with pytest.raises(ValueError, match="retrain.json must be of this plan.*data is '"):
        run_cell(Runner(tmp_path, {**source, "data_root": str(tmp_path / "data")}), TINY, Cell(1, "retrain"))


def test_a_finished_cell_of_another_forget_file_s_contents_is_refused(tmp_path, source):
    """The file's name is the same; what is in it has changed. So it is for a run that was interrupted."""
    path = tmp_path / "forget.txt"
    path.write_text("\n".join(map(str, range(40))))
    some = dataclasses.replace(TINY, forget_ratio=None, forget_file=str(path))
    run_cell(Runner(tmp_path, source), some, Cell(1, "original"))
    run_cell(Runner(tmp_path, source), some, Cell(1, "original"))
    path.write_text("\n".join(map(str, range(41))))
    with pytest.raises(ValueError, match="original.json must be of this plan.*forget is '"):
        run_cell(Runner(tmp_path, source), some, Cell(1, "original"))
    with pytest.raises(ValueError, match="original.pt must be a checkpoint of this run.*forget is '"):
        run_cell(Runner(tmp_path, source), some, Cell(1, "ft", SETTINGS, 2))


def test_halves_in_other_folders_and_other_programs_files_are_left_alone(tmp_path, source):
    """An output folder may hold another run's folder, which is at work."""
    others = [tmp_path / "other" / "seed-1" / f".oeu.json.0{files.HALF}", tmp_path / "seed-1" / ".editor.tmp"]
    ours = tmp_path / "seed-1" / f".original.json.0{files.HALF}"
    for path in (*others, ours):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    jobs.run_cells(Runner(tmp_path, source, progress=False), TINY, [Cell(1, "original")])
    assert [path.exists() for path in (*others, ours)] == [True, True, False]


# Downloads


def test_an_archive_is_unpacked_whole_or_not_at_all(tmp_path, monkeypatch):
    """Killed while unpacking, there is no folder that looks like the data set; the next run unpacks it anew."""
    import shutil
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("data/one", "data/two"):
            file.writestr(name, name)
    copy, copied = shutil.copyfileobj, []

    def stop(member, target):
        copied.append(1)
        if len(copied) == 2:
            raise KeyboardInterrupt
        copy(member, target)

    monkeypatch.setattr(shutil, "rmtree", lambda *args, **options: None)  # nothing is tidied up after SIGKILL
    monkeypatch.setattr(shutil, "copyfileobj", stop)
    with pytest.raises(KeyboardInterrupt):
        archives.unpack(tmp_path / "a.zip", tmp_path, "data")
    assert not (tmp_path / "data").exists() and (tmp_path / archives.WORKPLACE / "data" / "one").is_file()
    monkeypatch.undo()
    archives.unpack(tmp_path / "a.zip", tmp_path, "data")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["one", "two"]
    assert not (tmp_path / archives.WORKPLACE).exists()


def test_a_download_appears_when_it_is_whole(tmp_path, monkeypatch):
    def fetch(url, folder, name, md5):
        (pathlib.Path(folder) / name).write_bytes(b"half")
        raise OSError("connection reset")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    with pytest.raises(ValueError, match="could not be downloaded .connection reset."):
        archives.fetch("http://nowhere/a.zip", tmp_path, "a.zip", 32 * "0")
    assert not list(tmp_path.iterdir())
