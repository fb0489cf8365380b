#!/usr/bin/env bash
# Load-test an LLM server with Apache Bench (ab): requests/s, latency, the server's own times.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../harness/environment.sh"

usage() {
  cat <<'EOF'
Usage: bash run_ab.sh [-n REQUESTS] [-c CONCURRENCY] [--slo_p95 SECONDS]

Sends requests to a running server (bash start_tgi.sh) and reports, for each level of concurrency,
requests and generated tokens per second, latency, and total, validation, queue and inference time
and time per token as the server saw them.

  -n REQUESTS        requests per level   (default: 10 per concurrent request, at least 20)
  -c CONCURRENCY     concurrent requests  (default: 10)
  --slo_p95 SECONDS  find the highest concurrency at which no request fails and 95 % take at most
                     this long: the levels of CONCURRENCY in turn, then bisection
                     (default then: 1 2 4 8 16 32 64 128 256)
  -h, --help         this text

Environment:
  CONCURRENCY         levels of a sweep, e.g. "1 2 4 8 16 32 64 128 256"
  REQUESTS_PER_CLIENT requests per concurrent request, without -n             (default: 10)
  REPEATS             ab runs per level; 6 give a 95 % interval               (default: 1)
  WARMUP              rounds of requests before each level, not counted       (default: 1)
  TIMEOUT_S           seconds that a response may take                        (default: 600)
  KEEP_ALIVE          1: keep connections open between requests (ab -k)       (default: 0)
  URL                 (default: http://127.0.0.1:8080/generate; with openai /v1/completions)
  API                 tgi, or openai: vLLM, SGLang, llama-server ...          (default: tgi)
  MODEL               openai: the model's name on the server          (default: the first listed)
  DATA                JSON file with the request            (default: data.json beside this script)
  PROMPTS             JSON Lines, a prompt (in quotes) or request per line: sent in turn instead
                      of DATA, by several ab side by side, so that a prefix cache helps the server
                      no more than it would with real users
  CONTAINER           Docker container whose log is read                      (default: tgi)
  LOG_FILE            read the server's log from this file instead
  SERVER_SYSTEM       JSON file with the server's machine, where it is another than this one:
                      harness.system.describe() there, as fleet/gpu_tgi.yml writes it
  RESULTS_DIR         folder for records and reports          (default: results beside gpu-tgi)
  PYTHON              python3 to build the environment with, 3.10 to 3.12     (default: python3)

ab takes headers on its command line only, where every user of the machine can read them: so an API
key can't be sent. Start the server without one, reachable from this machine only.

Exit status: 0 all levels measured; 1 some not (the others are kept); 2 wrong usage;
130 interrupted; 143 terminated; 129 the terminal was closed.
EOF
}

read_settings() {
  requests='' slo=''
  local concurrency='' default=10 value
  while (($#)); do
    case $1 in
      -n | -c | --slo_p95) (($# > 1)) || wrong_usage "$1 needs a value" ;;
    esac
    case $1 in
      -n) requests=$2; shift ;;
      -c) concurrency=$2; shift ;;
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
  [[ $URL =~ ^https?://[^/]+/ ]] || # which is not printed: it may hold a password
    wrong_usage "URL: ab needs a whole address with a path, e.g. http://127.0.0.1:80/generate"
  [[ -z $slo || $slo =~ ^[0-9]*\.?[0-9]+$ ]] ||
    wrong_usage "--slo_p95 $slo is not a number of seconds"
  [[ -z $slo ]] || default='1 2 4 8 16 32 64 128 256'
  read -ra levels <<<"${concurrency:-${CONCURRENCY:-$default}}"
  REQUESTS_PER_CLIENT=${REQUESTS_PER_CLIENT:-10} REPEATS=${REPEATS:-1}
  TIMEOUT_S=${TIMEOUT_S:-600} WARMUP=${WARMUP:-1}
  for value in "${levels[@]}" ${requests:+"$requests"} \
    "$REQUESTS_PER_CLIENT" "$REPEATS" "$TIMEOUT_S"; do
    is_number "$value" || wrong_usage "'$value' is not a whole number from 1 on"
  done
  [[ $WARMUP =~ ^[0-9]{1,9}$ ]] || wrong_usage "WARMUP=$WARMUP is not a whole number"
  mapfile -t levels < <(printf '%s\n' "${levels[@]}" | sort -nu)
  for value in "${levels[@]}"; do
    [[ -z $requests ]] || ((requests >= value)) ||
      wrong_usage "-n $requests is less than the concurrency $value"
    ((value <= 20000)) || wrong_usage "concurrency $value: ab can at most 20000"
  done
  [[ -z $slo || -z $requests ]] || ((requests >= 20)) ||
    wrong_usage "-n $requests: --slo_p95 needs 20 requests or more"
  keep_alive=()
  [[ ${KEEP_ALIVE:-0} == 0 ]] || keep_alive=(-k)
  DATA=$(realpath -m "${DATA:-$here/data.json}")
  [[ -z ${PROMPTS:-} ]] || PROMPTS=$(realpath -m "$PROMPTS")
  [[ -z ${LOG_FILE:-} ]] || LOG_FILE=$(realpath -m "$LOG_FILE")
  CONTAINER=${CONTAINER:-tgi}
  [[ $CONTAINER =~ ^[a-zA-Z0-9][a-zA-Z0-9_.-]*$ ]] ||
    wrong_usage "CONTAINER=$CONTAINER: must be the name of a container"
  [[ -z ${SERVER_SYSTEM:-} ]] || SERVER_SYSTEM=$(realpath -m "$SERVER_SYSTEM")
  RESULTS_DIR=$(realpath -m "${RESULTS_DIR:-$here/../results}")
}

check_machine() {
  command -v ab >/dev/null || die "Apache Bench is not installed: sudo apt install apache2-utils"
  [[ -z ${LOG_FILE:-} || -r $LOG_FILE ]] || die "cannot read $LOG_FILE (LOG_FILE)"
  local need=$((levels[-1] + 64))
  [[ $(ulimit -Sn) == unlimited ]] || (($(ulimit -Sn) >= need)) || ulimit -Sn "$need" 2>/dev/null ||
    die "$need open files are needed and $(ulimit -Hn) allowed:" \
      "raise the limit with ulimit -n as root, or lower the concurrency"
}

main() {
  unset TOKEN HF_TOKEN HUGGING_FACE_HUB_TOKEN # start_tgi.sh's: nothing here needs them
  read_settings "$@"
  check_machine
  cd "$here/.."
  check_python
  setup harness
  # sweep.py adds number, concurrency, body and report files to ab's command. Each option below
  # guards against a trap:
  #   -r    go on after a connection error (else one loses the whole level)
  #   -v 2  print each answer's header and the start of its body: which succeeded, and how
  #   -s    seconds without any answer before giving up (30 by default)
  # stdbuf has ab print by the line, so that sweep.py sees when each answer came.
  export URL
  exec harness/.venv/bin/python gpu-tgi/sweep.py --results_dir "$RESULTS_DIR" --api "$API" \
    ${MODEL:+--model="$MODEL"} --container "$CONTAINER" \
    ${LOG_FILE:+--log_file "$LOG_FILE"} \
    ${SERVER_SYSTEM:+--server_system "$SERVER_SYSTEM"} \
    --data "$DATA" ${PROMPTS:+--prompts "$PROMPTS"} \
    --levels "${levels[@]}" ${requests:+--requests "$requests"} \
    --requests_per_client "$REQUESTS_PER_CLIENT" --repeats "$REPEATS" --warmup "$WARMUP" \
    ${slo:+--slo_p95 "$slo"} --timeout_s "$TIMEOUT_S" -- \
    stdbuf -oL ab -r -v 2 -s "$TIMEOUT_S" "${keep_alive[@]}" -T application/json
}

main "$@"
