#!/bin/sh
# Makes the database at the first start, then becomes the server.
set -eu
: "${PGDATA:=/data/pg}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --pgdata="$PGDATA" --username=postgres --auth=trust --encoding=UTF8 --locale=C --no-sync
  echo 'host all all all trust' >> "$PGDATA/pg_hba.conf"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off -c jit=off
