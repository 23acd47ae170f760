#!/usr/bin/env bash
# Makes .venv with everything Fulcrum and its tests need. Called by the Makefile; safe to run again.
# PyTorch comes first and from the smallest build that fits the machine: without an NVIDIA GPU, the CPU build.
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=2.13.0
TORCHVISION=0.28.0
CPU_WHEELS=https://download.pytorch.org/whl/cpu
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

"$PYTHON" - <<'PY' || { echo "Fulcrum needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
import sys
raise SystemExit(sys.version_info < (3, 11))
PY

if [ ! -x "$VENV/bin/python" ]; then
  echo "setup: creating $VENV"
  "$PYTHON" -m venv "$VENV" || { echo "setup: no venv module; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 2; }
fi
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

have_torch() { "$VENV/bin/python" -c 'import torch' 2>/dev/null; }
if ! have_torch; then
  if [ "$(uname -s)" = Linux ] && [ "$(uname -m)" = x86_64 ] && ! command -v nvidia-smi >/dev/null 2>&1; then
    echo "setup: no NVIDIA GPU here, so the CPU build of PyTorch $TORCH (about 200 MB, no CUDA)"
    pip install -q "torch==$TORCH+cpu" 2>/dev/null ||
      pip install -q "torch==$TORCH+cpu" --index-url "$CPU_WHEELS" --extra-index-url "$(pip config get global.index-url 2>/dev/null || echo "$CPU_WHEELS")" ||
      { echo "setup: the CPU build cannot be had here; installing the default build, several GB with CUDA" >&2; pip install -q "torch==$TORCH"; }
    # The matching torchvision, or the default one without its dependencies; models/compat.py makes that one harmless.
    pip install -q --no-deps "torchvision==$TORCHVISION+cpu" --index-url "$CPU_WHEELS" 2>/dev/null || pip install -q --no-deps "torchvision==$TORCHVISION"
  else
    echo "setup: PyTorch $TORCH, default build for this machine"
    pip install -q "torch==$TORCH" "torchvision==$TORCHVISION"
  fi
fi

[ "${1:-}" = torch ] && exit 0 # all that an environment for trying a release needs from here

echo "setup: everything else, under constraints.txt"
pip install -q -c constraints.txt -e ".[dev]"

# A browser and a database server for the tests of the review page; they are skipped, saying so, where there is none.
debian() { # PACKAGE WHAT-FOR COMMAND...
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "setup: installing $1 for the $2 tests"
    { apt-get update -qq && "${@:3}"; } >/dev/null 2>&1 || echo "setup: $1 could not be installed; the $2 tests will be skipped" >&2
  else
    echo "setup: no $1 found; the $2 tests will be skipped (Debian or Ubuntu: sudo apt-get install $1)" >&2
  fi
}
postgresql_without_a_cluster() { # the tests start their own; the package would start one for good
  apt-get install -y -qq --no-install-recommends postgresql-common &&
    { echo "create_main_cluster = false" >>/etc/postgresql-common/createcluster.conf; } &&
    apt-get install -y -qq --no-install-recommends postgresql
}
if [ "${1:-}" = with-browser ]; then
  command -v chromium >/dev/null 2>&1 || debian chromium browser apt-get install -y -qq --no-install-recommends chromium
  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null 2>&1 || debian postgresql PostgreSQL postgresql_without_a_cluster
fi
touch "$VENV/.ready"
echo "setup: done"
