# %% [markdown]
# # Accuracy against truncation, from a sweep's table
#
# Give the folder of a sweep (or of several) in `runs`. With `runs = None` the notebook makes a small sweep
# first: a narrow ResNet-8 on the handwritten digits that come with scikit-learn, in a temporary folder, in
# about half a minute.

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

from IPython.display import Image

from circa_train.plots import accuracy_vs_bytes, accuracy_vs_k, save_figure, site_fault_rates, site_heat_map
from circa_train.runs.table import collect, select, site_rows, to_dataframe
from circa_train.runs.text import describe_collection

# %% tags=["parameters"]
runs = None  # for example ["runs/sweeps/truncation"]
where = {}  # for example {"model": "resnet32"}
tolerance = 0.01

# %%
scripts = next(folder for folder in (Path("scripts"), Path("../scripts")) if folder.is_dir())
figures = Path(tempfile.mkdtemp(prefix="circa_train_"))
command = "notebooks/02_accuracy_vs_truncation.py"

# %%
if runs is None:
    shared = [f"run.root={figures / 'runs'}", "run.device=cpu", "run.progress=false"]
    train = [sys.executable, scripts / "train.py", "model.width=0.5", "epochs=6", "batch_size=32"]
    subprocess.run([*train, *shared], check=True, stdout=subprocess.DEVNULL)
    (checkpoint,) = (figures / "runs" / "train").glob("*/best.pt")
    sweep = [
        "fault=poszero,negpass",
        "fault.k=16,19,20,21,22",
        "draws.count=3",
        "data.limit=150",
        "sites=true",
    ]
    evaluate = [sys.executable, scripts / "evaluate.py", "-m", f"checkpoint={checkpoint}"]
    subprocess.run([*evaluate, *sweep, *shared], check=True, stdout=subprocess.DEVNULL)
    runs = [figures / "runs" / "sweeps"]

# %%
found = collect(*runs)
print(describe_collection(found))
rows = select(found.rows, where)
table = to_dataframe(rows)
table[
    [
        "model",
        "data",
        "mode",
        "k",
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "baseline_accuracy",
        "and_gates",
    ]
]

# %% [markdown]
# ## Where is the knee?
#
# Bands are 95% intervals over fault draws, the dashed line is the same network with exact ReLUs, and the star
# marks the largest $k$ that loses no more than `tolerance`.

# %%
knee = accuracy_vs_k(rows, tolerance=tolerance)
Image(filename=save_figure(knee, figures / "accuracy_vs_k", command=command, formats=["png"])[0])

# %% [markdown]
# ## What does it save?
#
# Every bit dropped is one AND gate less in every ReLU, and 32 bytes of garbled tables.

# %%
price = accuracy_vs_bytes(rows)
Image(filename=save_figure(price, figures / "accuracy_vs_bytes", command=command, formats=["png"])[0])

# %% [markdown]
# ## Which site suffers?
#
# Fault rates by site and $k$, and for one evaluation the faults that were drawn beside those that the exact
# law expects of the same activations. (Evaluate with `sites=true` to have these.)

# %%
sites = site_rows(found)
heat = site_heat_map([row for row in sites if row["mode"] == "poszero"])
Image(filename=save_figure(heat, figures / "site_heat_map", command=command, formats=["png"])[0])

# %%
run = max((row for row in sites if row["mode"] == "poszero"), key=lambda row: (row["accuracy"], row["k"]))[
    "run"
]
rates = site_fault_rates([row for row in sites if row["run"] == run])
Image(filename=save_figure(rates, figures / "site_fault_rates", command=command, formats=["png"])[0])
