#!/bin/sh
# install.sh PYTHON VENV LOCK [APART ...]: a virtual environment with exactly what LOCK pins, this project in it, and APART: packages
# of one version with several builds, of which pip takes the one that this machine is set up for (one already there stays).
# An interrupted installation is started again from nothing: .ready is written last.
set -eu
python=$1 venv=$2 lock=$3
shift 3
"$python" -c 'import sys; v = sys.version_info; sys.exit(0 if v[:2] == (3, 11) else f"Python 3.11 is needed, {sys.executable} is {v[0]}.{v[1]}")'
if [ ! -e "$venv/.ready" ] && [ -e "$venv" ]; then rm -rf "$venv"; fi
echo "setting up $venv (a minute or two, once)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
log="$venv/install.log"
for step in "--require-hashes --no-deps -r $lock" ${*:+"$*"} "--no-build-isolation --no-deps -e ."; do
  # shellcheck disable=SC2086 - the step is a list of words
  if ! "$venv/bin/pip" install --quiet --disable-pip-version-check $step >>"$log" 2>&1; then
    tail -n 15 "$log" >&2
    echo "installation failed; the whole log is $log" >&2
    exit 1
  fi
done
touch "$venv/.ready"
