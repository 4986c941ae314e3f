#!/bin/sh
# Contextualization: lets the user's keys log in as root, then runs the user's script (SCRIPT_EXEC).
#
# May be run by `sh init.sh`, by a copy elsewhere, or sourced with `.`; from any folder; and any number of
# times: a key is never added twice, and the same script runs once each time the machine boots.
# Needs only what busybox has. Everything happens in a subshell, so that a caller that sources this
# keeps its own variables.
(
keys=append

case $0 in
    */*) own_folder=${0%/*}/ ;;
    *) own_folder=./ ;;
esac
for folder in "$own_folder" "${MOUNT_DIR:-}" /mnt/stratuslab /mnt/context /mnt /context; do
    if [ -n "$folder" ] && [ -f "$folder/context.sh" ]; then
        set -a
        . "$folder/context.sh"
        set +a
        break
    fi
done

# A file may lack its last line break; a key appended to it would be lost, and the last one with it.
end_last_line() {
    if [ -s "$1" ] && [ -n "$(tail -c 1 "$1")" ]; then
        echo >> "$1"
    fi
}

install_keys() {
    file=/root/.ssh/authorized_keys
    umask 077
    mkdir -p /root/.ssh
    chmod 700 /root/.ssh
    touch "$file"
    chmod 600 "$file"
    if [ "$keys" = replace ]; then
        printf '%s\n' "$PUBLIC_KEY" > "$file"
        return
    fi
    end_last_line "$file"
    printf '%s\n' "$PUBLIC_KEY" | while IFS= read -r key; do
        if [ -n "$key" ] && ! grep -qxF -e "$key" "$file"; then
            printf '%s\n' "$key" >> "$file"
        fi
    done
}

# The folder's name says which boot and which script; to make it is to take the right to run the script.
claim_script() {
    boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)
    sum=$(printf '%s' "$SCRIPT_EXEC" | cksum 2>/dev/null | tr -cd '0-9')
    mkdir -p /var/lib/stratus-context 2>/dev/null
    claim=/var/lib/stratus-context/script.$boot.$sum
    mkdir "$claim" 2>/dev/null && return 0
    # Nowhere to remember it: better to run it than not.
    [ ! -d "$claim" ]
}

run_script() (
    script=$(umask 077; mktemp /tmp/context-script.XXXXXX) || exit 1
    printf '%s\n' "$SCRIPT_EXEC" > "$script"
    case $SCRIPT_EXEC in
        '#!'*) chmod 700 "$script"; "$script" ;;
        *) sh "$script" ;;
    esac
    status=$?
    rm -f "$script"
    exit "$status"
)

if [ -n "${PUBLIC_KEY:-}" ]; then
    (install_keys)
fi
if [ -n "${SCRIPT_EXEC:-}" ] && claim_script; then
    run_script
fi
)
