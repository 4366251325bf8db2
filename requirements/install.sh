#!/bin/sh
# Makes one environment from its locks: requirements/install.sh pipeline|serving|bench|checks [PREFIX]
#
# Finds a CPython that fits, brings uv from PyPI into .venv/bootstrap, syncs .venv/<name> to its locks (with the dev lock,
# unless LOOKALIKE_DEV=0), then installs this project into it. Does nothing where the environment is current.
# bench holds what we are compared with, checks what looks over the manifests: neither holds anything of ours.
set -eu
cd "$(dirname "$0")/.."
name=${1:?usage: requirements/install.sh pipeline|serving|bench|checks [PREFIX]}
prefix=${2:-.venv/$name}
case $name in
  pipeline) versions="3.10" ;;
  serving | bench | checks) versions="3.10 3.11 3.12 3.13" ;;
  *) echo "unknown environment '$name': pipeline, serving, bench or checks" >&2; exit 2 ;;
esac

# uv must read the locks before it can pick an index or a cache: only the project's own files decide what is installed.
unset UV_SYSTEM_PYTHON VIRTUAL_ENV PYTHONHOME PYTHONPATH || true
# Some machines forbid bytecode, and TensorFlow then takes three times as long to import.
unset PYTHONDONTWRITEBYTECODE || true

# The machine's own certificates, as pip and curl use them: a company's proxy is only known there.
export UV_SYSTEM_CERTS=1

runs() { "$1" -c "import sys; sys.exit(sys.version_info[:2] != tuple(map(int, '$2'.split('.'))))" >/dev/null 2>&1; }

find_python() { # prints a CPython of version $1, or fails
  found=$(command -v "python$1" 2>/dev/null || true)
  if [ -n "$found" ] && runs "$found" "$1"; then echo "$found"; return; fi
  if command -v pyenv >/dev/null 2>&1; then
    root=$(pyenv prefix "$1" 2>/dev/null || true)
    if [ -n "$root" ] && runs "$root/bin/python$1" "$1"; then echo "$root/bin/python$1"; return; fi
  fi
  for found in /usr/bin/python"$1" /usr/local/bin/python"$1" /opt/python*"$1"*/bin/python"$1"; do
    if [ -x "$found" ] && runs "$found" "$1"; then echo "$found"; return; fi
  done
  found=$(command -v python3 2>/dev/null || true)
  if [ -n "$found" ] && runs "$found" "$1"; then echo "$found"; return; fi
  return 1
}

bootstrap_uv() { # leaves a uv at .venv/bootstrap/bin/uv
  uv=.venv/bootstrap/bin/uv
  if [ -x $uv ] && $uv --version >/dev/null 2>&1; then return; fi
  mkdir -p .venv
  for python in python3 python; do
    command -v $python >/dev/null 2>&1 || continue
    rm -rf .venv/bootstrap
    if $python -m venv .venv/bootstrap >/dev/null 2>&1 && .venv/bootstrap/bin/python -m pip install -q "uv>=0.5"; then return; fi
    # Debian without python3-venv: pip alone can still put uv into a folder.
    rm -rf .venv/bootstrap
    if $python -m pip install -q --target .venv/bootstrap "uv>=0.5" >/dev/null 2>&1; then return; fi
  done
  found=$(command -v uv 2>/dev/null || true)
  if [ -n "$found" ]; then mkdir -p .venv/bootstrap/bin && ln -sf "$found" $uv; return; fi
  echo "Can't get uv: this machine's Python has neither venv nor pip. On Debian: apt-get install python3-venv" >&2
  exit 1
}

ours=yes
case $name in bench | checks) ours=no ;; esac
locks="requirements/$name.lock"
if [ "$name" = pipeline ]; then locks="$locks requirements/demo.lock"; fi
if [ $ours = yes ] && [ "${LOOKALIKE_DEV:-1}" != 0 ]; then locks="$locks requirements/dev.lock"; fi
stamp=$prefix/.lookalike-installed
current=$(cat $locks setup.py pyproject.toml requirements/install.sh $(find serving/protos -name '*.proto' | sort) | cksum)
if [ $ours = no ]; then current=$(cat $locks requirements/install.sh | cksum); fi
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$current $(pwd)" ]; then exit 0; fi

bootstrap_uv
uv=$(pwd)/.venv/bootstrap/bin/uv
python=
for version in $versions; do
  if python=$(find_python "$version"); then break; fi
done
if [ -z "$python" ]; then
  first=${versions%% *}
  echo "No CPython $first found; asking uv for one." >&2
  if "$uv" python install "$first" >/dev/null 2>&1; then
    python=$("$uv" python find "$first")
  else
    cat >&2 <<EOT
The $name environment needs CPython (one of: $versions). None was found:
  1. no working python$first on the PATH (a pyenv shim that fails does not count),
  2. no such version in pyenv (pyenv install $first brings it),
  3. 'uv python install $first' can't reach its download here.
Install one of them and run this again.
EOT
    exit 1
  fi
fi

echo "$name environment: $python -> $prefix" >&2
rm -f "$stamp"
[ -x "$prefix/bin/python" ] || "$uv" venv -q --seed --python "$python" "$prefix"
# shellcheck disable=SC2086 # several file names
"$uv" pip sync -q --python "$prefix/bin/python" --compile-bytecode --require-hashes $locks
if [ $ours = yes ]; then "$uv" pip install -q --python "$prefix/bin/python" --no-deps --no-build-isolation -e .; fi
echo "$current $(pwd)" > "$stamp"
