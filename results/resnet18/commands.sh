#!/bin/sh
# Everything in this folder, from the root of a clone: data/cifar10_jpeg is in place (README.md). On a GPU: twelve minutes.
set -eu
RUNS=runs/resnet18
quiet="run.root=$RUNS run.progress=false"
scripts/train.py +experiment=jpeg_resnet18 run.name=base $quiet
BASE=$(ls -d $RUNS/train/base-*)/best.pt
scripts/evaluate.py checkpoint=$BASE fault=none run.name=exact $quiet

# Accuracy against k as it is, and with a scale per channel. At the next k values leave their channel's field.
more="draws.count=5 batch_size=1000 run.sweep=curves $quiet"
scripts/evaluate.py -m checkpoint=$BASE fault=poszero,negpass fault.k=16,17,18,19,20,21 fault.frac_bits=auto $more
scripts/evaluate.py -m checkpoint=$BASE fault=poszero fault.k=19,20,21,22,23 fault.frac_bits=per_channel $more
scripts/evaluate.py -m checkpoint=$BASE fault=negpass fault.k=19,20,21,22 fault.frac_bits=per_channel $more
# Values may wrap, as between two parties: on 2,000 images.
scripts/evaluate.py -m checkpoint=$BASE fault=negpass fault.k=23,24 fault.frac_bits=per_channel fault.overflow=wrap data.limit=2000 \
    draws.count=5 channels_last=true run.sweep=wrap $quiet

# The recipe as it was, without a bound on the gradient's norm (it fails here), and a search within one point.
for k in 23 24; do
    scripts/train.py model=checkpoint data=checkpoint checkpoint=$BASE fault=negpass fault.k=$k optim=truncation \
        optim.clip_norm=null epochs=6 channels_last=true run.name=ft$k $quiet
    scripts/evaluate.py checkpoint=$(ls -d $RUNS/train/ft$k-*)/best.pt fault=checkpoint fault.overflow=wrap draws.count=5 batch_size=1000 \
        run.name=ft$k $quiet
done
scripts/search.py checkpoint=$BASE budget=0.01 fault.k=19 trials=4 draws.most=10 batch_size=1000 run.name=one_percent $quiet
scripts/search.py checkpoint=$BASE gates=8 fault.k=16 fault.overflow=wrap data.limit=2000 batch_size=100 run.name=gates8 $quiet

# Fine-tuned with the norm of the gradient bounded, and augmented images: 15,000 training images, as it was done on two cores (ten minutes);
# and the same without the bound, which goes wrong.
gentle="model=checkpoint data=checkpoint checkpoint=$BASE data.augment.crop=4 data.augment.flip=true data.limit=15000 fault=negpass fault.k=24
    optim=truncation optim.warmup_epochs=0.1 batch_size=128 epochs=1 channels_last=true $quiet"
scripts/train.py $gentle optim.learning_rate=0.01 optim.clip_norm=1 run.name=clipped24
scripts/train.py $gentle optim.learning_rate=0.005 optim.clip_norm=null run.name=unclipped24
scripts/evaluate.py checkpoint=$(ls -d $RUNS/train/clipped24-*)/best.pt fault=checkpoint fault.overflow=wrap draws.count=5 data.limit=2000 \
    channels_last=true run.name=clipped24 $quiet
python results/resnet18/gradients.py $BASE

scripts/plot.py runs=[$RUNS/sweeps/curves,$RUNS/sweeps/wrap,$RUNS/evaluate] out=results/resnet18/plots formats=[png]
