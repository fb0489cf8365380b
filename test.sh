#!/usr/bin/env bash
# Run all tests, in the environments that run.sh measures with. Arguments go to pytest, e.g. ./test.sh -k ctrl_c
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./run.sh --prepare
status=0
for room in harness llm video audio run; do
  case $room in
    harness | run) folder=harness ;;
    *) folder=$(echo "$room"*-workload) ;;
  esac
  python=$folder/.venv/bin/python
  "$python" -m pip install --quiet --no-compile --disable-pip-version-check -r tests/requirements.txt
  printf '\n== tests/%s\n' "$room"
  "$python" -m pytest "tests/$room" "$@" || { code=$?; ((code == 5)) || status=1; } # 5: -k chose none of them
done
exit "$status"
