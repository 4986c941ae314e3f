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
