-- Typed results, errors, notices, COPY, transactions, LISTEN/NOTIFY, pipelines by \gdesc and \bind's absence:
-- what psql prints must be the same with and without an agent between.
\set ON_ERROR_STOP 0
CREATE TABLE t_psql (id int PRIMARY KEY, name text, amount numeric(12,2), at timestamptz, tags text[], doc jsonb);
INSERT INTO t_psql SELECT n, 'name ' || n, n * 1.25, '2026-01-01'::timestamptz + n * interval '1 hour', ARRAY['a', n::text], jsonb_build_object('n', n) FROM generate_series(1, 200) n;
SELECT * FROM t_psql ORDER BY id;
SELECT NULL, ''::text, true, 1::smallint, 2::bigint, 1.5::real, 'x'::bytea, '10.0.0.1'::inet, '{1,2}'::int[], int4range(1, 5), '1 day'::interval;
SELECT 1; SELECT 2; SELECT 3;
SELECT 1 \; SELECT 2 \; SELECT 1/0 \; SELECT 4;
SELECT no_such_column FROM t_psql;
SELEC 1;
;
DO $$ BEGIN RAISE NOTICE 'notice %', 1; RAISE WARNING 'warning'; END $$;
BEGIN;
UPDATE t_psql SET amount = 0 WHERE id = 1;
SAVEPOINT s;
SELECT 1/0;
SELECT 1;
ROLLBACK TO s;
SELECT amount FROM t_psql WHERE id = 1;
COMMIT;
BEGIN;
SELECT 1/0;
COMMIT;
SELECT count(*) FROM t_psql;
COPY t_psql (id, name) FROM STDIN;
1001	from copy
1002	\N
1003	tab\tand newline\n
\.
COPY t_psql (id, name) FROM STDIN;
not a number	x
\.
COPY (SELECT id, name FROM t_psql WHERE id > 150 ORDER BY id) TO STDOUT WITH (FORMAT csv, HEADER);
\copy (SELECT id FROM t_psql ORDER BY id LIMIT 3) TO STDOUT
PREPARE p (int) AS SELECT name FROM t_psql WHERE id = $1;
EXECUTE p(7);
DEALLOCATE p;
EXECUTE p(7);
SELECT id, amount FROM t_psql ORDER BY id LIMIT 2 \gdesc
LISTEN news;
NOTIFY news, 'nothing';
UNLISTEN news;
SET application_name = 'renamed';
SHOW application_name;
SET client_encoding = 'LATIN1';
SELECT length('äöü'), 'gr' || chr(252) || 'n';
RESET client_encoding;
DECLARE c CURSOR FOR SELECT 1;
BEGIN; DECLARE c CURSOR FOR SELECT id FROM t_psql ORDER BY id; FETCH 3 FROM c; MOVE 5 FROM c; FETCH 1 FROM c; CLOSE c; END;
\set FETCH_COUNT 30
SELECT id FROM t_psql WHERE id < 100 ORDER BY id;
\set FETCH_COUNT 0
SELECT repeat('long ', 100000) = repeat('long ', 100000), md5(repeat('x', 1000000));
SELECT repeat('0123456789', 20000);
SET statement_timeout = '100ms';
SELECT pg_sleep(20);
RESET statement_timeout;
DROP TABLE t_psql;
