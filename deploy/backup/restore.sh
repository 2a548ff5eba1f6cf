#!/usr/bin/env bash
# Fills an empty database from a backup. docs/operations.md says what to do before and after.
#
#   MYSQL_OPTION_FILE=/etc/image-classifier/restore.cnf deploy/backup/restore.sh FILE.sql.gz[.age]
#
# MYSQL_OPTION_FILE  host, port, user and password below [client]; the user may create databases and tables
# BACKUP_AGE_IDENTITY  file of the private key, for a backup that ends in .age
# MYSQL_DATABASE     image_classifier; it is created if it does not exist, and must have no table

set -euo pipefail

die() {
	echo "restore: $1" >&2
	exit 1
}

[[ $# -eq 1 ]] || die "name one backup"
file=$1
options=${MYSQL_OPTION_FILE:?name the file with host, user and password}
database=${MYSQL_DATABASE:-image_classifier}

[[ -r $options ]] || die "$options cannot be read"
[[ $database =~ ^[0-9A-Za-z_][0-9A-Za-z_-]*$ ]] || die "MYSQL_DATABASE is a name of letters, digits, _ and -"
opened() {
	if [[ $file == *.age ]]; then
		age --decrypt --identity "${BACKUP_AGE_IDENTITY:?name the file of the private key}" "$file"
	else
		cat "$file"
	fi
}
if [[ $file == *.age ]]; then
	command -v age >/dev/null || die "install age"
fi
opened | gzip --test || die "$file is damaged, or the key is another"
opened | gzip --decompress --stdout | tail -n 1 | grep -q '^-- Dump completed' || die "$file is not complete"
client=$(command -v mysql || command -v mariadb) || die "install mysql-client or mariadb-client"

ask() {
	"$client" --defaults-file="$options" --default-character-set=utf8mb4 --batch --skip-column-names "$@"
}

ask --execute="CREATE DATABASE IF NOT EXISTS \`$database\`
	DEFAULT CHARACTER SET utf8mb4 DEFAULT COLLATE utf8mb4_unicode_ci"
tables=$(ask --execute="SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = '$database'")
[[ $tables == 0 ]] || die "$database has $tables tables; restore into an empty database"

# A view belongs to the account that is restoring, not to the first one, which may not exist here. The line is one of its
# own; rows stand in lines that begin with INSERT.
own='s|^/\*!50013 DEFINER=.* SQL SECURITY INVOKER \*/$|/*!50013 SQL SECURITY INVOKER */|'
opened | gzip --decompress --stdout | LC_ALL=C sed "$own" | ask "$database" ||
	die "it failed half-way: drop the database $database before you try again"

revision=$(ask --execute="SELECT version_num FROM alembic_version" "$database")
images=$(ask --execute="SELECT COUNT(*) FROM image_classification_cache" "$database")
requests=$(ask --execute="SELECT COUNT(*) FROM request_log" "$database")
echo "restored $database: schema $revision, $images cached images, $requests log rows"
