-- Some thousand made-up customers. Card numbers are in the test ranges of their issuers and pass the
-- Luhn check; national ids look like United States social security numbers.
CREATE FUNCTION pg_temp.luhn(digits text) RETURNS text LANGUAGE sql AS $$
  SELECT digits || ((10 - sum(CASE WHEN even THEN CASE WHEN d > 4 THEN d * 2 - 9 ELSE d * 2 END ELSE d END) % 10) % 10)
  FROM (SELECT substr(digits, i, 1)::int AS d, (length(digits) - i) % 2 = 0 AS even
        FROM generate_series(1, length(digits)) i) AS digit
$$;

CREATE TABLE customers (
    id          integer PRIMARY KEY,
    name        text NOT NULL,
    email       text NOT NULL,
    card_number text NOT NULL,
    national_id text NOT NULL,
    salary      integer NOT NULL,
    note        text
);

INSERT INTO customers
SELECT n,
       first || ' ' || last,
       lower(first || '.' || last || n || '@example.com'),
       pg_temp.luhn('411111' || lpad((n * 7919 % 1000000000)::text, 9, '0')),
       lpad((n % 665 + 1)::text, 3, '0') || '-' || lpad((n % 98 + 1)::text, 2, '0') || '-' || lpad((n % 9998 + 1)::text, 4, '0'),
       30000 + n * 37 % 90000,
       CASE WHEN n % 3 = 0 THEN 'called, paid by card ' || pg_temp.luhn('555555' || lpad((n * 104729 % 1000000000)::text, 9, '0'))
            WHEN n % 3 = 1 THEN 'prefers mail to ' || lower(first) || n || '@example.org' END
FROM (SELECT n,
             (ARRAY['Ada','Grace','Edsger','Barbara','Alan','Margaret','Dennis','Frances','Ken','Radia'])[n % 10 + 1] AS first,
             (ARRAY['Lovelace','Hopper','Dijkstra','Liskov','Turing','Hamilton','Ritchie','Allen','Thompson','Perlman'])[n / 10 % 10 + 1] AS last
      FROM generate_series(1, 5000) n) AS person;

CREATE TABLE orders AS
SELECT n AS id, n % 5000 + 1 AS customer_id, (n * 31 % 50000) / 100.0 AS amount FROM generate_series(1, 20000) n;

CREATE ROLE report LOGIN PASSWORD 'Summer2019!';
GRANT ALL ON ALL TABLES IN SCHEMA public TO report;
ALTER TABLE customers OWNER TO report;
ALTER TABLE orders OWNER TO report;
GRANT ALL ON SCHEMA public TO report;
