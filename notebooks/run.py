"""Run the notebooks from top to bottom and save them with their outputs:  python notebooks/run.py [NAME …]"""

import pathlib
import sys

import nbformat
from nbclient import NotebookClient

HERE = pathlib.Path(__file__).parent


def executed(path):
    """The notebook at `path`, run in a fresh kernel started at the project's root: a notebook with its outputs.

    Raises `nbclient.exceptions.CellExecutionError` for the first cell that fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": HERE.parent}}, record_timing=False)
    return client.execute()


def numbers(notebook):
    """What the notebook printed, cell by cell: a list of strings, without the pictures."""
    return [
        "".join(output.get("text", "") for output in cell.outputs if output.output_type == "stream")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


if __name__ == "__main__":
    names = sys.argv[1:] or [path.stem for path in sorted(HERE.glob("*.ipynb"))]
    for name in names:
        (path,) = HERE.glob(f"{pathlib.Path(name).stem}*.ipynb")
        nbformat.write(executed(path), path)
        print(f"{path}  {path.stat().st_size / 1e3:.0f} kB")
