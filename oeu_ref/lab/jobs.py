"""Making many cells: in the right order, side by side where there are several jobs, never one twice."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import math
import multiprocessing
import os
import pathlib
import signal
import threading
import time

import torch

from .. import boundary, distributed, files, locks
from ..data.requests import forgotten
from .cells import run_cell
from .engine import one_thread, progress_bar
from .options import DETERMINISM


def run_cells(runner, experiment, cells):
    """Make cells and what they start from: original models first, then everything that is ready.

    runner: `cells.Runner`; experiment: `Experiment` or `Digits`; cells: the `Cell`s wanted.
    Under `torchrun` all its processes make one cell together after the other, and jobs must be 1.
    Returns {cell: contents of its JSON file}, for the wanted cells and their originals.
    Raises what a cell raises; ValueError if another run is at work in the same folder; ChildProcessError if a process
    that it started was ended from outside.
    """
    jobs = boundary.integer("jobs", runner.jobs, 1)
    if jobs > 1 and distributed.size() > 1:
        raise ValueError(f"jobs must be 1 where {distributed.size()} processes work on each cell together, got {jobs}")
    progress = runner.progress and distributed.rank() == 0
    wanted = list(dict.fromkeys(cells))
    needed = list(dict.fromkeys([cell.original() for cell in wanted] + wanted))
    as_it_is = dataclasses.replace(runner, redo=False)  # for originals that nobody asked for
    runners = {cell: runner if cell in wanted else as_it_is for cell in needed}
    with _at_work(runner, {cell.path(runner.out).parent for cell in needed}):
        # before any process is started: what is wrong with the data or the splits is said once, and at once
        if distributed.rank() > 0:
            distributed.barrier()  # the first goes ahead: it may have to fetch what the others then find
        data = experiment.load(runner.source)
        if distributed.rank() == 0:
            distributed.barrier()
        sizes = experiment.split(data, wanted[0].seed)
        if progress and experiment.is_request:  # what it comes to is said before hours are spent
            print(forgotten(sizes.forget.labels, len(sizes.train), sizes.classes), flush=True)
        work = {cell: _images_of(cell, experiment, sizes) for cell in needed}
        done = {}
        with progress_bar(sum(work.values()), progress, "images") as bar:

            def runner_of(cell):
                bar.set_description(f"seed {cell.seed}: {cell.name}")
                return runners[cell]

            for cell, found in _made(runner_of, experiment, jobs, lambda done: needed, on_images=bar.update):
                done[cell] = found
                bar.update(sum(work[made] for made in done) - bar.n)
    return done


def run_planned(runner, experiment, plan, on_cell, minutes=math.inf):
    """Make cells in order of worth, one plan after the other, until there are no more or the time is over.

    runner, experiment: as in `run_cells`; plan: function of {cell: contents}, of what is there, that returns all cells
    wanted as far as that tells, the most worth first; a cell whose original model is not there yet waits for it;
    on_cell: called with {cell: contents} after each; minutes > 0: a budget. What is under way when it ends is ended,
    and its checkpoint is where the next call goes on.
    Returns ({cell: contents}, whether all is made).  Raises as `run_cells`.
    """
    deadline, done = time.monotonic() + 60 * minutes, {}
    with _at_work(runner, {path for path in pathlib.Path(runner.out).rglob("*") if path.is_dir()}):
        experiment.load(runner.source)
        jobs = boundary.integer("jobs", runner.jobs, 1)
        try:
            for cell, found in _made(lambda cell: runner, experiment, jobs, plan, deadline):
                done[cell] = found
                on_cell(done)
        except TimeoutError:
            return done, False
    return done, True


@contextlib.contextmanager
def _at_work(runner, folders):
    """The output folder for this run alone, without halves of files that a killed run was writing in these folders."""
    one = one_thread() if str(runner.device) == "cpu" and runner.jobs == 1 else contextlib.nullcontext()
    first = distributed.rank() == 0  # under `torchrun` it holds the lock for all
    alone = locks.alone(runner.out) if first else contextlib.nullcontext()
    with alone, deterministic(runner.device, runner.determinism), one:
        if first:
            for folder in {pathlib.Path(runner.out), *folders}:
                files.clear_halves(folder)
        yield


def _made(runner_of, experiment, jobs, plan, deadline=math.inf, on_images=lambda count: None):
    """(cell, contents) as they are finished.

    runner_of: function of a cell, called when it starts; plan: as in `run_planned`; on_images: called with the number
    of images read, where there is one job.  Raises TimeoutError when the time is over.
    """
    if jobs > 1:
        yield from _side_by_side(runner_of, experiment, jobs, plan, deadline)
        return
    done = {}

    def look(count):
        if time.monotonic() > deadline:
            raise TimeoutError
        on_images(count)

    while (cell := next((cell for cell in plan(done) if cell not in done), None)) is not None:
        look(0)
        done[cell] = run_cell(runner_of(cell), experiment, cell, look)
        yield cell, done[cell]


def _side_by_side(runner_of, experiment, jobs, plan, deadline):
    """As `_made`: a cell is started when its original model is there."""
    context = multiprocessing.get_context("spawn")
    done, running = {}, {}
    others = set(multiprocessing.active_children())
    executor = concurrent.futures.ProcessPoolExecutor(jobs, context, _start_worker)
    try:
        while True:
            waiting = [cell for cell in plan(done) if cell not in done and cell not in running.values()]
            ready = [cell for cell in waiting if cell.trains or cell.original() in done]
            for cell in ready[: jobs - len(running)]:
                with _without_interrupts():
                    running[executor.submit(_work, runner_of(cell), experiment, cell)] = cell
            if not running:
                break
            left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            finished, _ = concurrent.futures.wait(running, left, concurrent.futures.FIRST_COMPLETED)
            if not finished:
                raise TimeoutError
            for future in finished:
                cell = running.pop(future)
                done[cell] = future.result()
                yield cell, done[cell]
    except BaseException as error:
        # the others are ended, not waited for: what they did so far is in their checkpoints
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        if isinstance(error, concurrent.futures.process.BrokenProcessPool):
            raise ChildProcessError(
                "a process that made a cell was ended from outside, for want of memory perhaps: the same command goes "
                "on where it was, and with fewer --jobs it needs less memory"
            ) from None
        raise
    finally:
        executor.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _without_interrupts():
    """Ctrl-C waits until the end of this; processes that are started meanwhile never get it.

    A terminal sends it to all of them, and one that is still importing would answer with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker():
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who ends its workers
    parent = multiprocessing.parent_process()

    def end_with_parent():
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _work(runner, experiment, cell):
    with deterministic(runner.device, runner.determinism):
        return run_cell(runner, experiment, cell)


@contextlib.contextmanager
def deterministic(device, determinism="warn"):
    """Have CUDA compute the same bits each time; a CPU does so on one thread.

    determinism: "warn": an operation that has no deterministic variant is named in a warning, not the end of a
    night's run; "error": it is the end, so that what is finished is sure to repeat; "off": whatever is fastest.
    PyTorch promises this for one version on one kind of device, with as many threads; for nothing beyond.
    Raises ValueError for another word, and under "error" for such an operation.
    """
    boundary.one_of("determinism", determinism, DETERMINISM)
    if not str(device).startswith("cuda") or determinism == "off":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=determinism == "warn")
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise ValueError(
            f"determinism must be 'warn' or 'off' for this experiment: {str(error).splitlines()[0][:150]}"
        ) from None
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


def _images_of(cell, experiment, splits):
    """Images that the cell reads in training steps, for the progress bar."""
    if cell.trains:
        return experiment.training().epochs * len(splits.train if cell.name == "original" else splits.retain)
    return cell.steps * (experiment.forget_batch + experiment.retain_batch)
