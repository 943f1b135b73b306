#!/bin/bash
# Plan and submit a sweep from a small job, for sites that forbid even short work on login nodes.
#
#   sbatch slurm/sweep.sh sweeps/grid.yaml --site mysite
#
# The arguments are those of `hpcscale sweep`. The job submits the arrays and ends; watch them with
# `hpcscale status RUN --follow`. Sites must allow sbatch from within a job.
#
#SBATCH --job-name=hpcscale-sweep
#SBATCH --ntasks=1
#SBATCH --time=00:30:00
#SBATCH --output=sweep-%j.log

set -euo pipefail

if (($# == 0)); then
  sed -n '2,/^#SBATCH/{/^#SBATCH/d;s/^# \{0,1\}//p}' "$0"
  exit 2
fi

exec "${HPCSCALE:-hpcscale}" sweep "$@" --executor slurm
