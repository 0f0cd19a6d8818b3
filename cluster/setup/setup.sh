#!/usr/bin/env bash
# Makes this machine ready: system libraries, then the Python environment `.venv`. `make setup`, `make demo` and `make test` call it.
#
#   bash cluster/setup/setup.sh           idempotent: a second call takes a fraction of a second
#
#   BLM_DEVICE=cpu|gpu      which PyTorch and vLLM (default: gpu where an NVIDIA driver is present)
#   BLM_PYTHON=python3.12   which interpreter (default: the first of python3.11, python3.12, python3 that will do)
#   BLM_VENV=FOLDER         where the environment goes (default: .venv)
#   BLM_SKIP_SYSTEM=1       leave system packages alone
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
venv="$(realpath -m "${BLM_VENV:-$root/.venv}")"

say() { echo "[setup] $*"; }

# One thing went wrong: what, and the command that a person should run.
fail() {
    echo "error: $1" >&2
    echo "  mend: $2" >&2
    exit 1
}

device="${BLM_DEVICE:-}"
if [[ -z "$device" ]]; then
    device=cpu
    if [[ -e /proc/driver/nvidia/version ]] || nvidia-smi -L > /dev/null 2>&1; then
        device=gpu
    fi
fi
[[ "$device" == cpu || "$device" == gpu ]] || fail "BLM_DEVICE is '$device'" "BLM_DEVICE=cpu make setup, or BLM_DEVICE=gpu make setup"
[[ "$(uname -s)" == Linux ]] || fail "the simulator and vLLM need Linux; this is $(uname -s)" "use a Linux machine or container, then: make setup"

source "$here/system.sh"
source "$here/environment.sh"

mkdir -p "$venv"
log="$venv/setup.log"
lock="$venv/.setup-lock"
exec 9> "$lock"
flock 9 # two setups at once would spoil each other
prepare_system
prepare_environment
