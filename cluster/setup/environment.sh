# The Python environment. Sourced by setup.sh after system.sh, which finds `python`; defines `prepare_environment`.

NEEDED_GB=8 # free disk space; the CPU environment takes 6

# Everything that decides what the environment contains. Another value: installed again.
recipe() {
    echo "$device $root $("$python" -V 2>&1)"
    cat "$root/pyproject.toml" "$here"/{setup,system,environment}.sh "$here"/*.py "$root"/constraints/*.txt | sha256sum
}

prepare_environment() {
    local stamp="$venv/.blm-ready" wanted
    wanted="$(recipe)"
    if [[ -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
        return
    fi
    local free_gb began=$SECONDS
    free_gb="$(df --output=avail -BG "$venv" | tail -n 1 | tr -dc 0-9)"
    if [[ ! -x "$venv/bin/python" ]] && (( free_gb < NEEDED_GB )); then
        fail "$free_gb GB of disk space are free, $NEEDED_GB are needed" "free some space, or BLM_VENV=/elsewhere/blm-venv make setup"
    fi
    say "installing the Python environment for $device in $venv (some minutes the first time; log: $venv/setup.log)"
    rm -f "$stamp"
    make_venv
    install_packages
    if [[ "$device" == cpu ]]; then
        install_torchvision_hook
        "$venv/bin/python" "$here/vllm_cpu_name.py"
    fi
    check_environment
    echo "$wanted" > "$stamp"
    say "ready in $((SECONDS - began)) s"
}

# A virtual environment of the right interpreter; one of another is replaced.
make_venv() {
    local version='import sys; print(sys.version_info[:2])'
    if [[ "$("$venv/bin/python" -c "$version" 2> /dev/null)" == "$("$python" -c "$version")" ]]; then
        return
    fi
    if [[ -f "$venv/pyvenv.cfg" ]]; then
        find "$venv" -mindepth 1 -not -path "$log" -not -path "$lock" -delete
    elif [[ -n "$(find "$venv" -mindepth 1 -not -path "$log" -not -path "$lock" -print -quit)" ]]; then
        fail "$venv is not empty and is no virtual environment" "BLM_VENV=/another/folder make setup"
    fi
    run_logged "no virtual environment could be made with $python" "rm -rf $venv, then: make setup" \
        "$python" -m venv "$venv"
}

install_packages() {
    local constraints=()
    if [[ -f "$root/constraints/$device.txt" ]]; then
        constraints=(-c "$root/constraints/$device.txt")
    fi
    run_logged "the packages could not be installed; is the package index reachable, and does it carry the versions named above?" \
        "pip config list shows which index is used; then: make setup" \
        "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
        "${constraints[@]}" -e "$root[$device,dev]"
    if [[ "$device" == cpu ]]; then
        # Only CUDA builds are to be had; they break whoever tries whether they are there, and nothing here uses them.
        run_logged "torchaudio and torchcodec could not be removed" "rm -rf $venv, then: make setup" \
            "$venv/bin/python" -m pip uninstall -y torchaudio torchcodec
    fi
}

# See blm_torchvision_cpu.py: a `.pth` line runs it at the start of every process of this environment.
install_torchvision_hook() {
    local site
    site="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    cp "$here/blm_torchvision_cpu.py" "$site/"
    echo 'import blm_torchvision_cpu; blm_torchvision_cpu.install()' > "$site/blm_torchvision_cpu.pth"
}

# The quick part of `blm doctor`: the three imports that break first.
check_environment() {
    run_logged "the environment was installed but does not work" "rm -rf $venv, then: make setup" \
        "$venv/bin/python" -c 'import torch, torchvision, ray, blm.pipelines.cli'
}

run_logged() { # WHAT WENT WRONG, MEND, COMMAND...
    local what="$1" mend="$2"
    shift 2
    echo "+ $*" >> "$log"
    if ! "$@" >> "$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "$what (see above and $log)" "$mend"
    fi
}
