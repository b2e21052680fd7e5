#!/usr/bin/env bash
# Installs what the tests need and runs them, with or without a GPU. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/install.sh test
# The report of a run is tried in a real browser. Without one those tests are skipped.
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing chromium"
  { apt-get update && apt-get install --yes --no-install-recommends chromium; } >/dev/null 2>&1 ||
    echo "chromium could not be installed: the tests in a browser are skipped"
fi
# Two files at a time, each with its share of the cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((($(nproc) + 1) / 2))}"
exec .venv/bin/python -m pytest --numprocesses 2 --dist loadfile "$@"
