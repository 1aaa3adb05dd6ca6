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
    $PYTHON benchmarks/choose_settings.py --dataset mnist --train-size 20000 --epochs 6 --test-size 500 \
        --attacks pgd,apgd-ce,apgd-dlr --budget smoke --eps 0.1,0.2,0.3
    keep results/mnist-validation/validation.md mnist-validation.md
fi
if [ ! -f docs/results/digits-validation.md ]; then
    $PYTHON benchmarks/choose_settings.py --dataset digits --attacks pgd,apgd-ce,apgd-dlr
    keep results/digits-validation/validation.md digits-validation.md
fi
if [ ! -f docs/results/mnist-first.md ]; then
    $PYTHON benchmarks/run_art_suite.py --dataset mnist --defences none,sr+jr --attacks pgd,apgd-ce,apgd-dlr \
        --out results/mnist-first --resume
    keep results/mnist-first/report.md mnist-first.md
    keep results/mnist-first/results.json mnist-first.json
fi
if [ ! -f docs/results/digits-bench.md ]; then
    $PYTHON benchmarks/run_art_suite.py --dataset digits --out results/digits-bench --resume
    keep results/digits-bench/report.md digits-bench.md
    keep results/digits-bench/results.json digits-bench.json
fi
$PYTHON benchmarks/installed_size.py
$PYTHON benchmarks/update_readme.py
