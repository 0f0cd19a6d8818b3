#!/usr/bin/env bash
# Makes `.venv-vla-eval`, the environment of the harness `vla-eval`, which evaluates our policy server in our own cells and
# whose model servers our client asks.
#
#   bash cluster/setup/vla_eval_env.sh           idempotent: a second call takes a fraction of a second
#
# The benchmark that vla-eval loads (blm.actors.remote.vla_eval_cells) needs our simulator: everything of the main
# environment is borrowed, this project included, and only what vla-eval needs besides is installed.
source "$(dirname "${BASH_SOURCE[0]}")/peer_env.sh"

begin_peer_env vla-eval "vla-eval 0.8.0, about 100 MB"
# Unlike a bare path, this reads the .pth files of the main environment too, through which it finds this project.
echo "import site; site.addsitedir('$main_site')" > "$own_site/zz_borrow_main_environment.pth"
peer_pip --no-warn-conflicts 'vla-eval==0.8.0'
"$env/bin/python" -c 'import vla_eval.orchestrator, blm.model.types'
end_peer_env
