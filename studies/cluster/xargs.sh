#!/bin/sh
# A study by xargs: JOBS processes, each of which takes the next run when it is free.
#   sh studies/cluster/xargs.sh studies/hidden_sites.yaml smoke runs/hidden
# Calling it again does only what is missing.
set -u
study=$1 size=$2 out=$3

advreg compare plan "$study" --size "$size" --out "$out" | cut -f 1 |
    xargs -P "${JOBS:-2}" -I '{}' \
        advreg compare run "$study" --size "$size" --out "$out" --index '{}' --workers 1
advreg compare collect "$study" --size "$size" --out "$out"
