#!/bin/bash
# Evaluate checkpoints or models on a Slurm node or several, with the numbers a sweep would give.
#
#   HPCSCALE_DATA=runs/grid sbatch slurm/eval.sh CHECKPOINT_OR_MODEL...
#   HPCSCALE_DATA=runs/grid sbatch --nodes=1 --ntasks-per-node=4 --gpus-per-node=4 slurm/eval.sh \
#       runs/grid/cells/random-1M-s0-*/model -- --micro-batch 32
#
# What goes on sbatch's line (nodes, tasks, GPUs, time, partition) decides the size: one rank is one
# task. What stands behind -- goes to `hpcscale eval`. Environment:
#
#   HPCSCALE_DATA   a run directory, a token store or a sweep file (required)
#   HPCSCALE_SITE   site profile: a name or a YAML file (default: generic)
#   HPCSCALE_OUT    where the losses are written as JSON (default: eval-JOBID.json here)
#   HPCSCALE        the hpcscale command of the login environment (default: hpcscale)
#
#SBATCH --job-name=hpcscale-eval
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=01:00:00
#SBATCH --output=eval-%j.log

set -euo pipefail

usage() {
  sed -n '2,/^#SBATCH/{/^#SBATCH/d;s/^# \{0,1\}//p}' "$0"
}

models=()
while (($#)) && [[ $1 != -- ]]; do
  models+=("$1")
  shift
done
(($#)) && shift   # the -- itself; what is left goes to hpcscale eval

if ((${#models[@]} == 0)) || [[ ${models[0]} == -h || ${models[0]} == --help ]]; then
  usage
  exit $((${#models[@]} == 0 ? 2 : 0))
fi
if [[ -z ${HPCSCALE_DATA:-} ]]; then
  echo "eval.sh: set HPCSCALE_DATA to a run directory, a token store or a sweep file" >&2
  exit 2
fi

# The profile loads modules, exports variables, and sets HPCSCALE_SRUN_ARGS and HPCSCALE_COMMAND.
hpcscale=${HPCSCALE:-hpcscale}
profile=$("$hpcscale" site shell)
eval "$profile"
if [[ ${HPCSCALE_COMMAND[0]} == hpcscale ]]; then
  HPCSCALE_COMMAND[0]=$hpcscale
fi

out=${HPCSCALE_OUT:-eval-${SLURM_JOB_ID:-$$}.json}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}

# One process a rank; each finds its rank and the first host in Slurm's own variables.
srun --kill-on-bad-exit=1 "--cpus-per-task=${SLURM_CPUS_PER_TASK:-1}" "${HPCSCALE_SRUN_ARGS[@]}" \
  "${HPCSCALE_COMMAND[@]}" eval "${models[@]}" --data "$HPCSCALE_DATA" --json "$out" "$@"
echo "losses: $out"
