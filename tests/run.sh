#!/usr/bin/env bash
# Installs what the tests need and runs them, with or without a GPU. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash launch/install.sh test
exec .venv/bin/python -m pytest "$@"
