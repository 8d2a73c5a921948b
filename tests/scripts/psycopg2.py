# What psycopg 2 gives must be the same with and without an agent between.
import io, os, select, threading, time
import psycopg2, psycopg2.extras

dsn = os.environ["PGURL"]
conn = psycopg2.connect(dsn)
print(conn.server_version, conn.encoding, conn.get_parameter_status("TimeZone"), conn.info.host, conn.info.port)
cur = conn.cursor()

def attempt(sql, params=None):
    try:
        cur.execute(sql, params)
        print(cur.statusmessage, cur.rowcount, cur.description and [d[:2] for d in cur.description])
        if cur.description:
            for row in cur.fetchall():
                print(tuple(bytes(v) if isinstance(v, memoryview) else v for v in row))
    except psycopg2.Error as e:
        print(type(e).__name__, e.pgcode, e.pgerror, conn.info.transaction_status)
        conn.rollback()

attempt("CREATE TEMP TABLE t (id serial PRIMARY KEY, name text UNIQUE, doc jsonb, raw bytea)")
attempt("INSERT INTO t (name, doc, raw) VALUES (%s, %s, %s) RETURNING id, name", ("o'neil", psycopg2.extras.Json({"a": [1, 2]}), b"\x00\xff"))
conn.commit()
attempt("INSERT INTO t (name) VALUES (%s)", ("o'neil",))
attempt("SELECT * FROM t WHERE name = %s", ("o'neil",))
attempt("SELECT 1; SELECT 2")
attempt("SELECT 1/0")
attempt("SELECT now() - now(), DATE '2026-01-01', 1.10::numeric, NULL, ARRAY[1,2], '2026-01-01 10:00+02'::timestamptz")
psycopg2.extras.execute_values(cur, "INSERT INTO t (name) VALUES %s", [(f"n{i}",) for i in range(300)])
print(cur.rowcount)
cur.copy_expert("COPY t (name) FROM STDIN", io.StringIO("c1\nc2\n"))
print(cur.rowcount)
out = io.StringIO()
cur.copy_expert("COPY (SELECT name FROM t ORDER BY id) TO STDOUT", out)
print(out.getvalue())
named = conn.cursor("named")
named.itersize = 50
named.execute("SELECT id, name FROM t ORDER BY id")
print(len(named.fetchmany(10)), len(named.fetchall()))
named.close()
conn.commit()
conn.set_session(autocommit=True)
cur.execute("LISTEN ch")
other = psycopg2.connect(dsn)
other.autocommit = True
other.cursor().execute("NOTIFY ch, 'hello'")
if select.select([conn], [], [], 10)[0]:
    conn.poll()
print([(n.channel, n.payload) for n in conn.notifies])
threading.Timer(0.5, conn.cancel).start()
attempt("SELECT pg_sleep(30)")
attempt("SELECT 'after cancel'")
big = "x" * 3_000_000
cur.execute("SELECT %s", (big,))
print(cur.fetchone()[0] == big)
for line in conn.notices:
    print(line)
conn.close()
try:
    psycopg2.connect(dsn.replace("tr0ub4dor", "wrong"))
except psycopg2.OperationalError as e:
    print(str(e))
