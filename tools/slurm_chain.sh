#!/usr/bin/env bash
# Submit the stages of a chain as Slurm jobs, and one that writes the report:
#   tools/slurm_chain.sh CHAIN.py PARTITION [options of sbatch]
# Transfers wait for the pretraining they start from (afterok), the report for all
# (afterany). Finished stages are not submitted; submit again to go on. A stage that
# Slurm stops (preemption, or two minutes before its time limit) saves, is requeued and
# goes on, as with tools/slurm_train.sh.
# Environment: GPUS per stage [1]; above one, a stage runs by tools/dist_train.sh on one
# node. CPUS per stage [8 per GPU]; GRES [gpu:GPUS], empty where nodes have no GPUs;
# WORK_DIR [work_dirs/<name of the chain>]; MAX_REQUEUES [100]; PYTHON; SRUN_ARGS.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "Usage: $0 CHAIN.py PARTITION [options of sbatch]" >&2
    exit 2
fi
chain=$1
partition=$2
shift 2

python=${PYTHON:-python}
gpus=${GPUS:-1}
cpus=${CPUS:-$((8 * gpus))}
gres=${GRES-gpu:$gpus}
work_dir=${WORK_DIR:-work_dirs/$(basename "$chain" .py)}
tool=$(cd "$(dirname "$0")" && pwd)/chain.py
run=("$python" "$tool" "$chain" --work-dir "$work_dir")

stages=$("${run[@]}" --list) # all is checked before the first job is submitted
mkdir -p "$work_dir/slurm"

# submit NAME DEPENDENCY RESOURCES... -- COMMAND...; prints the number of the job
submit() {
    local name=$1 dependency=$2 command
    local options=(
        --parsable --job-name "$name" --partition "$partition" --ntasks=1
        --requeue --open-mode=append --signal=USR1@120
    )
    shift 2
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    if [ -n "$dependency" ]; then
        options+=("--dependency=$dependency")
    fi
    printf -v command '%q ' "$@"
    # 75: stopped by a signal, with everything saved
    sbatch "${options[@]}" --output "$work_dir/slurm/$name-%j.log" "${sbatch_options[@]}" \
        --wrap "srun --cpus-per-task=\$SLURM_CPUS_PER_TASK ${SRUN_ARGS:-} $command; code=\$?; if [ \$code = 75 ] && [ \${SLURM_RESTART_COUNT:-0} -lt ${MAX_REQUEUES:-100} ]; then scontrol requeue \$SLURM_JOB_ID; fi; exit \$code" \
        | cut -d ';' -f 1
}

sbatch_options=("$@")
declare -A jobs
all=""
while IFS=$'\t' read -r name needs state; do
    if [ "$state" = finished ]; then
        echo "$name: finished before"
        continue
    fi
    dependency=""
    if [ -n "${jobs[$needs]:-}" ]; then
        dependency=afterok:${jobs[$needs]}
    fi
    job=$(submit "$name" "$dependency" ${gres:+"--gres=$gres"} "--cpus-per-task=$cpus" -- \
        "${run[@]}" --gpus "$gpus" --stage "$name")
    jobs[$name]=$job
    all+=:$job
    echo "$name: job $job${dependency:+, $dependency}"
done <<< "$stages"
job=$(submit report "${all:+afterany$all}" --cpus-per-task=2 -- "${run[@]}" --report)
echo "report: job $job; it writes $work_dir/results.csv and chain.html"
