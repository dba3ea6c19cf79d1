#!/usr/bin/env bash
# Train on several GPUs (or CPU processes where there is none), on one or more nodes:
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Several nodes: run it on each with NNODES, NODE_RANK (0 .. NNODES-1), MASTER_ADDR and
# the same PORT. On one node a free port is taken unless PORT is set.
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
address=${MASTER_ADDR:-127.0.0.1}
if [ -z "${PORT:-}" ]; then
    if [ "$nnodes" -gt 1 ]; then
        PORT=29500 # all nodes must agree
    else
        PORT=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    fi
fi

exec "$python" -m torch.distributed.run \
    --nnodes="$nnodes" --node_rank="${NODE_RANK:-0}" \
    --master_addr="$address" --master_port="$PORT" --nproc_per_node="$gpus" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
