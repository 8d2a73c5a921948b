#!/bin/bash
# The nightly report. Written in 2019 by someone who has left since.
export PGHOST=127.0.0.1 PGPORT=@PORT@ PGDATABASE=shop PGUSER=report PGPASSWORD='Summer2019!'

ask() { echo; echo "=> $1"; psql -X -P pager=off -c "$1"; }

ask "SELECT count(*) AS orders, sum(amount) AS revenue FROM orders"
ask "SELECT id, name, email, card_number FROM customers ORDER BY id LIMIT 3"
ask "SELECT c.national_id AS reference, c.salary AS n, c.note FROM customers c WHERE id IN (3, 4)"
ask "UPDATE orders SET amount = 0 WHERE id = 17"
ask "SELECT * FROM customers"
# "Quick fixes" that were never meant to stay.
ask "DELETE FROM customers WHERE true"
ask "DO \$\$ BEGIN DROP TABLE orders; END \$\$"
ask "COPY customers TO PROGRAM 'cat > /tmp/customers.csv'"
ask "SELECT 'still connected, and all is well' AS goodbye"
