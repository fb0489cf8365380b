#!/usr/bin/env bash
# Load an LLM server with Apache Bench (ab): requests per second, latency, and the server's own times for each request.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../harness/environment.sh"

usage() {
  cat <<'EOF'
Usage: bash run_ab.sh [-n REQUESTS] [-c CONCURRENCY] [--slo_p95 SECONDS]

Sends requests to a running server (bash start_tgi.sh) and reports, for each level of concurrency: requests and generated
tokens per second, latency, and total, validation, queue and inference time and time per token as the server saw them.

  -n REQUESTS        requests at each level              (default: 10 for each one at a time, at least 20)
  -c CONCURRENCY     how many at a time                  (default: 10)
  --slo_p95 SECONDS  find the highest concurrency at which 95 % of the requests, none failed, take at most this long: the
                     levels of CONCURRENCY in turn, then bisection (default then: 1 2 4 8 16 32 64 128 256)
  -h, --help         this text

Environment:
  CONCURRENCY         levels of a sweep, e.g. "1 2 4 8 16 32 64 128 256"
  REQUESTS_PER_CLIENT requests at a level for each one at a time, without -n   (default: 10)
  REPEATS             ab runs at each level; 6 give a 95 % interval            (default: 1)
  WARMUP              rounds of requests sent before each level, not counted   (default: 1)
  TIMEOUT_S           how long the server may stay silent                      (default: 600)
  KEEP_ALIVE          1: keep connections open between requests (ab -k)        (default: 0)
  URL                 where to send    (default: http://127.0.0.1:8080/generate; for openai /v1/completions there)
  API                 tgi, or openai for servers with that interface: vLLM, SGLang, llama-server ...  (default: tgi)
  MODEL               openai: the name the server knows the model by           (default: the first it lists)
  DATA                JSON file with the request                               (default: data.json beside this script)
  PROMPTS             JSON Lines, a prompt (in quotes) or request each: sent in turn instead of DATA, by several ab at once,
                      so that a prefix cache helps the server no more than it would with real users
  CONTAINER           Docker container whose log is read                       (default: tgi)
  LOG_FILE            read the server's log from this file instead
  RESULTS_DIR         folder for records and reports                           (default: results beside gpu-tgi)
  PYTHON              python3 to build the environment with, 3.10 to 3.12      (default: python3)

ab takes headers on its command line only, where every user of the machine can read them: so there is no way here to send an
API key. Start the server without one, reachable from this machine only.

Exit status: 0 all levels measured; 1 some not (the others are kept); 2 wrong usage; 130 interrupted.
EOF
}

wrong_usage() { echo "error: $* (--help)" >&2; exit 2; }

read_settings() {
  requests='' slo=''
  local at_a_time='' default=10 value
  while (($#)); do
    case $1 in
      -n | -c | --slo_p95) (($# > 1)) || wrong_usage "$1 needs a value" ;;
    esac
    case $1 in
      -n) requests=$2; shift ;;
      -c) at_a_time=$2; shift ;;
      --slo_p95) slo=$2; shift ;;
      --slo_p95=*) slo=${1#*=} ;;
      -h | --help) usage; exit 0 ;;
      *) usage >&2; exit 2 ;;
    esac
    shift
  done
  API=${API:-tgi}
  case $API in
    tgi) URL=${URL:-http://127.0.0.1:8080/generate} ;;
    openai) URL=${URL:-http://127.0.0.1:8080/v1/completions} ;;
    *) wrong_usage "API=$API: must be tgi or openai" ;;
  esac
  [[ $URL =~ ^https?://[^/]+/ ]] || wrong_usage "URL=$URL: ab needs a whole address with a path, e.g. http://127.0.0.1:8080/generate"
  [[ -z $slo || $slo =~ ^[0-9]*\.?[0-9]+$ ]] || wrong_usage "--slo_p95 $slo is not a number of seconds"
  [[ -z $slo ]] || default='1 2 4 8 16 32 64 128 256'
  read -ra levels <<<"${at_a_time:-${CONCURRENCY:-$default}}"
  REQUESTS_PER_CLIENT=${REQUESTS_PER_CLIENT:-10} REPEATS=${REPEATS:-1} TIMEOUT_S=${TIMEOUT_S:-600} WARMUP=${WARMUP:-1}
  for value in "${levels[@]}" ${requests:+"$requests"} "$REQUESTS_PER_CLIENT" "$REPEATS" "$TIMEOUT_S"; do
    is_number "$value" || wrong_usage "'$value' is not a whole number from 1 on"
  done
  [[ $WARMUP =~ ^[0-9]+$ ]] || wrong_usage "WARMUP=$WARMUP is not a whole number"
  mapfile -t levels < <(printf '%s\n' "${levels[@]}" | sort -nu)
  for value in "${levels[@]}"; do
    [[ -z $requests ]] || ((requests >= value)) || wrong_usage "-n $requests is less than the concurrency $value"
    ((value <= 20000)) || wrong_usage "$value at a time: ab can at most 20000"
  done
  [[ -z $slo || -z $requests ]] || ((requests >= 20)) || wrong_usage "-n $requests: --slo_p95 needs 20 requests or more"
  DATA=$(realpath -m "${DATA:-$here/data.json}")
  [[ -z ${PROMPTS:-} ]] || PROMPTS=$(realpath -m "$PROMPTS")
  [[ -z ${LOG_FILE:-} ]] || LOG_FILE=$(realpath -m "$LOG_FILE")
  CONTAINER=${CONTAINER:-tgi}
  RESULTS_DIR=$(realpath -m "${RESULTS_DIR:-$here/../results}")
}

check_machine() {
  command -v ab >/dev/null || die "Apache Bench is not installed: sudo apt install apache2-utils"
  [[ -z ${LOG_FILE:-} || -r $LOG_FILE ]] || die "cannot read $LOG_FILE (LOG_FILE)"
  local need=$((levels[-1] + 64))
  [[ $(ulimit -Sn) == unlimited ]] || (($(ulimit -Sn) >= need)) || ulimit -Sn "$need" 2>/dev/null ||
    die "$need open files are needed and $(ulimit -Hn) allowed: raise the limit with ulimit -n as root, or lower the concurrency"
}

# The server's log from now on, into the sweep's folder: read by position, so that a level's lines are exactly its own.
# In a session of its own: Ctrl-C ends a level, not the log.
follow_log() {
  : >"$sweep/server.log"
  [[ $API == tgi ]] || return 0
  if [[ -n ${LOG_FILE:-} ]]; then
    setsid tail -n 0 -F "$LOG_FILE" >"$sweep/server.log" 2>/dev/null &
  elif command -v docker >/dev/null && docker inspect --type container "$CONTAINER" >/dev/null 2>&1; then
    setsid docker logs --follow --tail 0 "$CONTAINER" >"$sweep/server.log" 2>&1 &
  else
    return 0
  fi
  follower=$!
}

# measure_level CONCURRENCY. level.py adds number, concurrency, body and report files; each option here guards against a trap:
#   -l    answers may differ in length (else each that does counts as failed)
#   -r    go on after a connection error (else one loses the whole level)
#   -v 2  print each answer's header: which succeeded, and with how many tokens
#   -s    seconds without any answer before giving up (30 unless told otherwise)
# stdbuf has ab print by the line, so that level.py sees when each answer came.
measure_level() {
  local count=${requests:-$((REQUESTS_PER_CLIENT * $1))}
  [[ -n $requests ]] || ((count >= 20)) || count=20
  "$python" "$here/level.py" --sweep "$sweep" --results_dir "$RESULTS_DIR" --concurrency "$1" --requests "$count" \
    --repeats "$REPEATS" --warmup "$WARMUP" ${slo:+--slo_p95 "$slo"} -- \
    stdbuf -oL ab -l -r -v 2 -s "$TIMEOUT_S" "${keep_alive[@]}" -T application/json
}

# run_levels LEVEL...: in turn, up to the first that is over the limit of --slo_p95.
run_levels() {
  local concurrency status
  while (($#)); do
    concurrency=$1 status=0
    shift
    measure_level "$concurrency" || status=$?
    case $status in
      0) highest_within=$concurrency ;;
      3) first_over=$concurrency; return ;;
      130) interrupted=true; not_run+=("$@"); return ;;
      *)
        failed=true
        if [[ ! -d $sweep/concurrency-$(printf %04d "$concurrency") ]]; then # the server did not come back
          not_run+=("$concurrency" "$@")
          return
        fi
        ;;
    esac
  done
}

bisect() {
  while ! $interrupted && ! $failed && [[ -n $first_over ]] && ((first_over - highest_within > 1)); do
    run_levels $(((highest_within + first_over) / 2))
  done
}

main() {
  unset TOKEN HF_TOKEN HUGGING_FACE_HUB_TOKEN # start_tgi.sh's: nothing here needs them
  read_settings "$@"
  check_machine
  cd "$here/.."
  check_python
  setup harness
  python=$PWD/harness/.venv/bin/python
  mkdir -p "$RESULTS_DIR" 2>/dev/null || die "cannot make the folder $RESULTS_DIR (RESULTS_DIR)"
  sweep=$(mktemp -d "$RESULTS_DIR/gpu-tgi_$(date -u +%Y%m%dT%H%M%SZ)_XXXX") || die "cannot write to $RESULTS_DIR (RESULTS_DIR)"
  chmod 755 "$sweep"
  keep_alive=() not_run=() follower='' interrupted=false failed=false highest_within=0 first_over=''
  [[ ${KEEP_ALIVE:-0} == 0 ]] || keep_alive=(-k)
  trap '[[ -z $follower ]] || kill "$follower" 2>/dev/null' EXIT
  follow_log
  local status=0
  "$python" "$here/sweep.py" begin --sweep "$sweep" --results_dir "$RESULTS_DIR" --url "$URL" --api "$API" \
    ${MODEL:+--model "$MODEL"} --container "$CONTAINER" --data "$DATA" ${PROMPTS:+--prompts "$PROMPTS"} \
    --timeout_s "$TIMEOUT_S" ${follower:+--log} || status=$?
  if ((status)); then
    rm -rf "$sweep"
    exit "$status"
  fi
  echo

  trap : INT # ends the level, which keeps what it has; the sweep's end is still to be written
  run_levels "${levels[@]}"
  bisect
  local ended=()
  if $interrupted; then ended=(--interrupted); fi
  "$python" "$here/sweep.py" end --sweep "$sweep" --results_dir "$RESULTS_DIR" ${slo:+--slo_p95 "$slo"} \
    ${not_run:+--not_run "${not_run[@]}"} "${ended[@]}"
}

main "$@"
