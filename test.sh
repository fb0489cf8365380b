#!/usr/bin/env bash
# Run all tests, in the environments that run.sh measures with.
# Arguments go to pytest, e.g. ./test.sh -k ctrl_c
# Two tests or more run at a time, except those of times and rates ("alone").
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. harness/environment.sh

./run.sh --prepare
# An LLM server to load-test: `transformers serve`, with llm-workload's packages and a few more.
setup tests/gpu
site_packages() {
  "$1/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
}
site_packages llm-workload >"$(site_packages tests/gpu)/llm-workload.pth"
for folder in harness *-workload; do install_packages "$folder" -r tests/requirements.txt; done
install_packages harness -r tests/run/requirements.txt
setup fleet
install_packages fleet -r tests/fleet/requirements.txt

status=0
# run_tests ROOM ARG...: by pytest, in the environment that the room's code runs in.
run_tests() {
  local room=$1 folder=harness code=0 workload
  for workload in "$room"*-workload; do [[ ! -d $workload ]] || folder=$workload; done
  printf '\n== tests/%s\n' "$*"
  "$folder/.venv/bin/python" -m pytest "tests/$room" "${@:2}" || code=$?
  ((code != 2)) || exit 130 # Ctrl-C
  ((code == 0 || code == 5)) || status=1 # 5: -k chose none of them
}
for room in harness analysis gpu llm video audio run fleet; do
  at_a_time=2
  [[ $room != gpu ]] || at_a_time=4 # they mostly wait for servers
  run_tests "$room" -n "$at_a_time" --maxschedchunk 1 -m "not alone" "$@"
  run_tests "$room" -m alone "$@"
done
exit "$status"
