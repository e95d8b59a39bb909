#!/usr/bin/env bash
# Runs the tests' fast part, compiled steps included, under several versions of Python and of what ppvae requires.
#
#   tests/matrix.sh FOLDER [ENVIRONMENT ...]
#
# An environment that is not in FOLDER yet is made there; all of them if none is named. Prints a line for each: the
# versions, and pytest's count. The whole output is in FOLDER/ENVIRONMENT.log. Needs uv (https://docs.astral.sh/uv), which
# also finds or fetches the Pythons; UV_TORCH_BACKEND=cpu takes torch's small builds. PYTEST_ADDOPTS narrows the run.
set -uo pipefail
folder=$(mkdir -p "${1:?where are the environments to be? tests/matrix.sh FOLDER}" && cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."

# An environment's name, its Python, and which versions of the required packages it has.
environments=(
    "oldest 3.11 --resolution=lowest-direct"
    "pinned 3.12 --constraint=constraints.txt"
    "newest 3.13 --resolution=highest"
)
versions='import importlib.metadata as m, platform
print("Python", platform.python_version(), *[f"{n} {m.version(n)}" for n in ("torch", "arviz", "numpy", "pyro-ppl")])'

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
failed=0
for environment in "${environments[@]}"; do
    read -r name python packages <<<"$environment"
    [ $# -eq 0 ] || [[ " $* " == *" $name "* ]] || continue
    venv=$folder/$name log=$folder/$name.log
    {
        { [ -d "$venv" ] || uv venv --python "$python" "$venv"; } &&
            uv pip install --python "$venv" "$packages" --reinstall-package ppvae '.[test]'
    } >"$log" 2>&1 || { echo "$name: not made, see $log"; failed=1; continue; }
    export TORCHINDUCTOR_CACHE_DIR=$folder/$name.compiled  # programs of other versions are none of this one's
    "$venv/bin/pytest" -q -p no:cacheprovider >>"$log" 2>&1 || failed=1
    echo "$name: $("$venv/bin/python" -c "$versions"): $(tail -n 1 "$log")"
done
exit $failed
