# %% [markdown]
# # Fine-tuning with the faults in the loop, export, proof and price
#
# Beyond its knee a network loses accuracy, and training on with the faults in the forward pass wins much of
# it back. This notebook does so at one $k$, writes the folder that a private inference runtime loads, reads
# it again as such a runtime would, holds a site against the garbled circuit, and prices the network. It takes
# less than a minute on one core; everything goes into a temporary folder.

# %%
import runpy
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pandas
from IPython.display import Image

from circa_train import (
    TruncatedSign,
    build_model,
    evaluate,
    export_network,
    fit_frac_bits,
    relu_sites,
    train,
    verify_network,
    with_stochastic_relus,
)
from circa_train.checkpoint import load_network
from circa_train.cost import cost_table, network_rows
from circa_train.data import Batches, load_data
from circa_train.export import check_export, open_export
from circa_train.plots import accuracy_vs_k, save_figure
from circa_train.training import TrainingSettings

folder = Path(tempfile.mkdtemp(prefix="circa_train_"))
command = "notebooks/03_finetune_and_export.py"

# %% [markdown]
# ## A trained network
#
# What `build_model` was called with goes into the checkpoints, so that `load_network` can build it again.

# %%
splits = load_data("digits")
normalisation = {"mean": splits.mean, "std": splits.std}
arguments = {
    "name": "resnet8",
    "width": 0.5,
    "num_classes": splits.num_classes,
    "image_size": splits.image_size,
    "in_channels": splits.channels,
}
settings = TrainingSettings(epochs=6, batch_size=32, learning_rate=0.1, seed=0)
trained = train(
    build_model(**arguments, seed=0),
    splits,
    settings,
    folder=folder / "trained",
    metadata={"model": arguments},
    progress=False,
)
sorted(file.name for file in (folder / "trained").iterdir())

# %% tags=["varies"]
model = load_network(trained.best_checkpoint)
exact = evaluate(model, splits.test, **normalisation)
images, _, _ = next(iter(Batches(splits.train, 256, **normalisation)))
fit = fit_frac_bits(model, [images])
print(f"{exact.mean:.1%} of the test images with exact ReLUs; {fit.frac_bits} fraction bits")

# %% [markdown]
# ## Training on
#
# The same loop that trains plain networks: every forward pass draws new faults, and the gradient passes where
# the gate was open. A converted network shares its weights with the one it was made from; here that one is
# read anew, so that both can be compared.

# %% tags=["varies"]
spec = TruncatedSign(k=20)
network = with_stochastic_relus(
    load_network(trained.best_checkpoint), spec, frac_bits=fit.frac_bits, seed=0, overflow="wrap"
)
settings = TrainingSettings(epochs=4, batch_size=32, learning_rate=0.02, weight_decay=1e-4, seed=0)
tuned = train(
    network,
    splits,
    settings,
    folder=folder / "tuned",
    metadata={"model": arguments},
    progress=False,
)
print(f"best on the validation images after epoch {tuned.best_epoch} of {tuned.epochs}")

# %% [markdown]
# ## Before and after
#
# The exact accuracy of the network as it was is the dashed line. Smaller $k$ are looked at, too: trained far
# beyond its knee, a network may have become another one, which needs the faults it was trained with.

# %%
rows = []
for name, result in (("trained", trained), ("tuned", tuned)):
    plain = load_network(result.best_checkpoint)
    for k in (18, 19, 20, 21, 22):
        network = with_stochastic_relus(
            plain, TruncatedSign(k=k), frac_bits=fit.frac_bits, seed=0, overflow="wrap"
        )
        found = evaluate(network, splits.test, draws=3, **normalisation)
        rows.append(
            {
                "model": "resnet8",
                "data": splits.name,
                "split": "test",
                "checkpoint": name,
                "finetuned": name == "tuned",
                "trained_k": spec.k if name == "tuned" else None,
                "fault": spec.kind,
                "mode": spec.mode,
                "k": k,
                "prime": spec.prime,
                "frac_bits": fit.frac_bits,
                "accuracy": found.mean,
                "accuracy_low": found.interval[0],
                "accuracy_high": found.interval[1],
                "draws": len(found.accuracies),
                "images": found.images,
                "baseline_accuracy": exact.mean,
            }
        )

# %% tags=["varies"]
table = pandas.DataFrame(rows).pivot(index="k", columns="checkpoint", values="accuracy")
table.map("{:.1%}".format)

# %% tags=["varies"]
both = accuracy_vs_k(rows)
Image(filename=save_figure(both, folder / "accuracy_vs_k", command=command, formats=["png"])[0], width=760)

# %% [markdown]
# ## Export
#
# BatchNorm is folded, weights and biases become integers, every layer is compared with the given network, and
# the folder carries test vectors and a reader of its own.

# %%
network = with_stochastic_relus(
    load_network(tuned.best_checkpoint), spec, frac_bits=fit.frac_bits, seed=0, overflow="wrap"
).eval()
digest = export_network(
    network,
    folder / "export",
    splits.train,
    class_names=splits.class_names,
    name=splits.name,
    frac_bits=fit.frac_bits,
    vectors=4,
    **normalisation,
)
sorted(file.name for file in (folder / "export").iterdir())

# %% [markdown]
# ## Reading it again
#
# `open_export` checks every file against its digest and infers the shapes anew; `check_export` recomputes the
# test vectors. What comes out is exactly what two parties compute modulo $p$, and is evaluated like any other
# network.

# %%
export = open_export(folder / "export", digest=digest)
check_export(export)
pandas.DataFrame(
    [(at["name"], at["kind"], at["shape"]) for at in export.manifest["layers"]],
    columns=["layer", "kind", "shape"],
).head(8)

# %% tags=["varies"]
found = evaluate(export.network, splits.test, draws=3, **normalisation)
print(f"{found.mean:.1%} of the test images, by the integer network")

# %% [markdown]
# A runtime need not have `circa_train`: `reader.py` in the folder needs numpy alone. It reads the integers
# and knows one layer at a time; the masks are those that the test vectors were recorded with, and so the
# logits are the recorded ones, every integer of them.

# %%
reader = SimpleNamespace(**runpy.run_path(str(folder / "export" / "reader.py")))
manifest, tensors, vectors = reader.open_folder(folder / "export")
masks = reader.masks_of(manifest["layers"], tensors, vectors, "offset")
values = {}
for at in manifest["layers"]:
    inputs = [values[name] for name in at["inputs"]] or [vectors["inputs"]]
    values[at["name"]] = reader.compute(at, inputs, tensors, masks[at["name"]], manifest["prime"], "offset")
logits = values[manifest["output"]["layer"]]
logits.shape, bool((logits == vectors["logits.offset"]).all())

# %% [markdown]
# ## Against the garbled circuit
#
# The sign tests that the network makes at one site, on real activations and under the simulator's own masks,
# once more in four ways: what the network let through, the boolean circuit in the clear, the same circuit
# garbled and evaluated, and the shares that two parties end with. Each must equal the law, value by value.

# %%
(report,) = verify_network(network, images[:8], sites=["layer2.0.relu1"], samples=2048, seed=0)
print(f"{report.site}: {report.values} sign tests, mismatches: {report.mismatches}")

# %% [markdown]
# ## The price
#
# What all ReLUs of the network cost per image: (a) the ReLU that circuits compute in full, (b) its sign
# alone, (c) Circa's stochastic sign, (d) the same without $k$ bits. The columns count bytes in four ways,
# which `docs/costs.md` explains; seconds would be measured on the machine, and are left out here.

# %%
sites = relu_sites(network, (splits.channels, splits.image_size, splits.image_size))
print(cost_table(network_rows({"resnet8": sites}, spec)))
