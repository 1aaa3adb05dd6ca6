#!/bin/sh
# Make every file of docs/results/ that is not there, and put the figures into the README.
# Needs mnist.npz in the folder ART_SENSREG_DATA. Set PYTHON to the interpreter of the environment.
set -eu
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python}"
mkdir -p docs/results

keep() { # keep RESULTS-FILE NAME: copy a result into docs/results
    cp "$1" "docs/results/$2"
}

if [ ! -f docs/results/mnist-validation.md ]; then
    $PYTHON benchmarks/choose_settings.py --grid --dataset mnist --train-size 20000 --epochs 6 --test-size 500 \
        --attacks pgd,apgd-ce,apgd-dlr --budget smoke --eps 0.1,0.2,0.3
    keep results/mnist-validation/validation.md mnist-validation.md
fi
if [ ! -f docs/results/digits-validation.md ]; then
    $PYTHON benchmarks/choose_settings.py --grid --dataset digits --attacks pgd,apgd-ce,apgd-dlr
    keep results/digits-validation/validation.md digits-validation.md
fi
if [ ! -f docs/results/digits-related-validation.md ]; then
    $PYTHON benchmarks/choose_settings.py --grid --dataset digits --of fire,at+sr+jr,n-fgsm+sr+jr,adv-bnn \
        --attacks pgd,apgd-ce,apgd-dlr --out results/digits-related-validation
    keep results/digits-related-validation/validation.md digits-related-validation.md
fi
if [ ! -f docs/results/cifar10-validation.md ]; then # needs cifar10.npz there too
    $PYTHON benchmarks/choose_settings.py --grid --dataset cifar10 --of carried+sr+jr --train-size 10000 --test-size 300 \
        --norm-layer batch --augment crop=4,flip --norm linf --eps 8/255 --attacks apgd-ce,apgd-t
    keep results/cifar10-validation/validation.md cifar10-validation.md
fi
if [ ! -f docs/results/digits-graddiv.md ]; then
    $PYTHON benchmarks/graddiv.py
    keep results/digits-graddiv/graddiv.md digits-graddiv.md
fi
if [ ! -f docs/results/digits-all-defences.md ]; then
    $PYTHON benchmarks/run_art_suite.py --dataset digits --defences all --budget quick --interpret \
        --out results/digits-all-defences --resume
    keep results/digits-all-defences/report.md digits-all-defences.md
    keep results/digits-all-defences/results.json digits-all-defences.json
    keep results/digits-all-defences/eot-curve.png digits-all-defences-eot-curve.png
    keep results/digits-all-defences/saliency.png digits-all-defences-saliency.png
fi
if [ ! -f docs/results/mnist-all-defences.md ]; then
    $PYTHON benchmarks/run_art_suite.py --dataset mnist --defences trainers --train-size 10000 --epochs 5 \
        --budget quick --eps 0.1,0.2 --test-size 100 --jobs 2 \
        --out results/mnist-all-defences --resume
    keep results/mnist-all-defences/report.md mnist-all-defences.md
    keep results/mnist-all-defences/results.json mnist-all-defences.json
fi
if [ ! -f docs/results/mnist-first.md ]; then
    $PYTHON benchmarks/run_art_suite.py --dataset mnist --defences none,sr+jr --attacks pgd,apgd-ce,apgd-dlr \
        --out results/mnist-first --resume
    keep results/mnist-first/report.md mnist-first.md
    keep results/mnist-first/results.json mnist-first.json
fi
if [ ! -f docs/results/mnist-adaptive.md ]; then
    $PYTHON benchmarks/run_art_suite.py --dataset mnist --defences none,sr+jr --attacks fgm --test-size 500 \
        --out results/mnist-adaptive --resume
    $PYTHON benchmarks/run_art_suite.py --dataset mnist --defences art-madry --attacks fgm --test-size 500 \
        --train-size 10000 --epochs 8 --out results/mnist-surrogate --resume
    $PYTHON benchmarks/adaptive.py results/mnist-adaptive sr+jr \
        --surrogate results/mnist-surrogate/checkpoints/art-madry-seed0.safetensors
    keep results/mnist-adaptive/adaptive.md mnist-adaptive.md
fi
if [ ! -f docs/results/digits-bench.md ]; then
    $PYTHON benchmarks/run_art_suite.py --dataset digits --out results/digits-bench --resume
    keep results/digits-bench/report.md digits-bench.md
    keep results/digits-bench/results.json digits-bench.json
fi
if [ ! -f docs/results/cheap-mode.md ]; then
    $PYTHON benchmarks/run_art_suite.py --dataset mnist --defences sr+jr,sr+jr-cheap --attacks pgd --eps 0.1,0.2 \
        --test-size 10000 --seeds 2 --epochs 10 --out results/cheap-mode --resume
    $PYTHON benchmarks/compare_defences.py results/cheap-mode sr+jr sr+jr-cheap
    keep results/cheap-mode/comparison.md cheap-mode.md
    keep results/cheap-mode/report.md cheap-mode-run.md
    keep results/cheap-mode/results.json cheap-mode.json
fi
if [ ! -f docs/results/step-cost.md ]; then # on a machine that does nothing else
    OMP_NUM_THREADS=1 $PYTHON benchmarks/step_cost.py
    keep results/step-cost/step-cost.md step-cost.md
    keep results/step-cost/step-cost.json step-cost.json
    keep results/step-cost/step-cost.png step-cost.png
fi
if [ ! -f docs/results/scaling.md ]; then
    $PYTHON benchmarks/scaling.py
    keep results/scaling/scaling.md scaling.md
    keep results/scaling/scaling.json scaling.json
    keep results/scaling/scaling.png scaling.png
fi
[ -f docs/results/freed-memory.md ] || $PYTHON benchmarks/freed_memory.py
$PYTHON benchmarks/installed_size.py
$PYTHON benchmarks/update_readme.py
