#!/usr/bin/env bash
# The whole road on a small rendered world: render, curate, judge, train, tune, merge, evaluate, report.
# Usage: demo.sh FOLDER SEED COUNT [me]     with "me", the gates wait for a person instead of the scripted reviewer.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1 seed=$2 count=$3 review=${4:-}
fulcrum=.venv/bin/fulcrum
reviewer=script:rules
[ "$review" = me ] && reviewer=people

if [ ! -f "$folder/world/truth.json" ]; then
  "$fulcrum" world render --square --seed "$seed" --count "$count" --out "$folder/world"
fi
status=0
"$fulcrum" run demo --source "$folder/world" --store "$folder/store" \
  --set "review_clips.reviewer=$reviewer" --set "review_consis.reviewer=$reviewer" --set "review_real_fake.reviewer=$reviewer" || status=$?
if [ "$status" = 75 ]; then
  echo
  echo "Answer on the review page:  $fulcrum review serve --store $folder/store"
  echo "Then go on with:            make demo REVIEW=me"
  exit 0
fi
[ "$status" = 0 ] || exit "$status"
"$fulcrum" status --store "$folder/store" --json | .venv/bin/python -c '
import json, sys
stages = json.load(sys.stdin)["stages"]
report = next(s["outputs"]["report"] for s in stages if "report" in s["outputs"])
print(f"\nThe report is {report}/index.html")'
