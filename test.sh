#!/usr/bin/env bash
# Run all tests, in the environments that run.sh measures with. Arguments go to pytest, e.g. ./test.sh -k ctrl_c
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. harness/environment.sh

./run.sh --prepare
# An LLM server to load: `transformers serve`, with the packages of llm-workload and those it wants besides.
setup tests/gpu
llm-workload/.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
  >"$(tests/gpu/.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/llm-workload.pth"

status=0
for room in harness gpu llm video audio run; do
  case $room in
    harness | gpu | run) folder=harness ;;
    *) folder=$(echo "$room"*-workload) ;;
  esac
  python=$folder/.venv/bin/python
  "$python" -m pip install --quiet --no-compile --disable-pip-version-check -r tests/requirements.txt
  printf '\n== tests/%s\n' "$room"
  "$python" -m pytest "tests/$room" "$@" || { code=$?; ((code == 5)) || status=1; } # 5: -k chose none of them
done
exit "$status"
