#!/bin/sh
# Everything in this folder, from the root of a clone, after results/resnet32/commands.sh (its first step is enough).
# Finished steps are skipped, an interrupted one is resumed. Ten minutes on two cores.
set -eu
RUNS=runs/resnet32_reduced
quiet="run.root=$RUNS run.progress=false"

# 1. The baseline of results/resnet32 without every second ReLU of each stage, fine-tuned with exact ReLUs.
scripts/train.py +experiment=jpeg_resnet32 'model.reduction={alternate: true}' checkpoint=$(ls -d runs/resnet32/train/baseline-*)/best.pt epochs=1 run.name=reduced $quiet
BASE=$(ls -d $RUNS/train/reduced-*)/best.pt

# 2. Accuracy against k, five draws of the masks on all 10,000 test images.
scripts/evaluate.py -m checkpoint=$BASE +sweep=truncation fault=poszero fault.k=0,16,18,19,20 $quiet


# 3. Tables and figures.
scripts/plot.py runs=$RUNS/sweeps/truncation out=results/resnet32_reduced/plots
