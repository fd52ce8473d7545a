#!/usr/bin/env bash
# Install software GL, which the simulators need to draw videos. Never fails: without it everything but videos works.
set -u
packages="libegl1 libopengl0 libgl1-mesa-dri" # libEGL, the libOpenGL that PyOpenGL opens, and Mesa's drivers
tried=.venv/.system-packages-tried

[ "$(uname -s)" = Linux ] || exit 0

has() { ldconfig -p 2>/dev/null | grep -q "$1" || /sbin/ldconfig -p 2>/dev/null | grep -q "$1"; }
complete() { has 'libEGL\.so\.1' && has 'libEGL_\(mesa\|nvidia\)' && has 'lib\(OpenGL\|GL\)\.so'; }
complete && exit 0

advice() { echo "Videos need software GL ($1). To have them: $2"; exit 0; }

command -v apt-get >/dev/null || advice "this is not Debian or Ubuntu" "install your system's packages for EGL, OpenGL and Mesa's drivers"
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    advice "no root here" "sudo apt-get install -y $packages"
fi
by_hand="${as_root:+sudo }apt-get update && ${as_root:+sudo }apt-get install -y $packages"
[ ! -e "$tried" ] || advice "installing it failed before; its log is $tried" "$by_hand"

echo "Installing software GL for videos: $packages"
apt_get() { $as_root env DEBIAN_FRONTEND=noninteractive timeout 300 apt-get -qq -o DPkg::Lock::Timeout=60 -o Acquire::Retries=1 "$@"; }
install() { apt_get install -y --no-install-recommends $packages; }
{ install || { apt_get update && install; }; } >"$tried" 2>&1 </dev/null
complete || advice "apt-get failed; its log is $tried" "$by_hand"
rm -f "$tried"
