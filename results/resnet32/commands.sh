#!/bin/sh
# Everything in this folder, from the root of a clone: data/cifar10_jpeg and resnet32-d509ac18.th are in place (README.md).
# Finished steps are skipped, an interrupted one is resumed. About two hours on two cores.
set -eu
RUNS=runs/resnet32
DATA='data=cifar10_jpeg data.mean=[0.485,0.456,0.406] data.std=[0.229,0.224,0.225]'
quiet="run.root=$RUNS run.progress=false"

# 1. The public weights as they are, and fine-tuned on the JPEG copy with exact ReLUs: the baseline.
scripts/evaluate.py checkpoint=data/resnet32-d509ac18.th model=resnet32 $DATA fault=none run.name=public $quiet
scripts/train.py +experiment=jpeg_resnet32 checkpoint=data/resnet32-d509ac18.th run.progress=false
BASE=$(ls -d $RUNS/train/baseline-*)/best.pt

# 2. Accuracy against k, both modes, five draws of the masks on all 10,000 test images; per-site fault rates beside it.
scripts/evaluate.py -m checkpoint=$BASE +sweep=truncation fault=poszero fault.k=0,4,8,10,12,14,15,16,17,18,19,20,21,22 sites=true $quiet
scripts/evaluate.py -m checkpoint=$BASE +sweep=truncation fault=negpass fault.k=0,8,12,14,16,17,18,19,20,21 sites=true $quiet

# 3. Fine-tuned with the faults in the loop at three k beyond the knee, two training seeds at the middle one.
scripts/train.py -m checkpoint=$BASE model=checkpoint data=checkpoint +sweep=finetune fault=poszero fault.k=18,19,20 epochs=1 channels_last=true $quiet
scripts/train.py -m checkpoint=$BASE model=checkpoint data=checkpoint +sweep=finetune fault=poszero fault.k=19 seed=1 epochs=1 channels_last=true $quiet
scripts/evaluate.py -m "checkpoint=$RUNS/sweeps/finetune/*/best.pt" +sweep=finetuned $quiet

# 4. Uniform faults beside it: any sign test errs at a given rate.
scripts/evaluate.py -m checkpoint=$BASE +sweep=fault_rate fault=uniform fault.direction=both fault.rate=1e-4,1e-3,1e-2,3e-2,1e-1,3e-1 $quiet

# 5. Fewer fraction bits: fewer masks wrap, but the same k drops larger values.
scripts/evaluate.py -m checkpoint=$BASE +sweep=truncation fault=poszero fault.frac_bits=16 fault.k=0,12,13,14,15 run.sweep=frac_bits $quiet

# 6. How many bits may go? One k for all sites and one per site within 1%; one for all within 0.2%, at 16 fraction bits.
scripts/search.py checkpoint=$BASE budget=0.01 fault.k=18 draws.most=20 trials=4 run.name=one_percent $quiet
scripts/search.py checkpoint=$BASE budget=0.002 fault.frac_bits=16 fault.k=13 draws.most=10 per_site=false run.name=fifth_of_a_percent $quiet
scripts/evaluate.py checkpoint=$BASE fault=file fault.path=$(ls $RUNS/search/one_percent-*/fault.yaml) run.name=answer $quiet

# 7. The integer network with 15-bit values, and every site against the garbled circuit.
scripts/export.py -m checkpoint=$BASE fault=poszero fault.k=17,18 run.sweep=integer $quiet
scripts/verify.py checkpoint=$BASE fault=poszero fault.k=17 $quiet

# 8. Bytes and seconds of the network under the four circuits.
scripts/cost.py models=[resnet32] image_sizes=[32] fault=poszero fault.k=17 out=results/resnet32/cost.csv

# 9. Tables and figures.
scripts/plot.py runs=[$RUNS/sweeps/truncation,$RUNS/sweeps/finetuned,$RUNS/sweeps/fault_rate] out=results/resnet32/plots
scripts/plot.py runs=$RUNS/sweeps/frac_bits out=results/resnet32/frac_bits

# 10. The records behind the numbers of README.md.
keep() { sed "s#$PWD/##g" $1 > results/resnet32/records/$2.json; }
mkdir -p results/resnet32/records
keep "$RUNS/evaluate/public-*/result.json" public_weights
keep "$RUNS/train/baseline-*/result.json" baseline
keep "$RUNS/search/one_percent-*/result.json" search_one_percent
keep "$RUNS/search/fifth_of_a_percent-*/result.json" search_fifth_of_a_percent
keep "$RUNS/evaluate/answer-*/result.json" answer
keep "$RUNS/sweeps/integer/poszero-k17-*/result.json" integer_k17
keep "$RUNS/sweeps/integer/poszero-k18-*/result.json" integer_k18
keep "$RUNS/verify/*/result.json" verification
