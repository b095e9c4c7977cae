#!/bin/sh
# Everything in this folder, from the root of a clone: data/cifar10_jpeg is in place (README.md). On a GPU: ten minutes.
set -eu
RUNS=runs/vgg16
quiet="run.root=$RUNS run.progress=false"
scripts/train.py +experiment=jpeg_vgg16 run.name=base $quiet
BASE=$(ls -d $RUNS/train/base-*)/best.pt
scripts/evaluate.py checkpoint=$BASE fault=none run.name=exact $quiet

# Accuracy against k as it is, and with a scale per channel. At the next k values leave their channel's field.
more="draws.count=5 batch_size=1000 run.sweep=curves $quiet"
scripts/evaluate.py -m checkpoint=$BASE fault=poszero,negpass fault.k=16,17,18,19,20,21 fault.frac_bits=auto $more
scripts/evaluate.py -m checkpoint=$BASE fault=poszero fault.k=19,20,21,22 fault.frac_bits=per_channel $more
scripts/evaluate.py -m checkpoint=$BASE fault=negpass fault.k=19,20,21 fault.frac_bits=per_channel $more

# The recipe as it was, without a bound on the gradient's norm (it fails here), and a search within one point.
for k in 23 24; do
    scripts/train.py model=checkpoint data=checkpoint checkpoint=$BASE fault=negpass fault.k=$k optim=truncation \
        optim.clip_norm=null epochs=6 channels_last=true run.name=ft$k $quiet
    scripts/evaluate.py checkpoint=$(ls -d $RUNS/train/ft$k-*)/best.pt fault=checkpoint fault.overflow=wrap draws.count=5 batch_size=1000 \
        run.name=ft$k $quiet
done
scripts/search.py checkpoint=$BASE budget=0.01 fault.k=19 trials=4 draws.most=10 batch_size=1000 run.name=one_percent $quiet

scripts/plot.py runs=[$RUNS/sweeps/curves,$RUNS/evaluate] out=results/vgg16/plots formats=[png]
