#!/bin/sh
# Everything in this folder, from the root of a clone: data/cifar10_jpeg is in place (README.md). On a GPU: minutes.
set -eu
RUNS=runs/resnet18
scripts/train.py model=resnet18 data=cifar10_jpeg channels_last=true precision=bfloat16 batch_size=256 \
    optim.learning_rate=0.1 optim.warmup_epochs=1 epochs=24 run.root=$RUNS run.name=r18
scripts/evaluate.py -m checkpoint=$(ls -d $RUNS/train/r18-*)/best.pt fault=poszero fault.k=16,17,18,19,20,21,22 \
    fault.frac_bits=auto,per_channel draws.count=5 batch_size=1000 run.root=$RUNS run.sweep=r18
scripts/plot.py runs=$RUNS/sweeps/r18 out=results/resnet18/plots
