#!/usr/bin/env bash
# Train on several GPUs (or CPU processes where there is none), on one or more nodes:
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Several nodes: run it on each with NNODES, NODE_RANK (0 .. NNODES-1), MASTER_ADDR and
# the same PORT. On one node a free port is taken unless PORT is set.
#
# MAX_RESTARTS=3: where a process or node fails, all processes start again, up to three
# times, and go on from the newest checkpoint (--resume is added). Nodes then find one
# another at MASTER_ADDR:PORT in any order, and NODE_RANK does not count. RDZV_ID names
# the run; all nodes need the same (else that of the Slurm job, or the address).
#
# Ctrl-C, a closed terminal, SIGTERM or SIGUSR1 to this process reaches every worker of
# the node (SIGUSR1 where torchrun has --signals-to-handle; older ones leave it to you to
# signal the workers). They save and stop; torchrun kills those that have not after 30
# seconds. The exit code is then 75 where all have saved, else torchrun's, 1. Under nohup
# a closed terminal stops nothing.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "Usage: $0 CONFIG GPUS [options of tools/train.py]" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2

python=${PYTHON:-python}
nnodes=${NNODES:-1}
restarts=${MAX_RESTARTS:-0}
if [ "$nnodes" != 1 ] && [ -z "${MASTER_ADDR:-}" ]; then
    echo "NNODES=$nnodes needs MASTER_ADDR, the address of the first node." >&2
    exit 2
fi
address=${MASTER_ADDR:-127.0.0.1}
if [ -z "${PORT:-}" ]; then
    if [ "$nnodes" != 1 ]; then
        PORT=29500 # all nodes must agree
    else
        PORT=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    fi
fi

meet=(--node_rank="${NODE_RANK:-0}" --master_addr="$address" --master_port="$PORT")
if [ "$restarts" -gt 0 ]; then
    # A run that is started twice on one node must not count as the same run.
    alone=$([ "$nnodes" = 1 ] && cat /proc/sys/kernel/random/uuid 2>/dev/null || true)
    id=${RDZV_ID:-${SLURM_JOB_ID:-${alone:-$address:$PORT}}}
    meet=(--max_restarts="$restarts" --rdzv_backend=c10d --rdzv_id="$id"
        --rdzv_endpoint="$address:$PORT")
    # The store that torchrun shares with its workers keeps what they wrote before the
    # restart, and new ones connect to old ports (pytorch issue 135712, also in 2.11).
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    # With --overwrite, train.py itself knows a restart and goes on.
    if [[ " $* " != *" --resume"* && " $* " != *" --overwrite "* ]]; then
        set -- "$@" --resume
    fi
fi

# Read by torchrun where it knows the option --signals-to-handle; else it ignores SIGUSR1
# and lives, where Slurm sends it to all processes.
signals=SIGTERM,SIGINT,SIGQUIT,SIGUSR1
ignored=$(sed -n 's/^SigIgn:[[:space:]]*//p' /proc/self/status 2>/dev/null || true)
if [ -z "$ignored" ] || [ $((0x$ignored & 1)) -eq 0 ]; then
    signals=$signals,SIGHUP # else nohup has it ignored
fi
export PET_SIGNALS_TO_HANDLE=${PET_SIGNALS_TO_HANDLE:-$signals}
trap '' USR1

exec "$python" "$(dirname "$0")/torchrun.py" --nnodes="$nnodes" "${meet[@]}" \
    --nproc_per_node="$gpus" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
