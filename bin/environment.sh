# Sourced by bin/train and bin/test: makes .venv once, and again when setup.cfg has changed.
# PYTHON chooses another interpreter (3.11 or newer).

environment() { # environment EXTRA: installs the package, with the extra if one is given
  local root stamp python
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  stamp=".venv/.installed${1:+-$1}"
  cd "$root" || exit 1
  if [ ! -f "$stamp" ] || [ setup.cfg -nt "$stamp" ]; then
    for python in "${PYTHON:-}" python3.12 python3.11 python3.13 python3 python; do
      [ -n "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
      python=
    done
    if [ -z "$python" ]; then
      echo "no Python 3.11 or newer found; install one, or name it: PYTHON=/path/to/python $0" >&2
      exit 2
    fi
    echo "installing into .venv with $("$python" --version), once" >&2
    [ -x .venv/bin/pip ] || "$python" -m venv .venv || { rm -rf .venv; exit 1; }
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${1:+[$1]}" || exit 1
    touch "$stamp"
  fi
}
