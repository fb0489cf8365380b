#!/usr/bin/env bash
# Make sample.mp3, the demo clip: sample.txt spoken by flite. Needs Debian's or Ubuntu's packages flite and ffmpeg.
set -euo pipefail
cd "$(dirname "$0")"
speech=$(mktemp --suffix=.wav)
trap 'rm -f "$speech"' EXIT
flite -voice slt -f sample.txt -o "$speech"
ffmpeg -loglevel error -y -i "$speech" -ac 1 -ar 16000 -b:a 32k -map_metadata -1 -fflags +bitexact sample.mp3
