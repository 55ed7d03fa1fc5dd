#!/bin/sh
# Make this machine a fedmem server (Debian 12, Ubuntu 22.04 or newer), or undo that.
# The program is the fedmem.py beside this script; usage() says how to call it.
set -eu
umask 022

home=/opt/fedmem
units=/etc/systemd/system
mark=$home/.unfinished
verb=set_up domain='' prefix='' dry_run='' purge='' nginx=yes fail2ban=yes firewall=yes
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

usage() {
    cat <<'EOF'
sudo sh install_server.sh [--domain NAME]      set up, or bring up to date
sudo sh install_server.sh --upgrade            only the program
sudo sh install_server.sh --rollback           the release before this one again
sudo sh install_server.sh --uninstall          all but data, tokens and certificate
sudo sh install_server.sh --uninstall --purge  data and backups as well
  --dry-run      print what would be done, do nothing
  --root PREFIX  write under a folder; leave the running system alone
  --no-nginx  --no-fail2ban  --no-firewall     leave that part out
A run that finds all as it should be changes and restarts nothing. A release that does
not become healthy is taken back. The first run takes MEMORY_ROOT, PORT, MCP_TOKEN and
SYNC_TOKEN from the environment and keeps them in /opt/fedmem/.env, which you may edit.
EOF
}

say() { printf '%s\n' "$*"; }
die() { printf 'install_server.sh: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Every change goes through here.
run() { if [ -n "$dry_run" ]; then say "would run: $*"; else "$@"; fi; }

# As run, for what reaches beyond files: packages, users, services.
system() { if [ -n "$prefix" ]; then say "left out (--root): $*"; else run "$@"; fi; }

# A run that is cut off leaves a mark; the next one takes nothing for done.
begin() {
    changed=yes
    [ -z "$begun" ] || return 0
    begun=yes
    run mkdir -p "$prefix$home"
    run touch "$prefix$mark"
}

# put MODE FILE: write standard input to a file, unless it holds just that.
put() {
    cat >"$work/$(basename "$2")"
    cmp -s "$work/$(basename "$2")" "$prefix$2" && return
    begin
    run install -D -m "$1" "$work/$(basename "$2")" "$prefix$2"
}

# remove FILE...: those that are there.
remove() {
    for file in "$@"; do
        if [ -n "$file" ] && { [ -e "$prefix$file" ] || [ -L "$prefix$file" ]; }; then
            run rm -rf "$prefix$file" || say "$file stays"  # a disk is mounted there
        fi
    done
}

# link NAME TARGET: point a link in /opt/fedmem at a release, in one step.
link() {
    [ "$(readlink "$prefix$home/$1")" != "$2" ] || return 0
    begin
    run ln -sfn "$2" "$prefix$home/$1.new"
    run mv -T "$prefix$home/$1.new" "$prefix$home/$1"
}

# A folder is written for a machine with systemd; this one may have none.
has_systemd() { [ -n "$prefix" ] || [ -d /run/systemd/system ]; }

# Whether a service runs; taken for granted where services are left alone.
is_active() { [ -n "$prefix$dry_run" ] || systemctl is-active --quiet "$1"; }

# Run Python. A dry run goes on without where it is yet to be installed.
py() { [ -n "$no_python" ] || "$python" -I -B "$@"; }

setting() {
    sed -n "s/^$1=\"*\([^\"]*\)\"*$/\1/p" "$prefix$home/.env" 2>/dev/null | tail -n 1
}

parse_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --domain | --root)
                [ -n "${2:-}" ] || { usage >&2; exit 2; }
                if [ "$1" = --root ]; then prefix=${2%/}; else domain=$2; fi
                shift ;;
            --upgrade | --uninstall) verb=${1#--} ;;
            --rollback) verb=roll_back ;;
            --purge) purge=yes ;;
            --dry-run) dry_run=yes ;;
            --no-nginx) nginx='' ;;
            --no-fail2ban) fail2ban='' ;;
            --no-firewall) firewall='' ;;
            -h | --help) usage; exit 0 ;;
            *) say "unknown option: $1" >&2; usage >&2; exit 2 ;;
        esac
        shift
    done
    case $domain in *[!A-Za-z0-9.:-]*) die "'$domain' is no name or address." ;; esac
    case $prefix in '' | /*) ;; *) prefix=$(pwd)/$prefix ;; esac
    [ -z "$purge" ] || [ "$verb" = uninstall ] || die "--purge needs --uninstall."
    [ "$(id -u)" = 0 ] || [ -n "$prefix$dry_run" ] || die "run it with sudo."
}

read_settings() {
    data=$(setting MEMORY_ROOT) port=$(setting PORT)
    data=${data:-${MEMORY_ROOT:-/data/memory}} port=${port:-${PORT:-8000}}
    case $data in
        *[!A-Za-z0-9._/-]* | [!/]* | / | *..*) die "MEMORY_ROOT cannot be '$data'." ;;
    esac
    case $port in *[!0-9]*) die "PORT must be a number, not '$port'." ;; esac
    python=$(command -v /usr/bin/python3 || command -v python3) ||
        python=/usr/bin/python3
}

install_packages() {
    had_nginx=$(command -v nginx || :)
    set -- python3  # python3-minimal, which may be there, lacks sqlite3
    [ -z "$nginx" ] || set -- "$@" openssl
    [ -z "$nginx" ] || [ -n "$had_nginx" ] || set -- "$@" nginx-light
    [ -z "$fail2ban" ] || set -- "$@" fail2ban python3-systemd nftables
    [ -z "$firewall" ] || set -- "$@" nftables
    if dpkg-query -W -f '${db:Status-Status}\n' "$@" 2>&1 | grep -qvx installed; then
        system apt-get update -qq
        # A machine that was just started may be busy with updates.
        system env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-upgrade \
            -o DPkg::Lock::Timeout=300 --no-install-recommends "$@"
    fi
    py -c 'import sqlite3, ssl' 2>/dev/null || no_python=$dry_run
    # The page that a fresh nginx shows on port 80.
    [ -z "$nginx" ] || [ -n "$had_nginx" ] || remove /etc/nginx/sites-enabled/default
    py -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$python is older than 3.10."
}

# What would fail in the middle fails here, before a setting is kept.
check_machine() {
    found=$(find "$prefix$data/." ! -name . -prune ! -name lost+found 2>/dev/null || :)
    [ -z "$found" ] || [ -d "$prefix$data/_meta" ] ||
        die "$data holds something else: give MEMORY_ROOT a folder of its own."
    is_active fedmem || py -c 'import socket, sys
socket.create_server(("127.0.0.1", int(sys.argv[1])))' "$port" 2>/dev/null ||
        die "port $port is taken: choose another PORT, in $home/.env if that is there."
}

set_up_user() {
    id fedmem >/dev/null 2>&1 || system useradd --system --user-group --no-create-home \
        --home-dir /nonexistent --shell /usr/sbin/nologin fedmem
    for folder in "$data" "$data-backups"; do
        [ "$(stat -c %U "$prefix$folder" 2>/dev/null)" != fedmem ] || continue
        run mkdir -p "$prefix$folder"
        run chmod 700 "$prefix$folder"
        system chown -R fedmem:fedmem "$folder"
    done
}

# A token of a memory that was moved here, else a new one.
find_token() {
    py - "$prefix$data/_meta/tokens.json" "$1" <<'EOF'
import json, secrets, sys
try:
    print(json.load(open(sys.argv[1]))[sys.argv[2]])
except (OSError, LookupError, ValueError):
    print(f"fm{sys.argv[2][0]}_" + secrets.token_urlsafe(32))
EOF
}

write_settings() {
    changed=$unfinished
    hosts=$(setting ALLOWED_HOSTS)
    hosts=$(say "$domain,${hosts:-$(hostname -I; hostname)}" | tr -s ' ,' '\n' |
        awk '$0 && !seen[$0]++' | paste -sd, -)
    host=${hosts%%,*}
    if [ -f "$prefix$home/.env" ]; then
        sed "s/^ALLOWED_HOSTS=.*/ALLOWED_HOSTS=$hosts/" "$prefix$home/.env" >"$work/env"
    else
        printf '%s\n' "MCP_TOKEN=${MCP_TOKEN:-$(find_token mcp_token)}" \
            "SYNC_TOKEN=${SYNC_TOKEN:-$(find_token sync_token)}" "MEMORY_ROOT=$data" \
            "PORT=$port" >"$work/env"
        ! grep -q '^[A-Z]*_TOKEN=.*[^A-Za-z0-9._~+/=-]' "$work/env" ||
            die "a token may hold letters, digits and . _ ~ + / = - only."
    fi
    grep -q '^ALLOWED_HOSTS=' "$work/env" || say "ALLOWED_HOSTS=$hosts" >>"$work/env"
    put 600 "$home/.env" <"$work/env"
}

write_units() {
    sed "s|/usr/bin/python3|$python|; s|/data/memory|$data|" "$here/fedmem.service" \
        >"$work/unit"
    [ -n "$firewall" ] || sed -i '/^# The limit on/d; /^ExecStartPre=/d' "$work/unit"
    # The backup runs in the same sandbox, which is opened for its folder.
    sed -e '/^#/d; /^ExecStartPre/d; /^Restart/d; /^StartLimit/d; /^TimeoutStop/d' \
        -e "s|serve --existing|backup --to $data-backups|; s/^Type=exec/Type=oneshot/" \
        -e "s|^ReadWritePaths=.*|& -$data-backups|; s/^SyslogIdent.*/&-backup/" \
        -e "s|^RequiresMounts.*|& $data-backups|; /^\[Install\]/,\$d" \
        -e 's/^Description=.*/Description=fedmem, daily backup/' \
        "$work/unit" >"$work/job"
    put 755 /usr/local/sbin/fedmem <<EOF
#!/bin/sh
# Run a command of the installed fedmem as its user, with the settings of the service.
set -eu
[ "\$(id -u)" = 0 ] || { echo "fedmem: run it with sudo." >&2; exit 1; }
case "\${1:-} \${2:-}" in
    # The tokens are in a file that only root may write.
    "token rotate") exec $python -I $home/current/run.py "\$@" --env $home/.env ;;
esac
set -a
. $home/.env
exec setpriv --reuid=fedmem --regid=fedmem --init-groups --no-new-privs \\
    $python -I $home/current/run.py "\$@"
EOF
    if ! has_systemd; then
        put 644 /etc/cron.d/fedmem <<EOF
17 3 * * * root /usr/local/sbin/fedmem backup --to $data-backups >/dev/null
@reboot root [ ! -f $home/firewall.nft ] || /usr/sbin/nft -f $home/firewall.nft
EOF
        return
    fi
    put 644 $units/fedmem.service <"$work/unit"
    put 644 $units/fedmem-backup.service <"$work/job"
    put 644 $units/fedmem-backup.timer <<'EOF'
[Unit]
Description=fedmem, daily backup

[Timer]
OnCalendar=*-*-* 03:17
RandomizedDelaySec=30min
Persistent=true

[Install]
WantedBy=timers.target
EOF
    [ -n "$changed" ] || return 0
    system systemctl daemon-reload
    system systemctl enable --quiet fedmem fedmem-backup.timer
    system systemctl restart fedmem-backup.timer
}

# Put the program beside this script into a release.
write_release() {
    py "$here/fedmem.py" --version >/dev/null ||
        die "the fedmem.py beside this script does not run; the old one stays."
    name=$(sed -n 's/^VERSION = "\(.*\)".*/\1/p' "$here/fedmem.py")
    old=$prefix$home/releases/$name/fedmem.py
    if [ -f "$old" ] && ! cmp -s "$here/fedmem.py" "$old"; then
        name=$name-$(sha256sum <"$here/fedmem.py" | cut -c1-8)
    fi
    release=$home/releases/$name
    [ -e "$prefix$release" ] || fresh=$release
    put 644 "$release/fedmem.py" <"$here/fedmem.py"
    py -c 'import sys; sys.path.insert(0, sys.argv[1])
import fedmem; print(fedmem.LAUNCHER, end="")' "$here" >"$work/launcher"
    put 644 "$release/run.py" <"$work/launcher"
    # Compiled here, for the service may not write there; valid by content, not by date.
    tag=$(py -c 'import sys; print(sys.implementation.cache_tag)')
    [ -f "$prefix$release/__pycache__/fedmem.$tag.pyc" ] ||
        run "$python" -m compileall -q --invalidation-mode checked-hash \
            "$prefix$release"
}

# is_healthy URL [PIN]: the release itself asks, as a client that waits a few seconds.
is_healthy() {
    say "{\"url\": \"$1\", \"pin\": \"${2:-}\"}" >"$work/config.json"
    MEMORY_SYNC_HOME=$work MCP_MEMORY_TOKEN=$(setting MCP_TOKEN) \
        "$python" -I "$prefix$release/run.py" sessions >/dev/null
}

# Start a release by hand on a free port, see, and end it again: what fails here has
# interrupted nothing. The very first start makes the root; later its lack is an error.
try_out() {
    [ -z "$dry_run" ] || return 0
    set -- "$python" -I "$prefix$release/run.py" serve --root "$prefix$data" --port 0
    [ -z "$before" ] || set -- "$@" --existing
    [ -n "$prefix" ] || set -- setpriv --reuid=fedmem --regid=fedmem --init-groups "$@"
    (
        eval "$(sed -n 's/^[A-Z_]*=/export &/p' "$prefix$home/.env")"
        exec "$@"
    ) >"$work/log" 2>&1 &
    child=$! url='' status=1 left=150
    while [ -z "$url" ] && [ $((left -= 1)) -gt 0 ] && kill -0 $child 2>/dev/null; do
        sleep 0.1
        url=$(sed -n 's/^fedmem .* serves .* at //p' "$work/log")
    done
    if [ -n "$url" ] && is_healthy "$url"; then status=0; fi
    kill $child 2>/dev/null || :
    wait $child || :
    child=''
    [ $status = 0 ] || tail -n 5 "$work/log" >&2
    return $status
}

restart() {
    has_systemd || { say "no systemd: start fedmem serve --existing"; return 0; }
    system systemctl restart fedmem
    [ -n "$prefix$dry_run" ] ||
        { is_healthy "http://127.0.0.1:$port" && is_active fedmem; }
}

# Put a release in use; when it fails, go back to the one before.
start_release() {
    before=$(readlink "$prefix$home/current" || :)
    [ "$before" = "releases/$name" ] && is_active fedmem || changed=yes
    [ -n "$changed" ] || { say "fedmem $name: as it should be"; return 0; }
    if ! try_out; then
        remove "$fresh"
        die "fedmem $name is not healthy and was not put in use."
    fi
    link current "releases/$name"
    if restart; then
        [ -z "$before" ] || [ "$before" = "releases/$name" ] || link previous "$before"
        [ -n "$dry_run" ] || say "fedmem $name: healthy"
        return
    fi
    if [ -z "$before" ]; then
        system systemctl stop fedmem
        remove $home/current
    elif [ "$before" != "releases/$name" ]; then
        link current "$before"
        restart || :
        remove "$fresh"
        die "fedmem $name is not healthy; ${before#releases/} is back."
    fi
    die "fedmem $name is not healthy: see above, and journalctl -u fedmem."
}

set_up_certificate() {
    cert=/etc/letsencrypt/live/$host/fullchain.pem
    key=/etc/letsencrypt/live/$host/privkey.pem
    [ -f "$prefix$cert" ] || cert=$home/tls/cert.pem key=$home/tls/key.pem
    if [ ! -f "$prefix$cert" ]; then
        begin
        names=$(say "$hosts" | tr ',' '\n' |
            sed '/:/s/^/IP:/; t; /^[0-9.]*$/s/^/IP:/; t; s/^/DNS:/' | paste -sd, -)
        run mkdir -p -m 700 "$prefix$home/tls"
        # A key that is there stays, and with it the pin that clients hold.
        [ -f "$prefix$key" ] || run openssl genpkey -algorithm EC \
            -pkeyopt ec_paramgen_curve:P-256 -out "$prefix$key"
        run openssl req -x509 -new -key "$prefix$key" -out "$prefix$cert" -days 3650 \
            -subj "/CN=$host" -addext "subjectAltName=$names"
    fi
    [ -n "$dry_run" ] || pin=sha256//$(openssl x509 -in "$prefix$cert" -noout -pubkey |
        openssl pkey -pubin -outform DER | openssl dgst -sha256 -binary |
        openssl base64)
}

# Whether requests reach the program through nginx.
is_served() {
    [ -n "$prefix$dry_run" ] || ! has_systemd ||
        is_healthy https://127.0.0.1:7443 "$pin"
}

set_up_nginx() {
    changed=$unfinished
    set_up_certificate
    sed -e "s|127.0.0.1:8000|127.0.0.1:$port|; s|/opt/fedmem/tls/cert.pem|$cert|" \
        -e "s|/opt/fedmem/tls/key.pem|$key|" "$here/nginx.conf" >"$work/site"
    [ -e /proc/net/if_inet6 ] || sed -i '/listen \[::\]/d' "$work/site"
    site=/etc/nginx/conf.d/fedmem.conf
    cp "$prefix$site" "$work/old_site" 2>/dev/null || :
    put 644 $site <"$work/site"
    if [ -z "$changed" ] && is_served; then return; fi
    if ! system nginx -t -q; then
        if [ -f "$work/old_site" ]; then cp "$work/old_site" $site; else rm -f $site; fi
        die "nginx does not take its new configuration; the old one is back."
    fi
    system systemctl enable --quiet nginx
    system nginx -s reload 2>/dev/null || system service nginx start
    is_served || die "nginx does not serve port 7443: see /var/log/nginx/error.log."
}

set_up_fail2ban() {
    changed=$unfinished
    put 644 /etc/fail2ban/filter.d/fedmem.conf <<'EOF'
# Refused tokens in the log of fedmem. The line has nothing that a stranger chooses but
# the address, which nginx sets; both ends are anchored, so that no other line passes.
[Definition]
failregex = ^\s*(?:\S+ fedmem\[\d+\]: )?auth refused: addr=<ADDR> reason=[a-z-]+$
ignoreregex =
journalmatch = _SYSTEMD_UNIT=fedmem.service
EOF
    put 644 /etc/fail2ban/jail.d/fedmem.conf <<'EOF'
# A client with an old token asks a few times an hour; who guesses asks all the time.
[fedmem]
enabled = true
backend = systemd
filter = fedmem
port = 7443,7444
maxretry = 20
findtime = 10m
bantime = 1h
banaction = nftables[type=multiport]
EOF
    # Debian's own jail for ssh wants this log; all of fail2ban fails without it. This
    # has nothing to do with fedmem, so it stays when fedmem goes.
    [ -e "$prefix/var/log/auth.log" ] ||
        put 644 /etc/fail2ban/jail.d/sshd-backend.conf <<'EOF'
[sshd]
backend = systemd
EOF
    is_active fail2ban || changed=yes
    [ -n "$changed" ] || return 0
    system systemctl enable --quiet fail2ban
    system systemctl restart fail2ban
}

set_up_firewall() {
    changed=$unfinished
    put 644 $home/firewall.nft <<'EOF'
# New connections to fedmem, by address: 20 a second, 100 at once. A table of its own,
# which nothing else touches; loading it again replaces it.
table inet fedmem
delete table inet fedmem
table inet fedmem {
    set fast4 { type ipv4_addr; size 65535; flags dynamic, timeout; timeout 1m; }
    set fast6 { type ipv6_addr; size 65535; flags dynamic, timeout; timeout 1m; }
    chain input {
        type filter hook input priority filter - 5; policy accept;
        iif lo accept
        tcp dport { 7443, 7444 } ct state new \
            update @fast4 { ip saddr limit rate over 20/second burst 100 packets } drop
        tcp dport { 7443, 7444 } ct state new \
            update @fast6 { ip6 saddr limit rate over 20/second burst 100 packets } drop
    }
}
EOF
    [ -n "$changed" ] || return 0
    system nft -f $home/firewall.nft ||
        die "the kernel takes no rules: --no-firewall does without."
    ! have ufw || say "If ufw is active, let clients in: ufw allow 7443/tcp"
}

# Print the one line that makes a client machine's own.
print_client() {
    [ -z "$dry_run" ] || return 0
    case $host in *:*) host="[$host]" ;; esac
    url=http://127.0.0.1:$port option=''
    if [ -n "$nginx" ]; then
        url=https://$host:7443
        openssl verify -untrusted "$prefix$cert" "$prefix$cert" >/dev/null 2>&1 ||
            option=" --pin '$pin'"
    fi
    say "For every client machine, by its own name, this prints the line to run there:"
    say "sudo fedmem invite MACHINE --url $url$option"
}

set_up() {
    install_packages
    check_machine
    [ -z "$firewall" ] || set_up_firewall
    set_up_user
    write_settings
    write_units
    write_release
    start_release
    [ -z "$nginx" ] || set_up_nginx
    # It reads the journal.
    [ -z "$fail2ban" ] || ! has_systemd || set_up_fail2ban
    print_client
}

upgrade() {
    [ -f "$prefix$home/.env" ] || die "there is nothing to upgrade here."
    write_release
    start_release
}

roll_back() {
    target=$(readlink "$prefix$home/previous") || die "there is no release before this."
    name=${target#releases/} release=$home/$target
    start_release
}

uninstall() {
    for unit in fedmem-backup.timer fedmem.service; do
        [ ! -e "$prefix$units/$unit" ] || system systemctl disable --now --quiet "$unit"
        remove "$units/$unit"
    done
    remove $units/fedmem-backup.service /etc/cron.d/fedmem /usr/local/sbin/fedmem
    system systemctl daemon-reload
    site=/etc/nginx/conf.d/fedmem.conf jail=/etc/fail2ban/jail.d/fedmem.conf
    if [ -e "$prefix$site" ]; then
        remove $site
        system nginx -s reload 2>/dev/null || say "nginx was not reloaded: see nginx -t"
    fi
    if [ -e "$prefix$jail" ]; then
        remove $jail /etc/fail2ban/filter.d/fedmem.conf
        system service fail2ban restart || :
    fi
    [ ! -e "$prefix$home/firewall.nft" ] || system nft delete table inet fedmem || :
    remove $home/current $home/previous $home/releases $home/firewall.nft
    if [ -z "$purge" ]; then
        say "--uninstall --purge removes the rest: $data $data-backups $home"
        return
    fi
    # A root that was never one of ours is not removed, whatever .env says.
    [ -f "$prefix$data/_meta/journal.jsonl" ] && remove "$data" "$data-backups"
    remove $home
    ! id fedmem >/dev/null 2>&1 || system userdel fedmem
}

main() {
    parse_options "$@"
    work=$(mktemp -d) child=''
    trap 'rm -rf "$work"; [ -z "$child" ] || kill "$child"' EXIT
    trap 'exit 130' HUP INT TERM
    no_python='' unfinished='' begun='' fresh=''
    [ ! -e "$prefix$mark" ] || unfinished=yes
    changed=$unfinished
    has_systemd || systemctl() { :; }  # its orders are nothing there
    read_settings
    $verb
    remove $mark
}

main "$@"
