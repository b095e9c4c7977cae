"""The notebooks executed and stored with what came out: ``python -m tests.notebooks``, or ``make notebooks``.

A notebook's source is its ``.py``; the ``.ipynb`` beside it is made from that. Nothing in it changes from run
to run: cells are numbered, and no version, path or time is kept.
"""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat
from PIL import Image

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))

#: A cell whose text depends on how a processor rounds the sums of a convolution.
VARIES = "varies"

#: Of a stored figure, edges of letters included.
_COLOURS = 128

#: What a program that shows notebooks is told of the language, and no version.
LANGUAGE = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}


@contextmanager
def _own_kernel(folder: Path) -> Iterator[str]:
    """A kernel that is the running Python, whatever kernels the machine has, and finds this checkout. What it
    writes goes into ``folder``.
    """
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "the running Python",
        "language": "python",
        "env": {
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(folder),
        },
    }
    place = folder / "kernels" / "running"
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(json.dumps(spec))
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = str(folder)
    try:
        yield "running"
    finally:
        if before is None:
            del os.environ["JUPYTER_PATH"]
        else:
            os.environ["JUPYTER_PATH"] = before


def _smaller(picture: str) -> str:
    """A PNG in base64 with few colours: figures have no more, and a third of the bytes remains."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    written = io.BytesIO()
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(written, "png", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def executed(source: Path, folder: Path) -> Any:
    """The notebook of a ``.py``, run from its own folder, as it is stored. A failing cell raises with its
    traceback.
    """
    notebook = jupytext.read(source)
    with _own_kernel(folder) as kernel:
        nbclient.NotebookClient(
            notebook,
            timeout=1500,
            kernel_name=kernel,
            coalesce_streams=True,
            resources={"metadata": {"path": str(source.parent)}},
        ).execute()
    notebook.metadata.update(LANGUAGE)
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _smaller(output.data["image/png"])
    return notebook


def store(source: Path) -> None:
    """Execute a notebook and write its ``.ipynb``."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(source, Path(folder))
    nbformat.validate(notebook)
    nbformat.write(notebook, source.with_suffix(".ipynb"))


if __name__ == "__main__":
    for each in SOURCES:
        print(each.stem, flush=True)
        store(each)
