# Sourced by the shell scripts: messages, checks, and virtual environments.
# shellcheck shell=bash

PYTHON=${PYTHON:-python3}
# Otherwise optimum-intel and its like would be compiled anew at every start: 20 s instead of 9.
unset PYTHONDONTWRITEBYTECODE
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
die() { echo "error: $*" >&2; exit 1; }
wrong_usage() { echo "error: $* (--help)" >&2; exit 2; }
is_number() { [[ $1 =~ ^[1-9][0-9]{0,8}$ ]]; }
is_writable() { local file; file=$(mktemp "$1/.writable.XXXXXX" 2>/dev/null) && rm -f "$file"; }

# tied PYTHON ARG...: run it; it ends when this shell is killed, even by kill -9.
tied() { "$1" "$tools/tied.py" "$BASHPID" "$@"; }

# lock: hold the current folder as long as this process and its children live.
lock() {
  local locked=75 status=0
  exec 9<.
  command -v flock >/dev/null || return 0
  flock -n -E "$locked" 9 2>/dev/null || status=$? # others: a file system without locks
  ((status == locked)) || return 0
  echo "Waiting up to 60 s: another run.sh is running in $PWD" >&2
  flock -w 60 9 || die "another run.sh is running in $PWD: wait until it ends"
}

# pip_quietly FOLDER ARG...: pip of FOLDER's environment; what it says goes to .venv/pip.log.
pip_quietly() {
  tied "$1/.venv/bin/python" -m pip --disable-pip-version-check -q "${@:2}" \
    >"$1/.venv/pip.log" 2>&1
}

# pip_reason FOLDER: why it failed.
pip_reason() {
  local log=$1/.venv/pip.log
  if grep -qE 'ConnectionError|NameResolution|ConnectTimeout|ProxyError|timed out' "$log"; then
    echo "no connection to the package index; run the same command again ($log)"
  else
    echo "$(sed -n 's/^ERROR: //p' "$log" | tail -n 1) ($log)"
  fi
}

has_uv() { [[ -x $tools/.venv/bin/uv ]]; }

# uv_quietly FOLDER ARG...: uv in its place: in seconds, and what several environments have is on
# disk once.
uv_quietly() {
  has_uv || return
  tied "$tools/.venv/bin/python" "$tools/uv_settings.py" "$tools/.venv/bin/uv" pip install \
    --python "$1/.venv/bin/python" --index-strategy unsafe-best-match \
    --override "$tools/uv-overrides.txt" "${@:2}" >"$1/.venv/uv.log" 2>&1
}

# install_packages FOLDER ARG...: as pip install does. Where uv can't, pip does, or says why not.
install_packages() {
  uv_quietly "$@" && return
  "$1/.venv/bin/python" -m pip --version >/dev/null 2>&1 ||
    tied "$1/.venv/bin/python" -m ensurepip >"$1/.venv/pip.log" 2>&1 || die "no pip in $1/.venv"
  pip_quietly "$1" install --no-compile "${@:2}" ||
    die "could not install ${*: -1}: $(pip_reason "$1")"
}

check_python() {
  command -v "$PYTHON" >/dev/null || die "no $PYTHON: install Python 3.10 to 3.12, or set PYTHON"
  "$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' ||
    die "$("$PYTHON" --version) is not 3.10 to 3.12: set PYTHON to one that is"
  "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
    die "Python's venv is missing: sudo apt install python3-venv"
}

# PyTorch's own index has builds without CUDA, gigabytes smaller. One quick try, else plain pip.
torch_index() {
  if [[ -z ${torch_index_answer+set} ]]; then
    torch_index_answer=
    if "$PYTHON" -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=3)' \
      "$TORCH_CPU_INDEX/torch/" 2>/dev/null >&2; then
      torch_index_answer="--extra-index-url $TORCH_CPU_INDEX"
    fi
  fi
}

# setup FOLDER: an environment with FOLDER/requirements.txt, made anew when that file has changed.
setup() {
  local folder=$1 index="" stamp python uv
  stamp=$("$PYTHON" -c 'import sys; print(sys.version_info[:2])')
  stamp+=$(cksum <"$folder/requirements.txt")
  [[ -x $folder/.venv/bin/python && -f $folder/.venv/installed &&
    $(<"$folder/.venv/installed") == "$stamp" ]] && return
  say "Setting up $folder"
  if grep -q '^torch' "$folder/requirements.txt"; then
    torch_index
    index=$torch_index_answer
  fi
  rm -f "$folder/.venv/installed" # first, so that what is left of it is never taken for whole
  rm -rf "$folder/.venv"
  # The interpreter itself: a shim like pyenv's would outlive this shell.
  python=$("$PYTHON" -c 'import sys; print(sys.executable)')
  # shellcheck disable=SC2046  # an option or none
  tied "$python" -m venv $(! has_uv || echo --without-pip) "$folder/.venv" ||
    die "could not make $folder/.venv: see above"
  # uv is a requirement of harness's; it installs the others.
  if uv=$(grep '^uv==' "$folder/requirements.txt"); then
    pip_quietly "$folder" install "$uv" || : # pip says why below
  fi
  # shellcheck disable=SC2086  # the index is two words or none
  install_packages "$folder" $index pip -r "$folder/requirements.txt"
  echo "$stamp" >"$folder/.venv/installed"
}
