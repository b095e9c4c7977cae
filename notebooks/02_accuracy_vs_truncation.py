# %% [markdown]
# # Accuracy against truncation
#
# How many bits may every sign test drop before a network notices, and does it help to give each channel a
# scale of its own? A narrow ResNet-8 is trained on the handwritten digits that come with scikit-learn; every
# ReLU then becomes a stochastic one, and the accuracy is measured over $k$ in both modes. It takes less than
# a minute on one core. Accuracies differ a little between processors, since a convolution rounds in an order
# of its own on each.

# %%
import tempfile
from pathlib import Path

import pandas
from IPython.display import Image

from circa_train import (
    TruncatedSign,
    build_model,
    evaluate,
    fit_frac_bits,
    fit_scales,
    relu_sites,
    train,
    with_stochastic_relus,
)
from circa_train.cost import network_cost
from circa_train.data import Batches, load_data
from circa_train.nn import expect, observe
from circa_train.plots import accuracy_vs_bytes, accuracy_vs_k, save_figure, site_fault_rates
from circa_train.training import TrainingSettings

folder = Path(tempfile.mkdtemp(prefix="circa_train_"))
command = "notebooks/02_accuracy_vs_truncation.py"

# %% [markdown]
# ## A network with exact ReLUs
#
# A data set is three splits and the normalisation that goes with them. The best weights of a training are
# chosen on the validation images; only an evaluation looks at the test images.

# %%
splits = load_data("digits")
len(splits.train), len(splits.validation), len(splits.test)

# %% tags=["varies"]
model = build_model(
    "resnet8",
    width=0.5,
    num_classes=splits.num_classes,
    image_size=splits.image_size,
    in_channels=splits.channels,
    seed=0,
)
settings = TrainingSettings(epochs=6, batch_size=32, learning_rate=0.1, seed=0)
train(model, splits, settings, folder=folder / "train", progress=False)
normalisation = {"mean": splits.mean, "std": splits.std}
exact = evaluate(model, splits.test, **normalisation)
print(f"{exact.mean:.1%} of the test images, with exact ReLUs")

# %% [markdown]
# ## Fraction bits
#
# A sign test sees integers. How finely they resolve the activations is measured on training images: as one
# number for the whole network, with 5 bits of room for images that were not seen.

# %% tags=["varies"]
images, _, _ = next(iter(Batches(splits.train, 256, **normalisation)))
fit = fit_frac_bits(model, [images])
print(f"{fit.frac_bits} fraction bits")

# %% [markdown]
# Or as one number per channel, chosen by the exact law for the sign test that is asked for: those at which it
# expects the least damage. A channel of small values gets more bits than one of large values.

# %% tags=["varies"]
scales = fit_scales(model, [images], TruncatedSign(k=22))
channels = {site: {"least": min(bits), "most": max(bits)} for site, bits in scales.items()}
pandas.DataFrame.from_dict(channels, orient="index")

# %% [markdown]
# ## Accuracy over k
#
# `with_stochastic_relus` makes a copy of the network that shares its weights and draws faults; `evaluate`
# repeats the draws. A figure is a function of rows, plain dicts as below; `circa_train.runs.collect` gives
# the same rows from the folders of a sweep that `scripts/evaluate.py` left.

# %%
ks = (18, 19, 20, 21, 22, 23, 24)
sites = relu_sites(model, (splits.channels, splits.image_size, splits.image_size))
rows = []
for mode in ("poszero", "negpass"):
    for k in ks:
        spec = TruncatedSign(k=k, mode=mode)
        cost = network_cost(sites, spec, accounting="tables")
        for scale, frac_bits in (
            (fit.frac_bits, fit.frac_bits),
            ("per-channel", fit_scales(model, [images], spec)),
        ):
            network = with_stochastic_relus(model, spec, frac_bits=frac_bits, seed=0, overflow="wrap")
            found = evaluate(network, splits.test, draws=3, **normalisation)
            rows.append(
                {
                    "model": "resnet8",
                    "data": splits.name,
                    "split": "test",
                    "fault": spec.kind,
                    "mode": mode,
                    "k": k,
                    "prime": spec.prime,
                    "frac_bits": scale,
                    "accuracy": found.mean,
                    "accuracy_low": found.interval[0],
                    "accuracy_high": found.interval[1],
                    "draws": len(found.accuracies),
                    "images": found.images,
                    "baseline_accuracy": exact.mean,
                    "relus": cost.relus,
                    "and_gates": cost.and_gates,
                    "table_bytes": cost.bytes,
                }
            )

# %% tags=["varies"]
table = pandas.DataFrame(rows).pivot(index="k", columns=["mode", "frac_bits"], values="accuracy")
table.map("{:.1%}".format)

# %% [markdown]
# ## Where is the knee?
#
# Bands are 95% intervals over fault draws, the dashed line is the same network with exact ReLUs, and a star
# marks the largest $k$ that loses no more than a point. One scale per channel moves the knee by several bits;
# the weights stay as they are, and so does the circuit at each $k$.

# %% tags=["varies"]
knee = accuracy_vs_k(rows, tolerance=0.01)
Image(filename=save_figure(knee, folder / "accuracy_vs_k", command=command, formats=["png"])[0], width=760)

# %% [markdown]
# ## What does it save?
#
# Every bit dropped is one AND gate less in every ReLU, and 32 bytes of garbled tables.

# %%
savings = {k: network_cost(sites, TruncatedSign(k=k), accounting="tables") for k in ks}
pandas.DataFrame(
    {
        "AND gates per image": {k: cost.and_gates for k, cost in savings.items()},
        "bytes of tables": {k: cost.bytes for k, cost in savings.items()},
    }
).rename_axis("k")

# %% tags=["varies"]
price = accuracy_vs_bytes(rows)
Image(
    filename=save_figure(price, folder / "accuracy_vs_bytes", command=command, formats=["png"])[0], width=760
)

# %% [markdown]
# ## Which site suffers?
#
# `observe` counts the faults that a forward pass draws at every site, `expect` those that the exact law
# expects of the same activations. First the share of sign tests that erred, with one number of fraction bits
# and with one per channel.

# %%
spec = TruncatedSign(k=20)
shares = {}
for scale, frac_bits in (
    ("one per channel", fit_scales(model, [images], spec)),
    ("one number", fit.frac_bits),
):
    network = with_stochastic_relus(model, spec, frac_bits=frac_bits, seed=0, overflow="wrap").eval()
    with observe(network) as observed, expect(network) as expected:
        network(images)
    shares[scale] = {site: seen.fault_rate for site, seen in observed.items()}

# %% tags=["varies"]
pandas.DataFrame(shares)[["one number", "one per channel"]].map("{:.2%}".format)

# %% [markdown]
# Then the faults of the network with one number, by kind and direction, beside the law: the points lie on the
# dashes, but for chance where there are few.

# %% tags=["varies"]
per_site = [
    {
        "run": "one number",
        "model": "resnet8",
        "data": splits.name,
        "mode": spec.mode,
        "k": spec.k,
        "site": site,
        **{f"expected.{kind}": count for kind, count in vars(expected[site]).items()},
        **{f"observed.{kind}": count for kind, count in vars(observed[site].faults).items()},
    }
    for site in observed
]
rates = site_fault_rates(per_site)
Image(
    filename=save_figure(rates, folder / "site_fault_rates", command=command, formats=["png"])[0], width=700
)
