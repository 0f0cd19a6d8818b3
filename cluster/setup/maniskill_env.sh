#!/usr/bin/env bash
# Makes `.venv-maniskill`, the environment in which `blm bench collect` runs ManiSkill's own motion-planning examples.
#
#   bash cluster/setup/maniskill_env.sh          idempotent: a second call takes a fraction of a second
#
# Their planner (mplib 0.1.1) crashes with NumPy 2, so it gets an environment of its own with NumPy 1. Everything else is
# borrowed from the main environment through a .pth file, which comes after the environment's own packages.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
main="${BLM_VENV:-$root/.venv}"
env="$root/.venv-maniskill"
stamp="$env/.blm-ready"
recipe="$(sha256sum "${BASH_SOURCE[0]}" | cut -d' ' -f1) $main"

if [[ -f "$stamp" && "$(cat "$stamp")" == "$recipe" ]]; then
    exit 0
fi
if [[ ! -x "$main/bin/python" ]]; then
    echo "error: $main has no Python environment; run 'make setup' first" >&2
    exit 2
fi

echo "making $env (mplib 0.1.1 and NumPy 1, about 100 MB; needs the package registry)"
rm -rf "$env"
"$main/bin/python" -m venv "$env"
own_site="$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
"$main/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$own_site/zz_borrow_main_environment.pth"
"$env/bin/python" -m pip install -qq --disable-pip-version-check --no-deps 'mplib==0.1.1' 'numpy==1.26.4'
"$env/bin/python" -c 'import mani_skill.examples.motionplanning.panda.run'
printf '%s' "$recipe" > "$stamp"
echo "ready: $env"
