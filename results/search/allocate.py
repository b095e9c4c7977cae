"""The allocation of least harm for a given number of AND gates, by the exact law alone: a fault file.

    python results/search/allocate.py CHECKPOINT GATES OUT.yaml

What scripts/search.py tries on the network, in the order in which it tries it; here nothing is tried, so it
takes a minute or two. Evaluate the file:

    scripts/evaluate.py checkpoint=CHECKPOINT fault=file fault.path=OUT.yaml
"""

import sys
from pathlib import Path

import torch

from circa_train import TruncatedSign
from circa_train.checkpoint import load_checkpoint, load_network
from circa_train.data import Batches
from circa_train.jobs.build import build_splits
from circa_train.jobs.settings import DataConfig
from circa_train.nn import relu_sites
from circa_train.nn.site_values import HEADROOM_BITS, site_values
from circa_train.search import fault_file
from circa_train.search.allocation import greedy_path
from circa_train.search.choices import by_the_law
from circa_train.search.harm import tables_of

IMAGES, FIRST_K = 512, 12

checkpoint, gates, out = load_checkpoint(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
network = load_network(checkpoint)
splits = build_splits(DataConfig(name="checkpoint"), torch.device("cpu"), checkpoint.metadata)
batches = Batches(splits.train.subset(torch.arange(IMAGES)), 64, mean=splits.mean, std=splits.std)
seen = site_values(network, (batch[0] for batch in batches), importance=True)
choices = by_the_law(seen, TruncatedSign(0), FIRST_K, HEADROOM_BITS)
sites = list(relu_sites(network, (splits.channels, splits.image_size, splits.image_size)))
tables, relus = tables_of(choices, sites), sum(count for _, count in sites)
ks = next(ks for ks in greedy_path(tables) if tables.total_gates(ks) <= gates * relus)
specs, frac_bits = choices.specs_of(ks), choices.frac_bits_of(ks)
out.write_text(fault_file(specs, frac_bits))
print(f"{tables.total_gates(ks) / relus:.3f} AND gates per sign test; k by site: {','.join(map(str, ks))}")
print(f"modes: {','.join(str(spec.mode) for spec in specs.values())}")
print(f"divergence foretold: {tables.total_harm(ks):.4f} nats")
