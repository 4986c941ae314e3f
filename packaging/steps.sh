# For scripts that make clouds, which source this from the top of the checkout: progress, and programs that are built or given. They set
# before: `what` they are called in messages, `logs` a folder for logs, `appliances` where these are.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # variables of whoever sources this

# --- progress -----------------------------------------------------------------------------------------------------

started=$EPOCHREALTIME
step_started=$started
step_name=
if [ -t 2 ]; then readonly terminal=yes; else readonly terminal=no; fi

seconds_since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

# A step is shown while it runs (on a terminal) and stays as one line with its time when it is done.
step() {
    step_name=$1
    step_started=$EPOCHREALTIME
    [ "$terminal" = no ] || printf '\r\033[K  …        %s' "$step_name" >&2
}
progress() { [ "$terminal" = no ] || printf '\r\033[K  … %5.1fs  %s: %s' "$(seconds_since "$step_started")" "$step_name" "$1" >&2; }
finish() {
    [ "$terminal" = no ] || printf '\r\033[K' >&2
    printf '  %5.1fs  %s%s\n' "$(seconds_since "$step_started")" "$step_name" "${1:+: $1}" >&2
    step_name=
}
fail() {
    [ "$terminal" = no ] || printf '\r\033[K' >&2
    printf '%s: %s%s\n' "$what" "${step_name:+$step_name: }" "$1" >&2
    shift
    [ "$#" -eq 0 ] || printf '  %s\n' "$@" >&2
    exit 1
}
# Waits until the command succeeds: wait_for SECONDS COMMAND…; shows the time on the way.
wait_for() {
    local limit=$1 began=$SECONDS
    shift
    until "$@"; do
        [ $((SECONDS - began)) -lt "$limit" ] || return 1
        progress "$((SECONDS - began)) of at most $limit s"
        sleep 0.2
    done
}

# --- programs -----------------------------------------------------------------------------------------------------

# Where stratusd and stratus are, once that is known.
programs='' stratusd='' stratus=''

use_programs() { # FOLDER
    programs=$1
    stratusd=$programs/stratusd
    stratus=$programs/stratus
}
have_programs() { [ -x "$stratusd" ] && [ -x "$stratus" ]; }

# Where cargo builds, as CARGO_TARGET_DIR or its configuration says.
target_folder() {
    local target
    target=$(cargo metadata --no-deps --offline --format-version 1 2>/dev/null | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p') || target=
    echo "${target:-${CARGO_TARGET_DIR:-$top/target}}"
}

# Those that are given by STRATUS_PROGRAMS, or built.
build_programs() {
    step "programs"
    if [ -n "${STRATUS_PROGRAMS:-}" ]; then
        use_programs "$STRATUS_PROGRAMS"
        have_programs || fail "STRATUS_PROGRAMS is $programs, where stratusd and stratus are not both"
        finish "those in $programs"
    else
        if [ "$terminal" = yes ]; then
            # Cargo's own progress bar, in place of ours.
            printf '\r\033[K' >&2
            cargo build --quiet --release -p stratusd -p stratus --config term.progress.when=\"always\" --config term.progress.width=100 9>&- ||
                fail "the build failed"
        else
            printf '  …        programs: compiled, which takes minutes the first time; %s tells how far it is\n' "${logs#"$PWD"/}/build.log" >&2
            cargo build --release -p stratusd -p stratus >"$logs/build.log" 2>&1 9>&- ||
                fail "the build failed; the last lines of $logs/build.log:" "$(tail -n 20 "$logs/build.log")"
        fi
        use_programs "$(target_folder)/release"
        finish
    fi
}

# That in STRATUS_TINY, or built; $appliances is where it is.
build_tiny() {
    local answer
    step "tiny appliance"
    if [ -n "${STRATUS_TINY:-}" ]; then
        [ -s "$appliances/tiny.qcow2" ] || fail "STRATUS_TINY is $appliances, where tiny.qcow2 is not"
        finish "that in $appliances"
    else
        answer=$(umask 022 && appliances/tiny/build "$appliances" 2>&1 9>&-) || fail "the build failed:" "$answer"
        finish "$(tail -n 1 <<<"$answer" | sed 's/^tiny appliance: //')"
    fi
}

# --- secrets and settings -----------------------------------------------------------------------------------------

# 20 letters and digits from the kernel.
new_password() { head -c 256 /dev/urandom | base64 -w 0 | tr -d '+/=\n' | head -c 20; }
quote() { printf "'%s'" "${1//\'/\'\\\'\'}"; }
export_line() { printf 'export %s=%s\n' "$1" "$(quote "$2")"; }
