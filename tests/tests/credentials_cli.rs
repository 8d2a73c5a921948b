//! `interlock credentials`, what `interlock status` tells of credentials, and OpenBao as it is met in
//! production: over HTTPS, with tokens that end.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

use std::process::Command;

use interlock_tests::credentials::{Secrets, any, entry, fails_with, rotate, vault, works_as};
use interlock_tests::postgres::{PASSWORD, USER};
use interlock_tests::process::{LIMIT, finish};
use interlock_tests::secrets::{OpenBao, ROOT_TOKEN};
use interlock_tests::{Agent, Cgroup, Postgres, Stage, agent, wait_for};
use serde_json::Value;

/// The server's password after it was rotated.
const ROTATED: &str = "v3ry-new-0ne-rotated";

/// An agent that does not run, with this configuration.
fn resting(configuration: &str) -> Agent {
    Agent::prepare(agent::binary().unwrap(), &[], configuration, Cgroup::new().unwrap()).unwrap()
}

#[test]
fn check_tells_of_each_whether_it_can_be_had() {
    let secrets = Secrets::new().unwrap();
    let good = secrets.write("good", ROTATED, 0o600).unwrap();
    let open = secrets.write("open", ROTATED, 0o644).unwrap();
    let program = secrets
        .write("program", &format!("#!/bin/sh\nprintf '{{\"username\":\"reader\",\"password\":\"{ROTATED}\",\"expires_at\":\"2999-01-01T00:00:00Z\"}}'\n"), 0o700)
        .unwrap();
    let agent = resting(&format!(
        "credentials:
  - name: good
    destination: {{host: db.example, port: 5432}}
    user: app
    database: shop
    client_auth: any
    login: {{user: app_rw, password: {{file: {good}}}}}
  - name: open
    destination: {{cidr: [10.0.0.0/8, 192.0.2.1], port: [5432, 5440-5442], protocol: postgres}}
    subjects: [{{user: root}}]
    client_auth: any
    login: {{user: app, database: other, password: {{file: {open}}}}}
  - name: missing
    destination: {{cidr: 10.1.0.0/16}}
    client_auth: any
    login: {{user: app, password: {{file: {0}/none}}}}
  - name: printed
    destination: {{cidr: 10.2.0.1, port: 5432}}
    client_auth: any
    login: {{password: {{exec: {{command: [{program}], output: json}}}}}}
  - name: later
    destination: {{cidr: 10.2.0.1, port: 5432}}
    client_auth: any
    login: {{user: x, password: {{file: {good}}}}}
",
        secrets.directory().display()
    ));
    let checked = agent.interlock(&["credentials", "check"]).unwrap();
    assert_eq!(checked.status.code(), Some(1), "{}", checked.both());
    let printed = checked.both();
    for part in [
        "good  can be had",
        "db.example port 5432, user app, database shop, every designated process",
        "as app_rw",
        "open  CANNOT BE HAD",
        "chmod 600",
        "10.0.0.0/8, 192.0.2.1/32 port 5432, 5440-5442 postgres, any user, any database, processes of 1 entry",
        "missing  CANNOT BE HAD",
        "owned by root with mode 0600",
        "printed  can be had",
        "as reader",
        "never used: \"printed\" before it",
    ] {
        assert!(printed.contains(part), "{part} is not in\n{printed}");
    }
    assert!(!printed.contains(ROTATED), "{printed}");
    // One alone, and for programs.
    agent.interlock(&["credentials", "check", "good"]).unwrap().expect_success();
    let json = agent.json(&["credentials", "check", "printed", "--json"]).unwrap();
    assert_eq!(json.len(), 1, "{json:?}");
    assert_eq!((&json[0]["ok"], &json[0]["login_user"]), (&true.into(), &"reader".into()), "{json:?}");
    assert!(json[0]["expires_seconds"].as_u64().unwrap() > 1_000_000 && json[0]["error"].is_null());
    let none = agent.interlock(&["credentials", "check", "nobody"]).unwrap().expect_failure();
    assert!(none.contains("no credential \"nobody\"") && none.contains("good, open"), "{none}");
    // Whoever may write to the configuration could have passwords sent anywhere.
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(agent.config(), mode(0o666)).unwrap();
    let refused = agent.interlock(&["credentials", "check", "good"]).unwrap().expect_failure();
    assert!(refused.contains("chmod go-w"), "{refused}");
}

#[test]
fn status_tells_how_each_credential_is() {
    let postgres = Postgres::start().unwrap();
    rotate(&postgres, ROTATED).unwrap();
    let secrets = Secrets::new().unwrap();
    secrets.write("shop", ROTATED, 0o600).unwrap();
    let shop = secrets.path("shop");
    let program =
        secrets.write("program", &format!("#!/bin/sh\ncat {} || exit 3\n", shop.display()), 0o700).unwrap();
    let source = format!("{{exec: {{command: [{program}], refresh_seconds: 1}}}}");
    let configuration = format!(
        "{}  - name: elsewhere\n    destination: {{cidr: 192.0.2.1}}\n    client_auth: any\n    \
         login: {{user: x, password: {{file: {}}}}}\n",
        entry(&postgres, &any(USER, &source)),
        shop.display()
    );
    let stage = Stage::start_with(postgres, "", &configuration).unwrap();
    works_as(&stage, USER);
    let told = || stage.agent.json(&["status", "--json"]).unwrap()[0]["credentials"].clone();
    let now = told();
    assert_eq!((&now[0]["name"], &now[0]["state"]), (&"shop-app".into(), &"held".into()), "{now}");
    assert_eq!(now[0]["login_user"], USER);
    for key in ["refreshed", "refresh"] {
        assert!(now[0][key].as_str().unwrap().starts_with("20"), "{key}: {now}");
    }
    assert_eq!((&now[1]["name"], &now[1]["state"]), (&"elsewhere".into(), &"not_asked_yet".into()), "{now}");
    // The source fails: what is held stays in use, and that is told first of all.
    std::fs::remove_file(&shop).unwrap();
    wait_for("the failure", LIMIT, || told()[0]["error"].is_string()).unwrap();
    assert_eq!(told()[0]["state"], "held");
    works_as(&stage, USER);
    let text = stage.agent.interlock(&["status"]).unwrap().expect_success();
    assert!(text.starts_with("CANNOT REFRESH the credential shop-app: program"), "{text}");
    assert!(text.contains("shop-app: held, since 20") && text.contains("exit status: 3"), "{text}");
    secrets.write("shop", ROTATED, 0o600).unwrap();
    wait_for("the recovery", LIMIT, || told()[0]["error"].is_null()).unwrap();
    assert!(!format!("{}{text}", told()).contains(ROTATED));
}

#[test]
fn a_credential_that_cannot_be_had_is_told_first() {
    let postgres = Postgres::start().unwrap();
    let configuration = entry(&postgres, &any(USER, "{file: /nonexistent/interlock}"));
    let stage = Stage::start_with(postgres, "", &configuration).unwrap();
    fails_with(&stage, &["shop-app"]);
    let text = stage.agent.interlock(&["status"]).unwrap().expect_success();
    assert!(text.starts_with("REFUSING connections of the credential shop-app: cannot read"), "{text}");
    assert!(text.contains("shop-app: cannot be had, failed last at 20"), "{text}");
}

#[test]
fn a_verifier_that_is_made_by_hand() {
    let postgres = Postgres::start().unwrap();
    rotate(&postgres, ROTATED).unwrap();
    let secrets = Secrets::new().unwrap();
    let file = secrets.write("shop", ROTATED, 0o600).unwrap();
    let any_agent = resting("");
    let make = |arguments: &[&str], input: &str| {
        let mut command = any_agent.command();
        finish(command.args(["credentials", "verifier"]).args(arguments), input, LIMIT).unwrap()
    };
    // What the script has always had, by standard input.
    let line = make(&["--user", USER], &format!("{PASSWORD}\n")).expect_success();
    assert!(line.starts_with("app SCRAM-SHA-256$4096:") && !line.contains(PASSWORD), "{line}");
    let verifiers = secrets.write("verifiers", &line, 0o600).unwrap();
    let rest = format!(
        "client_auth: match\nverifier_file: {verifiers}\nlogin: {{user: {USER}, password: {{file: {file}}}}}"
    );
    let configuration = entry(&postgres, &rest);
    let stage = Stage::start_with(postgres, "", &configuration).unwrap();
    works_as(&stage, USER);
    let wrong = stage.shell("PGPASSWORD=wrong psql -X -c 'SELECT 1'").unwrap().expect_failure();
    assert!(wrong.contains("password authentication failed"), "{wrong}");
    for (arguments, input) in [
        (&[][..], ""),
        (&[], "\n"),
        (&[], "two\nlines\n"),
        (&["--user", "a\nb"], "x"),
        (&["--user", ""], "x"),
    ] {
        make(arguments, input).expect_failure();
    }
}

/// At a terminal nothing of what is typed is shown, and Ctrl-C leaves the terminal as it was.
#[test]
fn a_verifier_is_typed_unseen() {
    let script = r#"
import os, pty, sys, termios
def run(answers):
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(sys.argv[1], sys.argv[1:] + ["credentials", "verifier"])
    seen = b""
    before = termios.tcgetattr(fd)[3]
    for prompt, answer in answers:
        while prompt not in seen:
            seen += os.read(fd, 4096)
        os.write(fd, answer)
    try:
        while True:
            more = os.read(fd, 4096)
            if not more: break
            seen += more
    except OSError:
        pass
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(code, b"s3cret" in seen, b"SCRAM-SHA-256$4096:" in seen, b"differ" in seen, b"interrupted" in seen)
run([(b"password: ", b"s3cret\n"), (b"more: ", b"s3cret\n")])
run([(b"password: ", b"s3cret\n"), (b"more: ", b"s3cret2\n")])
run([(b"password: ", b"s3cr\x03")])
"#;
    let agent = resting("");
    let mut command = Command::new("python3");
    command.args(["-", &agent::binary().unwrap().to_string_lossy()]);
    let printed = finish(&mut command, script, LIMIT).unwrap().expect_success();
    assert_eq!(printed, "0 False True False False\n1 False False True False\n1 False False False True\n");
    drop(agent);
}

/// Over HTTPS by an authority of the store's own; the AppRole's secret id is good for one log-in, so that
/// all after it is by renewing the token.
#[test]
fn openbao_over_https_with_a_token_that_is_renewed() {
    let openbao = OpenBao::start_encrypted().unwrap();
    openbao.run(&["secrets", "enable", "-version=2", "-path=new", "kv"]).unwrap();
    let put = |password: &str| {
        openbao.run(&["kv", "put", "-mount=new", "shop", &format!("password={password}")]).unwrap();
    };
    put(ROTATED);
    let policy = "path \"new/data/shop\" { capabilities = [\"read\"] }\n";
    openbao.run_with(&["policy", "write", "interlock", "-"], policy).unwrap();
    openbao.run(&["auth", "enable", "approle"]).unwrap();
    let role = "auth/approle/role/interlock";
    openbao
        .run(&["write", role, "token_policies=interlock", "token_ttl=6s", "secret_id_num_uses=1"])
        .unwrap();
    let role_id = openbao.run(&["read", "-field=role_id", &format!("{role}/role-id")]).unwrap();
    let secret_id =
        || openbao.run(&["write", "-f", "-field=secret_id", &format!("{role}/secret-id")]).unwrap();
    let secrets = Secrets::new().unwrap();
    let file = secrets.write("secret-id", &secret_id(), 0o600).unwrap();
    let auth = format!("{{approle: {{role_id: {role_id}, secret_id_file: {file}}}}}");
    let trusting = format!(", refresh_seconds: 1, ca: {}", openbao.authority().display());
    let postgres = Postgres::start().unwrap();
    rotate(&postgres, ROTATED).unwrap();
    let configuration = entry(&postgres, &any(USER, &vault(&openbao, "new/data/shop", &auth, &trusting)));
    let stage = Stage::start_with(postgres, "", &configuration).unwrap();
    works_as(&stage, USER);
    let accessors = || openbao.run(&["list", "-format=json", "auth/token/accessors"]).unwrap();
    let tokens = || -> Vec<Value> {
        let all: Vec<String> = serde_json::from_str(&accessors()).unwrap();
        let look = |accessor: &String| {
            openbao.run(&["token", "lookup", "-format=json", "-accessor", accessor]).unwrap_or_default()
        };
        let known = all.iter().map(look).filter_map(|text| serde_json::from_str::<Value>(&text).ok());
        known.filter(|token| token["data"]["path"] == "auth/approle/login").collect()
    };
    wait_for("a renewal", LIMIT, || {
        tokens().first().is_some_and(|token| token["data"]["last_renewal_time"].is_u64())
    })
    .unwrap();
    // Still the first, and what it reads still counts.
    assert_eq!(tokens().len(), 1, "{:?}", tokens());
    put("the-third");
    rotate(&stage.postgres, "the-third").unwrap();
    works_as(&stage, USER);
    // A store that cannot be verified is told nothing: without `ca` there is no token and no secret.
    secrets.write("token", ROOT_TOKEN, 0o600).unwrap();
    let token = format!("{{token_file: {}}}", secrets.path("token").display());
    for (ca, works) in [(String::new(), false), (format!(", ca: {}", openbao.authority().display()), true)] {
        let source = vault(&openbao, "new/data/shop", &token, &ca);
        let agent = resting(&entry(&stage.postgres, &any(USER, &source)));
        let checked = agent.interlock(&["credentials", "check"]).unwrap();
        assert_eq!(checked.success(), works, "{}", checked.both());
        assert!(works || checked.both().contains("certificate"), "{}", checked.both());
        assert!(!checked.both().contains("the-third") && !checked.both().contains(ROOT_TOKEN));
    }
}

/// A check makes a login, and leaves none behind.
#[test]
fn check_ends_the_login_that_openbao_makes_for_it() {
    let postgres = Postgres::start().unwrap();
    let openbao = OpenBao::start().unwrap();
    openbao.run(&["secrets", "enable", "database"]).unwrap();
    let url = format!(
        "connection_url=postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/shop?sslmode=disable",
        postgres.port()
    );
    let (user, password) = (format!("username={USER}"), format!("password={PASSWORD}"));
    let plugin = "plugin_name=postgresql-database-plugin";
    openbao
        .run(&["write", "database/config/shop", plugin, "allowed_roles=app", &url, &user, &password])
        .unwrap();
    let create = "creation_statements=CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'";
    openbao.run(&["write", "database/roles/app", "db_name=shop", create, "default_ttl=1h"]).unwrap();
    openbao
        .run_with(
            &["policy", "write", "reader", "-"],
            "path \"database/creds/app\" { capabilities = [\"read\"] }\n",
        )
        .unwrap();
    openbao.run(&["auth", "enable", "approle"]).unwrap();
    let role = "auth/approle/role/interlock";
    openbao.run(&["write", role, "token_policies=reader", "token_ttl=1h"]).unwrap();
    let role_id = openbao.run(&["read", "-field=role_id", &format!("{role}/role-id")]).unwrap();
    let secret_id = openbao.run(&["write", "-f", "-field=secret_id", &format!("{role}/secret-id")]).unwrap();
    let limited = openbao.run(&["token", "create", "-policy=reader", "-field=token"]).unwrap();
    let secrets = Secrets::new().unwrap();
    let file = |name: &str, text: &str| secrets.write(name, text, 0o600).unwrap();
    let made = || postgres.admin("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'").unwrap();
    for (auth, left) in [
        (format!("{{approle: {{role_id: {role_id}, secret_id_file: {}}}}}", file("id", &secret_id)), false),
        (format!("{{token_file: {}}}", file("root", ROOT_TOKEN)), false),
        (format!("{{token_file: {}}}", file("limited", &limited)), true),
    ] {
        let source = vault(&openbao, "database/creds/app", &auth, "");
        let agent = resting(&entry(&postgres, &format!("client_auth: any\nlogin: {{password: {source}}}")));
        let found = agent.json(&["credentials", "check", "--json"]).unwrap();
        assert!(found[0]["login_user"].as_str().unwrap().starts_with("v-"), "{found:?}");
        assert!(found[0]["expires_seconds"].as_u64().is_some_and(|left| left > 3000), "{found:?}");
        assert_eq!(found[0]["warnings"].to_string().contains("could not be ended"), left, "{found:?}");
        // The store ends what hangs on a token soon after the token.
        wait_for("the login's end", LIMIT, || left || made() == "0").unwrap();
    }
    assert_eq!(made(), "1", "what the store does not let the agent end is there");
}
