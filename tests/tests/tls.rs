//! TLS to a real server through the agent: what `docs/tls.md` says in its table, row by row, and servers
//! that must not be taken for the right one.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use interlock_tests::postgres::{Auth, Options, PASSWORD, USER};
use interlock_tests::process::{LIMIT, finish};
use interlock_tests::tls::{self, Authority, Bed, Pair, Special, TRUSTING};
use interlock_tests::{Postgres, Stage, temporary_directory};

/// A server with a certificate for these names.
fn bed(auth: Auth, tls: &str, names: &[&str]) -> Bed {
    with(auth, tls, "rules: []", &Options::default(), |authority| authority.issue(names, Special::default()))
}

fn with(
    auth: Auth,
    tls: &str,
    rules: &str,
    options: &Options<'_>,
    issue: impl FnOnce(&Authority) -> anyhow::Result<Pair>,
) -> Bed {
    Bed::with(auth, tls, rules, options, issue).unwrap()
}

/// The configuration with an entry for the server.
fn upstream(entry: &str) -> String {
    format!("{TRUSTING}  upstreams: [{{port: PORT, {entry}}}]\n")
}

/// psql gets in, and the server has `version` on its leg (empty: no TLS).
#[track_caller]
fn gets_in(bed: &Bed, settings: &str, version: &str) {
    let printed = bed.psql(settings).unwrap().expect_success();
    assert_eq!(printed.trim(), format!("in by {version}").trim(), "{settings}");
}

/// psql does not get in, and is told `said`.
#[track_caller]
fn is_refused(bed: &Bed, settings: &str, said: &str) {
    let printed = bed.psql(settings).unwrap().expect_failure();
    assert!(printed.contains(said), "{settings}: {printed}");
}

#[test]
fn every_sslmode_with_every_channel_binding() {
    let bed = Bed::start(Auth::Scram).unwrap();
    let root = format!("sslrootcert={}", bed.host_authority().display());
    let hint = "channel_binding=disable";
    for (mode, binding, expected) in [
        ("disable", "disable", Ok("")),
        ("disable", "prefer", Ok("")),
        ("disable", "require", Err("channel binding")),
        ("allow", "disable", Ok("")),
        ("allow", "prefer", Ok("")),
        ("prefer", "disable", Ok("TLSv1.3")),
        ("prefer", "require", Err("channel binding")),
        ("require", "disable", Ok("TLSv1.3")),
        ("require", "prefer", Err(hint)),
        ("require", "require", Err("channel binding")),
        ("verify-ca", "disable", Ok("TLSv1.3")),
        ("verify-ca", "prefer", Err(hint)),
        ("verify-full", "disable", Ok("TLSv1.3")),
        ("verify-full", "prefer", Err(hint)),
        // Refused on the first attempt, libpq comes again without TLS; the leg to the server has it.
        ("prefer", "prefer", Ok("TLSv1.3")),
    ] {
        let settings = match mode {
            "verify-ca" | "verify-full" => format!("sslmode={mode} channel_binding={binding} {root}"),
            _ => format!("sslmode={mode} channel_binding={binding}"),
        };
        match expected {
            Ok(version) => gets_in(&bed, &settings, version),
            Err(said) => is_refused(&bed, &settings, said),
        }
    }
    bed.stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
    // The authority's key is nowhere it should not be.
    let key = std::fs::read_to_string(bed.stage.agent.state().join("tls/authority.key")).unwrap();
    let line = key.lines().nth(1).unwrap();
    assert!(!bed.stage.agent.log().contains(line) && !bed.events().unwrap().contains(line));
}

#[test]
fn a_session_is_judged_and_recorded_under_tls() {
    let rules = "rules: [{name: no-drop, match: {sql: {kind: drop_table}}, action: deny}]";
    let bed = with(Auth::Scram, TRUSTING, rules, &Options::default(), |authority| {
        authority.issue(&["localhost", "127.0.0.1"], Special::default())
    });
    let settings =
        format!("sslmode=verify-full channel_binding=disable sslrootcert={}", bed.host_authority().display());
    bed.stage.postgres.admin("CREATE TABLE t (n int); ALTER TABLE t OWNER TO app").unwrap();
    let sql = "DROP TABLE t;\nSELECT n FROM generate_series(1, 100000) n;\nSELECT repeat('x', 3000000);\n";
    let printed = bed.psql_of(&settings, sql).unwrap().both();
    assert!(printed.contains("refused by rule \"no-drop\""), "{printed:.300}");
    assert!(printed.contains("\n100000\n"), "a long result did not arrive whole");
    assert!(printed.contains(&"x".repeat(3_000_000)), "a long value did not arrive whole");
    let login = bed.login().unwrap();
    assert_eq!(login["server_tls"]["version"], "TLSv1.3", "{login}");
    assert_eq!(login["server_tls"]["verified"], "full", "{login}");
    assert_eq!(login["server_tls"]["names"][0], "127.0.0.1", "{login}");
    assert_eq!(login["server_tls"]["certificate"]["sha256"].as_str().unwrap().len(), 64, "{login}");
    assert_eq!(login["client_tls"]["version"], "TLSv1.3", "{login}");
    let issuer = login["client_tls"]["certificate"]["issuer"].as_str().unwrap();
    assert!(issuer.contains("Interlock host authority"), "{login}");
    // As a person sees it.
    let id = login["session"].as_str().unwrap();
    let shown = bed.stage.agent.interlock(&["sessions", "show", id]).unwrap().expect_success();
    assert!(shown.contains("server leg: TLSv1.3") && shown.contains("verified (full)"), "{shown}");
}

#[test]
fn other_ways_to_log_in_pass_through_tls() {
    for auth in [Auth::Md5, Auth::Password, Auth::Trust] {
        let bed = Bed::start(auth).unwrap();
        for (mode, version) in [("prefer", "TLSv1.3"), ("require", "TLSv1.3"), ("disable", "")] {
            gets_in(&bed, &format!("sslmode={mode}"), version);
        }
        assert!(!bed.events().unwrap().contains(PASSWORD) && !bed.stage.agent.log().contains(PASSWORD));
    }
}

#[test]
fn a_client_leg_in_the_clear_keeps_the_servers_encrypted() {
    for auth in [Auth::Scram, Auth::Md5, Auth::Password, Auth::Trust] {
        let bed = bed(auth, &upstream("client_leg: plaintext"), &["127.0.0.1"]);
        for mode in ["prefer", "disable", "allow"] {
            gets_in(&bed, &format!("sslmode={mode}"), "TLSv1.3");
            let login = bed.login().unwrap();
            assert!(login["client_tls"].is_null(), "{login}");
            assert_eq!(login["server_tls"]["verified"], "full", "{login}");
        }
        is_refused(&bed, "sslmode=require", "does not support SSL");
    }
}

#[test]
fn a_server_leg_can_be_made_tls_whatever_the_client_asks_for() {
    let bed = bed(Auth::Scram, &upstream("server_leg: tls"), &["127.0.0.1"]);
    gets_in(&bed, "sslmode=disable", "TLSv1.3");
    // A server without TLS is refused then.
    let postgres = Postgres::start().unwrap();
    let tls = format!("tls:\n  upstreams: [{{port: {}, server_leg: tls}}]\n", postgres.port());
    let stage = Stage::start_with(postgres, "rules: []", &tls).unwrap();
    let printed = stage.psql("SELECT 1;").unwrap().expect_failure();
    assert!(printed.contains("the server has no TLS"), "{printed}");
}

#[test]
fn a_server_without_tls_has_none_through_the_agent() {
    let stage = Stage::start("rules: []").unwrap();
    let shell = |mode: &str| stage.shell(&format!("PGSSLMODE={mode} psql -X -c 'SELECT 1'")).unwrap();
    assert!(shell("require").expect_failure().contains("server does not support SSL, but SSL was required"));
    shell("prefer").expect_success();
}

#[test]
fn the_agents_own_certificate_logs_in() {
    let entry = upstream("client_certificate: FILES/client.crt, client_key: FILES/client.key");
    let hba = "hostssl all all all cert map=agents\n";
    let options = Options { hba: Some(hba), ..Options::default() };
    let bed = with(Auth::Trust, &entry, "rules: []", &options, |authority| {
        authority.issue(&["127.0.0.1"], Special::default())
    });
    // The map: whoever has the agent's certificate is `app`.
    let map = bed.stage.postgres.admin("SHOW ident_file").unwrap();
    std::fs::write(map.trim(), "agents agent app\n").unwrap();
    bed.stage.postgres.admin("SELECT pg_reload_conf()").unwrap();
    interlock_tests::wait_for("the map being read", std::time::Duration::from_secs(10), || {
        bed.psql("sslmode=require").unwrap().success()
    })
    .unwrap();
    gets_in(&bed, "sslmode=require", "TLSv1.3");
    let key = std::fs::read_to_string(bed.files.path().join("client.key")).unwrap();
    assert!(!bed.stage.agent.log().contains(key.lines().nth(1).unwrap()));
}

/// A server whose certificate is refused, and what the client is told.
#[track_caller]
fn refused(tls: &str, said: &[&str], issue: impl FnOnce(&Authority) -> anyhow::Result<Pair>) {
    let bed = with(Auth::Trust, tls, "rules: []", &Options::default(), issue);
    for said in said {
        is_refused(&bed, "sslmode=require", said);
    }
    // Nor does it get in by coming again without TLS.
    is_refused(&bed, "sslmode=prefer", "is refused");
    assert!(bed.stage.postgres.statements().is_empty(), "a statement reached the server");
    let events = bed.events().unwrap();
    assert!(events.contains(said[0]), "it was not recorded: {events}");
}

#[test]
fn an_expired_certificate_is_refused() {
    refused(TRUSTING, &["it has expired", "The company's own", "Renew"], |authority| {
        authority.issue(&["127.0.0.1"], Special { expired: true, ..Special::default() })
    });
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let said = &["it is not valid for 127.0.0.1: it is for other.example", "server_name"];
    refused(TRUSTING, said, |authority| authority.issue(&["other.example"], Special::default()));
    // By another name it is the right one.
    let bed = bed(Auth::Trust, &upstream("server_name: other.example"), &["other.example"]);
    gets_in(&bed, "sslmode=require", "TLSv1.3");
    // Its names are the client's to look at.
    let verifying = format!("sslmode=verify-full sslrootcert={}", bed.host_authority().display());
    is_refused(&bed, &verifying, "does not match host name");
}

#[test]
fn an_unknown_authority_is_refused() {
    let said = &["no authority that the agent trusts has issued it", "tls: roots:"];
    refused(TRUSTING, said, |_| Authority::new("Another")?.issue(&["127.0.0.1"], Special::default()));
}

#[test]
fn a_self_signed_certificate_is_refused_until_it_is_trusted_or_pinned() {
    let said = &["no authority that the agent trusts has issued it"];
    refused(TRUSTING, said, |_| tls::self_signed(&["127.0.0.1"]));
    for entry in ["roots: [FILES/server.crt]", "verify: pin, pins: [PIN]"] {
        let bed = with(Auth::Trust, &upstream(entry), "rules: []", &Options::default(), |_| {
            tls::self_signed(&["127.0.0.1"])
        });
        gets_in(&bed, "sslmode=require", "TLSv1.3");
    }
    let other = upstream("pins: ['sha256//LHDhK3oGRvkiefQnx7OOczTY5Tic/xZ6HcMOc/gmtoM=']");
    refused(&other, &["is not a pinned one", "pins:"], |authority| {
        authority.issue(&["127.0.0.1"], Special::default())
    });
}

#[test]
fn a_revoked_certificate_is_refused() {
    let tls = format!("{TRUSTING}  crls: [FILES/revoked.crl]\n");
    refused(&tls, &["it was revoked"], |authority| {
        authority.issue(&["127.0.0.1"], Special { serial: 77, ..Special::default() })
    });
    let bed = with(Auth::Trust, &tls, "rules: []", &Options::default(), |authority| {
        authority.issue(&["127.0.0.1"], Special { serial: 78, ..Special::default() })
    });
    gets_in(&bed, "sslmode=require", "TLSv1.3");
    // A list that has come later counts after a reload.
    std::fs::write(bed.files.path().join("revoked.crl"), bed.authority.revoke(&[78]).unwrap()).unwrap();
    bed.stage.agent.reload().unwrap().expect_success();
    is_refused(&bed, "sslmode=require", "it was revoked");
}

#[test]
fn who_verifies_refuses_a_server_that_was_not_verified() {
    let bed = with(Auth::Trust, &upstream("verify: none"), "rules: []", &Options::default(), |_| {
        tls::self_signed(&["127.0.0.1"])
    });
    gets_in(&bed, "sslmode=require", "TLSv1.3");
    assert_eq!(bed.login().unwrap()["server_tls"]["verified"], "none");
    for mode in ["verify-ca", "verify-full"] {
        let settings = format!("sslmode={mode} sslrootcert={}", bed.host_authority().display());
        is_refused(&bed, &settings, "certificate verify failed");
    }
}

#[test]
fn a_client_that_pins_refuses_until_its_tls_is_passed_on() {
    let bed = Bed::start(Auth::Trust).unwrap();
    let own = format!("sslmode=verify-full sslrootcert={}", bed.files.path().join("root.crt").display());
    is_refused(&bed, &own, "certificate verify failed");
    let events = bed.events().unwrap();
    assert!(events.contains("does not accept the agent's certificate"), "{events}");
    bed.treat_tls("passthrough").unwrap();
    gets_in(&bed, &own, "TLSv1.3");
    let passed = || {
        let events = bed.stage.agent.events().unwrap().into_iter();
        events.filter(|event| event["event"] == "tls_passed").collect::<Vec<_>>()
    };
    let seen = passed();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!((&seen[0]["side"], &seen[1]["side"]), (&"client".into(), &"server".into()));
    assert!(seen[1]["note"].as_str().unwrap().contains("TLS 1.3"), "{seen:?}");
    // TLS 1.2 shows the certificate.
    gets_in(&bed, &format!("{own} ssl_max_protocol_version=TLSv1.2"), "TLSv1.2");
    let seen = passed().pop().unwrap();
    assert!(seen["certificate"]["subject"].as_str().unwrap().contains("localhost"), "{seen}");
}

#[test]
fn tls_can_be_denied() {
    let bed = Bed::start(Auth::Trust).unwrap();
    bed.treat_tls("deny").unwrap();
    is_refused(&bed, "sslmode=require", "does not support SSL");
    gets_in(&bed, "sslmode=prefer", "");
}

#[test]
fn plaintext_can_be_denied() {
    let bed = with(Auth::Trust, TRUSTING, "plaintext: deny", &Options::default(), |authority| {
        authority.issue(&["127.0.0.1"], Special::default())
    });
    gets_in(&bed, "sslmode=require", "TLSv1.3");
    is_refused(&bed, "sslmode=disable", "refuses connections that are not encrypted");
    is_refused(&bed, "sslmode=disable", "sslmode=require");
}

#[test]
fn tls_1_2_works_on_both_legs() {
    let options = Options { settings: &["ssl_max_protocol_version=TLSv1.2"], ..Options::default() };
    let bed = with(Auth::Trust, TRUSTING, "rules: []", &options, |authority| {
        authority.issue(&["127.0.0.1"], Special::default())
    });
    gets_in(&bed, "sslmode=require ssl_max_protocol_version=TLSv1.2", "TLSv1.2");
    let login = bed.login().unwrap();
    assert_eq!(login["client_tls"]["version"], "TLSv1.2", "{login}");
    assert_eq!(login["server_tls"]["version"], "TLSv1.2", "{login}");
}

/// A verifier of the password, as the server would keep it.
fn verifier(password: &str) -> String {
    let script = format!(
        "import base64, hashlib, hmac\nsalt = b'0123456789abcdef'\n\
         salted = hashlib.pbkdf2_hmac('sha256', {password:?}.encode(), salt, 4096)\n\
         key = lambda name: hmac.new(salted, name, 'sha256').digest()\n\
         b = lambda value: base64.b64encode(value).decode()\n\
         print(f'SCRAM-SHA-256$4096:{{b(salt)}}${{b(hashlib.sha256(key(b\"Client Key\")).digest())}}:{{b(key(b\"Server Key\"))}}')"
    );
    let made = finish(Command::new("python3").args(["-c", &script]), "", LIMIT).unwrap();
    made.expect_success().trim().to_owned()
}

/// With a credential of its own the agent binds both log-ins to their connections, whatever the client
/// asks for; and it stays under TLS when it has to come again with a newer password.
#[test]
fn the_agent_logs_in_on_both_legs() {
    let secrets = temporary_directory("secret").unwrap();
    let file = secrets.path().join("password");
    let write = |password: &str| {
        std::fs::write(&file, password).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    for (shown, ways) in [
        (
            "client_auth: any".to_owned(),
            &[
                ("sslmode=disable", "", "any"),
                ("sslmode=prefer", "TLSv1.3", "any"),
                ("sslmode=require channel_binding=prefer", "TLSv1.3", "any"),
                // It insists on an exchange, and there is none.
                ("sslmode=require channel_binding=require", "refused", "any"),
            ][..],
        ),
        (
            format!("client_auth: match\n    verifier: {}", verifier(PASSWORD)),
            &[
                ("sslmode=disable", "", "scram-sha-256"),
                ("sslmode=require channel_binding=disable", "TLSv1.3", "scram-sha-256"),
                ("sslmode=require channel_binding=prefer", "TLSv1.3", "scram-sha-256-plus"),
                ("sslmode=require channel_binding=require", "TLSv1.3", "scram-sha-256-plus"),
            ][..],
        ),
    ] {
        write("the-first");
        let credentials = format!(
            "credentials:\n  - name: app\n    destination: {{cidr: 127.0.0.1, port: PORT, protocol: postgres}}\n    {shown}\n    \
             login: {{user: {USER}, password: {{file: {}}}}}\n",
            file.display()
        );
        let bed = with(
            Auth::Scram,
            &format!("{TRUSTING}{credentials}"),
            "rules: []",
            &Options::default(),
            |authority| authority.issue(&["localhost", "127.0.0.1"], Special::default()),
        );
        for (number, (settings, version, client_auth)) in ways.iter().enumerate() {
            // The agent has the last password still, and learns of the new one when it is refused.
            let password = format!("number-{number}");
            bed.stage.postgres.admin(&format!("ALTER ROLE {USER} PASSWORD '{password}'")).unwrap();
            write(&password);
            if *version == "refused" {
                is_refused(&bed, settings, "channel binding required");
                continue;
            }
            gets_in(&bed, settings, version);
            let events = bed.stage.agent.events().unwrap();
            let login = events.iter().rev().find(|event| event["event"] == "login").unwrap();
            assert_eq!(login["client_auth"], *client_auth, "{settings}");
            assert_eq!(login["credential"], "app");
            let bound = if version.is_empty() { "scram-sha-256" } else { "scram-sha-256-plus" };
            assert_eq!(login["auth_method"], bound, "{settings}");
        }
        let recorded = bed.events().unwrap();
        assert!(!recorded.contains("number-") && !bed.stage.agent.log().contains("number-"));
    }
}

/// What else a server may ask of the agent, which has the password, and a certificate where it is asked
/// for one.
#[test]
fn the_agent_logs_in_by_md5_cleartext_and_with_a_certificate_besides() {
    let secrets = temporary_directory("secret").unwrap();
    let file = secrets.path().join("password");
    std::fs::write(&file, PASSWORD).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let both = "hostssl all all all scram-sha-256 clientcert=verify-ca\n";
    let own = upstream("client_certificate: FILES/client.crt, client_key: FILES/client.key");
    for (auth, tls, hba, method) in [
        (Auth::Md5, TRUSTING.to_owned(), None, "md5"),
        (Auth::Password, TRUSTING.to_owned(), None, "cleartext"),
        (Auth::Scram, own, Some(both), "scram-sha-256-plus"),
        (Auth::Scram, TRUSTING.to_owned(), Some(both), ""),
    ] {
        let credentials = format!(
            "credentials:\n  - name: app\n    destination: {{cidr: 127.0.0.1, port: PORT, protocol: postgres}}\n    \
             client_auth: any\n    login: {{user: {USER}, password: {{file: {}}}}}\n",
            file.display()
        );
        let options = Options { hba, ..Options::default() };
        let bed = with(auth, &format!("{tls}{credentials}"), "rules: []", &options, |authority| {
            authority.issue(&["127.0.0.1"], Special::default())
        });
        let settings = "sslmode=require password=what-the-script-has";
        if method.is_empty() {
            is_refused(&bed, settings, "valid client certificate");
            continue;
        }
        gets_in(&bed, settings, "TLSv1.3");
        assert_eq!(bed.login().unwrap()["auth_method"], method);
        // In the clear a password in clear text would be anybody's to read.
        if auth == Auth::Password {
            is_refused(&bed, "sslmode=disable", "server_auth");
        }
    }
}
