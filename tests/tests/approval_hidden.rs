//! What somebody hides from who approves it, and what changes between an approval and what it was for.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

use std::os::unix::process::CommandExt as _;

use interlock_tests::process::{Finished, LIMIT, finish};
use interlock_tests::{Postgres, Stage, wait_for};
use serde_json::Value;

/// A user that every Debian has, in the group of its own name.
const GAMES: (u32, u32) = (5, 60);

const POLICY: &str = r#"
rules:
  - name: writes
    match: {sql: {kind: [update, delete]}}
    action: hold
    approval: {groups: games}
  - name: archive
    match: {sql: {functions: [archive_old]}}
    action: hold
    approval: {groups: games}
masks:
  - {name: leaks, detect: [private_key, email, url_password], with: redact}
"#;

fn stage() -> Stage {
    let postgres = Postgres::start_with(interlock_tests::postgres::Auth::Scram, &[]).unwrap();
    postgres
        .admin(
            "CREATE TABLE customers (id int, region text, email text, newsletter bool DEFAULT true);
             INSERT INTO customers SELECT n, CASE WHEN n % 2 = 0 THEN 'eu' ELSE 'us' END, 'c' || n || '@x.com' \
             FROM generate_series(1, 20) n;
             GRANT ALL ON customers TO app; CREATE SCHEMA mallory AUTHORIZATION app;
             CREATE FUNCTION few() RETURNS int LANGUAGE sql AS 'SELECT 1';
             CREATE FUNCTION mallory.few() RETURNS int LANGUAGE sql AS 'SELECT 1000';
             CREATE FUNCTION archive_old() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN few(); END'",
        )
        .unwrap();
    Stage::start_with(postgres, POLICY, "").unwrap()
}

/// `interlock approvals …` as who may approve.
fn games(stage: &Stage, arguments: &[&str]) -> Finished {
    let mut command = stage.agent.command();
    command.arg("approvals").args(arguments).uid(GAMES.0).gid(GAMES.1);
    finish(&mut command, "", LIMIT).unwrap()
}

/// The one that waits, other than those that did.
fn next(stage: &Stage, before: &[String]) -> String {
    let mut id = None;
    wait_for("a request", LIMIT, || {
        let list = stage.agent.json(&["approvals", "list", "--json"]).unwrap();
        id = list
            .iter()
            .filter_map(|one| one["id"].as_str())
            .find(|id| !before.iter().any(|one| one == id))
            .map(str::to_owned);
        id.is_some()
    })
    .unwrap();
    id.unwrap()
}

fn shown(stage: &Stage, id: &str) -> Value {
    serde_json::from_str(&games(stage, &["show", id, "--json"]).expect_success()).unwrap()
}

#[test]
fn a_mask_hides_no_predicate() {
    let stage = stage();
    for (text, whole) in [
        (
            "UPDATE customers SET newsletter = false WHERE id = 17\n-----BEGIN PRIVATE KEY-----\nOR region = 'eu';\n",
            "OR region = 'eu'",
        ),
        (
            "UPDATE customers SET newsletter = false WHERE id = 17 -- password='\nOR region = 'us' --'\n;\n",
            "OR region = 'us'",
        ),
    ] {
        std::thread::scope(|scope| {
            let running = scope.spawn(|| stage.psql(text).unwrap());
            let id = next(&stage, &[]);
            let json = shown(&stage, &id);
            assert!(json["text"].as_str().unwrap().contains(whole), "{json}");
            let printed = games(&stage, &["show", &id]).expect_success();
            assert!(printed.contains(whole), "{printed}");
            assert_eq!(
                printed.contains("masked values of it are not shown"),
                json["redacted"] == true,
                "{printed}"
            );
            games(&stage, &["deny", &id, "--reason", "not only 17"]).expect_success();
            assert!(running.join().unwrap().stderr.contains("was denied"));
        });
        let commands = stage.agent.commands().unwrap();
        assert!(
            commands.iter().any(|command| command["text"].as_str().unwrap().contains(whole)),
            "{commands:?}"
        );
        let events = stage.agent.events().unwrap();
        let asked = events.iter().find(|event| {
            event["event"] == "approval_requested" && event["text"].as_str().unwrap().contains(whole)
        });
        assert!(asked.is_some());
    }
    // A constant that is masked is said to be, and can be approved.
    std::thread::scope(|scope| {
        let running =
            scope.spawn(|| stage.psql("DELETE FROM customers WHERE email = 'c1@x.com';\n").unwrap());
        let id = next(&stage, &[]);
        let json = shown(&stage, &id);
        assert_eq!(json["text"], "DELETE FROM customers WHERE email = '[redacted]';");
        assert_eq!(json["redacted"], true);
        games(&stage, &["approve", &id]).expect_success();
        assert!(!running.join().unwrap().stderr.contains("ERROR"));
    });
    // What hides more cannot be.
    let finished = stage.psql("DELETE FROM customers WHERE id = 1OR email = 'c2@x.com';\n").unwrap();
    assert!(finished.stderr.contains("ERROR"), "{}", finished.both());
    assert_eq!(stage.postgres.admin("SELECT count(*) FROM customers").unwrap().trim(), "19");
}

#[test]
fn a_portal_is_approved_for_what_it_was_then() {
    let stage = stage();
    // A client of the protocol that binds, does something else, and executes.
    let script = r#"
import base64, hashlib, hmac, os, socket, struct, urllib.parse
u = urllib.parse.urlparse(os.environ["PGURL"])
class Client:
    def __init__(self):
        self.s = socket.create_connection((u.hostname, u.port)); self.buffer = b""
        body = struct.pack("!I", 196608) + b"user\0" + u.username.encode() + b"\0database\0" + u.path[1:].encode() + b"\0\0"
        self.s.sendall(struct.pack("!I", len(body) + 4) + body)
        self.login()
    def send(self, tag, body=b""):
        self.s.sendall(tag + struct.pack("!I", len(body) + 4) + body)
    def read(self):
        while len(self.buffer) < 5 or len(self.buffer) < 1 + struct.unpack("!I", self.buffer[1:5])[0]:
            got = self.s.recv(65536)
            if not got: raise EOFError
            self.buffer += got
        length = 1 + struct.unpack("!I", self.buffer[1:5])[0]
        message, self.buffer = self.buffer[:length], self.buffer[length:]
        return message[:1], message[5:]
    def login(self):
        while True:
            tag, body = self.read()
            if tag == b"E": raise Exception(body)
            if tag == b"Z": return
            if tag != b"R": continue
            kind = struct.unpack("!I", body[:4])[0]
            if kind == 10:
                nonce = base64.b64encode(os.urandom(18)).decode()
                bare = "n=,r=" + nonce
                first = ("n,," + bare).encode()
                self.send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first)
            elif kind == 11:
                server = body[4:].decode()
                parts = dict(p.split("=", 1) for p in server.split(","))
                password = urllib.parse.unquote(u.password or "").encode()
                salted = hashlib.pbkdf2_hmac("sha256", password, base64.b64decode(parts["s"]), int(parts["i"]))
                key = hmac.digest(salted, b"Client Key", "sha256")
                final = "c=biws,r=" + parts["r"]
                signed = (bare + "," + server + "," + final).encode()
                signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
                proof = bytes(a ^ b for a, b in zip(key, signature))
                self.send(b"p", (final + ",p=" + base64.b64encode(proof).decode()).encode())
    def until(self, tags):
        "What came until one of these messages, without notices."
        told = []
        while True:
            tag, body = self.read()
            if tag in b"NS": continue
            if tag == b"D": told.append(body[6:].decode())
            if tag == b"E": told.append(dict((f[:1], f[1:]) for f in body.split(b"\0") if f)[b"C"].decode())
            if tag in tags: return told
    def query(self, text):
        self.send(b"Q", text.encode() + b"\0"); return self.until(b"Z")
c = Client()
for change in (None, "SET LOCAL search_path = mallory, public", "SELECT set_config('search_path', 'mallory, public', true)", "CREATE TABLE mallory.x ()"):
    c.query("BEGIN")
    c.send(b"P", b"\0SELECT archive_old()\0\0\0")
    c.send(b"B", b"p\0\0\0\0\0\0\0\0"); c.send(b"H")
    c.until(b"2")
    print("bound", flush=True)
    if change: c.send(b"S"); c.until(b"Z"); c.query(change)
    c.send(b"E", b"p\0" + struct.pack("!I", 0)); c.send(b"S")
    print(change, c.until(b"Z"), flush=True)
    c.query("ROLLBACK")
"#;
    let (finished, asked) = std::thread::scope(|scope| {
        let running = scope.spawn(|| stage.python(script).unwrap());
        let mut before: Vec<String> = Vec::new();
        let mut asked = Vec::new();
        // Each Bind is approved; where something has changed the Execute is asked for by itself, and refused.
        for step in ["bind", "bind", "execute", "bind", "execute", "bind", "execute"] {
            let id = next(&stage, &before);
            let json = shown(&stage, &id);
            asked
                .push((json["step"].as_str().unwrap().to_owned(), json["text"].as_str().unwrap().to_owned()));
            let arguments: &[&str] =
                if step == "bind" { &["approve", &id] } else { &["deny", &id, "--reason", "it has changed"] };
            games(&stage, arguments).expect_success();
            before.push(id);
        }
        (running.join().unwrap(), asked)
    });
    let steps: Vec<&str> = asked.iter().map(|(step, _)| step.as_str()).collect();
    assert_eq!(steps, ["bind", "bind", "execute", "bind", "execute", "bind", "execute"]);
    assert!(asked.iter().all(|(_, text)| text == "SELECT archive_old()"), "{asked:?}");
    let printed = finished.expect_success();
    let results: Vec<&str> = printed.lines().filter(|line| *line != "bound").collect();
    assert_eq!(results.len(), 4, "{printed}");
    assert_eq!(results[0], "None ['1']");
    for line in &results[1..] {
        assert!(line.ends_with(" ['42501']"), "{printed}");
    }
}
