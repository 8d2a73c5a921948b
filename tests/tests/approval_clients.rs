//! psql, psycopg and JDBC, each way to send a command, each way for its approval to end: what the client is told, what
//! the server has, and what is recorded.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use interlock_tests::client::{self, Client};
use interlock_tests::process::{Finished, LIMIT, finish};
use interlock_tests::{Postgres, Stage};
use serde_json::Value;

/// A user that every Debian has, in the group of its own name.
const GAMES: (u32, u32) = (5, 60);

const RULES: &str = r#"
rules:
  - name: held
    match: {sql: {kind: update, writes: t}}
    action: hold
    approval: {groups: games}
  - name: brief
    match: {sql: {kind: update, writes: brief}}
    action: hold
    approval: {groups: games, within: 5s}
"#;

const CLIENTS: [&str; 3] = ["psql", "psycopg", "jdbc"];
/// As a simple query; behind and before others that are sent with it; in a transaction; by a prepared statement.
const MODES: [&str; 4] = ["simple", "pipeline", "transaction", "prepared"];
/// `cancelled` and `timeout` are the client's own cancel request and its statement_timeout; `gone`: it has left.
const ENDS: [&str; 6] = ["approved", "denied", "expired", "cancelled", "timeout", "gone"];

/// One of each, and what must come of it. Its name stands in its statement.
struct Cell {
    name: String,
    client: &'static str,
    mode: &'static str,
    end: &'static str,
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for client in CLIENTS {
        for mode in MODES {
            for end in ENDS {
                cells.push(Cell { name: format!("{client}_{mode}_{end}"), client, mode, end });
            }
        }
    }
    cells
}

impl Cell {
    /// SQLSTATEs that the client is told, or how many rows it changed.
    fn told(&self) -> &'static str {
        let aborted = self.mode == "transaction";
        // Ctrl-C ends a script of psql's.
        let goes_on = !(self.client == "psql" && self.end == "cancelled");
        match self.end {
            "approved" => "1",
            "denied" | "expired" if aborted => "42501/25P02",
            "denied" | "expired" => "42501",
            "cancelled" | "timeout" if aborted && goes_on => "57014/25P02",
            "cancelled" | "timeout" => "57014",
            _ => "gone",
        }
    }

    /// What stands in the server's table of marks: what was sent before it, with it, and after it.
    fn marks(&self) -> Vec<&'static str> {
        let together = matches!(self.mode, "transaction" | "pipeline");
        let lives = self.end != "gone" && !(self.client == "psql" && self.end == "cancelled");
        let mut marks = Vec::new();
        if together && self.end == "approved" {
            // A time limit is not asked for behind what runs: nothing stands before it there.
            marks.extend(["before", "with"]);
        }
        if lives {
            marks.push("after");
        }
        marks
    }

    fn outcome(&self) -> (&'static str, &'static str) {
        match self.end {
            "approved" => ("approved", ""),
            "denied" => ("denied", "not this one"),
            "expired" => ("expired", ""),
            "cancelled" => ("withdrawn", "cancelled by the client"),
            "timeout" => ("withdrawn", "statement_timeout"),
            _ => ("withdrawn", "the client has gone"),
        }
    }
}

/// What each client runs; `NAME` and `TABLE` are put in by the programs themselves.
const PYTHON: &str = r#"
import os, re, signal, socket, subprocess, sys, threading
import psycopg
URL = os.environ["PGURL"]
MODES = ("simple", "pipeline", "transaction", "prepared")
ENDS = ("approved", "denied", "expired", "cancelled", "timeout", "gone")
def mark(cell, what): return "INSERT INTO marks VALUES ('%s', '%s')" % (cell, what)
def held(cell, table): return "UPDATE %s SET v = 'done' WHERE cell = '%s'" % (table, cell)

def by_psql(mode, end, cell, table):
    timeout = "SET statement_timeout = '1s';\n" if end == "timeout" else ""
    one = held(cell, table)
    script = {
        "simple": f"{timeout}{one};\n",
        "pipeline": f"{timeout}{mark(cell, 'before')} \\; {one} \\; {mark(cell, 'with')};\n",
        "transaction": f"{timeout}BEGIN;\n{mark(cell, 'before')};\n{one};\n{mark(cell, 'with')};\nCOMMIT;\n",
        "prepared": f"PREPARE {cell} AS UPDATE {table} SET v = $1 WHERE cell = $2;\n{timeout}EXECUTE {cell}('done', '{cell}');\n",
    }[mode] + "RESET statement_timeout;\n" + mark(cell, "after") + ";\n"
    p = subprocess.Popen(["psql", "-X", "-q", "-v", "VERBOSITY=verbose", URL], stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    p.stdin.write(script); p.stdin.close()
    errors, waited = [], 0
    for line in p.stderr:
        errors += re.findall(r"ERROR:  (\w{5}):", line)
        waited += "waits for approval" in line
        # PREPARE waits for itself.
        if "waits for approval" in line and waited == (2 if mode == "prepared" else 1):
            if end == "cancelled": p.send_signal(signal.SIGINT)
            if end == "gone": p.kill()
    p.wait()
    return "/".join(errors) or "1"

def by_psycopg(mode, end, cell, table):
    c = psycopg.connect(URL, autocommit=True)
    told = threading.Event(); c.add_notice_handler(lambda n: told.set())
    def later():
        told.wait()
        if end == "cancelled": c.cancel()
        else: socket.socket(fileno=os.dup(c.fileno())).shutdown(socket.SHUT_RDWR)
    if end in ("cancelled", "gone"): threading.Thread(target=later, daemon=True).start()
    if end == "timeout": c.execute("SET statement_timeout = '1s'")
    one, said = held(cell, table), "1"
    try:
        if mode == "simple": said = str(psycopg.ClientCursor(c).execute(one).rowcount)
        elif mode == "pipeline":
            with c.pipeline() as p:
                if end != "timeout": c.execute(mark(cell, "before"))
                r = c.execute(one); c.execute(mark(cell, "with")); p.sync()
            said = str(r.rowcount)
        elif mode == "transaction":
            c.execute("BEGIN"); c.execute(mark(cell, "before"))
            said = str(c.execute(one).rowcount)
            c.execute(mark(cell, "with")); c.execute("COMMIT")
        else:
            text = f"UPDATE {table} SET v = %s WHERE cell = %s /* {cell} */"
            said = str(c.execute(text, ("done", cell), prepare=True).rowcount)
    except psycopg.Error as e:
        if end == "gone": return "gone"
        said = str(e.sqlstate)
        if mode == "transaction":
            try: c.execute(mark(cell, "with"))
            except psycopg.errors.InFailedSqlTransaction as e: said += "/" + e.sqlstate
            c.execute("ROLLBACK")
    c.execute("RESET statement_timeout"); c.execute(mark(cell, "after"))
    c.close()
    return said

def all_of(name, run):
    for mode in MODES:
        for end in ENDS:
            cell = f"{name}_{mode}_{end}"
            try: said = run(mode, end, cell, "brief" if end == "expired" else "t")
            except Exception as e: said = repr(e)
            print(cell, "gone" if end == "gone" else said, flush=True)
threads = [threading.Thread(target=all_of, args=one) for one in (("psql", by_psql), ("psycopg", by_psycopg))]
[t.start() for t in threads]; [t.join() for t in threads]
"#;

const JAVA: &str = r#"
import java.sql.*;
public class Main {
    static String mark(String cell, String what) { return "INSERT INTO marks VALUES ('" + cell + "', '" + what + "')"; }
    static void run(Connection c, String sql) throws SQLException { try (Statement s = c.createStatement()) { s.execute(sql); } }

    /** Cancels, or leaves, once it is told that it waits. */
    static void whenTold(Connection c, Statement s, String end) {
        if (!end.equals("cancelled") && !end.equals("gone")) return;
        Thread t = new Thread(() -> {
            try {
                while (s.getWarnings() == null) Thread.sleep(20);
                if (end.equals("cancelled")) s.cancel(); else c.abort(Runnable::run);
            } catch (Exception e) { }
        });
        t.setDaemon(true);
        t.start();
    }

    static String cell(Connection c, String mode, String end, String cell, String table) throws SQLException {
        String held = "UPDATE " + table + " SET v = 'done' WHERE cell = '" + cell + "'";
        if (end.equals("timeout")) run(c, "SET statement_timeout = '1s'");
        String said;
        try {
            if (mode.equals("pipeline")) {
                Statement s = c.createStatement();
                if (!end.equals("timeout")) s.addBatch(mark(cell, "before"));
                s.addBatch(held);
                s.addBatch(mark(cell, "with"));
                whenTold(c, s, end);
                int[] counts = s.executeBatch();
                said = "" + counts[counts.length - 2];
            } else if (mode.equals("prepared")) {
                PreparedStatement s = c.prepareStatement("UPDATE " + table + " SET v = ? WHERE cell = ? /* " + cell + " */");
                s.setString(1, "done"); s.setString(2, cell);
                whenTold(c, s, end);
                said = "" + s.executeUpdate();
            } else {
                boolean within = mode.equals("transaction");
                if (within) { c.setAutoCommit(false); run(c, mark(cell, "before")); }
                Statement s = c.createStatement();
                whenTold(c, s, end);
                said = "" + s.executeUpdate(held);
                if (within) { run(c, mark(cell, "with")); c.commit(); }
            }
        } catch (SQLException e) {
            if (end.equals("gone")) return "gone";
            said = e.getSQLState();
            if (mode.equals("transaction")) {
                try { run(c, mark(cell, "with")); } catch (SQLException in) { said += "/" + in.getSQLState(); }
                c.rollback();
            }
        }
        c.setAutoCommit(true);
        run(c, "RESET statement_timeout");
        run(c, mark(cell, "after"));
        return said;
    }

    public static void main(String[] a) throws Exception {
        String url = "jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");
        for (String mode : new String[] {"simple", "pipeline", "transaction", "prepared"})
            for (String end : new String[] {"approved", "denied", "expired", "cancelled", "timeout", "gone"}) {
                String cell = "jdbc_" + mode + "_" + end;
                String how = mode.equals("simple") ? "?preferQueryMode=simple" : "?prepareThreshold=1";
                String said;
                try (Connection c = DriverManager.getConnection(url + how, System.getenv("PGUSER"), System.getenv("PGPASSWORD"))) {
                    said = cell(c, mode, end, cell, end.equals("expired") ? "brief" : "t");
                } catch (Exception e) { said = e.toString(); }
                System.out.println(cell + " " + (end.equals("gone") ? "gone" : said));
            }
    }
}
"#;

/// The cell that a text is of.
fn cell_of(text: &str) -> Option<String> {
    let is_word = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let mut words = text.split(|letter: char| !is_word(letter));
    words.find(|word| CLIENTS.iter().any(|client| word.starts_with(&format!("{client}_")))).map(str::to_owned)
}

/// Decides until the clients have finished: `approved` and `denied` are to end so, and PREPARE always goes on.
fn decide(stage: &Stage, finished: &AtomicBool) {
    while !finished.load(Ordering::Relaxed) {
        for one in stage.agent.json(&["approvals", "list", "--json"]).unwrap() {
            let (id, text) = (one["id"].as_str().unwrap(), one["text"].as_str().unwrap());
            let cell = cell_of(text).unwrap_or_else(|| panic!("{text}"));
            let mut command = stage.agent.command();
            command.arg("approvals").uid(GAMES.0).gid(GAMES.1);
            if text.starts_with("PREPARE") || cell.ends_with("_approved") {
                command.args(["approve", id]);
            } else if cell.ends_with("_denied") {
                command.args(["deny", id, "--reason", "not this one"]);
            } else {
                continue;
            }
            finish(&mut command, "", LIMIT).unwrap().expect_success();
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn every_client_way_and_end() {
    let cells = cells();
    let postgres = Postgres::start().unwrap();
    let names = cells.iter().map(|cell| format!("('{}')", cell.name)).collect::<Vec<_>>().join(", ");
    postgres
        .admin(&format!(
            "CREATE TABLE marks (cell text, what text); CREATE TABLE t (cell text PRIMARY KEY, v text);
             INSERT INTO t (cell) VALUES {names}; CREATE TABLE brief AS TABLE t;"
        ))
        .unwrap();
    let stage = Stage::start_with(postgres, RULES, "approvals: {max_asked_per_user: 500}").unwrap();
    let finished = AtomicBool::new(false);
    let printed = std::thread::scope(|scope| {
        let python = scope.spawn(|| {
            let mut command = Client::Python.command(&stage.postgres, Some(&stage.clients));
            finish(&mut command, PYTHON, 4 * LIMIT)
        });
        let java = scope.spawn(|| client::java(&stage.postgres, Some(&stage.clients), JAVA));
        let decider = scope.spawn(|| decide(&stage, &finished));
        let ended: Vec<Finished> =
            [python.join(), java.join()].into_iter().map(|one| one.unwrap().unwrap()).collect();
        finished.store(true, Ordering::Relaxed);
        decider.join().unwrap();
        ended.into_iter().map(Finished::expect_success).collect::<String>()
    });
    let told: BTreeMap<&str, &str> = printed.lines().filter_map(|line| line.split_once(' ')).collect();
    let rows = |sql: &str| -> Vec<(String, String)> {
        let rows = stage.postgres.admin(sql).unwrap();
        rows.lines()
            .filter_map(|row| row.split_once('|'))
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .collect()
    };
    let changed = rows("SELECT cell, v FROM (TABLE t UNION ALL TABLE brief) a WHERE v IS NOT NULL");
    let marks = rows("SELECT cell, what FROM marks ORDER BY ctid");
    let events = stage.agent.events().unwrap();
    let kind = |kind: &'static str| events.iter().filter(move |event| event["event"] == kind);
    let mut wrong = Vec::new();
    for cell in &cells {
        let name = cell.name.as_str();
        let mut expect = |what: &str, found: &dyn std::fmt::Debug, fits: bool| {
            if !fits {
                wrong.push(format!("{name}: {what}: {found:?}"));
            }
        };
        // The client.
        let said = told.get(name).copied();
        expect("the client is told", &said, said == Some(cell.told()));
        // The server.
        let done = changed.iter().filter(|(of, _)| of == name).count();
        expect("rows changed", &done, done == usize::from(cell.end == "approved"));
        let marked: Vec<&str> =
            marks.iter().filter(|(of, _)| of == name).map(|(_, what)| what.as_str()).collect();
        expect("what came before, with and after it", &marked, marked == cell.marks());
        // The recording: asked once, ended once, as it must have.
        let is_cell = |event: &&Value| {
            let text = event["text"].as_str().unwrap_or_default();
            cell_of(text).as_deref() == Some(name) && !text.starts_with("PREPARE")
        };
        let asked: Vec<&Value> = kind("approval_requested").filter(is_cell).collect();
        let [asked] = asked.as_slice() else {
            expect("requests", &asked, false);
            continue;
        };
        let of_it = |event: &&Value| event["request"] == asked["request"];
        let decided: Vec<&Value> = kind("approval_decided").filter(of_it).collect();
        let (outcome, reason) = cell.outcome();
        let as_it_must = matches!(decided.as_slice(), [one] if one["outcome"] == outcome
            && one["reason"].as_str().unwrap_or_default().contains(reason));
        expect("decided", &decided, as_it_must);
        let votes = kind("approval_voted").filter(of_it).count();
        expect("votes", &votes, votes == usize::from(cell.end == "approved"));
        let commands: Vec<&Value> =
            kind("command").filter(|event| event["approval"]["request"] == asked["request"]).collect();
        let verdict = if cell.end == "approved" { "allow" } else { "hold" };
        // Of a client that has gone nothing is judged any more.
        let most = usize::from(cell.end != "gone");
        let as_it_must = commands.len() >= most
            && commands.iter().all(|one| one["verdict"] == verdict && one["approval"]["outcome"] == outcome);
        expect("the command", &commands, as_it_must);
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), stage.agent.log());
    // What was not approved never reached the server.
    let sent = stage.postgres.statements();
    let passed = |text: &&String| text.starts_with("UPDATE") || text.starts_with("EXECUTE");
    let approved = |text: &&String| cell_of(text).is_some_and(|cell| cell.ends_with("_approved"));
    let stray: Vec<_> = sent.iter().filter(passed).filter(|text| !approved(text)).collect();
    assert!(stray.is_empty(), "{stray:?}");
}
