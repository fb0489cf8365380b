#!/usr/bin/env bash
# Start Text Generation Inference (TGI) in Docker and wait until it answers.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../harness/environment.sh"

usage() {
  cat <<'EOF'
Usage: bash start_tgi.sh [ARGUMENT OF text-generation-launcher]...

Starts a container with Text Generation Inference and waits until it is healthy. Safe to run twice:
a container with the same settings is left running. Arguments are passed on to the launcher, e.g.
--max-total-tokens 4096.

Environment:
  MODEL                   model on the Hugging Face hub, or folder in the container: /data/llama
                          (default: meta-llama/Llama-2-7b-chat-hf, which is gated: it needs TOKEN)
  VOLUME                  folder for the weights, /data in the container     (default: data)
  TOKEN                   Hugging Face token   (default: HF_TOKEN, HUGGING_FACE_HUB_TOKEN, or as
                          left by `hf auth login`)
  MAX_CONCURRENT_REQUESTS requests that may wait or run; more are refused    (default: 2000)
  DTYPE                   float16 or bfloat16                                (default: bfloat16)
  QUANTIZE                the launcher's --quantize, instead of DTYPE        (default: none)
  NUM_SHARD               GPUs to split the model over            (default: the launcher's choice)
  GPUS                    all, none, or a list as 0,1                        (default: all)
  IMAGE                   (default: ghcr.io/huggingface/text-generation-inference:1.1.0, as in the
                          original study)
  BIND, PORT              where it listens; anyone who reaches it can use it
                          (default: 127.0.0.1, 8080)
  CONTAINER               name of the container                              (default: tgi)
  START_TIMEOUT_S         how long to wait for it to be healthy              (default: 1800)

The token goes to the container through the environment: never on a command line, in a file or log.
EOF
}

MODEL=${MODEL:-meta-llama/Llama-2-7b-chat-hf}
VOLUME=${VOLUME:-$PWD/data}
MAX_CONCURRENT_REQUESTS=${MAX_CONCURRENT_REQUESTS:-2000}
DTYPE=${DTYPE:-bfloat16}
QUANTIZE=${QUANTIZE:-}
NUM_SHARD=${NUM_SHARD:-}
GPUS=${GPUS:-all}
IMAGE=${IMAGE:-ghcr.io/huggingface/text-generation-inference:1.1.0}
BIND=${BIND:-127.0.0.1}
PORT=${PORT:-8080}
CONTAINER=${CONTAINER:-tgi}
START_TIMEOUT_S=${START_TIMEOUT_S:-1800}
host=$BIND # as it is reached from here
[[ $BIND != 0.0.0.0 ]] || host=127.0.0.1

# None may pass for an option of docker or of the launcher, or for more than one setting.
check_settings() {
  local name
  for name in MAX_CONCURRENT_REQUESTS PORT START_TIMEOUT_S ${NUM_SHARD:+NUM_SHARD}; do
    check "$name" '[1-9][0-9]{0,8}' 'a whole number from 1 on'
  done
  ((PORT < 65536)) || wrong_usage "PORT=$PORT: must be 1 to 65535"
  check BIND '(25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})(\.(25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})){3}' \
    'an IPv4 address, as 127.0.0.1'
  check DTYPE 'b?float16' 'float16 or bfloat16'
  check QUANTIZE '([a-z0-9][a-z0-9-]*)?' 'a method that the launcher knows, as awq'
  check GPUS 'all|none|[0-9]+(,[0-9]+)*' 'all, none, or a list as 0,1'
  check IMAGE '[a-zA-Z0-9][a-zA-Z0-9._/:@-]*' 'the name of an image'
  check MODEL '[a-zA-Z0-9_./][a-zA-Z0-9_./@+ -]*' 'the name of a model, or a folder'
  check CONTAINER '[a-zA-Z0-9][a-zA-Z0-9_.-]*' 'the name of a container'
  VOLUME=$(realpath -m -- "$VOLUME")
  check VOLUME '/[^:[:cntrl:]]+' 'a folder without a colon in its path, which Docker takes for two'
}

# check NAME PATTERN WHAT: die unless the setting is as it must be.
check() { [[ ${!1} =~ ^($2)$ ]] || wrong_usage "$1=$(printf %q "${!1}"): must be $3"; }

# Kept out of the environment, so that no program started here inherits it unasked.
take_token() {
  local file=${HF_HOME:-${HOME:-}/.cache/huggingface}/token
  token=${TOKEN:-${HF_TOKEN:-${HUGGING_FACE_HUB_TOKEN:-}}}
  if [[ -z $token && -r $file ]]; then token=$(<"$file"); fi
  unset TOKEN HF_TOKEN HUGGING_FACE_HUB_TOKEN
}

check_docker() {
  local said
  command -v curl >/dev/null || die "curl is missing: sudo apt install curl"
  command -v docker >/dev/null || die "Docker is not installed: see docs.docker.com/engine/install"
  if ! said=$(docker version --format '{{.Server.Version}}' 2>&1); then
    case $said in
      *"permission denied"*)
        die "you may not use Docker: sudo usermod -aG docker $(id -un), then log in again"
        ;;
      *"Cannot connect"*) die "Docker is not running: sudo systemctl start docker" ;;
      *) die "Docker does not answer: ${said##*$'\n'}" ;;
    esac
  fi
}

# Billions of parameters by the model's name (7b, 1.1B, 8x7b); nothing where it does not say.
billions_of_parameters() {
  local name=${MODEL##*/}
  if [[ ${name,,} =~ (^|[-_])([0-9]+)x([0-9.]+)b($|[-_]) ]]; then
    awk "BEGIN { print ${BASH_REMATCH[2]} * ${BASH_REMATCH[3]} }"
  elif [[ ${name,,} =~ (^|[-_])([0-9]+(\.[0-9]+)?)b($|[-_]) ]]; then
    echo "${BASH_REMATCH[2]}"
  fi
}

# GiB of weights: $1 bytes a parameter.
gib_of_weights() { awk "BEGIN { printf \"%.1f\", $parameters * 1e9 * $1 / 2^30 }"; }
is_less() { awk "BEGIN { exit !($1 < $2) }"; }

check_gpus() {
  [[ $GPUS != none ]] || return 0
  local runtimes rows bytes=2 need free count or_cpu='or set GPUS=none and an IMAGE for CPUs'
  runtimes=$(docker info --format '{{range $name, $_ := .Runtimes}}{{$name}} {{end}}' \
    2>/dev/null || true)
  [[ " $runtimes " == *" nvidia "* ]] || command -v nvidia-container-runtime >/dev/null ||
    die "Docker has no NVIDIA runtime: install nvidia-container-toolkit and restart Docker, $or_cpu"
  rows=$(nvidia-smi --query-gpu=index,memory.free --format=csv,noheader,nounits 2>/dev/null) ||
    die "nvidia-smi finds no GPU: install the NVIDIA driver, $or_cpu"
  [[ $GPUS == all ]] || rows=$(grep -E "^(${GPUS//,/|})," <<<"$rows") ||
    die "GPUS=$GPUS: nvidia-smi lists no such GPU"
  count=$(wc -l <<<"$rows")
  [[ -z $NUM_SHARD ]] || ((NUM_SHARD <= count)) ||
    die "NUM_SHARD=$NUM_SHARD, but GPUS=$GPUS gives $count GPU(s)"
  [[ -n $parameters ]] || return 0
  case $QUANTIZE in
    '') ;;
    *nf4 | *fp4 | gptq | awq | marlin | exl2) bytes=0.5 ;;
    *) bytes=1 ;;
  esac
  need=$(gib_of_weights "$bytes")
  # Without NUM_SHARD the launcher splits the model over all GPUs that it sees.
  free=$(sort -t, -k2 -nr <<<"$rows" | head -n "${NUM_SHARD:-$count}" |
    awk -F', *' '{ mib += $2 } END { printf "%.1f", mib / 1024 }')
  ! is_less "$free" "$need" || die "the weights of $MODEL take $need GiB and the GPU(s) have" \
    "$free GiB free: set QUANTIZE, more GPUS, or a smaller MODEL"
}

check_disk() {
  mkdir -p "$VOLUME" 2>/dev/null || true
  [[ -w $VOLUME ]] || die "cannot write to $VOLUME: set VOLUME to a folder for the weights"
  [[ -n $parameters && $MODEL != /* && ! -d $VOLUME/models--${MODEL//\//--} ]] || return 0
  local free need
  need=$(gib_of_weights 2)
  free=$(df -Pk "$VOLUME" | awk 'NR == 2 { printf "%.1f", $4 / 2^20 }')
  ! is_less "$free" "$need" || die "the weights of $MODEL take $need GiB and $VOLUME has" \
    "$free GiB free: set VOLUME to a larger disk"
}

port_is_taken() { (exec 3<>"/dev/tcp/$host/$PORT") 2>/dev/null; }

inspect() { docker inspect --type container --format "$1" "$CONTAINER" 2>/dev/null || true; }

# The container's last lines, as plain text; without the token and keys, whoever logged them.
last_lines() {
  local lines secret
  lines=$(docker logs --tail "$1" "$CONTAINER" 2>&1 || true)
  for secret in "${secrets[@]}"; do
    [[ -z $secret ]] || lines=${lines//"$secret"/(secret)}
  done
  printf '%s\n' "$lines" | sed $'s/\x1b\\[[0-9;]*m//g' | tr -d '\000-\010\013-\037\177'
}

# Those among the launcher's arguments.
take_secrets() {
  local before='' word
  secrets=("$token")
  for word in "$@"; do
    [[ $before != --api-key && $before != --ngrok-authtoken ]] || secrets+=("$word")
    [[ $word != --api-key=* && $word != --ngrok-authtoken=* ]] || secrets+=("${word#*=}")
    before=$word
  done
}

start() {
  local gpus=() passed=() settings
  local arguments=(--model-id "$MODEL" --max-concurrent-requests "$MAX_CONCURRENT_REQUESTS")
  # The launcher refuses the two together.
  if [[ -n $QUANTIZE ]]; then
    arguments+=(--quantize "$QUANTIZE")
  else
    arguments+=(--dtype "$DTYPE")
  fi
  [[ -z $NUM_SHARD ]] || arguments+=(--num-shard "$NUM_SHARD")
  arguments+=("$@")
  case $GPUS in
    none) ;;
    all) gpus=(--gpus all) ;;
    *) gpus=(--gpus "\"device=$GPUS\"") ;;
  esac
  settings=$(printf '%s\n' "$IMAGE" "$BIND:$PORT" "$VOLUME" "${gpus[@]}" "${arguments[@]}" |
    cksum | cut -d' ' -f1)

  case $(inspect '{{.State.Status}}') in
    running)
      [[ $(inspect '{{index .Config.Labels "settings"}}') == "$settings" ]] ||
        die "a container $CONTAINER is running with other settings: bash stop_tgi.sh first," \
          "or choose another CONTAINER"
      echo "$CONTAINER is running already"
      return
      ;;
    '') ;;
    *) docker rm --force "$CONTAINER" >/dev/null ;; # from a start that failed
  esac
  ! port_is_taken || die "port $PORT of $BIND is taken: set PORT, or stop what listens there"
  check_gpus
  check_disk
  if ! docker image inspect "$IMAGE" >/dev/null 2>&1; then
    echo "Pulling $IMAGE"
    docker pull "$IMAGE" || die "cannot pull $IMAGE: see above"
  fi
  echo "Starting $MODEL on $IMAGE"
  if [[ -n $token ]]; then passed=(-e HF_TOKEN -e HUGGING_FACE_HUB_TOKEN); fi
  HF_TOKEN=$token HUGGING_FACE_HUB_TOKEN=$token docker run --detach --name "$CONTAINER" \
    --label "settings=$settings" "${gpus[@]}" --shm-size 1g "${passed[@]}" \
    --publish "$BIND:$PORT:80" --volume "$VOLUME:/data" "$IMAGE" "${arguments[@]}" >/dev/null ||
    die "Docker could not start the container: see above"
}

wait_until_healthy() {
  local began=$SECONDS shown=0 latest url=http://$host:$PORT
  local again='run this again to go on waiting, or stop_tgi.sh to end it'
  trap 'echo; echo "interrupted: $CONTAINER goes on starting: $again" >&2; exit 130' INT
  until curl --silent --fail --noproxy '*' --max-time 5 --output /dev/null "$url/health"; do
    if [[ $(inspect '{{.State.Status}}') != running ]]; then
      last_lines 20 >&2
      die "$CONTAINER ended while starting: its last lines are above"
    fi
    if ((SECONDS - began >= START_TIMEOUT_S)); then
      last_lines 20 >&2
      die "not healthy after $START_TIMEOUT_S s (START_TIMEOUT_S), still starting: $again"
    fi
    if ((SECONDS - shown >= 10)); then
      shown=$SECONDS
      latest=$(last_lines 1)
      printf '%4d s  %.120s\n' $((SECONDS - began)) "$latest"
    fi
    sleep 1
  done
  echo "Ready after $((SECONDS - began)) s: $url/generate." \
    "Measure it with: bash $(dirname "${BASH_SOURCE[0]}")/run_ab.sh"
}

main() {
  case ${1:-} in
    -h | --help) usage; exit 0 ;;
  esac
  take_token
  check_settings
  take_secrets "$@"
  check_docker
  parameters=$(billions_of_parameters)
  start "$@"
  wait_until_healthy
}

main "$@"
