#!/usr/bin/env bash
# Submit the stages of a chain as Slurm jobs, and one that writes the report:
#   tools/slurm_chain.sh CHAIN.py PARTITION [options of sbatch]
# Transfers wait for the pretraining they start from (afterok), the report for all
# (afterany). Finished stages are not submitted; submit again to go on.
# Environment: GPUS per stage [1]; above one, a stage runs by tools/dist_train.sh on one
# node. CPUS per stage [8 per GPU]; WORK_DIR [work_dirs/<name of the chain>]; PYTHON;
# SRUN_ARGS.
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
work_dir=${WORK_DIR:-work_dirs/$(basename "$chain" .py)}
tool=$(cd "$(dirname "$0")" && pwd)/chain.py
run=("$python" "$tool" "$chain" --work-dir "$work_dir")

stages=$("${run[@]}" --list) # all is checked before the first job is submitted
mkdir -p "$work_dir/slurm"

# submit NAME DEPENDENCY RESOURCES... -- COMMAND...; prints the number of the job
submit() {
    local name=$1 dependency=$2 command
    local options=(--parsable --job-name "$name" --partition "$partition" --ntasks=1)
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
    sbatch "${options[@]}" --output "$work_dir/slurm/$name-%j.log" "${sbatch_options[@]}" \
        --wrap "srun ${SRUN_ARGS:-} $command" | cut -d ';' -f 1
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
    job=$(submit "$name" "$dependency" "--gres=gpu:$gpus" "--cpus-per-task=$cpus" -- \
        "${run[@]}" --gpus "$gpus" --stage "$name")
    jobs[$name]=$job
    all+=:$job
    echo "$name: job $job${dependency:+, $dependency}"
done <<< "$stages"
job=$(submit report "${all:+afterany$all}" --cpus-per-task=2 -- "${run[@]}" --report)
echo "report: job $job; it writes $work_dir/results.csv and chain.html"
