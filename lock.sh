#!/bin/sh
# Resolves requirements.lock: exact versions for Python 3.11 to 3.13 of everything that pyproject.toml asks for.
# PyTorch pins its own CUDA packages exactly, and its CPU build has none of them: they are left to it.
# The extra `viz` is left to whoever asks for it: Rerun is large, and nothing else needs it.
set -eu
cd "$(dirname "$0")"
header='# Exact versions for Python 3.11 to 3.13; made by `make lock`, read by bootstrap.sh.'
.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
    --no-emit-find-links --extra hardware --extra dask --extra multi_task_dit --extra peft --extra docs --extra dev pyproject.toml requirements.in -o requirements.resolved
{ echo "$header"; grep -vE '^(nvidia-|cuda-|triton)' requirements.resolved; } >requirements.lock
rm requirements.resolved
