# %% [markdown]
# # The fault law, and one layer that obeys it
#
# A stochastic ReLU asks for the sign of $x$ on two shares, $x_s = (x + t) \bmod p$ and $t$, and drops their
# $k$ low bits. It errs for some masks $t$ and not for others; *how many* is an integer that the toolkit gives
# in closed form. This notebook looks at the law, at one layer that draws from it, and at what a layer's scale
# has to do with the $k$ it can bear. Nothing is read or trained; it runs in seconds.

# %%
import tempfile
from pathlib import Path

import pandas
import torch
from IPython.display import Image

from circa_train import (
    StochasticReLU,
    TruncatedSign,
    expected_faults,
    fault_count,
    fault_probability,
    uniform_masks,
)
from circa_train.fixed_point import to_fixed
from circa_train.nn import observe, set_draw
from circa_train.plots import fault_probability_curves, save_figure

figures = Path(tempfile.mkdtemp(prefix="circa_train_"))
command = "notebooks/01_fault_law.py"

# %% [markdown]
# ## A count, checked by hand
#
# In a field of 251 elements every mask can be tried. For $x = 5$ and $k = 3$, 98 of the 251 masks lose the
# value: 5 because $x + t$ wraps around, 93 because both shares fall into the same block of $2^3$.

# %%
small = TruncatedSign(k=3, prime=251)
masks = range(251)
lost = [((5 + t) % 251 >> 3) <= (t >> 3) for t in masks]
fault_count(5, small), sum(lost)

# %% [markdown]
# The same count for other values, in both modes. PosZero loses small positive values, and passes a negative
# one by a wrap alone; NegPass does the reverse. From $|x| = 2^k$ on only wraps are left, $|x|$ of them.

# %%
values = [-60, -8, -5, -1, 0, 1, 5, 8, 60]
pandas.DataFrame(
    {
        mode: [fault_count(x, TruncatedSign(k=3, prime=251, mode=mode)) for x in values]
        for mode in ("poszero", "negpass")
    },
    index=pandas.Index(values, name="x"),
)

# %% [markdown]
# ## The law at the default prime
#
# Below $2^k$ truncation decides: a positive value is lost with a probability near $1 - x / 2^k$ (PosZero), or
# a small negative one is kept (NegPass). Far out is wrapping, $|x| / p$, which no $k$ avoids: it is why
# values must not fill the field.

# %%
poszero = fault_probability_curves([8, 12, 16, 20], mode="poszero")
Image(filename=save_figure(poszero, figures / "poszero", command=command, formats=["png"])[0], width=640)

# %%
negpass = fault_probability_curves([8, 12, 16, 20], mode="negpass")
Image(filename=save_figure(negpass, figures / "negpass", command=command, formats=["png"])[0], width=640)

# %% [markdown]
# ## One layer
#
# The values are sums of twelve random integers, and so look like the activations of a layer: most are small.
# Every output is 0 or the input, whatever the fault.

# %%
integers = torch.randint(-(2**14), 2**14, (12, 16, 16, 32, 32), generator=torch.Generator().manual_seed(0))
z = integers.sum(0) / 2**15
relu = StochasticReLU(TruncatedSign(k=14), frac_bits=16, seed=0)
with observe(torch.nn.Sequential(relu)) as sites:
    y = relu(z)
bool(((y == 0) | (y == z)).all())

# %% [markdown]
# The faults that this forward pass drew stand beside those that the law expects of the same values, by kind
# and direction; a deviation is told in standard deviations.

# %%
x, _ = to_fixed(z, relu.frac_bits, relu.spec.prime)
law = pandas.DataFrame({"observed": vars(sites["0"].faults), "expected": vars(expected_faults(x, relu.spec))})
law["deviations"] = (law.observed - law.expected) / law.expected.pow(0.5)
law[law.expected > 0].drop("values").round(2)

# %% [markdown]
# ## A mask belongs to an address
#
# The next forward pass draws new masks. But none comes from a global generator: a mask is a function of the
# seed, the site, the number of the draw and the place of the element, so any draw can be made again. Below:
# outputs that differ in the next draw, outputs that differ when the first draw is repeated, and the first
# masks of that draw.

# %%
following = relu(z)
set_draw(relu, 0)
repeated = relu(z)
int((following != y).sum()), int((repeated != y).sum())

# %%
uniform_masks((5,), seed=0, site=0, draw=0)

# %% [markdown]
# ## Which k can a layer bear?
#
# The same activations under every $k$, from the law alone: the share of gates that err, and the error that
# they add to the outputs, relative to the outputs themselves. Faults are many long before they matter, since
# truncation loses only small values: that is the room that Circa uses. With two fraction bits more, the same
# picture comes two bits later, above wraps that are four times as many.

# %%
rows = []
for frac_bits in (14, 16, 18):
    x, _ = to_fixed(z, frac_bits, relu.spec.prime)
    for k in range(8, 22, 2):
        chance = fault_probability(x, TruncatedSign(k=k))
        error = (chance * z.double() ** 2).mean() / z.relu().double().square().mean()
        rows.append(
            {"frac_bits": frac_bits, "k": k, "faults": float(chance.mean()), "error": float(error) ** 0.5}
        )
table = pandas.DataFrame(rows).pivot(index="k", columns="frac_bits", values=["faults", "error"])
table.map("{:.2%}".format)
