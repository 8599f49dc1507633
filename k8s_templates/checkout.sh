# Brings the pinned commit into a folder of the workspace and applies the recorded local changes.
# Values come from the environment only: VIDJOBS_REPO, VIDJOBS_REF, VIDJOBS_COMMIT, VIDJOBS_CODE_DIR, VIDJOBS_DIFF (a file, or "")
# and VIDJOBS_GIT_TOKEN (from a Secret, or unset). Exit codes: 64 the commit or the changes do not exist or fit, 75 the network.
set -euo pipefail
say() { printf 'vidjobs code: %s\n' "$*" >&2; }

command -v git >/dev/null || { say "the image has no git; install it, or use code: image"; exit 64; }
export GIT_TERMINAL_PROMPT=0 LC_ALL=C
mkdir -p -- "$HOME"
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
if [ -e "$VIDJOBS_CODE_DIR" ] && [ ! -e "$VIDJOBS_CODE_DIR/.git/vidjobs" ]; then
  say "$VIDJOBS_CODE_DIR is there already and is not ours"
  exit 64
fi
rm -rf -- "$VIDJOBS_CODE_DIR"
git init --quiet -- "$VIDJOBS_CODE_DIR"
cd -- "$VIDJOBS_CODE_DIR"
: >.git/vidjobs

if [ -n "${VIDJOBS_GIT_TOKEN:-}" ]; then
  # git asks this program for user and password, so that the token is in no URL, no argument and no file.
  GIT_ASKPASS="$scratch/askpass"
  # shellcheck disable=SC2016  # expanded when git runs it
  printf '%s\n' '#!/bin/sh' 'case "$1" in Username*) echo x-access-token ;; *) printf "%s\n" "$VIDJOBS_GIT_TOKEN" ;; esac' >"$GIT_ASKPASS"
  chmod 700 "$GIT_ASKPASS"
  export GIT_ASKPASS
fi

here() { git cat-file -e "$VIDJOBS_COMMIT^{commit}" 2>/dev/null; }

# The commit alone where the server gives single commits, else everything. The token's variable stays within git.
bring() {
  git fetch --quiet --depth 1 --no-tags -- "$VIDJOBS_REPO" "$VIDJOBS_COMMIT" 2>"$scratch/fetch.log" && here && return 0
  git fetch --quiet --tags -- "$VIDJOBS_REPO" '+refs/heads/*:refs/vidjobs/*' 2>"$scratch/fetch.log"
}

attempt=1
pause=${VIDJOBS_GIT_PAUSE:-5} # seconds
until bring; do
  reason=$(tail -n 1 "$scratch/fetch.log")
  if grep -qiE 'authentication failed|could not read (username|password)|access denied|(http|error:?) 40[13]|repository .*not found' "$scratch/fetch.log"; then
    say "cannot read $VIDJOBS_REPO: $reason"
    say "a private repository needs job.code.token: {secret: NAME, key: KEY}"
    exit 64
  fi
  if [ "$attempt" -ge 4 ]; then
    say "cannot reach $VIDJOBS_REPO after $attempt attempts: $reason"
    exit 75
  fi
  say "attempt $attempt failed ($reason); again in $((attempt * pause)) s"
  sleep $((attempt * pause))
  attempt=$((attempt + 1))
done

if ! here; then
  say "$VIDJOBS_REPO has no commit $VIDJOBS_COMMIT (ref \"$VIDJOBS_REF\"); was it pushed, or rewritten since?"
  exit 64
fi
git -c advice.detachedHead=false checkout --quiet --detach "$VIDJOBS_COMMIT"

if [ -n "$VIDJOBS_DIFF" ] && [ -s "$VIDJOBS_DIFF" ]; then
  if ! git apply --whitespace=nowarn -- "$VIDJOBS_DIFF"; then
    say "the recorded local changes do not apply to $VIDJOBS_COMMIT"
    exit 64
  fi
  say "commit $VIDJOBS_COMMIT with local changes"
else
  say "commit $VIDJOBS_COMMIT"
fi
