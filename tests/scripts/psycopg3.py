# What psycopg 3 gives must be the same with and without an agent between: it uses the extended
# protocol, binary results and pipelines.
import logging, os, threading
import psycopg

# What it warns of when it leaves a failed pipeline depends on which answers have come by then.
logging.getLogger("psycopg").setLevel(logging.CRITICAL)

dsn = os.environ["PGURL"]

def attempt(conn, sql, params=None, **options):
    try:
        cur = conn.execute(sql, params, **options)
        print(cur.statusmessage, cur.rowcount, cur.description and [(c.name, c.type_code) for c in cur.description])
        while True:
            if cur.description:
                for row in cur.fetchall():
                    print(row)
            if not cur.nextset():
                break
    except psycopg.Error as e:
        print(type(e).__name__, e.sqlstate, e.diag.message_primary, e.diag.severity, conn.info.transaction_status)
        conn.rollback()

with psycopg.connect(dsn) as conn:
    print(conn.info.server_version, conn.info.host, conn.info.port)
    attempt(conn, "CREATE TEMP TABLE t (id serial PRIMARY KEY, name text UNIQUE, n numeric, raw bytea, at timestamptz)")
    for binary in (False, True):
        attempt(conn, "SELECT 1::int2, 2::int4, 3::int8, 1.5::float8, 1.10::numeric, 'text', true, NULL, '\\xdead'::bytea, DATE '2026-01-01', ARRAY[1,NULL,3]", binary=binary)
    attempt(conn, "INSERT INTO t (name, n, raw) VALUES (%s, %s, %b) RETURNING id", ("first", 12, b"\x00\x01"))
    conn.commit()
    attempt(conn, "INSERT INTO t (name) VALUES (%s)", ("first",))
    for _ in range(8):  # past the fifth it is a named prepared statement
        attempt(conn, "SELECT name, n FROM t WHERE id = %s", (1,))
    attempt(conn, "SELECT 1; SELECT 2")
    attempt(conn, "SELECT %s / %s", (1, 0))
    attempt(conn, "SELECT nothing")
    cur = conn.cursor()
    cur.executemany("INSERT INTO t (name) VALUES (%s)", [(f"n{i}",) for i in range(100)])
    print(cur.rowcount)
    with cur.copy("COPY t (name, n) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["text", "numeric"])
        for i in range(50):
            copy.write_row((f"b{i}", i))
    for options in ("", " (FORMAT BINARY)"):
        with cur.copy("COPY (SELECT name FROM t ORDER BY id) TO STDOUT" + options) as copy:
            print(b"".join(copy))
    try:
        with cur.copy("COPY t (id) FROM STDIN") as copy:
            copy.write("not a number\n")
    except psycopg.Error as e:
        print(type(e).__name__, e.sqlstate, e.diag.context)
    conn.rollback()
    with conn.pipeline() as p:
        a = conn.execute("SELECT 1")
        b = conn.execute("SELECT generate_series(1, 5)")
        c = conn.execute("SELECT %s::text", ("three",))
        p.sync()
        print(a.fetchall(), b.fetchall(), c.fetchall())
    try:
        with conn.pipeline() as p:
            a = conn.execute("SELECT 1")
            b = conn.execute("SELECT 1/0")
            c = conn.execute("SELECT 3")
            p.sync()
            print(a.fetchall())
            b.fetchall()
    except psycopg.Error as e:
        print("pipeline", type(e).__name__, e.sqlstate)
    conn.rollback()
    attempt(conn, "SELECT 'after pipeline'")
    with conn.cursor("server_side") as named:
        named.execute("SELECT generate_series(1, 500)")
        print(len(named.fetchmany(100)), len(named.fetchall()))
    with conn.transaction():
        try:
            with conn.transaction():
                conn.execute("SELECT 1/0")
        except psycopg.Error as e:
            print(e.sqlstate)
        attempt(conn, "SELECT 'outer goes on'")
    threading.Timer(0.5, conn.cancel).start()
    attempt(conn, "SELECT pg_sleep(30)")
    rows = conn.execute("SELECT n, repeat('y', 1000) FROM generate_series(1, 5000) n").fetchall()
    print(len(rows), sum(r[0] for r in rows))
with psycopg.connect(dsn, autocommit=True) as a, psycopg.connect(dsn, autocommit=True) as b:
    a.execute("LISTEN ch")
    b.execute("SELECT pg_notify('ch', 'payload')")
    for n in a.notifies(timeout=10, stop_after=1):
        print(n.channel, n.payload)
