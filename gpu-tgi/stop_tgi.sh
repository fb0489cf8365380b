#!/usr/bin/env bash
# Stop and remove the container that start_tgi.sh started. The weights in VOLUME stay.
# Usage: [CONTAINER=tgi] bash stop_tgi.sh
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../harness/environment.sh"

CONTAINER=${CONTAINER:-tgi}

[[ $CONTAINER =~ ^[a-zA-Z0-9][a-zA-Z0-9_.-]*$ ]] ||
  wrong_usage "CONTAINER=$CONTAINER: must be the name of a container"
command -v docker >/dev/null || die "Docker is not installed: nothing to stop"
said=$(docker rm --force "$CONTAINER" 2>&1) || [[ $said == *"No such container"* ]] ||
  die "$CONTAINER could not be stopped: ${said##*$'\n'}"
if [[ $said == "$CONTAINER" ]]; then
  echo "$CONTAINER is stopped and removed"
else
  echo "no container $CONTAINER was running"
fi
