#!/bin/sh
# install.sh PYTHON VENV LOCK: a virtual environment with exactly what LOCK pins, and this project in it.
# An interrupted installation is started again from nothing: .ready is written last.
set -eu
python=$1 venv=$2 lock=$3
"$python" -c 'import sys; v = sys.version_info; sys.exit(0 if v[:2] == (3, 11) else f"Python 3.11 is needed, {sys.executable} is {v[0]}.{v[1]}")'
if [ ! -e "$venv/.ready" ] && [ -e "$venv" ]; then rm -rf "$venv"; fi
echo "setting up $venv (a minute or two, once)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$lock" 2>&1 | grep -v "^WARNING: Location" >&2 || true
"$venv/bin/pip" check --disable-pip-version-check >/dev/null 2>&1 || true
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e . 2>&1 | grep -v "^WARNING: Location" >&2 || true
"$venv/bin/python" -c 'import importlib.metadata as m; m.version("pulsebms-optimizer"); import numpy, psycopg'
touch "$venv/.ready"
