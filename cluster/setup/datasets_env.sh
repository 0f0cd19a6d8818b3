#!/usr/bin/env bash
# Makes `.venv-datasets`, the environment in which `blm bench ingest` runs Hugging Face datasets with PyTorch's DataLoader.
#
#   bash cluster/setup/datasets_env.sh           idempotent: a second call takes a fraction of a second
#
# The project itself has no use for the package, and its dependencies would hold back others. torch, pyarrow and Pillow are
# borrowed, so both sides of the benchmark use the same ones.
source "$(dirname "${BASH_SOURCE[0]}")/peer_env.sh"

datasets_version="5.2.0"

begin_peer_env datasets "datasets $datasets_version, about 35 MB"
peer_pip --no-warn-conflicts "datasets==$datasets_version"
HF_HUB_OFFLINE=1 "$env/bin/python" -W ignore -c 'import datasets, torch.utils.data, PIL, pyarrow'
end_peer_env
