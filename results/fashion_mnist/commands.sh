#!/bin/sh
# Everything in this folder, from the root of a clone, with Fashion-MNIST below data/ (data.download=true fetches it; Debian's
# package dataset-fashion-mnist holds the same files: link its folder as data/fashion-mnist). Ten minutes on two cores.
set -eu
RUNS=runs/fashion_mnist
quiet="run.root=$RUNS run.progress=false"

# 1. resnet8 from scratch with exact ReLUs.
scripts/train.py data=fashion_mnist model=resnet8 epochs=3 channels_last=true run.name=baseline $quiet
BASE=$(ls -d $RUNS/train/baseline-*)/best.pt

# 2. Accuracy against k in both modes, five draws of the masks on all 10,000 test images.
scripts/evaluate.py -m checkpoint=$BASE +sweep=truncation fault.k=0,12,16,18,19,20,21 $quiet

# 3. Fine-tuned with the faults in the loop, two training seeds.
scripts/train.py -m checkpoint=$BASE model=checkpoint data=checkpoint +sweep=finetune fault=poszero fault.k=18 seed=0,1 epochs=1 channels_last=true $quiet
scripts/evaluate.py -m "checkpoint=$RUNS/sweeps/finetune/*/best.pt" +sweep=finetuned $quiet

# 4. Tables and figures.
scripts/plot.py runs=[$RUNS/sweeps/truncation,$RUNS/sweeps/finetuned] out=results/fashion_mnist/plots
