#!/usr/bin/env bash
# Makes `.venv-lerobot`, the environment in which the conformance test opens our datasets with the `lerobot` package itself.
#
#   bash cluster/setup/lerobot_env.sh            idempotent: a second call takes a fraction of a second
#
# lerobot pins other versions of several packages than this project does, so it gets an environment of its own. Heavy ones that
# agree (torch, torchvision, numpy, pyarrow, OpenCV) are borrowed from the main environment through a .pth file, which comes
# after the environment's own packages in the search order: a quarter of a gigabyte instead of eight.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
main="${BLM_VENV:-$root/.venv}"
env="$root/.venv-lerobot"
lerobot_version="0.4.4" # the newest that runs on Python 3.11
stamp="$env/.blm-ready"
recipe="$(sha256sum "${BASH_SOURCE[0]}" | cut -d' ' -f1) $main"

if [[ -f "$stamp" && "$(cat "$stamp")" == "$recipe" ]]; then
    exit 0
fi
if [[ ! -x "$main/bin/python" ]]; then
    echo "error: $main has no Python environment; run 'make setup' first" >&2
    exit 2
fi

echo "making $env (lerobot $lerobot_version, about 280 MB; needs the package registry)"
rm -rf "$env"
"$main/bin/python" -m venv "$env"
own_site="$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
main_site="$("$main/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
{
    echo "$main_site"
    # The CPU-torch hook for torchvision; a .pth of a borrowed folder is not read, so it is named here.
    if [[ -f "$main_site/blm_torchvision_cpu.py" ]]; then
        echo "import blm_torchvision_cpu; blm_torchvision_cpu.install()"
    fi
} > "$own_site/zz_borrow_main_environment.pth"

# Its way of reading videos without torchcodec is in torchvision up to 0.25 only; of that, the Python part is used.
"$env/bin/python" -m pip install -qq --disable-pip-version-check --no-deps "lerobot==$lerobot_version" 'torchvision>=0.25,<0.26'
# What lerobot's dataset code imports, at versions it accepts; pip sees the borrowed packages and leaves them where they are.
"$env/bin/python" -m pip install -qq --disable-pip-version-check --no-warn-conflicts \
    'datasets>=4,<5' 'huggingface_hub>=0.34.2,<0.36' 'draccus==0.10.0' 'pandas>=2.2,<3' 'packaging<26' 'deepdiff<9' \
    'av>=15,<16' 'accelerate>=1.10,<2' jsonlines termcolor

HF_HUB_OFFLINE=1 "$env/bin/python" -W ignore -c 'from lerobot.datasets.lerobot_dataset import LeRobotDataset'
printf '%s' "$recipe" > "$stamp"
echo "ready: $env"
