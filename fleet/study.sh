#!/usr/bin/env bash
# A study in the background of a machine of the fleet: called by roles/study, not by hand.
set -euo pipefail

usage() {
  cat <<'EOF'
Usage: study.sh start FOLDER NAME COMMAND   run COMMAND (bash) in the checkout, in the background
       study.sh wait FOLDER SECONDS         wait for it
       study.sh stop FOLDER                 end it, as Ctrl-C does
       study.sh pack FOLDER NAME            pack its records and log into FOLDER/records.tar.gz

FOLDER holds the checkout, results/NAME, and lock, pid and status of the study that is running.

Exit status of wait: 0 finished, 75 still running, 1 neither; of pack: 3 where there are no records.
EOF
}

start() {
  local name=$1 command=$2
  mkdir -p "$folder/results/$name"
  if ! flock -n 9; then
    echo 'running already'
    return
  fi
  rm -f "$folder/status"
  export RESULTS_DIR=$folder/results/$name
  # It holds the lock as long as any of its processes lives.
  # shellcheck disable=SC2016  # these are expanded later, by the bash that runs it
  setsid bash -c '
    trap : TERM # it reaches the command; this shell stays, to write the status
    echo "$$" >"$1/pid"
    printf "\n== %s  %s\n" "$(date -u +%FT%TZ)" "$2"
    code=0
    bash -c "$2" || code=$?
    echo "$code" >"$1/status.partial"
    mv "$1/status.partial" "$1/status"
  ' study "$folder" "$command" </dev/null >>"$RESULTS_DIR/study.log" 2>&1 &
  echo started
}

wait_for() {
  local code log
  if ! flock -w "$1" 9; then
    echo "still running"
    exit 75
  fi
  [[ -f $folder/status ]] || { echo "the study was killed"; exit 1; }
  code=$(<"$folder/status")
  ((code)) || return 0
  log=$(find "$folder/results" -name study.log -printf '%T@ %p\n' | sort -n | tail -n 1)
  echo "the study ended with exit status $code"
  grep '^error: ' "${log#* }" | tail -n 1 || true
  exit 1
}

stop() {
  if flock -n 9; then
    echo 'none is running'
    return
  fi
  kill -TERM -- "-$(<"$folder/pid")" 2>/dev/null || true
  flock -w 90 9 || { echo "error: it has not ended in 90 s" >&2; exit 1; }
  echo stopped
}

pack() {
  local code=0 results=$folder/results/$1
  [[ -d $results ]] || exit 3
  # Sorted, so that the same records are the same bytes. Status 1: a log grew meanwhile.
  tar --create --gzip --sort=name --exclude='./.*' --file "$folder/records.tar.gz.partial" \
    --directory "$results" . || code=$?
  ((code <= 1)) || exit 1
  mv "$folder/records.tar.gz.partial" "$folder/records.tar.gz"
}

main() {
  (($# > 1)) || { usage >&2; exit 2; }
  local what=$1
  folder=$(cd "$2" && pwd)
  shift 2
  exec 9>>"$folder/lock"
  case $what in
    start) start "$@" ;;
    wait) wait_for "$@" ;;
    stop) stop ;;
    pack) pack "$@" ;;
    *) usage >&2; exit 2 ;;
  esac
}

main "$@"
