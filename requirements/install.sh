#!/bin/sh
# Makes one environment from its locks: requirements/install.sh pipeline|serving|bench|checks [PREFIX]
#
# Finds a CPython that fits, brings uv from PyPI into .venv/bootstrap, syncs .venv/<name> to its locks (with the dev lock,
# unless LOOKALIKE_DEV=0), then installs this project into it. Does nothing where the environment is current.
# bench holds what we are compared with, checks what looks over the manifests: neither holds anything of ours.
#
# The pipeline environment has two lanes: py310 (any glibc) and py311 (glibc 2.39 or later). LANE=py310 or LANE=py311
# names one; without it an environment that is there keeps its lane, and a new one gets py311 where this machine loads it
# and has a CPython 3.11, or neither 3.11 nor 3.10.
set -eu
cd "$(dirname "$0")/.."
name=${1:?usage: requirements/install.sh pipeline|serving|bench|checks [PREFIX]}
prefix=${2:-.venv/$name}
case $name in
  pipeline | serving | bench | checks) ;;
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

newer_glibc() { # whether TFX 1.21's wheels load here: they need glibc 2.39
  version=$(getconf GNU_LIBC_VERSION 2>/dev/null | sed 's/^glibc //' || true)
  [ "$(printf '2.39\n%s\n' "${version:-0}" | sort -V | head -n 1)" = 2.39 ]
}

choose_lane() { # sets lane and why
  lane=${LANE:-} why="LANE says so"
  case $lane in
    py310) return ;;
    py311) if newer_glibc; then return; fi
      echo "LANE=py311 needs glibc 2.39 or later: TFX 1.21 does not load on this machine." >&2; exit 2 ;;
    "") ;;
    *) echo "LANE must be py310 or py311, got '$lane'." >&2; exit 2 ;;
  esac
  if runs "$prefix/bin/python" 3.11; then lane=py311 why="it was made so; LANE=py310 makes the other"; return; fi
  if runs "$prefix/bin/python" 3.10; then lane=py310 why="it was made so; LANE=py311 makes the newer one"; return; fi
  if ! newer_glibc; then lane=py310 why="this machine's glibc is older than 2.39"; return; fi
  if ! find_python 3.11 >/dev/null && find_python 3.10 >/dev/null; then lane=py310 why="there is no CPython 3.11"; return; fi
  lane=py311 why="glibc is 2.39 or later; LANE=py310 makes the older one"
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
versions="3.10 3.11 3.12 3.13" locks="requirements/$name.lock" lane="" why=""
if [ "$name" = pipeline ]; then
  choose_lane
  versions=3.${lane#py3}
  if [ $lane = py311 ]; then locks="requirements/pipeline-311.lock"; fi
  locks="$locks requirements/demo.lock"
fi
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

echo "$name environment: $python -> $prefix${lane:+ (lane $lane: $why)}" >&2
rm -f "$stamp"
if [ -n "$lane" ] && [ -x "$prefix/bin/python" ] && ! runs "$prefix/bin/python" "$versions"; then rm -rf "$prefix"; fi
[ -x "$prefix/bin/python" ] || "$uv" venv -q --seed --python "$python" "$prefix"
# shellcheck disable=SC2086 # several file names
"$uv" pip sync -q --python "$prefix/bin/python" --compile-bytecode --require-hashes $locks
if [ $ours = yes ]; then "$uv" pip install -q --python "$prefix/bin/python" --no-deps --no-build-isolation -e .; fi
echo "$current $(pwd)" > "$stamp"
