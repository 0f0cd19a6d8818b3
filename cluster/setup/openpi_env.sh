#!/usr/bin/env bash
# Makes `.venv-openpi`, the environment of openpi's own client, with which tests ask our policy server.
#
#   bash cluster/setup/openpi_env.sh             idempotent: a second call takes a fraction of a second
#
# openpi-client demands NumPy 1 and nothing of ours, so it borrows nothing from the main environment.
source "$(dirname "${BASH_SOURCE[0]}")/peer_env.sh"

begin_peer_env openpi "openpi-client 0.1.2 and NumPy 1, about 100 MB"
rm "$own_site/zz_borrow_main_environment.pth"
peer_pip 'openpi-client==0.1.2' 'typing_extensions>=4' # which it imports and does not declare
"$env/bin/python" -c 'from openpi_client import action_chunk_broker, websocket_client_policy'
end_peer_env
