#!/usr/bin/env bash
# Makes `.venv-schemathesis`, the environment of schemathesis, which asks our server whatever its description allows and more.
#
#   bash cluster/setup/schemathesis_env.sh       idempotent: a second call takes a fraction of a second
#
# It brings many libraries of its own and needs nothing of ours, so it borrows nothing from the main environment.
source "$(dirname "${BASH_SOURCE[0]}")/peer_env.sh"

begin_peer_env schemathesis "schemathesis 4.32.5, about 100 MB"
rm "$own_site/zz_borrow_main_environment.pth"
peer_pip 'schemathesis==4.32.5'
"$env/bin/schemathesis" --version
end_peer_env
