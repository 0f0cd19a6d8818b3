#!/usr/bin/env bash
# What goes into the image, in two steps that the Dockerfile calls, with the functions of `make setup` (which lie beside it there).
#
#   install.sh system cpu|gpu         system libraries
#   install.sh environment cpu|gpu    /opt/blm: the wheel, and the pinned versions of what it needs
# shellcheck disable=SC1091,SC2034 # variables are read by what is sourced
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
step="$1"
device="$2"
venv="${BLM_VENV:-/opt/blm}"
log=/tmp/install.log # apt's words

say() { echo "[image] $*"; }

fail() { # WHAT WENT WRONG, MEND
    echo "error: $1" >&2
    echo "  mend: $2" >&2
    exit 1
}

[[ "$device" == cpu || "$device" == gpu ]] || fail "DEVICE is '$device'" "docker build --build-arg DEVICE=cpu, or gpu"
source "$here/system.sh"
source "$here/environment.sh"
python="$(find_python)" || fail "the base image has no Python 3.11 or 3.12" "docker build --build-arg BASE=python:3.11-slim-bookworm"

case "$step" in
    system)
        # KubeRay asks its pods with wget whether they live; Triton and PyTorch's compiler call a C++ compiler; `ray up`
        # copies files with rsync. Software Vulkan is for nodes without a GPU, which may have the GPU image too.
        # shellcheck disable=SC2046 # one word a package
        apt_install $(missing_libraries) ca-certificates g++ openssh-client rsync wget
        install_software_vulkan
        ;;
    environment)
        "$python" -m venv "$venv"
        wheel="$(echo "$here"/wheels/blm-*.whl)"
        # boto3: Ray starts EC2 machines with it, and MLflow keeps artifacts in S3.
        "$venv/bin/python" -m pip install --no-cache-dir --no-input -c "$here/constraints/$device.txt" "${wheel}[$device]" boto3
        if [[ "$device" == cpu ]]; then
            "$venv/bin/python" -m pip uninstall -y torchaudio torchcodec # CUDA builds, which nothing here uses
            install_torchvision_hook
            "$venv/bin/python" "$here/vllm_cpu_name.py"
        fi
        "$venv/bin/python" -c 'import torch, torchvision, ray, blm.pipelines.cli'
        ;;
    *)
        fail "unknown step '$step'" "install.sh system, then install.sh environment"
        ;;
esac
