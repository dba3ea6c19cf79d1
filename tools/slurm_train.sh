#!/usr/bin/env bash
# Train on a Slurm cluster; go on after preemption, time limits and failed nodes:
#   tools/slurm_train.sh PARTITION JOB CONFIG [options of tools/train.py]
# On a login node this submits a batch job; inside an allocation, or with SRUN=1, it runs
# in the foreground. SIGUSR1 (SIGNAL_TIME seconds before the time limit, or by
# `scancel --signal=USR1 NUMBER`) and Slurm's SIGTERM let the tasks save and exit with 75;
# the job is requeued and resumes, also where the signal came too early to be heeded.
# Other exit codes are passed on and end the job, as does scancel alone.
# Environment [and defaults]:
#   GPUS [8], one task each; GPUS_PER_NODE [8]; CPUS_PER_TASK [8]
#   GRES [gpu:GPUS_PER_NODE], empty where nodes have no GPUs; TIME [the partition's]
#   SBATCH_ARGS (of the allocation), SRUN_ARGS (of the tasks): further options
#   WORK_DIR [work_dirs/<name of the config>], the log in its folder slurm; PYTHON
#   SIGNAL_TIME [120]; MAX_REQUEUES [100]; TASK_WAIT [180]: seconds that the tasks have
#   once the first has ended; MASTER_PORT [15000 to 29999, from the number of the job]
#   STAGE_FROM, STAGE_TO: copy a folder, or unpack a .tar, into a folder on the disk of
#   each node, where it stays for later jobs; --cfg-options STAGE_KEY=... [data_root]
#   tells it to the config
set -euo pipefail

say() {
    echo "slurm_train: $1"
}

refuse() {
    echo "$(basename "$0"): $1" >&2
    exit 2
}

# stage FROM TO: runs on every node. A copy gets its name when it is complete, and what an
# interrupted one left is removed. Jobs that share a disk wait for one another.
stage() {
    set -euo pipefail
    local from=$1 to=$2 origin
    origin="$from of $(stat -c %y "$from")"
    mkdir -p "$(dirname "$to")"
    exec 9> "$to.lock"
    flock 9
    if [ -e "$to" ]; then
        if [ "$(cat "$to/.staged" 2> /dev/null)" != "$origin" ]; then
            echo "slurm_train: $(hostname): $to is not a copy of $origin; delete it or choose another STAGE_TO." >&2
            exit 2
        fi
        echo "slurm_train: staged before on ${SLURMD_NODENAME:-$(hostname)}: $to"
        return
    fi
    # shellcheck disable=SC2064
    trap "rm -rf $(printf %q "$to.part")" EXIT
    rm -rf "$to.part"
    mkdir "$to.part"
    if [ -d "$from" ]; then
        cp -RL "$from/." "$to.part" # links would lead back, or nowhere
    else
        tar -xf "$from" -C "$to.part"
    fi
    echo "$origin" > "$to.part/.staged"
    mv -T "$to.part" "$to"
    echo "slurm_train: staged on ${SLURMD_NODENAME:-$(hostname)} in $SECONDS s: $to"
}

# A signal to this shell. Where Slurm ends the job it signals the tasks itself. Where only
# the shell was told (scancel --batch, --signal=B:...), pass it on; not by srun, which
# kills its tasks on SIGTERM.
heed() {
    caught=1
    if [ "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)" = RUNNING ]; then
        say "caught SIG$1, passed on"
        scancel --signal=USR1 "$SLURM_JOB_ID" || true
    else
        say "caught SIG$1: Slurm ends the job"
        ending=1
    fi
}

# Run a command; sets `code`. In a batch job bash would heed signals only when it is over,
# unless it waits like this.
attend() {
    code=0
    if [ -z "$batch" ]; then
        "$@" || code=$?
        return
    fi
    "$@" &
    local child=$!
    caught=1
    while [ -n "$caught" ]; do # a signal has ended the wait, not the child
        caught="" code=0
        wait "$child" || code=$?
    done
}

if [ $# -lt 3 ]; then
    echo "Usage: $0 PARTITION JOB CONFIG [options of tools/train.py]" >&2
    exit 2
fi
self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
tools=$(dirname "$self")
arguments=("$@")
partition=$1
job=$2
config=$3
shift 3

batch=${SLURM_TRAIN_BATCH:-} # started by the batch job that this script submitted
python=${PYTHON:-python}
work_dir=${WORK_DIR:-work_dirs/$(basename "$config" .py)}
resume="" overwrite=""
for ((i = 1; i <= $#; i++)); do
    case ${!i} in
        --work-dir) work_dir=${*:i+1:1} ;;
        --work-dir=*) work_dir=${!i#*=} ;;
        --resume | --resume=*) resume=given ;;
        --overwrite) overwrite=given ;; # requeued, train.py itself knows and goes on
    esac
done

if [ -n "${SLURM_JOB_ID:-}" ]; then # the allocation's own numbers are the defaults
    : "${GPUS:=${SLURM_NTASKS:-1}}"
    : "${GPUS_PER_NODE:=${SLURM_NTASKS_PER_NODE:-$GPUS}}"
    : "${CPUS_PER_TASK:=${SLURM_CPUS_PER_TASK:-1}}"
fi
: "${GPUS:=8}" "${GPUS_PER_NODE:=8}" "${CPUS_PER_TASK:=8}"
: "${SIGNAL_TIME:=120}" "${MAX_REQUEUES:=100}" "${TASK_WAIT:=180}"
for name in GPUS GPUS_PER_NODE CPUS_PER_TASK SIGNAL_TIME MAX_REQUEUES TASK_WAIT; do
    [[ ${!name} =~ ^[0-9]{1,6}$ ]] || refuse "$name is '${!name}'; it must be a number."
done
[ $((GPUS * GPUS_PER_NODE * CPUS_PER_TASK)) -gt 0 ] || refuse "GPUS, GPUS_PER_NODE and CPUS_PER_TASK must be above 0."
[ "$GPUS_PER_NODE" -le "$GPUS" ] || GPUS_PER_NODE=$GPUS
if [ -n "${STAGE_FROM:-}${STAGE_TO:-}" ]; then
    [ -n "${STAGE_FROM:-}" ] && [ -n "${STAGE_TO:-}" ] || refuse "staging needs both STAGE_FROM and STAGE_TO."
    [ -e "$STAGE_FROM" ] || refuse "STAGE_FROM $STAGE_FROM does not exist."
    [[ -d $STAGE_FROM || $STAGE_FROM == *.tar ]] || refuse "STAGE_FROM $STAGE_FROM is neither a folder nor a .tar."
    STAGE_FROM=$(readlink -f "$STAGE_FROM")
    # --cfg-options drops blanks and makes lists of commas
    [[ $STAGE_TO =~ ^/[A-Za-z0-9_./+@%:=-]+$ ]] || refuse "STAGE_TO '$STAGE_TO' must be an absolute path of letters, digits and ./_+-@%:= alone."
fi
name=${config#mmssl_ext::}  # of a config of the package, beside these tools
[ -f "$config" ] || [ -f "$tools/../configs/${name#configs/}" ] \
    || refuse "config $config does not exist (looked from $PWD and in the package)."
type -P "$python" > /dev/null || refuse "no program '$python' here; set PYTHON."
type -P sbatch > /dev/null || refuse "there is no Slurm here (no sbatch); without it use tools/dist_train.sh."

if [ -z "${SLURM_JOB_ID:-}" ]; then
    [ $((GPUS % GPUS_PER_NODE)) = 0 ] || refuse "GPUS=$GPUS does not fill nodes of GPUS_PER_NODE=$GPUS_PER_NODE."
    allocation=(
        --partition="$partition" --job-name="$job" --nodes=$((GPUS / GPUS_PER_NODE))
        --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE"
        --cpus-per-task="$CPUS_PER_TASK" --signal="USR1@$SIGNAL_TIME"
    )
    gres=${GRES-gpu:$GPUS_PER_NODE}
    [ -z "$gres" ] || allocation+=(--gres="$gres")
    [ -z "${TIME:-}" ] || allocation+=(--time="$TIME")
    if [ -n "${SRUN:-}" ]; then
        # shellcheck disable=SC2086
        exec salloc "${allocation[@]}" ${SBATCH_ARGS:-} bash "$self" "${arguments[@]}"
    fi
    mkdir -p "$work_dir/slurm"
    log=$(cd "$work_dir/slurm" && pwd)/${job//\//_}
    # shellcheck disable=SC2086
    number=$(
        sbatch --parsable "${allocation[@]}" --requeue --open-mode=append --export=ALL \
            --output="${log//%/%%}-%j.log" ${SBATCH_ARGS:-} << END
#!/usr/bin/env bash
export SLURM_TRAIN_BATCH=1
exec bash $(printf '%q ' "$self" "${arguments[@]}")
END
    )
    number=${number%%;*} # ;CLUSTER
    echo "Submitted batch job $number; log: $log-$number.log"
    exit
fi

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${nodes%%$'\n'*}
MASTER_ADDR=$(scontrol --oneliner show node "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
export MASTER_ADDR=${MASTER_ADDR:-$first}
export MASTER_PORT=${MASTER_PORT:-$((15000 + SLURM_JOB_ID % 15000))}
restarts=${SLURM_RESTART_COUNT:-0}

task=("$python" -u "$tools/train.py" "$config" --launcher slurm --work-dir "$work_dir")
[ -z "${STAGE_TO:-}" ] || task+=(--cfg-options "${STAGE_KEY:-data_root}=$STAGE_TO")
task+=("$@")
# A checkpoint that the user names is where the job starts, not where it goes on.
if [ -n "$overwrite" ]; then
    :
elif [ -z "$resume" ] || { [ "$restarts" -gt 0 ] && [ -e "$work_dir/last_checkpoint" ]; }; then
    task+=(--resume)
fi
# No --kill-on-bad-exit: a rank that leaves first must not cut short the one that saves.
# shellcheck disable=SC2206
command=(
    srun --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE" --cpus-per-task="$CPUS_PER_TASK"
    --export=ALL --kill-on-bad-exit=0 --wait="$TASK_WAIT" ${SRUN_ARGS:-} "${task[@]}"
)

say "$(date '+%F %T'), job $SLURM_JOB_ID ($job), start $((restarts + 1))"
say "nodes: $SLURM_JOB_NODELIST, $GPUS tasks that meet at $MASTER_ADDR:$MASTER_PORT"
say "python: $(type -P "$python"), $("$python" --version)"
say "commit: $(git -C "$tools" describe --always --dirty --abbrev=40 --exclude='*' 2> /dev/null || echo none)"
if type -P nvidia-smi > /dev/null; then
    say "GPUs here: $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | sort | uniq -c | xargs || true)"
fi
for name in $(compgen -e); do # not all of them: some hold secrets
    case $name in
        CUDA_* | NCCL_* | GLOO_* | TORCH_* | UCX_* | OMP_* | PYTHONPATH | LD_LIBRARY_PATH | *_ROOT)
            say "environment: $name=$(printf %q "${!name}")"
            ;;
    esac
done
say "command: $(printf '%q ' "${command[@]}")"

ending=""
if [ -n "$batch" ]; then
    trap 'heed TERM' TERM
    trap 'heed USR1' USR1
fi
code=0
if [ -n "${STAGE_TO:-}" ]; then
    attend srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task=1 \
        --export=ALL bash -c "$(declare -f stage); "'stage "$@"' stage "$STAGE_FROM" "$STAGE_TO"
fi
if [ "$code" = 0 ] && [ -z "$ending" ]; then
    attend "${command[@]}"
fi

case $code in
    0)
        say "finished"
        exit
        ;;
    75) why="exit code 75: stopped by a signal, all is saved" ;;
    138 | 143) why="exit code $code: stopped by a signal before it could save" ;;
    *)
        say "exit code $code: not requeued"
        exit "$code"
        ;;
esac
if [ -n "$ending" ]; then
    say "$why; Slurm ends the job, and requeues it where it preempted it"
elif [ -z "$batch" ]; then
    say "$why; start it again to go on"
elif [ "$restarts" -ge "$MAX_REQUEUES" ]; then
    say "$why; not requeued after MAX_REQUEUES=$MAX_REQUEUES times, submit it again to go on"
elif scontrol requeue "$SLURM_JOB_ID"; then
    say "$why; requeued"
else
    say "$why; Slurm refuses to requeue it, submit it again to go on"
fi
exit "$code"
