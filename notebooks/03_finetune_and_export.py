# %% [markdown]
# # Fine-tuning with the faults in the loop, and export
#
# Beyond its knee a network loses accuracy, and training on with the faults in the forward pass wins much of
# it back. This notebook does so at one $k$, draws both curves, and writes the folder that a private inference
# runtime loads. Give a `checkpoint`; with `None` a narrow ResNet-8 is trained on the embedded digits first.
# Everything goes into a temporary folder unless `root` says otherwise, and takes about two minutes on two
# cores.

# %%
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from IPython.display import Image

from circa_train.export import open_export
from circa_train.plots import accuracy_vs_k, save_figure
from circa_train.runs.table import collect, to_dataframe

# %% tags=["parameters"]
checkpoint = None  # for example "runs/train/RUN/best.pt"
root = None  # for example "runs"
network = ["model=resnet8", "model.width=0.5", "data=digits"]  # the checkpoint's own
k = 21
data = ["data.limit=150"]  # of each split, for the evaluations; [] takes all images

# %%
scripts = next(folder for folder in (Path("scripts"), Path("../scripts")) if folder.is_dir())
root = Path(root or tempfile.mkdtemp(prefix="circa_train_"))
command = "notebooks/03_finetune_and_export.py"
quiet = {"check": True, "stdout": subprocess.DEVNULL}
shared = [f"run.root={root}", "run.device=cpu", "run.progress=false"]

# %%
if checkpoint is None:
    train = [sys.executable, scripts / "train.py", "epochs=6", "batch_size=32", "run.name=plain"]
    subprocess.run([*train, *network, *shared], **quiet)
    (checkpoint,) = (root / "train").glob("plain-*/best.pt")

# %% [markdown]
# ## Before

# %%
evaluate = [sys.executable, scripts / "evaluate.py", "-m", "draws.count=3", *data, *shared]
points = f"fault.k={k - 3},{k - 1},{k},{k + 1}"
subprocess.run([*evaluate, f"checkpoint={checkpoint}", "fault=poszero", points, "run.sweep=before"], **quiet)

# %% [markdown]
# ## Training on
#
# The same loop that trains plain networks: every forward pass draws new faults, and the gradient passes where
# the gate was open.

# %%
tune = [
    sys.executable,
    scripts / "train.py",
    f"checkpoint={checkpoint}",
    "fault=poszero",
    f"fault.k={k}",
    "optim=finetune",
]
subprocess.run([*tune, *network, "epochs=2", "batch_size=32", "run.name=tuned", *shared], **quiet)
(tuned,) = (root / "train").glob("tuned-*/best.pt")

# %% [markdown]
# ## After

# %%
subprocess.run([*evaluate, f"checkpoint={tuned}", "fault=poszero", points, "run.sweep=after"], **quiet)
rows = collect(root / "sweeps").rows
both = accuracy_vs_k(rows)
Image(filename=save_figure(both, root / "plots" / "accuracy_vs_k", command=command, formats=["png"])[0])

# %%
table = to_dataframe(rows).pivot(index="k", columns="finetuned", values="accuracy")
table.rename(columns={False: "as trained", True: f"fine-tuned at k = {k}"}).style.format("{:.1%}")

# %% [markdown]
# ## Export
#
# BatchNorm is folded, weights and biases become integers, and what comes out is checked: its accuracy is that
# of exactly this integer network with the protocol's arithmetic, and the folder carries test vectors and a
# reader of its own.

# %%
export = [
    sys.executable,
    scripts / "export.py",
    f"checkpoint={tuned}",
    "images=100",
    "run.name=tuned",
    *shared,
]
subprocess.run(export, **quiet)
(result,) = (root / "export").glob("tuned-*/result.json")
json.loads(result.read_text())["result"]["accuracy"]

# %%
bundle = open_export(result.parent / "export")
{file.name: file.stat().st_size for file in sorted(bundle.folder.iterdir())}
