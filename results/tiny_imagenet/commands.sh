#!/bin/sh
# Everything in this folder, from the root of a clone, with tiny-imagenet-200/ below data/. The first step needs a GPU, the rest two hours
# on two cores. Finished steps are skipped, an interrupted one is resumed.
set -eu
RUNS=runs/tiny
quiet="run.root=$RUNS run.progress=false"
more="model=checkpoint data=checkpoint data.augment.crop=8 data.augment.flip=true optim=sgd optim.weight_decay=2e-4 channels_last=true batch_size=128"

# 1. From scratch: 30 epochs of a cosine. (Ours was cut off after 17 of them, which is what the next two steps make up for.)
scripts/train.py +experiment=tiny_imagenet_resnet32 precision=bfloat16 run.name=tiny $quiet
scripts/train.py checkpoint=$(ls -d $RUNS/train/tiny-*)/best.pt $more optim.learning_rate=0.025 epochs=3 run.name=second $quiet
scripts/train.py checkpoint=$(ls -d $RUNS/train/second-*)/best.pt $more optim.learning_rate=0.012 epochs=2 run.name=third $quiet
NET=$(ls -d $RUNS/train/third-*)/best.pt

# 2. Accuracy with exact ReLUs, and against k.
scripts/evaluate.py checkpoint=$NET fault=none run.name=exact $quiet
point="checkpoint=$NET data.limit=2000 draws.count=5 run.sweep=tiny $quiet"
scripts/evaluate.py -m $point fault=poszero fault.k=0,15,16,17,18
scripts/evaluate.py -m $point fault=negpass fault.k=16,17,18
scripts/evaluate.py -m $point fault=negpass fault.frac_bits=per_channel fault.k=18,19,20,21,22,23
scripts/evaluate.py -m $point fault=poszero fault.frac_bits=per_channel fault.k=18,19,20,21
scripts/search.py checkpoint=$NET gates=10 fault.k=15 fault.overflow=wrap data.limit=2000 batch_size=100 run.name=gates10 $quiet

# 3. Table, knees, figures.
scripts/plot.py runs=$RUNS/sweeps/tiny out=results/tiny_imagenet/plots formats=[png]
