#!/bin/sh
# Gives a uid that the image does not know a home and a name, then becomes the command.
# A pod of vidjobs sets these itself and starts python directly; this serves `docker run --user`.
set -eu

umask "${VIDJOBS_UMASK:-0002}" # files on a shared volume stay writable for the group

if ! [ -d "${HOME:-}" ] || ! [ -w "${HOME:-}" ]; then
  HOME="${TMPDIR:-/tmp}/vidjobs-$(id -u)"
  mkdir -p "$HOME"
  export HOME
fi
USER="$(id -un 2>/dev/null)" || USER="uid-$(id -u)" # torch asks for the name, and a bare uid has none
export USER LOGNAME="${LOGNAME:-$USER}"
export XDG_CACHE_HOME="${XDG_CACHE_HOME:-$HOME/.cache}"
export TORCHINDUCTOR_CACHE_DIR="${TORCHINDUCTOR_CACHE_DIR:-$XDG_CACHE_HOME/inductor}"
export TRITON_CACHE_DIR="${TRITON_CACHE_DIR:-$XDG_CACHE_HOME/triton}"
export MPLCONFIGDIR="${MPLCONFIGDIR:-$XDG_CACHE_HOME/matplotlib}"

if [ "${1:-help}" = help ]; then
  cat <<'HELP'
The job image of vidjobs: python, torch and what the trainer needs; no code.
A job's first container checks the code out. By hand, in a checkout of vidjobs:
  docker run --rm --gpus all --shm-size 8g -v "$PWD:/code" -v "$PWD/runs:/runs" -w /code IMAGE \
    python -m trainer train --conf conf.yaml --run /runs/first
HELP
  exit 0
fi
exec "$@"
