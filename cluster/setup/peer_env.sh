# Environments of packages that are measured or checked beside this project, each with versions of its own.
#
# Sourced by maniskill_env.sh, lerobot_env.sh and datasets_env.sh, which call `begin_peer_env NAME WHAT`, install, and call
# `end_peer_env`. What agrees (torch, NumPy, pyarrow, ...) is borrowed from the main environment through a .pth file, which
# comes after the environment's own packages in the search order: megabytes instead of gigabytes.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
main="${BLM_VENV:-$root/.venv}"

# Leaves the whole script if the environment is there and as it should be; otherwise makes an empty one.
# Defines: env, stamp, recipe, own_site, main_site.
begin_peer_env() {
    env="$root/.venv-$1"
    stamp="$env/.blm-ready"
    recipe="$(cat "$0" "${BASH_SOURCE[0]}" | sha256sum | cut -d' ' -f1) $main"
    if [[ -f "$stamp" && "$(cat "$stamp")" == "$recipe" ]]; then
        exit 0
    fi
    if [[ ! -x "$main/bin/python" ]]; then
        echo "error: $main has no Python environment; run 'make setup' first" >&2
        exit 2
    fi
    echo "making $env ($2; needs the package registry)"
    rm -rf "$env"
    "$main/bin/python" -m venv "$env"
    local site='import sysconfig; print(sysconfig.get_path("purelib"))'
    own_site="$("$env/bin/python" -c "$site")"
    main_site="$("$main/bin/python" -c "$site")"
    echo "$main_site" > "$own_site/zz_borrow_main_environment.pth"
}

end_peer_env() {
    printf '%s' "$recipe" > "$stamp"
    echo "ready: $env"
}

peer_pip() {
    "$env/bin/python" -m pip install -qq --disable-pip-version-check "$@"
}
