//! Client libraries under TLS, and clients that do not keep to it.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

use interlock_tests::client::{self, Client};
use interlock_tests::postgres::{self, Auth, Options};
use interlock_tests::process::{Daemon, LIMIT, finish};
use interlock_tests::tls::{Bed, Special, TRUSTING};
use interlock_tests::wait_for;
use rustix::process::Signal;

const ASKS: &str = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

#[test]
fn psycopg2_and_psycopg3() {
    let bed = Bed::start(Auth::Scram).unwrap();
    let printed = bed
        .python(&format!(
            r#"
import os, psycopg, psycopg2
for connect in (psycopg2.connect, psycopg.connect):
    c = connect(sslmode="verify-full", sslrootcert=os.environ["ROOT"], channel_binding="disable")
    k = c.cursor()
    k.execute("{ASKS}")
    print(k.fetchone()[0])
    k.execute("SELECT sum(n) FROM generate_series(1, 100000) n")
    print(k.fetchone()[0])
    c.close()
"#
        ))
        .unwrap()
        .expect_success();
    assert_eq!(printed, "TLSv1.3\n5000050000\nTLSv1.3\n5000050000\n");
}

#[test]
fn asyncpg() {
    let bed = Bed::start(Auth::Scram).unwrap();
    let printed = bed
        .python(&format!(
            r#"
import asyncio, asyncpg, os, ssl
async def main():
    context = ssl.create_default_context(cafile=os.environ["ROOT"])
    c = await asyncpg.connect(ssl=context)
    print(await c.fetchval("{ASKS}"))
    # A cancel request goes by a TLS connection of its own.
    try:
        await c.fetch("SELECT pg_sleep(30)", timeout=0.5)
    except asyncio.TimeoutError:
        print("cancelled")
    print(await c.fetchval("SELECT 7"))
    await c.close()
asyncio.run(main())
"#
        ))
        .unwrap()
        .expect_success();
    assert_eq!(printed, "TLSv1.3\ncancelled\n7\n");
    let texts = bed.stage.agent.commands().unwrap();
    assert!(texts.iter().any(|command| command["step"] == "cancel"), "{texts:?}");
}

#[test]
fn node_postgres() {
    let bed = Bed::start(Auth::Scram).unwrap();
    let mut command = Client::Node.command(&bed.stage.postgres, Some(&bed.stage.clients));
    command.env("ROOT", bed.host_authority());
    let script = format!(
        r#"
const {{ Client }} = require("pg");
(async () => {{
  const ssl = {{ ca: require("fs").readFileSync(process.env.ROOT), servername: "localhost" }};
  const c = new Client({{ ssl }});
  await c.connect();
  console.log((await c.query("{ASKS}")).rows[0].version);
  await c.end();
}})().catch((e) => {{ console.log(e.message); process.exit(1); }});
"#
    );
    assert_eq!(finish(&mut command, &script, LIMIT).unwrap().expect_success(), "TLSv1.3\n");
}

#[test]
fn jdbc() {
    let bed = Bed::start(Auth::Scram).unwrap();
    let source = format!(
        r#"
import java.sql.*;
public class Main {{
  public static void main(String[] a) throws Exception {{
    String url = "jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE")
      + "?sslmode=verify-full&sslrootcert={}";
    try (Connection c = DriverManager.getConnection(url, System.getenv("PGUSER"), System.getenv("PGPASSWORD"));
         ResultSet r = c.createStatement().executeQuery("{ASKS}")) {{
      r.next();
      System.out.println(r.getString(1));
    }}
  }}
}}
"#,
        bed.host_authority().display()
    );
    let finished = client::java(&bed.stage.postgres, Some(&bed.stage.clients), &source).unwrap();
    assert_eq!(finished.expect_success(), "TLSv1.3\n");
}

/// Go has TLS, and a store of certificates, of its own.
#[test]
fn go_pgx() {
    let rules = "rules: [{name: no-drop, match: {sql: {kind: drop_table}}, action: deny, message: not here}]\n\
                 masks: [{name: cards, columns: [public.customers.card], with: {partial: {keep_last: 4}}}]";
    let bed = Bed::with(Auth::Scram, TRUSTING, rules, &Options::default(), |authority| {
        authority.issue(&["localhost"], Special::default())
    })
    .unwrap();
    bed.stage
        .postgres
        .admin("CREATE TABLE customers (id int, card text); INSERT INTO customers VALUES (7, '4111111111111111'); ALTER TABLE customers OWNER TO app")
        .unwrap();
    let program = client::build_go(bed.files.path()).unwrap();
    let run = |settings: &str, roots: Option<&std::path::Path>, queries: &[&str]| {
        let mut command = bed.stage.clients.command(&program);
        let url = bed.stage.postgres.url().replace("127.0.0.1", "localhost");
        command.args(queries).env("PGURL", format!("{url}?{settings}")).env_remove("PGSSLMODE");
        // The system's own authorities are left out.
        command.env("SSL_CERT_DIR", "/nonexistent");
        roots.map(|file| command.env("SSL_CERT_FILE", file));
        finish(&mut command, "", LIMIT).unwrap()
    };
    let queries =
        &[ASKS, "SELECT id, card FROM customers", "DROP TABLE customers", "SELECT count(*) FROM customers"];
    let expected = "TLSv1.3\n7 ************1111\n42501 interlock: refused by rule \"no-drop\": not here\n1\n";
    let ours = bed.host_authority();
    let named = format!("sslmode=verify-full&sslrootcert={}", ours.display());
    assert_eq!(run(&named, None, queries).expect_success(), expected);
    // By the system's store, as `interlock trust` and `interlock run` set it.
    assert_eq!(run("sslmode=verify-full", Some(&ours), queries).expect_success(), expected);
    // Trusting the server's own authority alone, as before there was an agent, it refuses.
    let theirs = bed.files.path().join("root.crt");
    for (settings, roots) in [
        (format!("sslmode=verify-full&sslrootcert={}", theirs.display()), None),
        ("sslmode=verify-full".to_owned(), Some(&*theirs)),
    ] {
        let printed = run(&settings, roots, queries).expect_failure();
        assert!(printed.contains("certificate signed by unknown authority"), "{printed}");
    }
    let events = bed.events().unwrap();
    assert!(events.contains("does not accept the agent's certificate"), "{events}");
    assert!(!bed.stage.postgres.was_sent("DROP TABLE") && !events.contains("4111111111111111"));
}

/// What the scripts below share: a connection that has asked for TLS and got it.
const RAW: &str = r#"
import os, socket, ssl, struct
PORT = int(os.environ["PGPORT"])
SSL = struct.pack("!ii", 8, 80877103)
STARTUP = struct.pack("!i", 196608) + b"user\0app\0database\0shop\0\0"
STARTUP = struct.pack("!i", len(STARTUP) + 4) + STARTUP
def context():
    c = ssl.create_default_context(cafile=os.environ["ROOT"])
    c.check_hostname = False
    return c
def connect():
    s = socket.create_connection(("127.0.0.1", PORT))
    s.settimeout(20)
    return s
def everything(s):
    got = b""
    try:
        while True:
            more = s.recv(65536)
            if not more: break
            got += more
    except (ssl.SSLError, ConnectionError):
        pass
    return got
"#;

#[test]
fn what_comes_in_the_clear_is_not_read_as_if_it_were_encrypted() {
    let bed = Bed::start(Auth::Trust).unwrap();
    let script = format!(
        r#"{RAW}
s = connect()
s.sendall(SSL + STARTUP + b"Q" + struct.pack("!i", 23) + b"DROP TABLE stuffed\0")
got = everything(s)
print(b"received unencrypted data after SSL request" in got, b"AuthenticationOk" in got)
# Behind the answer, in the place of the handshake.
s = connect()
s.sendall(SSL)
print(s.recv(1))
s.sendall(STARTUP)
got = everything(s)
print(b"Z\0\0\0\x05I" in got)
# Encryption inside of encryption.
s = connect()
s.sendall(SSL)
s.recv(1)
s = context().wrap_socket(s)
s.sendall(SSL)
print(b"twice" in everything(s))
"#
    );
    let printed = bed.python(&script).unwrap().expect_success();
    assert_eq!(printed, "True False\nb'S'\nFalse\nTrue\n");
    assert!(!bed.stage.postgres.was_sent("stuffed"));
    bed.stage.agent.interlock(&["status"]).unwrap().expect_success();
}

#[test]
fn gssapi_encryption_is_declined_and_tls_may_follow() {
    let bed = Bed::start(Auth::Trust).unwrap();
    let script = format!(
        r#"{RAW}
GSS = struct.pack("!ii", 8, 80877104)
s = connect()
s.sendall(GSS)
print(s.recv(9))
s.sendall(SSL)
print(s.recv(9))
s = context().wrap_socket(s)
s.sendall(STARTUP + b"X\0\0\0\x04")
print(everything(s).endswith(b"Z\0\0\0\x05I"))
# It may ask for a few times, and not for ever.
s = connect()
for n in range(5):
    s.sendall(GSS)
    print(s.recv(1))
print(b"too many requests" in everything(s))
"#
    );
    let printed = bed.python(&script).unwrap().expect_success();
    let asked = "b'N'\n".repeat(4);
    assert_eq!(printed, format!("b'N'\nb'S'\nTrue\n{asked}b'E'\nTrue\n"));
}

#[test]
fn garbage_behind_a_hello_ends_the_connection_and_nothing_else() {
    let bed = Bed::start(Auth::Trust).unwrap();
    let script = format!(
        r#"{RAW}
import random
random.seed(7)
def hello():
    i, o = ssl.MemoryBIO(), ssl.MemoryBIO()
    c = context().wrap_bio(i, o)
    try: c.do_handshake()
    except ssl.SSLWantReadError: pass
    return o.read()
for n in range(60):
    s = connect()
    if n % 3:
        s.sendall(SSL)
        assert s.recv(1) == b"S"
    h = bytearray(hello())
    if n % 2:
        h[random.randrange(5, len(h))] ^= 255
    s.sendall(bytes(h) + random.randbytes(random.randrange(1, 3000)))
    s.shutdown(socket.SHUT_WR)
    everything(s)
    s.close()
print("done")
"#
    );
    assert_eq!(bed.python(&script).unwrap().expect_success(), "done\n");
    bed.psql("sslmode=require").unwrap().expect_success();
    bed.stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
}

#[test]
fn direct_tls_without_the_protocols_name_is_refused() {
    let bed = Bed::start(Auth::Trust).unwrap();
    let script = format!(
        r#"{RAW}
s = context().wrap_socket(connect())
s.sendall(STARTUP)
got = everything(s)
print(b"without ALPN" in got, b"sslnegotiation=postgres" in got)
# With it, this server (before 17) cannot do it, and the agent says so.
c = context()
c.set_alpn_protocols(["postgresql"])
s = c.wrap_socket(connect())
s.sendall(STARTUP)
print(b"no TLS with the server" in everything(s))
"#
    );
    assert_eq!(bed.python(&script).unwrap().expect_success(), "True True\nTrue\n");
    assert!(bed.stage.postgres.statements().is_empty());
}

#[test]
fn a_thousand_handshakes_at_once() {
    let options = Options { settings: &["max_connections=1100"], ..Options::default() };
    let bed = Bed::with(Auth::Trust, TRUSTING, "rules: []", &options, |authority| {
        authority.issue(&["127.0.0.1"], Special::default())
    })
    .unwrap();
    let script = format!(
        r#"{RAW}
import asyncio, sys
TERMINATE = b"X\0\0\0\x04"
async def one(gate):
    r, w = await asyncio.open_connection("127.0.0.1", PORT)
    w.write(SSL)
    assert await r.readexactly(1) == b"S"
    gate[0] += 1
    while gate[0] < 1000: await asyncio.sleep(0.01)
    await w.start_tls(context())
    w.write(STARTUP)
    got = b""
    while not got.endswith(b"Z\0\0\0\x05I"):
        more = await r.read(4096)
        if not more: raise Exception(got)
        got += more
    w.write(TERMINATE)
    await w.drain()
    w.close()
    return 1
async def main():
    gate = [0]
    print(sum(await asyncio.gather(*(one(gate) for _ in range(1000)))))
asyncio.run(main())
"#
    );
    // StreamWriter.start_tls came with Python 3.11.
    let printed = bed.python(&script).unwrap().expect_success();
    assert_eq!(printed, "1000\n");
    bed.stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
}

#[test]
fn direct_tls_with_a_server_that_knows_it() {
    for major in [17, 18] {
        let programs = postgres::fetched(major).expect("cargo xtask setup fetches it");
        let options = Options { programs: Some(programs), ..Options::default() };
        let bed = Bed::with(Auth::Trust, TRUSTING, "rules: []", &options, |authority| {
            authority.issue(&["127.0.0.1"], Special::default())
        })
        .unwrap();
        let script = format!(
            r#"{RAW}
c = context()
c.set_alpn_protocols(["postgresql"])
s = c.wrap_socket(connect())
print(s.selected_alpn_protocol())
s.sendall(STARTUP + b"Q" + struct.pack("!i", 20) + b"SELECT 'direct'\0" + b"X\0\0\0\x04")
print(b"direct" in everything(s))
"#
        );
        let printed = bed.python(&script).unwrap().expect_success();
        assert_eq!(printed, "postgresql\nTrue\n", "{major}");
        assert!(bed.stage.postgres.was_sent("SELECT 'direct'"), "{major}");
        let login = bed.login().unwrap();
        for leg in ["client_tls", "server_tls"] {
            assert_eq!(login[leg]["alpn"], "postgresql", "{login}");
        }
        // And by asking first, as before.
        bed.psql("sslmode=require").unwrap().expect_success();
        // Passed on without being read.
        bed.treat_tls("passthrough").unwrap();
        let script = script.replace("os.environ[\"ROOT\"]", "os.environ[\"SERVER\"]");
        let script = format!(
            "import os; os.environ['SERVER'] = '{}'\n{script}",
            bed.files.path().join("root.crt").display()
        );
        assert_eq!(bed.python(&script).unwrap().expect_success(), "postgresql\nTrue\n", "{major}");
        // Or refused.
        bed.treat_tls("deny").unwrap();
        bed.python(&script).unwrap().expect_failure();
    }
}

#[test]
fn tls_of_a_protocol_that_is_not_known() {
    let bed = Bed::start(Auth::Trust).unwrap();
    // A server of some other protocol.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let key = bed.authority.issue(&["else.example"], Special::default()).unwrap();
    let (certificate, private) = (bed.files.path().join("else.crt"), bed.files.path().join("else.key"));
    std::fs::write(&certificate, &key.certificate).unwrap();
    std::fs::write(&private, &key.key).unwrap();
    let mut command = std::process::Command::new("openssl");
    command.args(["s_server", "-quiet", "-rev", "-accept", &format!("127.0.0.1:{port}"), "-cert"]);
    command.arg(certificate).arg("-key").arg(private).stdout(std::process::Stdio::null());
    let _server = Daemon::start(command.stderr(std::process::Stdio::null()), Signal::TERM).unwrap();
    wait_for("openssl s_server", LIMIT, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
        .unwrap();

    let connect = |version: &str| {
        bed.python(&format!(
            r#"
import socket, ssl
c = ssl.create_default_context(cafile="{}")
c.maximum_version = ssl.TLSVersion.{version}
c.set_alpn_protocols(["something"])
try:
    s = c.wrap_socket(socket.create_connection(("127.0.0.1", {port})), server_hostname="else.example")
    s.sendall(b"abc\n")
    print(s.recv(9).decode().strip())
except OSError:
    print("refused")
"#,
            bed.files.path().join("root.crt").display()
        ))
        .unwrap()
        .expect_success()
    };
    let clients = bed.stage.clients.below_mount().display().to_string();
    let policy = |target: &str, rest: &str| {
        let text = format!(
            "version: 1\nprocesses:\n  - cgroup: {clients}\ndestinations:\n  - {{port: {port}{target}}}\n{rest}\n"
        );
        bed.stage.agent.write_policy("50-test.yaml", &text).unwrap();
        bed.stage.agent.reload().unwrap().expect_success();
    };
    let seen = || {
        let events = bed.stage.agent.events().unwrap().into_iter();
        events.filter(|event| event["event"] == "tls_passed").collect::<Vec<_>>()
    };
    policy("", "");
    assert_eq!(connect("TLSv1_2"), "cba\n");
    let passed = seen();
    assert_eq!(passed.len(), 2, "{passed:?}");
    assert_eq!(passed[0]["server_name"], "else.example");
    assert_eq!(passed[0]["alpn"][0], "something");
    assert!(passed[1]["certificate"]["subject"].as_str().unwrap().contains("else.example"), "{passed:?}");
    let events = bed.events().unwrap();
    assert!(events.contains(r#""protocol":"tls""#), "{events}");
    for (target, rest) in [(", tls: intercept", ""), (", tls: deny", ""), ("", "egress: deny")] {
        policy(target, rest);
        assert_eq!(connect("TLSv1_3"), "refused\n", "{target} {rest}");
    }
    // A port that a protocol is named for does not let anything else through.
    policy(", protocol: postgres", "");
    assert_eq!(connect("TLSv1_3"), "refused\n");
    assert_eq!(seen().len(), 2);
}
