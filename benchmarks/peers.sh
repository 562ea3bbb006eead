#!/bin/sh
# Environments of the planners that the common case is compared with, each its own, below the directory given:
#   benchmarks/peers.sh DIRECTORY [PYTHON]
# The directory should lie outside the repository. Nothing else is touched. Needs a package index.
set -eu
[ $# -ge 1 ] || { echo "usage: $0 DIRECTORY [PYTHON]" >&2; exit 2; }
directory=$1
python=${2:-python3.11}
mkdir -p "$directory"
for peer in emhass:emhass==0.18.7 pypsa:pypsa==1.4.0; do
  name=${peer%%:*}
  requirement=${peer#*:}
  [ -x "$directory/$name/bin/python" ] || "$python" -m venv "$directory/$name"
  "$directory/$name/bin/python" -m pip install --quiet "$requirement"
done
echo "ready: python -m benchmarks.optimizer --only common --peers $directory"
