# Run as the last thing in a machine that becomes an image: nothing of its builder, and nothing that two machines must not
# share, stays on its disk. What isn't there is fine. $@: more files to remove.
set +e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
if command -v cloud-init >/dev/null 2>&1; then cloud-init clean --logs --seed 2>/dev/null || cloud-init clean --logs; fi
rm -rf /var/lib/cloud/instance /var/lib/cloud/instances /var/lib/cloud/data /var/lib/cloud/sem /var/lib/cloud/seed
rm -rf /var/lib/stratus/instance* /var/lib/one-context /var/run/one-context
# What identifies this machine. An empty machine-id is filled at the next boot; host keys are made anew.
rm -f /etc/ssh/ssh_host_* /etc/dropbear/*host_key* /etc/dropbear/public
[ ! -e /etc/machine-id ] || : >/etc/machine-id
[ -L /var/lib/dbus/machine-id ] || rm -f /var/lib/dbus/machine-id
rm -f /var/lib/systemd/random-seed /var/lib/systemd/credential.secret /etc/udev/rules.d/70-persistent-net.rules
rm -f /var/lib/dhcp/* /var/lib/dhclient/* /var/lib/dhcpcd/*.lease* /var/lib/NetworkManager/*lease* /var/lib/NetworkManager/secret_key
rm -rf /var/lib/systemd/network /run/systemd/netif/leases/*
# What was done and by whom.
rm -rf /var/log/journal/* /var/log/installer /var/lib/systemd/coredump/* /var/crash/*
find /var/log -type f \( -name '*.gz' -o -name '*.xz' -o -name '*.[0-9]' -o -name '*.old' -o -name '*-20[0-9][0-9]*' \) -exec rm -f {} \; 2>/dev/null
find /var/log -type f -exec sh -c ': >"$1"' clean {} \; 2>/dev/null
if command -v apt-get >/dev/null 2>&1; then apt-get -q clean; fi
if command -v dnf >/dev/null 2>&1; then dnf -q clean all; elif command -v yum >/dev/null 2>&1; then yum -q clean all; fi
if command -v zypper >/dev/null 2>&1; then zypper --quiet clean --all; fi
rm -rf /var/cache/apk/* /tmp/* /tmp/.[!.]* /var/tmp/* /var/tmp/.[!.]*
# Of everybody who is at home here: histories, and all that one logs in elsewhere with. Keys are called as one likes.
in_homes=".bash_history .ash_history .sh_history .zsh_history .history .local/share/fish/fish_history
.python_history .ipython/profile_default/history.sqlite .node_repl_history .irb_history .php_history .Rhistory .octave_hist
.mysql_history .mariadb_history .psql_history .sqlite_history .rediscli_history
.lesshst .local/state/lesshst .viminfo .local/state/nvim/shada/main.shada .local/share/nano/search_history .wget-hsts
.netrc .git-credentials .config/git/credentials .vault-token .Xauthority .gnupg/secring.gpg
.ssh/authorized_keys .ssh/authorized_keys2 .ssh/known_hosts .ssh/known_hosts.old .ssh/environment"
emptied_in_homes=".ssh .globus .stratuslab .gnupg/private-keys-v1.d .gnupg/openpgp-revocs.d"
{
    printf '%s\n' / /root /home/*
    while IFS=: read -r _ _ _ _ _ home _; do printf '%s\n' "$home"; done </etc/passwd
} | while read -r home; do
    home=${home%/}
    [ -d "${home:-/}" ] || continue
    for name in $in_homes; do
        rm -f "$home/$name"
    done
    for name in $emptied_in_homes; do
        if [ "$name" = .ssh ]; then
            find -H "$home/$name" -type f ! -name config ! -name rc ! -name '*.conf' -exec rm -f {} \;
        else
            find -H "$home/$name" -type f -exec rm -f {} \;
        fi
    done 2>/dev/null
    rm -rf "$home/.cache"
done
# Of swap only the header stays: behind it is what was in memory. Nothing is written to what is still in use.
swap_files="/swapfile /swap.img /swap /swap/swapfile /var/swap /var/swapfile /var/swap.img"
page=$(getconf PAGESIZE 2>/dev/null || echo 4096)
swapoff -a 2>/dev/null
if [ "$(wc -l 2>/dev/null </proc/swaps)" -gt 1 ] 2>/dev/null; then
    echo "there is not enough memory to end swapping: what is swapped out stays on the disk" >&2
else
    {
        for swap in $swap_files; do printf '%s\n' "$swap"; done
        while read -r swap _ kind _; do [ "$kind" != swap ] || printf '%s\n' "$swap"; done </etc/fstab
        sed -n 's/^What=//p' /etc/systemd/system/*.swap
        blkid -t TYPE=swap -o device
    } 2>/dev/null | sort -u | while read -r swap; do
        case $swap in
            UUID=* | LABEL=* | PARTUUID=* | PARTLABEL=*) swap=$(findfs "$swap" 2>/dev/null) ;;
        esac
        [ -f "$swap" ] || [ -b "$swap" ] || continue
        [ "$(dd if="$swap" bs=1 skip=$((page - 10)) count=10 2>/dev/null | tr -d '\000')" = SWAPSPACE2 ] || continue
        if [ -f "$swap" ]; then
            dd if=/dev/zero of="$swap" bs="$page" seek=1 count=$(($(stat -c %s "$swap") / page - 1)) conv=notrunc 2>/dev/null
        else
            dd if=/dev/zero of="$swap" bs="$page" seek=1 2>/dev/null
            sync
            blkdiscard -o "$page" "$swap" 2>/dev/null
        fi
    done
fi
[ $# -eq 0 ] || rm -rf -- "$@"
# What was deleted is still in the free blocks: the disk is told that they are free, so that they read as zeroes.
sync
fstrim -a 2>/dev/null || fstrim / 2>/dev/null
sync
exit 0
