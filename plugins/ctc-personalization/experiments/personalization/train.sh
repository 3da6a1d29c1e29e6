#!/bin/sh
# The adapters that run.py needs, in RUNS of this folder: five for each language, over the bases that are committed.
#   sh train.sh            the adapters, about 15 min each on a quiet core; what was interrupted goes on
#   sh train.sh bases      the bases and phone heads first, about an hour and a half more
# SLT="python -m sltcore.cli" in the environment takes the place of slt.
set -e
cd "$(dirname "$0")"
slt=${SLT:-slt}
if [ "$1" = bases ]; then
  $slt train base-en.yaml --out RUNS/base-en-start
  $slt train base-en-more.yaml --out RUNS/base-en
  $slt train base-cs.yaml --out RUNS/base-cs
  for language in en cs; do
    $slt train phones-$language.yaml --out RUNS/phones-$language
    $slt pack RUNS/phones-$language/bundle bases/$language --force
  done
fi
for seed in 0 1 2 3 4; do
  for language in en cs; do
    $slt train adapter-$language.yaml --out RUNS/adapter-$language-$seed --set seed=$seed
  done
done
