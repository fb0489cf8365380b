# Sourced by the shell scripts: messages, checks, and virtual environments.
# shellcheck shell=bash

PYTHON=${PYTHON:-python3}
# Otherwise optimum-intel and its like would be compiled anew at every start: 20 s instead of 9.
unset PYTHONDONTWRITEBYTECODE
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
die() { echo "error: $*" >&2; exit 1; }
wrong_usage() { echo "error: $* (--help)" >&2; exit 2; }
is_number() { [[ $1 =~ ^[1-9][0-9]{0,8}$ ]]; }
pip_install() { "$1/.venv/bin/python" -m pip --disable-pip-version-check -q install "${@:2}"; }

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
  local folder=$1 index="" stamp
  stamp=$("$PYTHON" -c 'import sys; print(sys.version_info[:2])')
  stamp+=$(cksum <"$folder/requirements.txt")
  [[ -f $folder/.venv/installed && $(<"$folder/.venv/installed") == "$stamp" ]] && return
  say "Setting up $folder"
  if grep -q '^torch' "$folder/requirements.txt"; then
    torch_index
    index=$torch_index_answer
  fi
  rm -rf "$folder/.venv"
  "$PYTHON" -m venv "$folder/.venv"
  # shellcheck disable=SC2086  # the index is two words or none
  pip_install "$folder" --no-compile $index -r "$folder/requirements.txt" ||
    die "could not install $folder/requirements.txt: see above; run the same command again"
  echo "$stamp" >"$folder/.venv/installed"
}
