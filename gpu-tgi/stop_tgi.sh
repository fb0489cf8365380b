#!/usr/bin/env bash
# Stop and remove the container that start_tgi.sh started. The weights in VOLUME stay. Usage: [CONTAINER=tgi] bash stop_tgi.sh
set -euo pipefail

CONTAINER=${CONTAINER:-tgi}

command -v docker >/dev/null || { echo "error: Docker is not installed: nothing to stop" >&2; exit 1; }
said=$(docker rm --force "$CONTAINER" 2>&1) || {
  [[ $said == *"No such container"* ]] || { echo "error: $CONTAINER could not be stopped: ${said##*$'\n'}" >&2; exit 1; }
}
if [[ $said == "$CONTAINER" ]]; then
  echo "$CONTAINER is stopped and removed"
else
  echo "no container $CONTAINER was running"
fi
