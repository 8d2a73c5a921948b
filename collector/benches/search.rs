//! How long lists and searches take with a million sessions and three million commands.
//!
//! `cargo bench -p interlock-collector --bench search [-- SESSIONS] [postgres]`. The SQLite database is made once, in
//! the target directory, and used again. With `postgres` all of it is copied into a throwaway PostgreSQL as
//! `migrate` does it, and asked there as well.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::path::Path;
use std::time::Instant;

use interlock_collector::sample::SampleHost;
use interlock_collector::store::{CommandFilter, Server, SessionFilter, Store, now_ns};
use interlock_tests::Postgres;
use interlock_tests::postgres::{Auth, DATABASE, PASSWORD, USER};
use sqlx::any::AnyPoolOptions;

/// Sessions and their commands, spread over a year, as SQLite makes them by itself. A thousand hosts' worth
/// of users and programs; one command in a thousand is denied, one in ten thousand holds the needle.
async fn fill(path: &Path, host: &str, sessions: i64) {
    let pool = AnyPoolOptions::new()
        .max_connections(1)
        .connect(&format!("sqlite://{}", path.display()))
        .await
        .unwrap();
    let begin = now_ns() / 1_000_000 - 365 * 86_400_000;
    let step = 365 * 86_400_000 / sessions;
    sqlx::query("PRAGMA synchronous = OFF").execute(&pool).await.unwrap();
    let mut first = 0;
    while first < sessions {
        let last = (first + 50_000).min(sessions);
        sqlx::query(
            "WITH RECURSIVE n(i) AS (SELECT $1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < $2) \
             INSERT INTO sessions (id, host, started_ns, ended_ns, end_reason, first_segment, last_segment, \
             first_event, last_event, pid, user_name, login_user, exe, command_line, unit, destination, host_names, \
             protocol, db_user, database_name, policy_hash, commands, denied, held, observed, masked_values, \
             rows_returned) SELECT printf('%012x7%03x8%015x', $3 + i * $4, i % 4096, i), $5, ($3 + i * $4) * 1000000, \
             CASE WHEN i % 100000 = 0 THEN NULL ELSE ($3 + i * $4) * 1000000 + 5000000000 END, 'client_closed', \
             i / 100, i / 100, i * 8, i * 8 + 7, i % 60000, printf('user%d', (i * 7919) % 500), \
             printf('login%d', i % 50), printf('/srv/jobs/job-%d/run.py', (i * 104729) % 2000), \
             printf('python3 /srv/jobs/job-%d/run.py --shard %d', (i * 104729) % 2000, i % 64), \
             printf('job-%d.service', (i * 104729) % 2000), printf('10.0.%d.%d:5432', i % 20, i % 50), \
             printf('db-%d.internal', i % 100), 'postgres', printf('role%d', (i * 31) % 200), \
             printf('database%d', (i * 17) % 300), 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', \
             3, CASE WHEN i % 1000 = 0 THEN 1 ELSE 0 END, 0, CASE WHEN i % 3000 = 0 THEN 1 ELSE 0 END, 0, 30 FROM n",
        )
        .bind(first)
        .bind(last)
        .bind(begin)
        .bind(step)
        .bind(host)
        .execute(&pool)
        .await
        .unwrap();
        sqlx::query(
            "WITH RECURSIVE n(i) AS (SELECT $1 * 3 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < $2 * 3) \
             INSERT INTO commands (host, event, segment, session, number, goes_on, step, at_ns, kind, verdict, \
             observed, rule, text, search, status, duration_ns, rows_returned, sqlstate) \
             SELECT $5, (i / 3) * 8 + 2 + i % 3, i / 300, \
             printf('%012x7%03x8%015x', $3 + (i / 3) * $4, (i / 3) % 4096, i / 3), i % 3 + 1, 0, 'query', \
             ($3 + (i / 3) * $4) * 1000000 + i % 3, 'select', CASE WHEN i % 3000 = 0 THEN 'deny' ELSE 'allow' END, \
             CASE WHEN i % 9000 = 0 THEN 'hold' ELSE '' END, \
             CASE WHEN i % 3000 = 0 THEN 'no-payments' WHEN i % 5 = 0 THEN 'reads-are-fine' ELSE '' END, \
             printf('SELECT id, name, amount FROM public.table%d WHERE customer = %d%s', (i * 7919) % 3000, i % 99991, \
             CASE WHEN i % 10000 = 7 THEN ' AND needle IS NOT NULL' ELSE '' END), \
             printf('SELECT id, name, amount FROM public.table%d WHERE customer = %d%s public.table%d', \
             (i * 7919) % 3000, i % 99991, CASE WHEN i % 10000 = 7 THEN ' AND needle IS NOT NULL' ELSE '' END, \
             (i * 7919) % 3000), 'complete', 1500000, 10, '' FROM n",
        )
        .bind(first)
        .bind(last)
        .bind(begin)
        .bind(step)
        .bind(host)
        .execute(&pool)
        .await
        .unwrap();
        first = last;
        println!("  {first} sessions");
    }
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&pool).await.unwrap();
}

/// The least, the middle and the greatest of 11 times, in milliseconds.
fn summary(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get(part).copied().unwrap_or_default();
    format!("{:>8.1} {:>8.1} {:>8.1}", at(0), at(times.len() / 2), at(times.len() - 1))
}

/// Copies everything into an empty database of PostgreSQL.
async fn copy(from: &Store, to: &Store) {
    for table in from.tables().await.unwrap() {
        println!("copying {}", table.name);
        while from.copy_rows(&table, to).await.unwrap() > 0 {}
        to.end_copy(&table).await.unwrap();
    }
}

#[tokio::main]
async fn main() {
    let count = std::env::args().filter_map(|word| word.parse::<i64>().ok()).next().unwrap_or(1_000_000);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("search-{count}.db"));
    let fresh = !path.exists();
    let store = Store::open_file(&path).await.unwrap();
    if fresh {
        println!("making {count} sessions in {}", path.display());
        let host = SampleHost::enrol(&store, "bastion", 1).await.unwrap();
        fill(&path, &host.id, count).await;
    }
    println!("SQLite: {:.1} GiB", std::fs::metadata(&path).unwrap().len() as f64 / f64::from(1 << 30));
    measure(&store).await;
    if std::env::args().any(|word| word == "postgres") {
        let settings =
            ["log_statement=none", "synchronous_commit=off", "shared_buffers=1GB", "max_wal_size=4GB"];
        let server = Postgres::start_with(Auth::Scram, &settings).unwrap();
        let at = Server {
            url: format!("postgres://{USER}@127.0.0.1:{}/{DATABASE}", server.port()),
            password: Some(PASSWORD.to_owned().into()),
            connections: 4,
        };
        let shared = Store::open_server(&at, false).await.unwrap();
        copy(&store, &shared).await;
        server.admin("VACUUM ANALYZE").unwrap();
        println!(
            "PostgreSQL: {}",
            server.admin("SELECT pg_size_pretty(pg_database_size(current_database()))").unwrap()
        );
        measure(&shared).await;
        shared.close().await;
    }
}

/// Asks everything, 11 times each.
async fn measure(store: &Store) {
    println!("{:<60} {:>6} {:>8} {:>8} {:>8}", "", "found", "least", "middle", "most, ms");

    let some = |text: &str| Some(text.to_owned());
    let default = SessionFilter::default;
    let day = 86_400_000_000_000;
    let host = store.agents().await.unwrap().first().unwrap().host.clone();
    let sessions = [
        ("sessions", default()),
        ("sessions of a host", SessionFilter { hosts: Some(vec![host]), ..default() }),
        ("sessions half a year ago", SessionFilter { until_ns: Some(now_ns() - 180 * day), ..default() }),
        ("sessions of a user", SessionFilter { user: some("user42"), ..default() }),
        ("… to a database", SessionFilter { user: some("user42"), database: some("database7"), ..default() }),
        (
            "… that there is none of",
            SessionFilter { user: some("user42"), database: some("none"), ..default() },
        ),
        (
            "sessions of an executable (a part, one has it)",
            SessionFilter { exe: some("job-1234/"), ..default() },
        ),
        (
            "sessions of an executable (a part, many have it)",
            SessionFilter { exe: some("job-12"), ..default() },
        ),
        ("sessions to a destination (a part)", SessionFilter { destination: some("db-42."), ..default() }),
        ("… that there is none of", SessionFilter { destination: some("nowhere"), ..default() }),
        ("sessions with a denied command", SessionFilter { verdict: some("deny"), ..default() }),
        ("… of a user", SessionFilter { verdict: some("deny"), user: some("user0"), ..default() }),
        ("sessions by a rule that is rare", SessionFilter { rule: some("no-payments"), ..default() }),
        ("sessions by a rule that is frequent", SessionFilter { rule: some("reads-are-fine"), ..default() }),
        (
            "… and a verdict it never gave",
            SessionFilter { rule: some("reads-are-fine"), verdict: some("deny"), ..default() },
        ),
        ("sessions that would have been held", SessionFilter { observed: some("hold"), ..default() }),
        ("sessions going on", SessionFilter { open: true, ..default() }),
        ("text: a rare word", SessionFilter { text: some("needle"), ..default() }),
        ("text: a word in every command", SessionFilter { text: some("select"), ..default() }),
        (
            "text: two words, both in every command",
            SessionFilter { text: some("select amount"), ..default() },
        ),
        ("text: a phrase", SessionFilter { text: some("\"public table77\""), ..default() }),
        ("text: a beginning", SessionFilter { text: some("table77*"), ..default() }),
        (
            "text: a frequent word, of a user",
            SessionFilter { text: some("select"), user: some("user42"), ..default() },
        ),
        ("text: no such word", SessionFilter { text: some("xyzzy"), ..default() }),
    ];
    for (name, filter) in &sessions {
        let mut times = Vec::new();
        let mut found = 0;
        for _ in 0..11 {
            let start = Instant::now();
            found = store.sessions(filter, None, 50).await.unwrap().items.len();
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        println!("{name:<60} {found:>6} {}", summary(times));
    }
    let default = CommandFilter::default;
    let commands = [
        ("commands", default()),
        ("commands denied", CommandFilter { verdict: some("deny"), ..default() }),
        (
            "commands by a rule, half a year ago",
            CommandFilter { rule: some("no-payments"), until_ns: Some(now_ns() - 180 * day), ..default() },
        ),
        ("commands of a kind that there is none of", CommandFilter { kind: some("drop_table"), ..default() }),
        ("commands: a rare word", CommandFilter { text: some("needle"), ..default() }),
        (
            "commands: a frequent word, denied",
            CommandFilter { text: some("select"), verdict: some("deny"), ..default() },
        ),
    ];
    for (name, filter) in &commands {
        let mut times = Vec::new();
        let mut found = 0;
        for _ in 0..11 {
            let start = Instant::now();
            found = store.commands(filter, None, 50).await.unwrap().items.len();
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        println!("{name:<60} {found:>6} {}", summary(times));
    }
    // The last page of all, by its cursor: no page costs more than the first.
    let start = Instant::now();
    let far = format!("{:012x}7000", (now_ns() - 300 * day) / 1_000_000);
    let page = store.sessions(&SessionFilter::default(), Some(&far), 50).await.unwrap();
    println!(
        "{:<60} {:>6} {:>8.1}",
        "sessions, from a cursor far back",
        page.items.len(),
        start.elapsed().as_secs_f64() * 1000.0
    );
}
