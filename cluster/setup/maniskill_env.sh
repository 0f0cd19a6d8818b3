#!/usr/bin/env bash
# Makes `.venv-maniskill`, the environment in which `blm bench collect` runs ManiSkill's own motion-planning examples.
#
#   bash cluster/setup/maniskill_env.sh          idempotent: a second call takes a fraction of a second
#
# Their planner (mplib 0.1.1) crashes with NumPy 2, so it gets an environment of its own with NumPy 1.
source "$(dirname "${BASH_SOURCE[0]}")/peer_env.sh"

begin_peer_env maniskill "mplib 0.1.1 and NumPy 1, about 100 MB"
peer_pip --no-deps 'mplib==0.1.1' 'numpy==1.26.4'
"$env/bin/python" -c 'import mani_skill.examples.motionplanning.panda.run'
end_peer_env
