# Copies claims onto local disk: VIDJOBS_STAGES pairs VIDJOBS_FROM_<n>, VIDJOBS_TO_<n>, with VIDJOBS_UNPACK_<n> to unpack tar files.
# Times are kept, owners are not; lost+found is skipped. Exit codes: 65 the data is not there or damaged, 75 the copy failed.
set -euo pipefail
say() { printf 'vidjobs stage: %s\n' "$*" >&2; }

of() { printenv "$1_$2" || true; }

copy_all() { # from to
  find "$1" -mindepth 1 -maxdepth 1 ! -name lost+found -exec cp -R --preserve=timestamps,links -t "$2" -- {} +
}

unpack_top() { # to: every tar file at the top, in place, then removed. tar itself refuses absolute names and ".."
  for file in "$1"/*.tar "$1"/*.tar.gz "$1"/*.tgz "$1"/*.tar.bz2 "$1"/*.tar.xz; do
    if [ ! -f "$file" ] || [ -L "$file" ]; then continue; fi
    if { tar -tvf "$file" 2>/dev/null || true; } | grep -E '^[^-d]' >/dev/null; then # of a damaged file, too, as far as it can be read
      say "$file holds links or devices: refused; pack it with --dereference"
      exit 65
    fi
    if ! problem=$(LC_ALL=C tar -xf "$file" -C "$1" --no-same-owner --no-same-permissions 2>&1); then
      case "$problem" in
        *"No space left"* | *"quota exceeded"*)
          say "no room to unpack $file in $1 (full disk? raise job.resources.scratch)"
          exit 75
          ;;
      esac
      say "$file is damaged: $(printf '%s' "$problem" | head -n 1)"
      exit 65
    fi
    rm -f -- "$file"
  done
}

index=0
while [ "$index" -lt "$VIDJOBS_STAGES" ]; do
  from=$(of VIDJOBS_FROM "$index")
  to=$(of VIDJOBS_TO "$index")
  [ -d "$from" ] || { say "$from is not there"; exit 65; }
  copy_all "$from" "$to" || { say "copying $from to $to failed (full disk? raise job.resources.scratch)"; exit 75; }
  [ -z "$(of VIDJOBS_UNPACK "$index")" ] || unpack_top "$to"
  say "$from is in $to: $(du -sh -- "$to" | cut -f 1)"
  index=$((index + 1))
done
