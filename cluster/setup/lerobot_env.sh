#!/usr/bin/env bash
# Makes `.venv-lerobot`, the environment in which the conformance test opens our datasets with the `lerobot` package itself, and
# in which its own policies can be trained on them (docs/lerobot.md).
#
#   bash cluster/setup/lerobot_env.sh            idempotent: a second call takes a fraction of a second
#
# lerobot pins other versions of several packages than this project does, so it gets an environment of its own: half
# a gigabyte, with what it borrows instead of eight.
source "$(dirname "${BASH_SOURCE[0]}")/peer_env.sh"

lerobot_version="0.4.4" # the newest that runs on Python 3.11

begin_peer_env lerobot "lerobot $lerobot_version, about 450 MB"
# The CPU-torch hook for torchvision; a .pth of a borrowed folder is not read, so it is named here.
if [[ -f "$main_site/blm_torchvision_cpu.py" ]]; then
    echo "import blm_torchvision_cpu; blm_torchvision_cpu.install()" >> "$own_site/zz_borrow_main_environment.pth"
fi

# Its way of reading videos without torchcodec is in torchvision up to 0.25 only; of that, the Python part is used.
peer_pip --no-deps "lerobot==$lerobot_version" 'torchvision>=0.25,<0.26'
# What lerobot's dataset code imports, at versions it accepts; pip sees the borrowed packages and leaves them where they are.
peer_pip --no-warn-conflicts \
    'datasets>=4,<5' 'huggingface_hub>=0.34.2,<0.36' 'draccus==0.10.0' 'pandas>=2.2,<3' 'packaging<26' 'deepdiff<9' \
    'av>=15,<16' 'accelerate>=1.10,<2' jsonlines termcolor

# What its training imports besides, at versions that go with that huggingface_hub.
peer_pip --no-deps 'transformers>=4.57,<5' 'tokenizers>=0.22,<0.23' 'diffusers>=0.36,<0.37' 'pyserial>=3.5'
# This diffusers fails on importing the main environment's torchao, which it does not need: it is told that there is none.
echo 'import sys; sys.modules["torchao"] = None' > "$own_site/zz_no_torchao.pth"

HF_HUB_OFFLINE=1 "$env/bin/python" -W ignore -c 'import lerobot.scripts.lerobot_train'
HF_HUB_OFFLINE=1 "$env/bin/python" -W ignore -c 'from lerobot.datasets.lerobot_dataset import LeRobotDataset'
end_peer_env
