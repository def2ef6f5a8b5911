"""Pictures do not depend on the settings of who draws them, and never cost a run its tables."""

import os
import pathlib
import subprocess
import sys

import matplotlib
import pytest

import oeu_ref
from oeu_ref.lab import demo
from oeu_ref.methods.by_name import METHODS
from oeu_ref.report import figures, report_figures

LAB = pathlib.Path(oeu_ref.__file__).parent / "lab"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The picture of the package's demo.json, bytes."""
    return demo.redraw(LAB / "demo.json", tmp_path_factory.mktemp("drawn") / "demo.png").read_bytes()


def test_settings_of_who_draws_are_left_aside_and_left_alone(drawn, tmp_path):
    """Sizes, colours and TeX of the user's own do not change a byte, and are still theirs afterwards."""
    theirs = {"font.size": 20, "axes.facecolor": "red", "text.usetex": True, "savefig.dpi": 30, "backend": "svg"}
    with matplotlib.rc_context(theirs):
        assert demo.redraw(LAB / "demo.json", tmp_path / "demo.png").read_bytes() == drawn
        assert all(matplotlib.rcParams[name] == value for name, value in theirs.items())


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        (
            {"MPLBACKEND": "nonsense", "MPLCONFIGDIR": "matplotlibrc"},
            b"no rc: : at all\ntext.usetex: True\nfont.size: 20\n",
        ),
        ({"MPLBACKEND": "TkAgg", "DISPLAY": "", "HOME": "/nowhere"}, b"# r\xe9glages, in latin-1\nfont.size: 20\n"),
    ],
    ids=["nonsense", "another encoding"],
)
@pytest.mark.reliability
def test_what_stands_on_the_machine_changes_nothing(environment, settings, drawn, tmp_path):
    """A backend, a matplotlibrc in the current folder, a home that cannot be written to: the same bytes."""
    (tmp_path / "matplotlibrc").write_bytes(settings)
    program = f"from oeu_ref.lab import demo; demo.redraw({str(LAB / 'demo.json')!r}, 'demo.png')"
    environment = os.environ | {"PYTHONPATH": str(LAB.parents[1])} | environment
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "demo.png").read_bytes() == drawn


def test_a_picture_that_fails_is_a_warning(tmp_path):
    """What was measured is written all the same, and what is missing is named with its reason."""
    with pytest.warns(UserWarning, match=r"shown\.png was not drawn anew.*KeyError: 'missing'"):
        written = figures.written(tmp_path, "shown", {}, "table", lambda data: data["missing"])
    assert written["picture"] is None and written["markdown"].read_text() == "table\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shown.json", "shown.md"]


def test_a_picture_without_anything_to_show_is_none(tmp_path):
    assert figures.picture(tmp_path / "nothing.png", lambda: None) is None
    assert not list(tmp_path.iterdir())


def test_every_method_has_a_line_of_its_own():
    """Also in grey: no two methods share line and marker."""
    looks = [(style["linestyle"], style["marker"]) for style in report_figures.LINES.values()]
    assert list(report_figures.LINES) == list(METHODS) and len(set(looks)) == len(looks)
