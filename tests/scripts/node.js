// What node-postgres gives must be the same with and without an agent between.
const { Client, Pool } = require("pg");
const url = process.env.PGURL;
async function main() {
  const client = new Client({ connectionString: url });
  client.on("notice", (n) => console.log("notice", n.severity, n.message));
  await client.connect();
  async function attempt(...q) {
    try {
      const r = await client.query(...q);
      for (const one of Array.isArray(r) ? r : [r]) {
        console.log(one.command, one.rowCount, JSON.stringify(one.fields.map((f) => [f.name, f.dataTypeID])), JSON.stringify(one.rows));
      }
    } catch (e) {
      console.log(e.severity, e.code, e.message, e.position);
    }
  }
  await attempt("CREATE TEMP TABLE t (id int PRIMARY KEY, name text, doc jsonb, raw bytea)");
  await attempt("INSERT INTO t VALUES ($1, $2, $3, $4) RETURNING *", [1, "o'neil", { a: 1 }, Buffer.from([0, 255])]);
  await attempt("SELECT * FROM t WHERE id = $1", [1]);
  await attempt({ name: "named", text: "SELECT name FROM t WHERE id = $1", values: [1] });
  await attempt({ name: "named", text: "SELECT name FROM t WHERE id = $1", values: [1] });
  await attempt("INSERT INTO t (id) VALUES (1)");
  await attempt("SELECT 1 AS a; SELECT 2 AS b");
  await attempt("SELECT $1::int / $2::int", [1, 0]);
  await attempt("SELECT nothing");
  await attempt("DO $$ BEGIN RAISE NOTICE 'hello'; END $$");
  await attempt("BEGIN");
  await attempt("SELECT 1/0");
  await attempt("SELECT 1");
  await attempt("COMMIT");
  await attempt({ text: "SELECT n, n::text, n * 1.5 FROM generate_series(1, 300) n", rowMode: "array" });
  await attempt("SELECT repeat('z', 2000000) = $1 AS same", ["z".repeat(2000000)]);
  const heard = new Promise((resolve) => client.on("notification", (n) => { console.log(n.channel, n.payload); resolve(); }));
  await attempt("LISTEN ch");
  await attempt("NOTIFY ch, 'hello'");
  await heard;
  await client.end();
  const pool = new Pool({ connectionString: url, max: 4 });
  const all = await Promise.all([...Array(100).keys()].map((i) => pool.query("SELECT $1::int * 2 AS x", [i])));
  console.log(all.map((r) => r.rows[0].x).join(","));
  await pool.end();
}
main().catch((e) => { console.log("failed", e); process.exit(1); });
