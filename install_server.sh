#!/bin/sh
# Make this machine a fedmem server (Debian 12, Ubuntu 22.04 or newer), or undo that.
#
#   sudo sh install_server.sh [--domain NAME]      set up, or bring up to date
#   sudo sh install_server.sh --upgrade            only the program
#   sudo sh install_server.sh --rollback           the release before this one again
#   sudo sh install_server.sh --uninstall          all but data, tokens and certificate
#   sudo sh install_server.sh --uninstall --purge  data and backups as well
#
#   --dry-run        print what would be done, do nothing
#   --root PREFIX    write under a folder; leave the running system alone
#   --no-nginx  --no-fail2ban  --no-firewall       leave that part out
#
# The program is the fedmem.py beside this script. A run that finds all as it should be
# changes and restarts nothing. A release that does not become healthy is taken back.
# The first run takes MEMORY_ROOT, PORT, MCP_TOKEN and SYNC_TOKEN from the environment
# and keeps them in /opt/fedmem/.env, which is yours to edit.
set -eu
umask 022

home=/opt/fedmem
units=/etc/systemd/system
verb=install domain='' prefix='' dry_run='' purge='' nginx=yes fail2ban=yes firewall=yes
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

say() { printf '%s\n' "$*"; }
die() { printf 'install_server.sh: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
usage() { sed -n '2,18s/^# \{0,1\}//p' "$0"; }

# Every change goes through here.
run() { if [ -n "$dry_run" ]; then say "would run: $*"; else "$@"; fi; }

# As run, for what reaches beyond files: packages, users, services.
system() { if [ -n "$prefix" ]; then say "left out (--root): $*"; else run "$@"; fi; }

# put MODE FILE: write standard input to a file, unless it holds just that.
put() {
    cat >"$work/$(basename "$2")"
    cmp -s "$work/$(basename "$2")" "$prefix$2" && return
    changed=yes
    run mkdir -p "$(dirname "$prefix$2")"
    run install -m "$1" "$work/$(basename "$2")" "$prefix$2"
}

# remove FILE...: those that are there.
remove() {
    for file in "$@"; do
        if [ -n "$file" ] && { [ -e "$prefix$file" ] || [ -L "$prefix$file" ]; }; then
            run rm -rf "$prefix$file"
        fi
    done
}

# link NAME TARGET: point a link in /opt/fedmem at a release, in one step.
link() {
    [ "$(readlink "$prefix$home/$1")" != "$2" ] || return 0
    changed=yes
    run ln -sfn "$2" "$prefix$home/$1.new"
    run mv -T "$prefix$home/$1.new" "$prefix$home/$1"
}

# A folder is written for a machine with systemd; this one may have none.
has_systemd() { [ -n "$prefix" ] || [ -d /run/systemd/system ]; }

# service_do ACTION NAME: by systemd, else by the init scripts.
service_do() {
    if has_systemd; then
        system systemctl "$@"
    else
        system service "$2" "${1#reload-or-}"
    fi
}

# ask FOLDER CODE ARG...: run Python that has the fedmem.py of a folder at hand.
ask() {
    folder=$1 code=$2
    shift 2
    "$python" -I -B -c "import sys; sys.path.insert(0, sys.argv.pop(1)); import fedmem
$code" "$folder" "$@"
}

setting() {
    sed -n "s/^$1=\"*\([^\"]*\)\"*$/\1/p" "$prefix$home/.env" 2>/dev/null | tail -n 1
}
version_of() { sed -n 's/^VERSION = "\([A-Za-z0-9.+-]*\)".*/\1/p' "$1"; }

parse_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --domain | --root)
                [ -n "${2:-}" ] || { usage >&2; exit 2; }
                if [ "$1" = --root ]; then prefix=${2%/}; else domain=$2; fi
                shift ;;
            --upgrade | --rollback | --uninstall) verb=${1#--} ;;
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
}

read_settings() {
    data=$(setting MEMORY_ROOT) port=$(setting PORT)
    data=${data:-${MEMORY_ROOT:-/data/memory}} port=${port:-${PORT:-8000}}
    case $data in
        *[!A-Za-z0-9._/-]* | [!/]* | / | *..*) die "MEMORY_ROOT cannot be '$data'." ;;
    esac
    case $port in *[!0-9]*) die "PORT must be a number, not '$port'." ;; esac
    python=/usr/bin/python3
    [ -x "$python" ] || python=$(command -v python3) || python=/usr/bin/python3
}

install_packages() {
    had_nginx=$(command -v nginx || :)
    set --
    "$python" -I -c 'import http.server, sqlite3, ssl' 2>/dev/null ||
        set -- "$@" python3  # python3-minimal lacks them
    [ -z "$nginx" ] || have nginx || set -- "$@" nginx-light
    [ -z "$nginx" ] || have openssl || set -- "$@" openssl
    [ -z "$fail2ban" ] || have fail2ban-client || set -- "$@" fail2ban
    [ -z "$fail2ban" ] || "$python" -I -c 'import systemd.journal' 2>/dev/null ||
        set -- "$@" python3-systemd
    [ -z "$firewall$fail2ban" ] || have nft || set -- "$@" nftables
    if [ $# -gt 0 ]; then
        system apt-get update -qq
        system env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
            --no-install-recommends "$@"
    fi
    # The page that a fresh nginx shows on port 80.
    [ -z "$nginx" ] || [ -n "$had_nginx" ] || remove /etc/nginx/sites-enabled/default
    [ -n "$dry_run" ] ||
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$python is older than 3.10."
}

set_up_user() {
    id fedmem >/dev/null 2>&1 || system useradd --system --user-group --no-create-home \
        --home-dir /nonexistent --shell /usr/sbin/nologin fedmem
    [ -d "$prefix$data/_meta" ] || [ -z "$(ls -A "$prefix$data" 2>/dev/null)" ] ||
        die "$data holds something else: give MEMORY_ROOT a folder of its own."
    for folder in "$data" "$data-backups"; do
        [ -d "$prefix$folder" ] || run mkdir -p -m 700 "$prefix$folder"
        [ "$(stat -c %U "$prefix$folder" 2>/dev/null)" = fedmem ] ||
            system chown -R fedmem:fedmem "$folder"
    done
}

# A token of a memory that was moved here, else a new one.
find_token() {
    "$python" -I - "$prefix$data/_meta/tokens.json" "$1" <<'EOF'
import json, secrets, sys
try:
    print(json.load(open(sys.argv[1]))[sys.argv[2]])
except (OSError, LookupError, ValueError):
    print(f"fm{sys.argv[2][0]}_" + secrets.token_urlsafe(32))
EOF
}

write_settings() {
    hosts=$(setting ALLOWED_HOSTS)
    [ -n "$hosts" ] || hosts=$( (hostname -I | tr ' ' '\n'; hostname) | paste -sd, -)
    hosts=$(say "$domain,$hosts" | tr ',' '\n' | awk '$0 && !seen[$0]++' | paste -sd, -)
    host=${hosts%%,*}
    if [ -f "$prefix$home/.env" ]; then
        sed "s/^ALLOWED_HOSTS=.*/ALLOWED_HOSTS=$hosts/" "$prefix$home/.env" >"$work/env"
        grep -q '^ALLOWED_HOSTS=' "$work/env" ||
            say "ALLOWED_HOSTS=$hosts" >>"$work/env"
    else
        printf '%s\n' "MCP_TOKEN=${MCP_TOKEN:-$(find_token mcp_token)}" \
            "SYNC_TOKEN=${SYNC_TOKEN:-$(find_token sync_token)}" "MEMORY_ROOT=$data" \
            "PORT=$port" "ALLOWED_HOSTS=$hosts" >"$work/env"
        ! grep -q '^[A-Z]*_TOKEN=.*[^A-Za-z0-9._~+/=-]' "$work/env" ||
            die "a token may hold letters, digits and . _ ~ + / = - only."
    fi
    put 600 "$home/.env" <"$work/env"
}

write_units() {
    sed "s|/usr/bin/python3|$python|; s|/data/memory|$data|" "$here/fedmem.service" \
        >"$work/unit"
    # The backup runs in the same sandbox, which is opened for its folder.
    sed -e '/^#/d; /^Restart/d; /^StartLimit/d; /^TimeoutStop/d; /^\[Install\]/,$d' \
        -e "s|serve --existing|backup --to $data-backups|; s/^Type=exec/Type=oneshot/" \
        -e "s|^ReadWritePaths=.*|& -$data-backups|; s/^SyslogIdent.*/&-backup/" \
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

# Put the program beside this script into a release, and point `current` at it.
write_release() {
    "$python" -I -B "$here/fedmem.py" --version >/dev/null ||
        die "the fedmem.py beside this script does not run; the old one stays."
    name=$(version_of "$here/fedmem.py")
    before=$(readlink "$prefix$home/current" || :)
    old=$prefix$home/releases/$name/fedmem.py
    if [ -f "$old" ] && ! cmp -s "$here/fedmem.py" "$old"; then
        name=$name-$(sha256sum <"$here/fedmem.py" | cut -c1-8)
    fi
    [ -e "$prefix$home/releases/$name" ] || fresh=$home/releases/$name
    put 644 "$home/releases/$name/fedmem.py" <"$here/fedmem.py"
    ask "$here" 'print(fedmem.LAUNCHER, end="")' >"$work/launcher"
    put 644 "$home/releases/$name/run.py" <"$work/launcher"
    # Compiled here, for the service may not write there; valid by content, not by date.
    tag=$("$python" -c 'import sys; print(sys.implementation.cache_tag)')
    [ -f "$prefix$home/releases/$name/__pycache__/fedmem.$tag.pyc" ] ||
        run "$python" -m compileall -q --invalidation-mode checked-hash \
            "$prefix$home/releases/$name"
    link current "releases/$name"
}

# is_healthy PORT [PROCESS]: ask until the release that `current` points at answers.
is_healthy() {
    TOKEN=$(setting MCP_TOKEN) ask "$prefix$home/current" '
import json, os, time
there = fedmem.Address("http://127.0.0.1:" + sys.argv[1])
remote = fedmem.Remote(there, os.environ["TOKEN"], attempts=1)
for left in range(60, -1, -1):
    try:
        remote.call("list_workspaces", limit=1)
        found = json.loads(fedmem.fetch_path(there, "/healthz", 5))["version"]
        sys.exit(found != fedmem.VERSION and f"unhealthy: {found} answers")
    except fedmem.FedmemError as e:
        has_ended = not all(os.path.exists(f"/proc/{n}/exe") for n in sys.argv[2:])
        if has_ended or not left or not isinstance(e, fedmem.Unreachable):
            sys.exit(f"unhealthy: {e}")
    time.sleep(0.25)' "$@"
}

# Start `current` by hand on a free port, see, and end it again: what fails here has
# interrupted nothing. The very first start makes the root; later its lack is an error.
try_out() {
    [ -z "$dry_run" ] || return 0
    free=$("$python" -c 'import socket
with socket.create_server(("127.0.0.1", 0)) as s: print(s.getsockname()[1])')
    set -- "$python" -I "$prefix$home/current/run.py" serve --root "$prefix$data" \
        --port "$free"
    if [ -n "$before" ] || [ -f "$prefix$data/_meta/journal.jsonl" ]; then
        set -- "$@" --existing
    fi
    [ -n "$prefix" ] || set -- setpriv --reuid=fedmem --regid=fedmem --init-groups "$@"
    (
        eval "$(sed -n 's/^[A-Z_]*=/export &/p' "$prefix$home/.env")"
        exec "$@"
    ) >"$work/log" 2>&1 &
    if is_healthy "$free" $!; then status=0; else status=1; fi
    kill $! 2>/dev/null || tail -n 5 "$work/log" >&2
    wait $! || :
    return $status
}

restart() {
    has_systemd || { say "no systemd: start it by fedmem serve --existing"; return 0; }
    system systemctl restart fedmem
    [ -n "$prefix$dry_run" ] || is_healthy "$port"
}

# Start a changed program; when it fails, go back to the release before.
start_or_go_back() {
    go_back=:
    [ -n "$prefix$dry_run" ] || ! has_systemd || systemctl is-active --quiet fedmem ||
        changed=yes
    if [ -z "$changed" ]; then
        say "fedmem $name: as it should be"
        return
    elif try_out; then
        go_back=restart
        if restart; then
            [ -z "$before" ] || [ "$before" = "releases/$name" ] ||
                link previous "$before"
            say "fedmem $name: healthy"
            return
        fi
    fi
    if [ -z "$before" ]; then
        ! has_systemd || system systemctl stop fedmem
        remove "$home/current"
    elif [ "$before" != "releases/$name" ]; then
        link current "$before"
        $go_back || :
        remove "$fresh"
        die "fedmem $name is not healthy; ${before#releases/} is back."
    fi
    die "fedmem $name is not healthy: see above, and journalctl -u fedmem."
}

set_up_certificate() {
    cert=/etc/letsencrypt/live/$host/fullchain.pem
    key=/etc/letsencrypt/live/$host/privkey.pem
    [ -f "$prefix$cert" ] || cert=$home/tls/cert.pem key=$home/tls/key.pem
    [ ! -f "$prefix$cert" ] || return 0
    changed=yes
    names=$(say "$hosts" | tr ',' '\n' |
        sed '/:/s/^/IP:/; t; /^[0-9.]*$/s/^/IP:/; t; s/^/DNS:/' | paste -sd, -)
    run mkdir -p -m 700 "$prefix$home/tls"
    # A key that is there stays, and with it the pin that clients hold.
    [ -f "$prefix$key" ] || run openssl genpkey -algorithm EC \
        -pkeyopt ec_paramgen_curve:P-256 -out "$prefix$key"
    run openssl req -x509 -new -key "$prefix$key" -out "$prefix$cert" -days 3650 \
        -subj "/CN=$host" -addext "subjectAltName=$names"
}

set_up_nginx() {
    changed=''
    set_up_certificate
    sed -e "s|127.0.0.1:8000|127.0.0.1:$port|; s|/opt/fedmem/tls/cert.pem|$cert|" \
        -e "s|/opt/fedmem/tls/key.pem|$key|" "$here/nginx.conf" >"$work/site"
    [ -e /proc/net/if_inet6 ] || sed -i '/listen \[::\]/d' "$work/site"
    site=/etc/nginx/conf.d/fedmem.conf
    cp "$prefix$site" "$work/old_site" 2>/dev/null || :
    put 644 $site <"$work/site"
    [ -n "$changed" ] || return 0
    if ! system nginx -t -q; then
        if [ -f "$work/old_site" ]; then cp "$work/old_site" $site; else rm -f $site; fi
        die "nginx does not take its new configuration; the old one is back."
    fi
    ! has_systemd || system systemctl enable --quiet nginx
    service_do reload-or-restart nginx
}

set_up_fail2ban() {
    changed=''
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
    if [ ! -e "$prefix/var/log/auth.log" ]; then
        put 644 /etc/fail2ban/jail.d/sshd-backend.conf <<'EOF'
[sshd]
backend = systemd
EOF
    fi
    [ -n "$changed" ] || return 0
    system systemctl enable --quiet fail2ban
    system systemctl restart fail2ban
}

set_up_firewall() {
    changed=''
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
    if has_systemd; then  # loaded whenever the service starts
        put 644 $units/fedmem.service.d/firewall.conf <<EOF
[Unit]
After=nftables.service

[Service]
ExecStartPre=+-/usr/sbin/nft -f $home/firewall.nft
EOF
    fi
    [ -n "$changed" ] || return 0
    ! has_systemd || system systemctl daemon-reload
    system nft -f $home/firewall.nft
    ! have ufw || say "If ufw is active, let clients in: ufw allow 7443/tcp"
}

# Print the one line that sets a client machine up.
print_client() {
    [ -z "$dry_run" ] || return 0
    case $host in *:*) host="[$host]" ;; esac
    url=http://127.0.0.1:$port fetch='curl -fsS' pin=''
    if [ -n "$nginx" ]; then
        url=https://$host:7443
        if ! openssl verify -untrusted "$prefix$cert" "$prefix$cert" >"$work/said" 2>&1
        then
            pin=$(ask "$here" 'import ssl
text = open(sys.argv[1]).read().partition("-----END")[0] + "-----END CERTIFICATE-----"
print(fedmem.hash_public_key(ssl.PEM_cert_to_DER_cert(text)))' "$prefix$cert")
            fetch="curl -fsSk --pinnedpubkey '$pin'" pin=" --pin '$pin'"
        fi
    fi
    say "On every client machine, as the user whose assistants share this memory:"
    say "$fetch $url/fedmem.py -o fedmem.py && python3 fedmem.py install" \
        "$(setting MCP_TOKEN) --sync-token $(setting SYNC_TOKEN)" \
        "--url $url$pin"
}

roll_back() {
    before=$(readlink "$prefix$home/current" || :)
    target=$(readlink "$prefix$home/previous") || die "there is no release before this."
    name=${target#releases/} changed=yes
    link current "$target"
    start_or_go_back
}

uninstall() {
    for unit in fedmem-backup.timer fedmem.service; do
        [ ! -e "$prefix$units/$unit" ] || system systemctl disable --now --quiet "$unit"
        remove "$units/$unit"
    done
    remove $units/fedmem-backup.service $units/fedmem.service.d /etc/cron.d/fedmem \
        /usr/local/sbin/fedmem
    ! has_systemd || system systemctl daemon-reload
    if [ -e "$prefix/etc/nginx/conf.d/fedmem.conf" ]; then
        remove /etc/nginx/conf.d/fedmem.conf
        service_do reload nginx || say "nginx: see what it says" >&2
    fi
    if [ -e "$prefix/etc/fail2ban/jail.d/fedmem.conf" ]; then
        remove /etc/fail2ban/jail.d/fedmem.conf /etc/fail2ban/filter.d/fedmem.conf
        service_do restart fail2ban || say "fail2ban: see what it says" >&2
    fi
    if [ -e "$prefix$home/firewall.nft" ]; then
        system nft delete table inet fedmem || :
    fi
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
    [ "$(id -u)" = 0 ] || [ -n "$prefix$dry_run" ] || die "run it with sudo."
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    changed='' fresh=''
    read_settings
    case $verb in
        rollback) roll_back; return ;;
        uninstall) uninstall; return ;;
        upgrade)
            [ -f "$prefix$home/.env" ] || die "there is nothing to upgrade here."
            write_release
            start_or_go_back
            return ;;
    esac
    install_packages
    set_up_user
    write_settings
    write_units
    write_release
    start_or_go_back
    [ -z "$firewall" ] || set_up_firewall
    [ -z "$nginx" ] || set_up_nginx
    # It reads the journal.
    [ -z "$fail2ban" ] || ! has_systemd || set_up_fail2ban
    print_client
}

main "$@"
