# Virtual environments for the checks; to be sourced, in the root of the checkout.

# A Python of version $1, as 3.10, on the path or among pyenv's; status 1 if there is none.
interpreter() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# Make a virtual environment at $1 with the Python $2, and install the rest there.
environment() {
    local venv=$1 python=$2
    shift 2
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"
}

# Copy the checkout into $1, or what of it the pathspecs that follow choose.
copy() {
    local target=$1
    shift
    mkdir -p "$target"
    git ls-files -z --cached --others --exclude-standard -- "$@" | xargs -0 cp --parents -t "$target"
}

# Build the wheel with the Python $2 into the folder $1, of a copy, so that nothing is left in the checkout; print it.
wheel() {
    copy "$1/source"
    "$2" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$1" "$1/source"
    rm -rf "$1/source"
    echo "$1"/*.whl
}

# Copy all but the packages into $1: there the tests and the documented commands find the installed wheel alone.
copy_without_packages() {
    copy "$1" ':!featup_cli' ':!kernels'
    [ ! -d ../shared ] || ln -s "$(realpath ../shared)" "$(dirname "$1")/shared"
}

# Print the path of an environment with the lowest versions and the wheel $2; $1 is its Python. The packages are kept in
# the user's cache until they are others (gigabytes and minutes); the project is installed every time.
lowest_environment() {
    local python=$1 wheel=$2 key venv
    key=$({ "$python" -VV; cat .ci/lowest.txt pyproject.toml; } | sha256sum | cut -c1-12)
    venv="${XDG_CACHE_HOME:-$HOME/.cache}/featup-ci/lowest-$key"
    if [ ! -e "$venv/complete" ]; then
        rm -rf "$(dirname "$venv")"/lowest-*
        environment "$venv" "$python" --constraint .ci/lowest.txt "$wheel[test]"
        touch "$venv/complete"
    fi
    "$venv/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps "$wheel"
    echo "$venv"
}
