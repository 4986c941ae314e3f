tell() { printf '%s=%s\n' "$1" "$(printf %s "$2" | tr -d '\n')"; }
of_system() { sed -n "s/^$1=\"*\([^\"]*\)\"*\$/\1/p" /etc/os-release 2>/dev/null || :; }
version_of() { dpkg-query -W -f '${db:Status-Status} ${Version}' "$1" 2>/dev/null | sed -n 's/^installed //p' || :; }

tell user "$(id -u)"
tell name "$(uname -n)"
tell time "$(date +%s)"
tell system "$(of_system ID)"
tell release "$(of_system VERSION_ID)"
tell architecture "$(command -v apt-get >/dev/null && dpkg --print-architecture || :)"
tell version "$(version_of stratusd)"
tell client "$(version_of stratus)"
tell kvm "$([ ! -c /dev/kvm ] || echo yes)"
state=$(stratusd check-config 2>/dev/null | sed -n 's/.* state in \(.*\), API on .*/\1/p' || :)
state=${state:-/var/lib/stratus}
tell state "$state"
# Of what is there of the way to it.
place=$state
while [ ! -d "$place" ]; do place=$(dirname "$place"); done
tell free "$(df -Pk "$place" | awk 'END { print $4 }')"
tell cloud "$([ ! -e "$state/db" ] || echo yes)"
tell joined "$(cat "$state/host/joined.json" 2>/dev/null || :)"
tell ready "$(cat "$state/ready" 2>/dev/null || :)"
# Where another stratusd runs than the package's.
tell stranger "$(ls -l /proc/[0-9]*/exe 2>/dev/null | sed -n 's|.* /proc/\([0-9]*\)/exe -> \(/.*/stratusd\)\( (deleted)\)\{0,1\}$|\2 (process \1)|p' | grep -v '^/usr/bin/stratusd ' | head -n 1 || :)"
# Of the cloud's entries, by which one could join and by which not.
reached='' unreached=''
for entry in $entries; do
    host=${entry#*://} port=${entry##*:}
    host=${host%:*}
    host=${host#[} host=${host%]}
    if ! getent ahosts "$host" >/dev/null; then
        unreached="$unreached, $entry (that name has no address there)"
    elif ! timeout 10 bash -c ': <"/dev/tcp/$0/$1"' "$host" "$port" 2>/dev/null; then
        unreached="$unreached, $entry (no connection to that port)"
    else
        reached=yes
    fi
done
tell reached "$reached"
tell unreached "${unreached#, }"
