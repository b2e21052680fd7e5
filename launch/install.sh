#!/usr/bin/env bash
# Makes .venv with the pinned packages and this project in it. Called with extras: `bash launch/install.sh test`.
# A second call with nothing changed does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
extras="${1:+[$1]}"
stamp=".venv/installed${1:+-$1}"
if [ -f "$stamp" ] && [ "$stamp" -nt pyproject.toml ] && [ "$stamp" -nt requirements.lock ]; then exit 0; fi
python=$(command -v python3.11 || command -v python3)
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)
echo "installing into .venv"
"${pip[@]}" install -r <(grep -E '^(pip|setuptools|wheel|ninja|torch)==' requirements.lock)
# PYTHONWARNINGS: setuptools prints ten lines of advice at every editable installation.
PYTHONWARNINGS=ignore DS_BUILD_OPS=0 "${pip[@]}" install --no-build-isolation -c requirements.lock -e ".$extras"
touch "$stamp"
