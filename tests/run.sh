#!/usr/bin/env bash
# Installs what the tests need, checks lint and types, and runs the tests, with or without a GPU.
#   bash tests/run.sh               everything but the tests marked `slow`: under 12 minutes on two cores
#   bash tests/run.sh --all         these too
#   bash tests/run.sh tests/model   one package; arguments go to pytest
set -euo pipefail
cd "$(dirname "$0")/.."
extras=test
case " $* " in *" --all "*) extras=test,curation-test ;; esac
bash launch/install.sh "$extras"
# The report of a run is tested in a real browser. Without one those tests are skipped.
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing chromium"
  { apt-get update && apt-get install --yes --no-install-recommends chromium; } >/dev/null 2>&1 ||
    echo "chromium could not be installed: the tests in a browser are skipped"
fi
.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet . || { echo "run .venv/bin/ruff format ."; exit 1; }
.venv/bin/mypy --package unisign_fast
# Two files at a time, each with its share of the cores. Not `python -m pytest`, which puts the root on sys.path, where
# the folder `kernels` would hide Hugging Face's package of that name.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((($(nproc) + 1) / 2))}"
exec .venv/bin/pytest --numprocesses 2 --dist loadfile "$@"
