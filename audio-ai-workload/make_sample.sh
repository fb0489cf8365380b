#!/usr/bin/env bash
# Make sample.mp3, the demo clip: sample.txt spoken by flite.
# Needs the packages flite and ffmpeg of Debian or Ubuntu.
set -euo pipefail
cd "$(dirname "$0")"
speech=$(mktemp --suffix=.wav)
trap 'rm -f "$speech"' EXIT
flite -voice slt -f sample.txt -o "$speech"
encoding=(-ac 1 -ar 16000 -b:a 32k -map_metadata -1 -fflags +bitexact)
ffmpeg -loglevel error -y -i "$speech" "${encoding[@]}" sample.mp3
