#!/usr/bin/env bash
# Set up everything that `make` needs: .venv with the pinned packages, this package (editable), and software GL.
# With the argument `simulators` also those of the extras, gym-hil, and robomimic, which the tests compare files with.
# Quick when nothing changed: the stamps in .venv name this folder and the contents of the two files below.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.installed
simulators=.venv/.simulators-installed
wanted="$PWD $(cat pyproject.toml constraints.txt | cksum)"

suitable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1; }
version() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo "not found"; }

# $PYTHON when given, else the first of the usual names that runs: a pyenv shim may exist and still refuse to run.
choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        suitable "$PYTHON" && echo "$PYTHON" && return
        echo "error: PYTHON=$PYTHON is $(version "$PYTHON"); understudy needs Python 3.11 to 3.13" >&2
        exit 2
    fi
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        if suitable "$candidate"; then echo "$candidate"; return; fi
    done
    echo "error: no Python 3.11 to 3.13 found (python3 is $(version python3)); install one, or run: make PYTHON=/path/to/python3.12 quickstart" >&2
    exit 2
}

create_venv() {
    local python
    python=$(choose_python)
    echo "Creating .venv with Python $(version "$python")"
    rm -rf .venv
    "$python" -m venv .venv && .venv/bin/python -m pip --version >/dev/null && return
    rm -rf .venv
    echo "error: $python cannot create a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2
    exit 2
}

# pip's own output goes to a log; the screen shows one line that moves, and the log's end when something fails.
install_packages() {
    local started=$SECONDS
    echo "Installing the pinned packages into .venv (the first time a few minutes and 2 GiB, more with CUDA)"
    pip_install -e '.[dev]'
    compile_imports
    echo "$wanted" >"$stamp"
    echo "Installed in $((SECONDS - started)) s"
}

install_simulators() {
    local started=$SECONDS
    echo "Installing the simulators of the extras into .venv (a C compiler is needed for one of their packages)"
    pip_install -e '.[dev,simulators]' # with what install_packages installs
    echo "$wanted" >"$stamp"
    # Without what they declare: robomimic wants torchvision and a renderer's build, gym-hil the drivers of gamepads and
    # keyboards, and neither needs them for what is used here.
    pip_install --no-deps robomimic==0.3.0 gym-hil==0.1.14
    compile_imports
    echo "$wanted" >"$simulators"
    echo "Installed in $((SECONDS - started)) s"
}

# Without compiling: of 25,000 modules a tenth is ever imported, and those are compiled then.
pip_install() {
    .venv/bin/python -m pip install --no-compile --no-input --disable-pip-version-check --progress-bar off -c constraints.txt "$@" 2>&1 |
        tee .venv/install.log | show_progress && return
    installation_failed "pip failed"
}

# Compile what a sweep imports by importing it, also where PYTHONDONTWRITEBYTECODE is set, as in images of containers:
# each process would compile it anew there, which doubles what its start takes.
compile_imports() {
    env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -c \
        'import mlflow.pyfunc, mlflow.store.tracking.sqlalchemy_store, ray.train.torch, ray.tune, torch._dynamo, understudy.sweeping.run' \
        >>.venv/install.log 2>&1 && return
    installation_failed "what was installed cannot be imported"
}

installation_failed() {
    tail -n 15 .venv/install.log >&2
    echo "error: $1; the whole log is .venv/install.log" >&2
    exit 1
}

show_progress() {
    if [ ! -t 1 ]; then cat >/dev/null; return; fi
    awk '/^Collecting|^Requirement already/ { n++; printf "\r  %d packages found: %-50.50s", n, $2; fflush() }
         /^Installing collected/ { printf "\r  unpacking %d packages%-60s", n, ""; fflush() }
         END { printf "\r%-80s\r", "" }'
}

if [ ! -x .venv/bin/python ] || ! suitable .venv/bin/python; then
    create_venv
elif [ -n "${PYTHON:-}" ] && [ "$(version "$PYTHON")" != "$(version .venv/bin/python)" ]; then
    echo "error: .venv is Python $(version .venv/bin/python), PYTHON=$PYTHON is $(version "$PYTHON"): run \`make clean\` first" >&2
    exit 2
fi
if [ "${1:-}" = simulators ] && [ "$(cat "$simulators" 2>/dev/null)" != "$wanted" ]; then
    install_simulators
elif [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    install_packages
fi
scripts/system_packages.sh
