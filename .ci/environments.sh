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

# Copy what is installed from into $1, so that several installations at once don't meet in build/.
copy_source() {
    git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$1"
}

# Print the path of an environment with the lowest versions and this project; $1 is its Python. The packages are kept
# in the user's cache until they are others (gigabytes and minutes); the project is installed every time.
lowest_environment() {
    local python=$1 key venv source
    key=$({ "$python" -VV; cat .ci/lowest.txt pyproject.toml; } | sha256sum | cut -c1-12)
    venv="${XDG_CACHE_HOME:-$HOME/.cache}/featup-ci/lowest-$key"
    source=$(mktemp -d)
    copy_source "$source"
    if [ ! -e "$venv/complete" ]; then
        rm -rf "$(dirname "$venv")"/lowest-*
        environment "$venv" "$python" --constraint .ci/lowest.txt "$source[test]"
        touch "$venv/complete"
    fi
    "$venv/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps "$source"
    rm -rf "$source"
    echo "$venv"
}
