#!/bin/bash
#SBATCH --job-name=actorfw
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=01:00:00
# sbatch slurm.sh program.py [ARGUMENT...]: one node of actorfw on each host of the allocation, and your program beside
# them on the first. It calls actorfw.init() without arguments.
set -euo pipefail

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts%%$'\n'*}
export port=$((20000 + SLURM_JOB_ID % 10000)) # another job may have the same host

umask 077
ACTORFW_SECRET_FILE=$SLURM_SUBMIT_DIR/.actorfw-secret-$SLURM_JOB_ID # a folder that all hosts see
export ACTORFW_SECRET_FILE
export ACTORFW_CLUSTER=job-$SLURM_JOB_ID
export ACTORFW_SEEDS=$first:$port
trap 'rm -f "$ACTORFW_SECRET_FILE"' EXIT
actorfw secret --file "$ACTORFW_SECRET_FILE" > /dev/null

# SLURMD_NODENAME is the host's own name in each of the tasks.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=0 bash -c \
  'exec actorfw start --listen "$SLURMD_NODENAME:$port" --num-cpus "$SLURM_CPUS_PER_TASK" --drain-timeout 20' &
nodes=$!

status=0
ACTORFW_LISTEN=$first:0 ACTORFW_NUM_CPUS=0 python "$@" || status=$?

kill -TERM "$nodes" # srun passes it on, and they drain
wait "$nodes" || true
exit "$status"
