#!/usr/bin/env bash
# Stands in for an ffmpeg with libopenh264, which Debian's lacks: announces it and encodes with x264 veryfast instead.
args=()
for arg in "$@"; do
  if [ "$arg" = libopenh264 ]; then args+=(libx264 -preset veryfast); else args+=("$arg"); fi
done
if [[ " $* " == *" -encoders "* ]]; then "$REAL_FFMPEG" "$@"; echo " V....D libopenh264          stand-in"; exit; fi
exec "$REAL_FFMPEG" "${args[@]}"
