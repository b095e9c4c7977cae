#!/bin/sh
# Everything in this folder, from the root of a clone; nothing is downloaded. Finished points are skipped, an interrupted sweep is resumed.
# Under half an hour on two cores.
set -eu
q="run.root=runs/paper run.device=cpu"
scripts/train.py -m +experiment=quickstart_train seed=0,1,2 run.sweep=seeds $q
scripts/evaluate.py -m 'checkpoint=runs/paper/sweeps/seeds/*/best.pt' +sweep=paper $q
scripts/plot.py runs=runs/paper/sweeps/paper out=results/quickstart/plots formats=[png]
