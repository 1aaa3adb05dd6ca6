#!/usr/bin/env bash
# What a user does: the wheel goes into an empty environment, away from the sources; `art-sensreg bench` ends with its
# table, and `audit` runs on a network in a file. Reads nothing but the wheel; a minute, most of it for installing torch.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH
${PYTHON:-python3} -m venv "$folder/venv"
mkdir "$folder/sources"  # the build writes beside them, where another may be under way
git ls-files -z | tar --null --ignore-failed-read -T - -c | tar -x -C "$folder/sources"
"$folder/venv/bin/pip" wheel --quiet --no-deps --wheel-dir "$folder" "$folder/sources"
"$folder/venv/bin/pip" install --quiet -c constraints.txt "$folder"/*.whl
cd "$folder"
cat > my_net.py <<'END'
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
END
export OMP_NUM_THREADS=1
venv/bin/art-sensreg bench --budget smoke --model my_net.py:build --defences none,sr+jr,art-fbf-fixed --epochs 4 \
    --test-size 60 --out run
venv/bin/art-sensreg audit --model my_net.py:build --weights run/checkpoints/sr+jr-seed0.safetensors --eps 8/255 \
    --quick --points 60 --out audit
for file in run/results.json run/report.md audit/audit.md; do
    test -s "$file"
done
