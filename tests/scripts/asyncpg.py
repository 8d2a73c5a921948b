# What asyncpg gives must be the same with and without an agent between: it prepares everything, asks
# for binary results and reads the catalogues.
import asyncio, decimal, os, uuid
import asyncpg

async def main():
    conn = await asyncpg.connect(os.environ["PGURL"])
    print(conn.get_server_version())
    async def attempt(call):
        try:
            print(await call)
        except asyncpg.PostgresError as e:
            print(type(e).__name__, e.sqlstate, e.message)
    await attempt(conn.execute("CREATE TEMP TABLE t (id int PRIMARY KEY, name text, n numeric, u uuid, tags text[], doc jsonb)"))
    await attempt(conn.execute("INSERT INTO t VALUES ($1, $2, $3, $4, $5, $6)", 1, "one", decimal.Decimal("1.10"), uuid.UUID(int=7), ["a", None], '{"k": 1}'))
    await attempt(conn.fetch("SELECT * FROM t"))
    await attempt(conn.execute("INSERT INTO t (id) VALUES (1)"))
    await attempt(conn.fetchval("SELECT $1::int / $2::int", 1, 0))
    await attempt(conn.fetch("SELECT nothing"))
    await attempt(conn.fetch("SELECT 1::int2, 2::int8, 1.5::float4, true, NULL, '\\xbeef'::bytea, '2026-01-01'::date, '1 day'::interval, '10.0.0.0/8'::cidr, ROW(1, 'x')"))
    await attempt(conn.executemany("INSERT INTO t (id, name) VALUES ($1, $2)", [(i, f"n{i}") for i in range(2, 300)]))
    await attempt(conn.copy_records_to_table("t", records=[(1000 + i, "c") for i in range(100)], columns=["id", "name"]))
    out = []
    async def sink(data):
        out.append(data)
    await attempt(conn.copy_from_query("SELECT id, name FROM t ORDER BY id", output=sink, format="csv"))
    print(b"".join(out))
    async with conn.transaction():
        total = 0
        async for row in conn.cursor("SELECT id FROM t ORDER BY id", prefetch=20):
            total += row[0]
        print(total)
    try:
        async with conn.transaction():
            await conn.execute("DELETE FROM t WHERE id > 10")
            await conn.execute("SELECT 1/0")
    except asyncpg.PostgresError as e:
        print("rolled back", e.sqlstate, await conn.fetchval("SELECT count(*) FROM t"))
    await attempt(conn.execute("SELECT 1; SELECT 2; SELECT 3"))
    try:
        await conn.execute("SELECT pg_sleep(30)", timeout=0.5)
    except asyncio.TimeoutError:
        print("timed out and cancelled")
    await attempt(conn.fetchval("SELECT 'after cancel'"))
    heard = asyncio.Event()
    await conn.add_listener("ch", lambda c, pid, channel, payload: (print(channel, payload), heard.set()))
    other = await asyncpg.connect(os.environ["PGURL"])
    await other.execute("NOTIFY ch, 'hello'")
    await asyncio.wait_for(heard.wait(), 10)
    await other.close()
    await conn.close()
    pool = await asyncpg.create_pool(os.environ["PGURL"], min_size=4, max_size=4)
    print(sorted(await asyncio.gather(*[pool.fetchval("SELECT $1::int * 2", i) for i in range(100)])))
    await pool.close()

asyncio.run(main())
