//! Credentials that the agent holds: the password in the script becomes a label.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

use std::fs;
use std::time::Duration;

use interlock_tests::client::{self, Client};
use interlock_tests::credentials::{Secrets, any, asked, entry, events, fails_with, rotate, vault, works_as};
use interlock_tests::postgres::{PASSWORD, USER};
use interlock_tests::process::{LIMIT, finish};
use interlock_tests::secrets::{Moto, OpenBao, ROOT_TOKEN};
use interlock_tests::{Agent, Cgroup, Postgres, Stage, agent, wait_for};
use serde_json::Value;

/// The server's password after it was rotated: known to the server and to where the agent has it from.
const ROTATED: &str = "v3ry-new-0ne-rotated";
const ROTATED_AGAIN: &str = "ev3n-newer-rotated";

#[test]
fn the_password_is_rotated_and_the_script_goes_on() {
    let postgres = Postgres::start().unwrap();
    let secrets = Secrets::new().unwrap();
    let file = secrets.write("shop", &format!("{ROTATED}\n"), 0o600).unwrap();
    rotate(&postgres, ROTATED).unwrap();
    let configuration = entry(&postgres, &any(USER, &format!("{{file: {file}}}")));
    let stage = Stage::start_with(postgres, "", &configuration).unwrap();

    // Without the agent the script's password is worth nothing.
    let direct = Client::Psql.run(&stage.postgres, None, "SELECT 1;").unwrap().expect_failure();
    assert!(direct.contains("password authentication failed"), "{direct}");
    works_as(&stage, USER);

    // A second rotation, under a connection that stays open and without a restart.
    let mut open = Client::Python.command(&stage.postgres, Some(&stage.clients));
    let ready = secrets.path("ready");
    let go_on = secrets.path("go-on");
    let script = format!(
        "import os, time, psycopg2\nc = psycopg2.connect(os.environ['PGURL'])\nq = c.cursor()\nq.execute('select 1')\n\
         open({ready:?}, 'w').close()\nwhile not os.path.exists({go_on:?}): time.sleep(0.01)\n\
         q.execute('select 41 + 1')\nprint('still here', q.fetchone())\n"
    );
    let running = std::thread::spawn(move || finish(&mut open, &script, LIMIT).unwrap());
    wait_for("the open connection", LIMIT, || ready.exists()).unwrap();
    secrets.write("shop", ROTATED_AGAIN, 0o600).unwrap();
    rotate(&stage.postgres, ROTATED_AGAIN).unwrap();
    works_as(&stage, USER);
    fs::write(&go_on, "").unwrap();
    assert!(running.join().unwrap().expect_success().contains("still here (42,)"));

    // The recording says who it was, and by what.
    let logins = events(&stage.agent, "login").unwrap();
    assert!(logins.len() >= 3);
    for login in &logins {
        assert_eq!(
            [
                &login["user"],
                &login["credential"],
                &login["client_auth"],
                &login["login_user"],
                &login["login_database"],
                &login["auth_method"]
            ],
            ["app", "shop-app", "any", "app", "shop", "scram-sha-256"],
            "{login}"
        );
    }
}

#[test]
fn nothing_that_the_script_can_read_holds_the_password() {
    let postgres = Postgres::start().unwrap();
    let secrets = Secrets::new().unwrap();
    let file = secrets.write("shop", ROTATED, 0o600).unwrap();
    rotate(&postgres, ROTATED).unwrap();
    let configuration = entry(&postgres, &any(USER, &format!("{{file: {file}}}")));
    let stage = Stage::start_with(postgres, "", &configuration).unwrap();
    works_as(&stage, USER);

    // What an unprivileged process can get hold of: all its traffic, its environment, and whatever it
    // may read of the agent's process, of its files, and of where the secret lies.
    let script = r#"
import os, socket, struct, sys
out = sys.stdout
def show(what, data):
    out.write("== %s\n%s\n" % (what, data if isinstance(data, str) else data.decode("latin-1")))
def talk(user, query):
    s = socket.create_connection(("127.0.0.1", int(os.environ["PGPORT"])))
    ready = b"Z\0\0\0\5I"
    body = struct.pack("!i", 196608) + b"user\0" + user + b"\0database\0shop\0\0"
    s.sendall(struct.pack("!i", len(body) + 4) + body)
    def answer():
        got = b""
        while not got.endswith(ready):
            more = s.recv(65536)
            if not more: break
            got += more
        return got
    greeting = answer()
    q = query + b"\0"
    s.sendall(b"Q" + struct.pack("!i", len(q) + 4) + q)
    return greeting + answer()
show("traffic", talk(b"app", b"SELECT 'reached', current_setting('port')"))
show("error", talk(b"app", b"SELECT 1/0"))
show("backends", talk(b"app", b"SELECT usename, query, application_name FROM pg_stat_activity"))
show("environment", repr(dict(os.environ)))
read = 0
def walk(top):
    global read
    for root, _, names in os.walk(top):
        for name in names:
            path = os.path.join(root, name)
            try:
                with open(path, "rb") as f:
                    show(path, f.read(1 << 22))
                read += 1
            except OSError as e:
                show(path, type(e).__name__)
for top in os.environ["ROOTS"].split(":"):
    walk(top)
for pid in (os.environ["AGENT"], "self"):
    for name in ("environ", "cmdline", "maps", "smaps", "mem", "auxv", "stack", "status", "io", "syscall", "limits", "mountinfo", "coredump_filter"):
        try:
            with open("/proc/%s/%s" % (pid, name), "rb") as f:
                show(pid + " " + name, f.read(1 << 20))
            read += 1
        except OSError as e:
            show(pid + " " + name, type(e).__name__)
    try:
        show(pid + " fd", repr(os.listdir("/proc/%s/fd" % pid)))
    except OSError as e:
        show(pid + " fd", type(e).__name__)
show("read", str(read))
"#;
    let own = stage.agent.config().parent().unwrap().display().to_string();
    let mut command = stage.clients.command("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "/usr/bin/python3", "-"]);
    client::environment(&mut command, &stage.postgres);
    command
        .env("ROOTS", format!("{own}:{}", secrets.directory().display()))
        .env("AGENT", stage.agent.pid().unwrap().to_string());
    let seen = finish(&mut command, script, LIMIT).unwrap();
    let (seen, errors) = (seen.clone().expect_success(), seen.stderr);
    assert!(seen.contains("reached") && seen.contains("division by zero"), "{seen}");
    assert!(seen.contains("agent.yaml") && seen.contains("self status"), "it read what it may");
    assert!(seen.contains("PermissionError"), "some of it is closed to it");
    let recorded = stage.agent.events().unwrap().iter().map(Value::to_string).collect::<String>();
    assert!(recorded.contains("shop-app"));
    for text in
        [&seen, &errors, &recorded, &stage.agent.log(), &stage.agent.interlock(&["status"]).unwrap().both()]
    {
        assert!(!text.contains(ROTATED), "the password shows");
    }
    // Nor does any file of the agent's: recordings, spool, keys.
    let mut command = std::process::Command::new("grep");
    command.args(["-r", "-a", "-l", ROTATED, &own]);
    assert_eq!(finish(&mut command, "", LIMIT).unwrap().stdout, "");
}

#[test]
fn ten_scripts_share_a_password_and_are_ten_users() {
    let postgres = Postgres::start().unwrap();
    let secrets = Secrets::new().unwrap();
    let mut configuration = "credentials:\n".to_owned();
    for n in 0..10 {
        postgres.admin(&format!("CREATE ROLE report_{n} LOGIN PASSWORD 'own-{n}-{ROTATED}'")).unwrap();
        let file = secrets.write(&format!("secret-{n}"), &format!("own-{n}-{ROTATED}"), 0o600).unwrap();
        let script = secrets.write(
            &format!("script-{n}"),
            &format!(
                "#!/bin/sh\nexport PGPASSWORD={PASSWORD}\nexec {}/psql -X -A -t -h 127.0.0.1 -p {} -U {USER} -d shop -c 'SELECT current_user'\n",
                postgres.programs().display(),
                postgres.port()
            ),
            0o755,
        ).unwrap();
        configuration.push_str(&format!(
            "  - name: report-{n}\n    destination: {{cidr: 127.0.0.1, port: {}, protocol: postgres}}\n    user: {USER}\n    \
             subjects: [{{exe: {script}}}]\n    {}\n",
            postgres.port(),
            any(&format!("report_{n}"), &format!("{{file: {file}}}")).replace('\n', "\n    ")
        ));
    }
    // The policies see the user that the script asks for.
    let rules = "rules:\n  - name: by-asked-user\n    match: {user: app, sql: {reads: [pg_catalog.pg_authid]}}\n    action: deny\n";
    let stage = Stage::start_with(postgres, rules, &configuration).unwrap();
    for n in 0..10 {
        let mut command = stage.clients.command(secrets.path(&format!("script-{n}")));
        let printed = finish(&mut command, "", LIMIT).unwrap().expect_success();
        assert_eq!(printed.trim(), format!("report_{n}"), "{}", stage.agent.log());
    }
    // Another process has its own log-in pass through, and does not become anybody.
    works_as(&stage, USER);
    let logins = events(&stage.agent, "login").unwrap();
    assert_eq!(logins.iter().filter(|login| login["user"] == USER).count(), 11);
    for n in 0..10 {
        let one = logins.iter().find(|login| login["credential"] == format!("report-{n}")).unwrap();
        assert_eq!(one["login_user"], format!("report_{n}"));
    }
    let refused = stage.psql("SELECT rolpassword FROM pg_catalog.pg_authid;").unwrap();
    assert!(refused.stderr.contains("by-asked-user"), "{}", refused.both());
}

#[test]
fn match_asks_for_the_password_that_the_script_always_had() {
    let postgres = Postgres::start().unwrap();
    let secrets = Secrets::new().unwrap();
    let verifier = postgres.admin("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").unwrap();
    assert!(verifier.starts_with("SCRAM-SHA-256$"));
    let file = secrets.write("shop", ROTATED, 0o600).unwrap();
    let verifiers =
        secrets.write("verifiers", &format!("# of the scripts\n{USER} {verifier}\n"), 0o600).unwrap();
    // What the server itself says.
    let wrong = |cgroup: Option<&Cgroup>, postgres: &Postgres, user: &str| {
        let url = postgres.url().replace(PASSWORD, "wrong").replace(USER, user);
        let mut command = client::start(cgroup, postgres.programs().join("psql"));
        command.args(["-X", "-v", "VERBOSITY=verbose", &url, "-c", "SELECT 1"]);
        finish(&mut command, "", LIMIT).unwrap().expect_failure()
    };
    let theirs = (wrong(None, &postgres, USER), wrong(None, &postgres, "nobody"));
    rotate(&postgres, ROTATED).unwrap();
    let rest = format!(
        "client_auth: match\nverifier_file: {verifiers}\nlogin: {{user: app, password: {{file: {file}}}}}"
    );
    let configuration = entry(&postgres, &rest);
    let stage = Stage::start_with(postgres, "", &configuration).unwrap();

    works_as(&stage, USER);
    let ours = |user| wrong(Some(&stage.clients), &stage.postgres, user);
    assert_eq!((ours(USER), ours("nobody")), theirs);
    assert!(theirs.0.contains("password authentication failed for user \"app\""));
    // The real one is not what the script has to show.
    let url = stage.postgres.url().replace(PASSWORD, ROTATED);
    let mut command = client::start(Some(&stage.clients), stage.postgres.programs().join("psql"));
    finish(command.args(["-X", &url, "-c", "SELECT 1"]), "", LIMIT).unwrap().expect_failure();

    let printed = stage
        .python(
            r#"
import asyncio, os
import asyncpg, psycopg, psycopg2
dsn = os.environ["PGURL"]
print("psycopg2", psycopg2.connect(dsn).server_version > 0)
with psycopg.connect(dsn) as c:
    print("psycopg", c.execute("SELECT 1").fetchone())
async def main():
    print("asyncpg", await (await asyncpg.connect(dsn)).fetchval("SELECT 2"))
    try:
        await asyncpg.connect(dsn, password="wrong")
    except asyncpg.InvalidPasswordError as e:
        print("refused", e.sqlstate)
asyncio.run(main())
"#,
        )
        .unwrap()
        .expect_success();
    for line in ["psycopg2 True", "psycopg (1,)", "asyncpg 2", "refused 28P01"] {
        assert!(printed.contains(line), "{printed}");
    }
    let failed: Vec<Value> = events(&stage.agent, "session_ended")
        .unwrap()
        .into_iter()
        .filter(|event| event["reason"] == "login_failed")
        .collect();
    assert_eq!(failed.len(), 4, "{failed:?}");
    let logins = events(&stage.agent, "login").unwrap();
    assert!(!logins.is_empty() && logins.iter().all(|login| login["client_auth"] == "scram-sha-256"));
}

#[test]
fn drivers_log_in_without_being_asked() {
    let postgres = Postgres::start().unwrap();
    let secrets = Secrets::new().unwrap();
    let file = secrets.write("shop", ROTATED, 0o600).unwrap();
    rotate(&postgres, ROTATED).unwrap();
    let configuration = entry(&postgres, &any(USER, &format!("{{file: {file}}}")));
    let stage = Stage::start_with(postgres, "", &configuration).unwrap();
    let printed = stage
        .python(
            r#"
import asyncio, os, threading
import asyncpg, psycopg, psycopg2
dsn = os.environ["PGURL"]
print("psycopg2", psycopg2.connect(dsn).server_version > 0)
c = psycopg.connect(dsn)
print("psycopg", c.execute("SELECT 1").fetchone(), c.info.parameter_status("server_encoding"))
# A cancel request goes by a connection of its own, and finds the session.
threading.Timer(0.2, c.cancel).start()
try:
    c.execute("SELECT pg_sleep(60)")
except psycopg.errors.QueryCanceled as e:
    print("cancelled", e.sqlstate)
async def main():
    c = await asyncpg.connect(dsn)
    print("asyncpg", await c.fetchval("SELECT $1::int", 2))
    for name, wanted in (("no such", "3D000"),):
        try:
            await asyncpg.connect(dsn, database=name)
        except asyncpg.PostgresError as e:
            print("refused", e.sqlstate, e)
asyncio.run(main())
"#,
        )
        .unwrap()
        .expect_success();
    for line in [
        "psycopg2 True",
        "psycopg (1,) UTF8",
        "cancelled 57014",
        "asyncpg 2",
        "refused 3D000 database \"no such\" does not exist",
    ] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    let node = r#"
const { Client } = require('pg');
(async () => {
  const client = new Client({ connectionString: process.env.PGURL });
  await client.connect();
  console.log('node', (await client.query('SELECT $1::int + 1 AS n', [1])).rows[0].n);
  await client.end();
})();
"#;
    let printed = Client::Node.run(&stage.postgres, Some(&stage.clients), node).unwrap().expect_success();
    assert!(printed.contains("node 2"), "{printed}");
    let java = r#"
import java.sql.*;
public class Main {
  public static void main(String[] a) throws Exception {
    String url = "jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/shop";
    try (Connection c = DriverManager.getConnection(url, System.getenv("PGUSER"), System.getenv("PGPASSWORD"));
         ResultSet r = c.createStatement().executeQuery("SELECT 3")) {
      r.next();
      System.out.println("jdbc " + r.getInt(1));
    }
  }
}
"#;
    let printed = client::java(&stage.postgres, Some(&stage.clients), java).unwrap().expect_success();
    assert!(printed.contains("jdbc 3"), "{printed}");
}

#[test]
fn without_its_secret_a_credential_refuses() {
    let postgres = Postgres::start().unwrap();
    let secrets = Secrets::new().unwrap();
    // The script's own password is good; still it is not what is used.
    let path = secrets.path("missing").display().to_string();
    let configuration = entry(&postgres, &any(USER, &format!("{{file: {path}}}")));
    let stage = Stage::start_with(postgres, "", &configuration).unwrap();
    fails_with(&stage, &["shop-app", "missing", "0600"]);
    secrets.write("missing", PASSWORD, 0o644).unwrap();
    fails_with(&stage, &["shop-app", "chmod 600"]);
    let code = stage
        .python(
            "import asyncio, os, asyncpg\nasync def main():\n    try:\n        await asyncpg.connect(os.environ['PGURL'])\n    \
             except asyncpg.PostgresError as e:\n        print('code', e.sqlstate)\nasyncio.run(main())\n",
        )
        .unwrap();
    assert!(code.both().contains("code 57P03"), "{}", code.both());
    assert!(!stage.postgres.log().contains("authorized"), "{}", stage.postgres.log());
    secrets.write("missing", PASSWORD, 0o600).unwrap();
    works_as(&stage, USER);
    // A password that the server does not take.
    secrets.write("missing", "wrong-everywhere", 0o600).unwrap();
    fails_with(&stage, &["shop-app", "password authentication failed"]);
    assert!(!stage.agent.log().contains("wrong-everywhere"));
    let ended = events(&stage.agent, "session_ended").unwrap();
    assert_eq!(ended.iter().filter(|event| event["reason"] == "login_failed").count(), 4, "{ended:?}");
}

#[test]
fn an_agent_with_a_secret_that_others_can_read_does_not_start() {
    let secrets = Secrets::new().unwrap();
    let file = secrets.write("shop", ROTATED, 0o640).unwrap();
    let configuration = format!(
        "credentials:\n  - name: shop-app\n    destination: {{cidr: 127.0.0.1}}\n    client_auth: any\n    \
         login: {{user: app, password: {{file: {file}}}}}\n"
    );
    let mut agent =
        Agent::prepare(agent::binary().unwrap(), &[], &configuration, Cgroup::new().unwrap()).unwrap();
    let error = agent.launch().unwrap_err().to_string();
    assert!(error.contains("chmod 600") && error.contains("shop-app") && !error.contains(ROTATED), "{error}");
}

#[test]
fn md5_cleartext_and_trust_servers() {
    use interlock_tests::postgres::Auth;
    for (auth, rest, works) in [
        (Auth::Md5, "", "md5"),
        (Auth::Md5, "\nserver_auth: {md5: false}", ""),
        (Auth::Trust, "", "trust"),
        (Auth::Password, "", ""),
        (Auth::Password, "\nserver_auth: {cleartext: true}", "cleartext"),
    ] {
        let postgres = Postgres::start_with(auth, &[]).unwrap();
        let secrets = Secrets::new().unwrap();
        let file = secrets.write("shop", ROTATED, 0o600).unwrap();
        rotate(&postgres, ROTATED).unwrap();
        let rest = format!("{}{rest}", any(USER, &format!("{{file: {file}}}")));
        let configuration = entry(&postgres, &rest);
        let stage = Stage::start_with(postgres, "", &configuration).unwrap();
        if works.is_empty() {
            fails_with(&stage, &["shop-app", "server_auth"]);
        } else {
            works_as(&stage, USER);
            assert_eq!(events(&stage.agent, "login").unwrap()[0]["auth_method"], works);
        }
    }
}

#[test]
fn a_systemd_credential() {
    let postgres = Postgres::start().unwrap();
    let secrets = Secrets::new().unwrap();
    secrets.write("shop-password", ROTATED, 0o400).unwrap();
    rotate(&postgres, ROTATED).unwrap();
    // As systemd starts it: LoadCredential=shop-password:….
    let wrapper = secrets
        .write(
            "interlock",
            &format!(
                "#!/bin/sh\nCREDENTIALS_DIRECTORY={} exec {} \"$@\"\n",
                secrets.directory().display(),
                agent::binary().unwrap().display()
            ),
            0o755,
        )
        .unwrap();
    let cgroup = Cgroup::new().unwrap();
    let clients = cgroup.child("clients").unwrap();
    let policy = format!(
        "version: 1\nprocesses:\n  - cgroup: {}\ndestinations:\n  - {{port: {}, protocol: postgres}}\n",
        clients.below_mount().display(),
        postgres.port()
    );
    let configuration = entry(&postgres, &any(USER, "{systemd: shop-password}"));
    let mut agent =
        Agent::prepare(wrapper.into(), &[("50-test.yaml", &policy)], &configuration, cgroup).unwrap();
    agent.launch().unwrap();
    works_as(&Stage { clients, agent, postgres }, USER);
}

#[test]
fn a_program_that_prints_the_password() {
    let postgres = Postgres::start().unwrap();
    let secrets = Secrets::new().unwrap();
    let file = secrets.write("shop", ROTATED, 0o600).unwrap();
    rotate(&postgres, ROTATED).unwrap();
    let program = secrets
        .write(
            "program",
            &format!(
                "#!/bin/sh\nprintf '{{\"username\":\"%s\",\"password\":\"%s\"}}' \"$1\" \"$(cat {file})\"\n"
            ),
            0o700,
        )
        .unwrap();
    let rest = format!(
        "client_auth: any\nlogin: {{password: {{exec: {{command: [{program}, {USER}], output: json}}}}}}"
    );
    let configuration = entry(&postgres, &rest);
    let stage = Stage::start_with(postgres, "", &configuration).unwrap();
    works_as(&stage, USER);
    // What is held has become wrong: the program is asked again, and a new connection made.
    secrets.write("shop", ROTATED_AGAIN, 0o600).unwrap();
    rotate(&stage.postgres, ROTATED_AGAIN).unwrap();
    works_as(&stage, USER);
    secrets.write("program", "#!/bin/sh\nexit 1\n", 0o700).unwrap();
    rotate(&stage.postgres, PASSWORD).unwrap();
    fails_with(&stage, &["shop-app", "program", "exit status: 1"]);
    for secret in [ROTATED, ROTATED_AGAIN] {
        assert!(!stage.agent.log().contains(secret));
    }
}

#[test]
fn openbao_kv_of_both_versions() {
    let openbao = OpenBao::start().unwrap();
    openbao.run(&["secrets", "enable", "-version=1", "-path=old", "kv"]).unwrap();
    openbao.run(&["secrets", "enable", "-version=2", "-path=new", "kv"]).unwrap();
    let secrets = Secrets::new().unwrap();
    let token = secrets.write("token", &format!("{ROOT_TOKEN}\n"), 0o600).unwrap();
    for (mount, path) in [("old", "old/shop"), ("new", "new/data/shop")] {
        let postgres = Postgres::start().unwrap();
        rotate(&postgres, ROTATED).unwrap();
        let put = |password: &str| {
            openbao
                .run(&[
                    "kv",
                    "put",
                    &format!("-mount={mount}"),
                    "shop",
                    &format!("pw={password}"),
                    "login=app",
                ])
                .unwrap()
        };
        put(ROTATED);
        let source =
            vault(&openbao, path, &format!("{{token_file: {token}}}"), ", field: pw, user_field: login");
        let configuration = entry(&postgres, &format!("client_auth: any\nlogin: {{password: {source}}}"));
        let stage = Stage::start_with(postgres, "", &configuration).unwrap();
        works_as(&stage, USER);
        put(ROTATED_AGAIN);
        rotate(&stage.postgres, ROTATED_AGAIN).unwrap();
        works_as(&stage, USER);
        for secret in [ROTATED, ROTATED_AGAIN, ROOT_TOKEN] {
            assert!(!stage.agent.log().contains(secret));
        }
    }
}

#[test]
fn openbao_makes_a_login_for_an_approle() {
    let postgres = Postgres::start().unwrap();
    let openbao = OpenBao::start().unwrap();
    openbao.run(&["secrets", "enable", "database"]).unwrap();
    openbao
        .run(&[
            "write",
            "database/config/shop",
            "plugin_name=postgresql-database-plugin",
            "allowed_roles=app",
            &format!("connection_url=postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/shop?sslmode=disable", postgres.port()),
            &format!("username={USER}"),
            &format!("password={PASSWORD}"),
        ])
        .unwrap();
    openbao
        .run(&[
            "write",
            "database/roles/app",
            "db_name=shop",
            "creation_statements=CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'",
            "default_ttl=4s",
            "max_ttl=8s",
        ])
        .unwrap();
    openbao
        .run_with(
            &["policy", "write", "interlock", "-"],
            "path \"database/creds/app\" { capabilities = [\"read\"] }\npath \"sys/leases/renew\" { capabilities = [\"update\"] }\n",
        )
        .unwrap();
    openbao.run(&["auth", "enable", "approle"]).unwrap();
    openbao
        .run(&["write", "auth/approle/role/interlock", "token_policies=interlock", "token_ttl=1h"])
        .unwrap();
    let role_id = openbao.run(&["read", "-field=role_id", "auth/approle/role/interlock/role-id"]).unwrap();
    let secret_id =
        openbao.run(&["write", "-f", "-field=secret_id", "auth/approle/role/interlock/secret-id"]).unwrap();
    let secrets = Secrets::new().unwrap();
    let file = secrets.write("secret-id", &secret_id, 0o600).unwrap();
    let auth = format!("{{approle: {{role_id: {role_id}, secret_id_file: {file}}}}}");
    let source = vault(&openbao, "database/creds/app", &auth, "");
    let configuration = entry(&postgres, &format!("client_auth: any\nlogin: {{password: {source}}}"));
    let stage = Stage::start_with(postgres, "", &configuration).unwrap();
    let user = || {
        let printed = asked(&stage).unwrap().expect_success();
        printed.lines().find_map(|line| line.strip_prefix("logged in as ")).unwrap_or_default().to_owned()
    };
    let first = user();
    assert!(first.starts_with("v-approle-app-"), "{first}");
    // The lease can be renewed up to eight seconds; then there is another user, and no log-in is lost.
    wait_for("another user", Duration::from_secs(60), || user() != first).unwrap();
    let roles =
        || stage.postgres.admin(&format!("SELECT count(*) FROM pg_roles WHERE rolname = '{first}'")).unwrap();
    wait_for("the first lease's end", Duration::from_secs(60), || roles() == "0").unwrap();
    assert!(user().starts_with("v-approle-app-"));
    let log = stage.agent.log();
    assert!(!log.contains(&secret_id));
    let used: std::collections::BTreeSet<String> = events(&stage.agent, "login")
        .unwrap()
        .iter()
        .map(|login| login["login_user"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert!(used.len() >= 2, "{used:?}");
}

#[test]
fn openbao_that_refuses_or_is_gone() {
    let postgres = Postgres::start().unwrap();
    let openbao = OpenBao::start().unwrap();
    openbao.run(&["secrets", "enable", "-version=2", "-path=new", "kv"]).unwrap();
    let secrets = Secrets::new().unwrap();
    secrets.write("token", "no-such-token", 0o600).unwrap();
    let token = secrets.path("token").display().to_string();
    let source = vault(&openbao, "new/data/shop", &format!("{{token_file: {token}}}"), "");
    let configuration = entry(&postgres, &any(USER, &source));
    let stage = Stage::start_with(postgres, "", &configuration).unwrap();
    fails_with(&stage, &["shop-app", "permission denied"]);
    assert!(!stage.agent.log().contains("no-such-token"));
    drop(openbao);
    wait_for("the agent noticing", LIMIT, || asked(&stage).unwrap().both().contains("cannot be asked"))
        .unwrap();
    fails_with(&stage, &["shop-app"]);
}

#[test]
fn aws_secrets_manager() {
    let postgres = Postgres::start().unwrap();
    rotate(&postgres, ROTATED).unwrap();
    let moto = Moto::start().unwrap();
    moto.python(&format!(
        "import json\nclient.create_secret(Name='shop/app', SecretString=json.dumps({{'username': 'app', 'password': '{ROTATED}'}}))"
    ))
    .unwrap();
    let secrets = Secrets::new().unwrap();
    let keys = secrets.write(
        "keys",
        "[default]\naws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY\n",
        0o600,
    ).unwrap();
    let source = format!(
        "{{aws_secrets_manager: {{secret: shop/app, region: eu-central-1, field: password, user_field: username, \
         keys: {{file: {keys}}}, endpoint: \"{}\"}}}}",
        moto.address()
    );
    let configuration = entry(&postgres, &format!("client_auth: any\nlogin: {{password: {source}}}"));
    let stage = Stage::start_with(postgres, "", &configuration).unwrap();
    works_as(&stage, USER);
    moto.python(&format!(
        "import json\nclient.put_secret_value(SecretId='shop/app', SecretString=json.dumps({{'username': 'app', 'password': '{ROTATED_AGAIN}'}}))"
    ))
    .unwrap();
    rotate(&stage.postgres, ROTATED_AGAIN).unwrap();
    works_as(&stage, USER);
    moto.python("client.delete_secret(SecretId='shop/app', ForceDeleteWithoutRecovery=True)").unwrap();
    rotate(&stage.postgres, PASSWORD).unwrap();
    fails_with(&stage, &["shop-app", "ResourceNotFoundException"]);
    for secret in [ROTATED, ROTATED_AGAIN, "wJalrXUtnFEMI"] {
        assert!(!stage.agent.log().contains(secret));
    }
}

#[test]
fn secrets_typed_in_statements_are_not_recorded() {
    const TYPED: &str = "typed-by-hand-7";
    let postgres = Postgres::start().unwrap();
    let stage = Stage::start_with(postgres, "", "").unwrap();
    let printed = stage
        .psql(&format!(
            "CREATE ROLE eve LOGIN PASSWORD '{TYPED}';\nALTER/**/ROLE eve PASSWORD E'\\'{TYPED}';\nALTER ROLE eve PASSWORD $x${TYPED}$x$;\n\
             ALTER ROLE eve PASSWORD {TYPED};\nALTER ROLE eve PASSWORD {};\n\
             DO $$BEGIN EXECUTE 'ALTER ROLE eve PASSWORD ' || quote_literal('{TYPED}'); END$$;\n\
             SET app.token = '{TYPED}';\nSELECT set_config('app.password', '{TYPED}', false);\n\
             CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1 password={TYPED}' PUBLICATION p;\n\
             COPY (SELECT 1) TO PROGRAM 'cat > /dev/null # --token {TYPED}';\n\
             SELECT 1 / 0 AS \"password={TYPED}\";\nALTER ROLE eve PASSWORD '{TYPED}",
            TYPED.replace('-', "_")
        ))
        .unwrap();
    assert!(printed.stderr.contains("syntax error"), "{}", printed.both());
    let printed = stage
        .python(&format!(
            "import os, psycopg\nc = psycopg.connect(os.environ['PGURL'], autocommit=True)\n\
             print(c.execute(\"SELECT set_config('app.password', %s, false)\", ['{TYPED}']).fetchone())\n\
             print(c.execute(\"SELECT set_config('app.password', %s, false)\", ['{TYPED}'], binary=True).fetchone())\n\
             c.execute('CREATE TABLE users (name text, password text)')\n\
             c.execute('INSERT INTO users VALUES (%s, NULL)', ['eve'])\n\
             print(c.execute('UPDATE users SET password = %s WHERE name = %s RETURNING password', ['{TYPED}', 'eve']).fetchone())\n\
             try:\n    c.execute('UPDATE users SET password = %s::int', ['{TYPED}'])\nexcept psycopg.Error as e:\n    print(e.sqlstate)\n"
        ))
        .unwrap()
        .expect_success();
    assert_eq!(printed.matches(TYPED).count(), 3, "the client sees what it asked for: {printed}");
    let options = stage
        .shell(&format!(
            "PGOPTIONS='-c app.password={TYPED}' {}/psql -X -c 'SELECT 1'",
            stage.postgres.programs().display()
        ))
        .unwrap();
    options.expect_success();
    let explained =
        stage.agent.interlock(&["policy", "explain", &format!("ALTER ROLE eve PASSWORD '{TYPED}'")]).unwrap();
    let events = stage.agent.events().unwrap();
    assert!(events.iter().any(|event| event["text"] == "CREATE ROLE eve LOGIN PASSWORD '***';"));
    let recorded: Vec<String> = events.iter().map(Value::to_string).collect();
    let (dashes, underscores) = (TYPED.to_owned(), TYPED.replace('-', "_"));
    for text in recorded.iter().chain([&stage.agent.log(), &explained.both()]) {
        assert!(!text.contains(&dashes) && !text.contains(&underscores), "{text}");
    }
}
