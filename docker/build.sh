#!/usr/bin/env bash
# Build the job image: docker/build.sh [TAG], with docker, podman or buildah, whichever there is.
#   BUILDER=buildah     choose the program      BASE=IMAGE   another base      BUILD_ARGS="..."   more arguments for it
#   PIP_CONFIG_FILE and PIP_CERT of this shell reach pip while it builds, as secrets; nothing of them stays in the image.
set -euo pipefail

root=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
tag=${1:-vidjobs:dev}
builder=${BUILDER:-$(for b in docker podman buildah; do command -v "$b" && break; done || true)}
[ -n "$builder" ] || { echo "docker/build.sh: none of docker, podman, buildah is installed; install one, or set BUILDER" >&2; exit 1; }

args=(build --file "$root/docker/Dockerfile" --tag "$tag")
[ -z "${BASE:-}" ] || args+=(--build-arg "BASE=$BASE")
[ -z "${PIP_CONFIG_FILE:-}" ] || args+=(--secret "id=pip_conf,src=$PIP_CONFIG_FILE")
[ -z "${PIP_CERT:-}" ] || args+=(--secret "id=ca,src=$PIP_CERT")
read -ra more <<< "${BUILD_ARGS:-}"
exec "$builder" "${args[@]}" "${more[@]}" "$root"
