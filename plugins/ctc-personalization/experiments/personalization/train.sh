#!/bin/sh
# All that run.py needs, in RUNS of this folder: two bases, two phone heads, five adapters for each language.
# About four hours on two cores; what was interrupted goes on. SLT and the options after it may be given: SLT="slt" sh train.sh
set -e
cd "$(dirname "$0")"
slt=${SLT:-slt}
$slt train base-en.yaml --out RUNS/base-en-start
$slt train base-en-more.yaml --out RUNS/base-en
$slt train base-cs.yaml --out RUNS/base-cs
for language in en cs; do
  $slt train phones-$language.yaml --out RUNS/phones-$language
  for seed in 0 1 2 3 4; do
    $slt train adapter-$language.yaml --out RUNS/adapter-$language-$seed --set seed=$seed
  done
done
