#!/usr/bin/env bash
# The benchmarks that need a GPU, each of at most nine minutes; see gpu.py.
#
#     benchmarks/gpu.sh wheels DIR            where there is a network: fetch what runs need
#     benchmarks/gpu.sh install DIR TARGET    offline: put it beside an existing torch
#     benchmarks/gpu.sh b5|b6|b7|b8|b10|all OUT_DIR [--images FOLDER]
#
# PYTHON names the interpreter that holds torch (default: .venv's, else python3), and
# TARGET the folder of the installed wheels, if there is one. wheels takes the GPU
# machine's Python from TARGET_PYTHON (default 3.12).
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname -- "$here")"

python="${PYTHON:-}"
if [[ -z "$python" ]]; then
  python=python3
  if [[ -x "$root/.venv/bin/python" ]]; then python="$root/.venv/bin/python"; fi
fi
pip=("$python" -m pip --disable-pip-version-check --no-input)

# What an environment with torch, torchvision, numpy, matplotlib, OpenCV and Lightning
# usually lacks. They are pure Python, onedl-mmcv as well where it is built without
# operators, but for simplejpeg. Versions stand in requirements/.
PURE=(addict ftfy markdown mat4py model-index modelindex onedl-mmcv onedl-mmengine
  onedl-mmpretrain ordered-set platformdirs rich termcolor wcwidth yapf
  lightly solo-learn lightning-utilities timm torchmetrics)
COMPILED=(simplejpeg)

usage() { sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

# "name==version" as pinned.
pinned() {
  grep -hiE "^$1==" "$root/requirements/pinned.txt" "$root/requirements/peers.txt" \
    | sed 's/ *;.*//' | head -n 1
}

# The pinned versions of some packages, one to a line.
versions() {
  local name version
  for name in "$@"; do
    version="$(pinned "$name")"
    [[ -n "$version" ]] || { echo "No version of $name in requirements/." >&2; return 1; }
    echo "$version"
  done
}

wheels() {
  local pure compiled platform platforms=()
  pure="$(versions "${PURE[@]}")"
  compiled="$(versions "${COMPILED[@]}")"
  for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do
    platforms+=(--platform "${platform}_x86_64")
  done
  mkdir -p "$1"
  # shellcheck disable=SC2086  # one argument per line
  "${pip[@]}" wheel --quiet --no-deps --wheel-dir "$1" $pure
  # shellcheck disable=SC2086
  "${pip[@]}" download --quiet --no-deps --only-binary=:all: --dest "$1" \
    --implementation cp --python-version "${TARGET_PYTHON:-3.12}" "${platforms[@]}" \
    $compiled
  du -sh "$1"
}

install() {
  "${pip[@]}" install --quiet --no-index --no-deps --no-compile --upgrade \
    --target "$2" "$1"/*.whl
}

run() {
  local bench="$1" out="$2"
  shift 2
  [[ "$bench" == b8 ]] || set --
  # This package, then the wheels, before what the interpreter has.
  PYTHONPATH="$root${TARGET:+:$TARGET}${PYTHONPATH:+:$PYTHONPATH}" \
    timeout 570 "$python" -W ignore "$here/gpu.py" "$bench" "$out" "$@"
}

[[ $# -ge 2 ]] || usage
case "$1" in
  wheels) wheels "$2" ;;
  install) [[ $# -eq 3 ]] || usage; install "$2" "$3" ;;
  b5 | b6 | b7 | b8 | b10) run "$@" ;;
  all)
    failed=()
    for bench in b5 b6 b7 b8 b10; do
      run "$bench" "${@:2}" || failed+=("$bench")
    done
    [[ ${#failed[@]} -eq 0 ]] || { echo "Failed: ${failed[*]}" >&2; exit 1; }
    ;;
  *) usage ;;
esac
