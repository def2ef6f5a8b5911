"""The benchmark: what OEU costs on top of what it needs, as ratios of times measured by turns in one run.

Machines are noisy, so nothing here is a test. Every figure names its goal, and says whether this machine reached it.
"""

import os
import time

import numpy as np
import torch

from .. import boundary, locks
from ..lab.engine import progress_bar
from ..report import results
from ..report.figures import STYLES, clean, new_figure, picture, written
from .machine import Machine
from .parts import projection_figures, quantizer_figures, reference_figure, start_figures, training_figure
from .peers import peer_figures
from .steps import memory_figure, scaling_figure_rows, step_figures

FIGURES = {
    "step": step_figures,
    "projection": projection_figures,
    "memory": memory_figure,
    "quantizer": quantizer_figures,
    "training": training_figure,
    "scaling": scaling_figure_rows,
    "reference": reference_figure,
    "start": start_figures,
}


def bench(out, device="cpu", only=None, quick=False, progress=True, peers=False):
    """Measure all figures, or some, and write OUT/bench.json, OUT/bench.md and OUT/bench_scaling.png.

    out: a folder, made if it is missing; device: "cpu" or "cuda"; only: names among FIGURES, None: all; quick: tiny
    sizes and few rounds, to see that everything works: the figures mean nothing; progress: show a bar on stderr; peers:
    other people's code as well, what of it is installed.
    Returns {"table": str, "json": Path, "markdown": Path}.
    Raises ValueError for an unknown name, or a folder that cannot be written to.
    """
    names = [boundary.one_of("only", name, tuple(FIGURES)) for name in (FIGURES if only is None else only)]
    out = results.output_directory("out", out)
    figures = {name: FIGURES[name] for name in names} | ({"peers": peer_figures} if peers else {})
    rows = []
    curves = {}
    with locks.alone(out), progress_bar(len(figures), progress, "figures") as bar:
        for name, measured in figures.items():
            bar.set_description(name)
            found = measured(Machine(device, quick))
            if name == "scaling":
                curves, found = found
            rows += found
            bar.update()
    data = results.plain(
        {
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "versions": results.versions(),
            "date": time.strftime("%Y-%m-%d"),
            "load": os.getloadavg(),
            "quick": quick,
            "rows": rows,
            "scaling": curves,
        }
    )
    found = written(out, "bench", data, markdown(data))
    if curves:
        picture(out / "bench_scaling.png", scaling_figure, curves)
    return found


def markdown(data):
    """The table of a bench.json, with machine, versions and date below: a string."""
    rows = [["figure", "measured", "quartiles", "goal", "reached"]]
    for found in data["rows"]:
        low, high = found["quartiles"]
        unit = f" {found['unit']}" if found["unit"] not in ("ratio", "") else ""
        bound = "≤" if found["goal_is"] == "at most" else "≥"
        goal = "–" if found["goal"] is None else f"{bound} {found['goal']:g}{unit}"
        reached = {None: "–", True: "yes", False: "no"}[found["reached"]]
        rows.append([found["figure"], f"{found['value']:.2f}{unit}", f"{low:.2f} to {high:.2f}", goal, reached])
    versions = data["versions"]
    where = data["device"] if data["device"] != "cpu" else f"CPU, {data['threads']} threads"
    about = (
        f"{where}; torch {versions['torch']}, NumPy {versions['numpy']}, Python {versions['python']}; {data['date']}; "
        f"processes at work in the last minutes: {data['load'][2]:.1f}."
    )
    quick = " Tiny sizes, to see that it works: the figures mean nothing." if data["quick"] else ""
    return f"{results.aligned(rows)}\n\n{about}{quick}"


def scaling_figure(curves):
    """Step time against the size of the work, both logarithmic, with a line of slope 1 through the last point."""
    figure = new_figure(9.5, 3.2)
    for ax, (what, points) in zip(figure.subplots(1, len(curves)), curves.items()):
        sizes, seconds, plain = np.array(points).T
        ax.loglog(sizes, 1e3 * seconds, marker="o", color=STYLES["oeu"]["color"], label="OEU step")
        ax.loglog(sizes, 1e3 * plain, marker="s", linestyle="--", color="0.55", label="two plain passes")
        ax.loglog(sizes, 1e3 * seconds[-1] * sizes / sizes[-1], linestyle=":", color=STYLES["retrain"]["color"])
        ax.legend(frameon=False, fontsize="small")
        ax.set_xlabel(f"{what} (dotted: linear)")
        ax.set_ylabel("time of a step (ms)")
        clean(ax, "", grid="both")
    return figure
