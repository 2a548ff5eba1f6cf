#!/usr/bin/env bash
# Writes one backup of the database while the service goes on, and deletes old ones. docs/operations.md has the rest.
#
#   MYSQL_OPTION_FILE=/etc/image-classifier/backup.cnf BACKUP_DIR=/var/backups/image-classifier deploy/backup/backup.sh
#
# MYSQL_OPTION_FILE  host, port, user and password below [client]: a command line would show them to every user
# BACKUP_DIR         folder of the backups
# MYSQL_DATABASE     image_classifier
# BACKUP_KEEP_DAYS   14; older ones are deleted after a backup that succeeded
# BACKUP_AGE_RECIPIENT  the public key (age1…) that backups are encrypted to by age; empty: they are not encrypted
#
# A file that bears its final name is complete. It holds user ids, addresses and password hashes, and is its owner's.

set -euo pipefail
umask 077

die() {
	echo "backup: $1" >&2
	exit 1
}

options=${MYSQL_OPTION_FILE:?name the file with host, user and password}
folder=${BACKUP_DIR:?name the folder of the backups}
database=${MYSQL_DATABASE:-image_classifier}
keep_days=${BACKUP_KEEP_DAYS:-14}
recipient=${BACKUP_AGE_RECIPIENT:-}

[[ -r $options ]] || die "$options cannot be read"
[[ -d $folder ]] || die "$folder is no folder"
[[ $database =~ ^[0-9A-Za-z_][0-9A-Za-z_-]*$ ]] || die "MYSQL_DATABASE is a name of letters, digits, _ and -"
[[ $keep_days =~ ^[1-9][0-9]*$ ]] || die "BACKUP_KEEP_DAYS is a number of days"

suffix=.sql.gz
seal=(cat)
if [[ -n $recipient ]]; then
	command -v age >/dev/null || die "install age, or leave BACKUP_AGE_RECIPIENT empty"
	suffix=.sql.gz.age
	seal=(age --encrypt --recipient "$recipient")
fi

# What MariaDB's program writes of a MySQL server, MySQL does not take back: it has values for generated columns.
client=$(command -v mysql || command -v mariadb) || die "install the client programs of MySQL or MariaDB"
ask() {
	"$client" --defaults-file="$options" --batch --skip-column-names --execute="$1"
}
server=$(ask "SELECT VERSION()")
if [[ $server == *MariaDB* ]]; then
	dump=$(command -v mariadb-dump || command -v mysqldump) || die "install mariadb-client: the server is a MariaDB"
else
	dump=$(command -v mysqldump) || die "install MySQL's client programs: the server is a MySQL"
	if "$dump" --version | grep -q MariaDB; then
		die "install MySQL's own mysqldump: $dump is MariaDB's, and the server is a MySQL"
	fi
fi

# A database of another name, one that was made anew, or one that this user may not read is dumped without an error.
tables=$(ask "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = '$database'
	AND table_name IN ('alembic_version', 'image_classification_cache', 'request_log')")
[[ $tables == 3 ]] || die "$database does not hold the service's tables, or this user may not read them"

# One snapshot of all tables, without a lock. Tablespaces need a right that this user does not have to have, and so
# does a LOCK TABLES when it is restored, which strict clusters refuse.
arguments=(--single-transaction --quick --routines --hex-blob --no-tablespaces --default-character-set=utf8mb4)
arguments+=(--skip-add-locks)
if [[ $server != *MariaDB* ]]; then
	# No replica is made from it.
	arguments+=(--set-gtid-purged=OFF)
fi

exec 9>"$folder/.lock"
flock --nonblock 9 || die "another backup is running"

# What a power cut or a kill -9 has left of an earlier one.
rm -f "$folder/$database"-????????T??????Z.sql.gz.partial "$folder/$database"-????????T??????Z.sql.gz.age.partial
target=$folder/$database-$(date --utc +%Y%m%dT%H%M%SZ)$suffix
partial=$target.partial
trap 'rm -f "$partial"' EXIT

# MariaDB's first line is a command that MySQL's client does not know.
# The last line is written when everything else was; what is encrypted cannot be looked at again.
"$dump" --defaults-file="$options" "${arguments[@]}" "$database" | sed '1{/enable the sandbox mode/d}' |
	LC_ALL=C awk '{ print; last = $0 } END { exit last !~ /^-- Dump completed/ }' | gzip | "${seal[@]}" >"$partial" ||
	die "the dump is not complete"
sync "$partial"
mv "$partial" "$target"
# The name, too, before an older one goes.
sync "$folder"

find "$folder" -maxdepth 1 \( -name "$database-????????T??????Z.sql.gz" -o -name "$database-????????T??????Z.sql.gz.age" \) \
	-mmin "+$((keep_days * 24 * 60))" -delete
echo "$target"
