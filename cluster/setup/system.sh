# System packages, with apt: a Python that can make environments, the libraries that wheels expect, and software Vulkan.
# Sourced by setup.sh, which defines `say`, `fail`, `here`, `log` and `device`; defines `prepare_system`.

# Shared libraries that SAPIEN, OpenCV, PyTorch or vLLM load from the system, and the Debian packages that bring them.
LIBRARIES="libGL.so.1=libgl1 libEGL.so.1=libegl1 libglib-2.0.so.0=libglib2.0-0 libX11.so.6=libx11-6 libXext.so.6=libxext6
    libSM.so.6=libsm6 libxcb.so.1=libxcb1 libgomp.so.1=libgomp1 libnuma.so.1=libnuma1 libvulkan.so.1=libvulkan1"
MESA_NEEDED=24.3 # the first whose software Vulkan has what SAPIEN asks for

# Packages for the libraries that the loader cannot find.
missing_libraries() {
    local known entry
    known="$(/sbin/ldconfig -p 2> /dev/null || ldconfig -p)"
    for entry in $LIBRARIES; do
        [[ "$known" == *"${entry%%=*} ("* ]] || echo "${entry##*=}"
    done
}

# Prints the first interpreter of a version that we support.
find_python() {
    local candidate
    for candidate in ${BLM_PYTHON:-python3.11 python3.12 python3 /usr/bin/python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2> /dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

can_make_environments() { "$1" -c 'import ensurepip, venv' 2> /dev/null; }

mesa_version() { dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2> /dev/null || true; }

mesa_is_recent() { # VERSION, as Debian writes it
    [[ -n "$1" ]] && dpkg --compare-versions "$1" ge "$MESA_NEEDED"
}

# Runs a command as root.
as_root() {
    if [[ "$(id -u)" == 0 ]]; then
        "$@"
    else
        sudo "$@"
    fi
}

# Installs packages; all of apt's words go to the log.
apt_install() {
    local by_hand="apt-get install $* (as root), then: make setup"
    if [[ "$(id -u)" != 0 ]] && ! { command -v sudo > /dev/null && { [[ -t 0 ]] || sudo -n true 2> /dev/null; }; }; then
        fail "system packages are missing and this user may not install any: $*" "$by_hand"
    fi
    say "installing system packages: $*"
    if [[ -z "${apt_updated:-}" ]]; then
        as_root apt-get update >> "$log" 2>&1 || apt_failed "apt-get update" "$by_hand"
        apt_updated=1
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >> "$log" 2>&1 \
        || apt_failed "apt-get install $*" "$by_hand"
}

apt_failed() { # COMMAND, MEND
    tail -n 15 "$log" >&2
    fail "$1 failed, see above and $log; is there a network?" "$2"
}

# Software Vulkan for the simulator's pictures on a machine without a GPU.
install_software_vulkan() {
    mesa_is_recent "$(mesa_version)" && return
    local candidate codename source
    candidate="$(apt-cache policy mesa-vulkan-drivers 2> /dev/null | awk '/Candidate:/ {print $2}')"
    if mesa_is_recent "$candidate"; then
        apt_install mesa-vulkan-drivers libvulkan1
        return
    fi
    codename="$(. /etc/os-release && echo "${VERSION_CODENAME:-}")"
    if ! source="$("$python" "$here/apt_backports.py" "$codename")"; then
        fail "the simulator needs Mesa $MESA_NEEDED or newer and no Debian source of suite '$codename' was found in /etc/apt" \
            "install a newer mesa-vulkan-drivers, then: make setup"
    fi
    if [[ -n "$source" ]]; then
        say "adding the apt suite $codename-backports, for Mesa"
        as_root tee /etc/apt/sources.list.d/blm-backports.sources > /dev/null <<< "$source"
        apt_updated=""
    fi
    apt_install -t "$codename-backports" mesa-vulkan-drivers libvulkan1
    mesa_is_recent "$(mesa_version)" \
        || fail "the suite $codename-backports has Mesa $(mesa_version); the simulator needs $MESA_NEEDED" "blm doctor"
}

prepare_system() {
    python="$(find_python || true)"
    if [[ -n "${BLM_SKIP_SYSTEM:-}" ]]; then
        [[ -n "$python" ]] || fail "no Python 3.11 or 3.12 was found" "BLM_PYTHON=/path/to/python3.11 make setup"
        return
    fi
    local wanted
    wanted="$(missing_libraries)"
    if ! command -v apt-get > /dev/null; then
        [[ -n "$python" ]] || fail "no Python 3.11 or 3.12 was found" "install Python 3.11, then: make setup"
        [[ -z "$wanted" ]] || fail "system libraries are missing and there is no apt-get: (Debian's names) $(echo $wanted)" \
            "install them with this system's package manager, then: BLM_SKIP_SYSTEM=1 make setup"
        return
    fi
    if [[ -z "$python" ]]; then
        apt_install python3 python3-venv
        python="$(find_python)" || fail "this system's Python is $(/usr/bin/python3 -V 2>&1); 3.11 or 3.12 is needed" \
            "install Python 3.11, then: BLM_PYTHON=/path/to/python3.11 make setup"
    fi
    if ! can_make_environments "$python"; then
        apt_install "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    fi
    # shellcheck disable=SC2086 # one word a package
    [[ -z "$wanted" ]] || apt_install $wanted
    [[ "$device" == gpu ]] || install_software_vulkan
}
