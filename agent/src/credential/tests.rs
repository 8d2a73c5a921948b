//! Which credential is meant, and what is wrong with a configuration.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::config::Config;

const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
    wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { directory: tempfile::tempdir().unwrap() };
        bench.write("secret", "hunter2\n", 0o600);
        bench
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_string_lossy().into_owned()
    }

    /// Entries of the list, each without its `name` and `login`.
    fn load(&self, entries: &[&str]) -> anyhow::Result<(Credentials, Vec<String>)> {
        let secret = self.directory.path().join("secret").display().to_string();
        let mut text = "credentials:\n".to_owned();
        for (index, entry) in entries.iter().enumerate() {
            let entry = entry.trim().replace('\n', "\n    ");
            text.push_str(&format!(
                "  - name: c{index}\n    login: {{user: u{index}, password: {{file: {secret}}}}}\n    {entry}\n"
            ));
        }
        self.load_text(&text)
    }

    fn load_text(&self, text: &str) -> anyhow::Result<(Credentials, Vec<String>)> {
        let file = self.write("agent.yaml", text, 0o600);
        let config = Config::load(Path::new(&file))?;
        Credentials::load(&config.credentials, Path::new(&file))
    }
}

fn destination(address: &str) -> Destination {
    let address: SocketAddr = address.parse().unwrap();
    Destination { address, hosts: Vec::new() }
}

fn found(credentials: &Credentials, ids: &[EntryId], address: &str, user: &str, database: &str) -> String {
    let hosts = Hosts::default();
    let flow = credentials.for_flow(ids, &destination(address), &hosts);
    match flow.find(user, database) {
        Ok(Some(credential)) => credential.name().to_string(),
        Ok(None) => "none".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_first_that_fits_is_meant() {
    let bench = Bench::new();
    let (credentials, warnings) = bench
        .load(&[
            "destination: {cidr: 10.0.0.1, port: 5432}\nuser: app\ndatabase: shop\nclient_auth: any",
            "destination: {cidr: 10.0.0.0/8}\nuser: [\"app*\", report]\nclient_auth: any",
        ])
        .unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    for (address, user, database, name) in [
        ("10.0.0.1:5432", "app", "shop", "c0"),
        ("[::ffff:10.0.0.1]:5432", "app", "shop", "c0"),
        ("10.0.0.1:5433", "app", "shop", "c1"),
        ("10.0.0.1:5432", "app", "other", "c1"),
        ("10.0.0.1:5432", "apps", "shop", "c1"),
        ("10.0.0.1:5432", "report", "shop", "c1"),
        ("10.0.0.1:5432", "App", "shop", "none"),
        ("11.0.0.1:5432", "app", "shop", "none"),
    ] {
        assert_eq!(found(&credentials, &[], address, user, database), name, "{address} {user} {database}");
    }
}

#[test]
fn subjects_are_the_entries_that_the_kernel_tells() {
    let bench = Bench::new();
    let (credentials, _) = bench
        .load(&[
            "destination: {cidr: 10.0.0.1}\nsubjects: [{run: nightly}, {unit: report.service}]\nclient_auth: any",
            "destination: {cidr: 10.0.0.1}\nsubjects: [{exe: /usr/bin/psql}]\nclient_auth: any",
        ])
        .unwrap();
    let ids: Vec<EntryId> = credentials.entries().iter().map(|entry| entry.id).collect();
    assert_eq!(ids.len(), 3);
    assert!(credentials.entries().iter().all(|entry| entry.destinations.is_empty()), "they redirect nothing");
    let of = |ids: &[EntryId]| found(&credentials, ids, "10.0.0.1:5432", "app", "shop");
    assert_eq!(of(&ids[..1]), "c0");
    assert_eq!(of(&ids[1..2]), "c0");
    assert_eq!(of(&ids[2..]), "c1");
    assert_eq!(of(&[ids[2], ids[1]]), "c0", "the first in the list");
    assert_eq!(of(&[]), "none");
}

#[test]
fn a_host_counts_once_it_has_been_answered() {
    let bench = Bench::new();
    let (credentials, _) =
        bench.load(&["destination: {host: db.internal, port: 5432}\nuser: app\nclient_auth: any"]).unwrap();
    let names = credentials.host_names();
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["db.internal"]);
    let hosts = Hosts::with_lookup(|_| Ok(vec![IpAddr::from([10, 0, 0, 1])]));
    hosts.set_names(names);
    let find = |address: &str, user: &str| {
        let address: SocketAddr = address.parse().unwrap();
        let destination = Destination { address, hosts: hosts.names_of(address.ip()) };
        let flow = credentials.for_flow(&[], &destination, &hosts);
        flow.find(user, "shop").map(|found| found.is_some()).map_err(|error| error.to_string())
    };
    // Any server could be meant: none is given the password, and no other log-in passes.
    let error = find("192.0.2.1:5432", "app").unwrap_err();
    assert!(error.contains("db.internal") && error.contains("c0"), "{error}");
    assert_eq!(find("192.0.2.1:5432", "other"), Ok(false));
    assert_eq!(find("192.0.2.1:5433", "app"), Ok(false));
    hosts.refresh();
    assert_eq!(find("10.0.0.1:5432", "app"), Ok(true));
    assert_eq!(find("192.0.2.1:5432", "app"), Ok(false));
}

#[test]
fn what_is_wrong_is_told() {
    let bench = Bench::new();
    let open = bench.write("open", "hunter2", 0o644);
    let secret = bench.write("secret", "hunter2", 0o600);
    let base = "destination: {cidr: 10.0.0.1}\nclient_auth: any";
    for (entry, what) in [
        ("destination: {port: 5432}\nclient_auth: any", "any server"),
        ("destination: {cidr: 10.0.0.1, prot: 1}\nclient_auth: any", "`prot`"),
        ("destination: {cidr: 10.0.0.1}", "client_auth"),
        ("destination: {cidr: 10.0.0.1}\nclient_auth: match", "nothing to check"),
        (
            "destination: {cidr: 10.0.0.1}\nclient_auth: match\nverifier: hunter2",
            "is no SCRAM-SHA-256 verifier",
        ),
        (&*format!("{base}\nverifier: {VERIFIER}"), "checks no password"),
        (&*format!("{base}\nsubjects: [{{}}]"), "every process"),
        (&*format!("{base}\nsubjects: [{{ci: x}}]"), "`ci`"),
        (&*format!("{base}\nuser: []"), "empty"),
        (&*format!("{base}\nusers: x"), "users"),
    ] {
        let error = format!("{:#}", bench.load(&[entry]).map(drop).unwrap_err());
        assert!(error.contains(what) && !error.contains("hunter2"), "{entry}\n{error}");
    }
    let with = |login: &str| {
        let text = format!(
            "credentials:\n  - name: c\n    destination: {{cidr: 10.0.0.1}}\n    client_auth: any\n    login: {login}\n"
        );
        bench.load_text(&text).map(|(_, warnings)| warnings.join("\n")).map_err(|error| format!("{error:#}"))
    };
    for (login, what) in [
        (format!("{{user: u, password: {{file: {open}}}}}"), "chmod 600"),
        ("{user: u, password: {file: relative}}".to_owned(), "absolute"),
        ("{user: u, password: {fil: /x}}".to_owned(), "fil"),
        ("{user: u, password: {systemd: a/b}}".to_owned(), "systemd"),
        ("{user: u, password: {exec: {command: [sh]}}}".to_owned(), "absolute"),
        (
            "{user: u, password: {vault: {address: \"http://v\", path: p, auth: {token_file: /t}}}}"
                .to_owned(),
            "clear text",
        ),
        (format!("{{user: \"\", password: {{file: {secret}}}}}"), "no name to log in with"),
        ("{user: u}".to_owned(), "password"),
    ] {
        let error = with(&login).unwrap_err();
        assert!(error.contains(what) && !error.contains("hunter2"), "{login}\n{error}");
    }
    // It may yet be put there.
    assert!(with("{user: u, password: {file: /nonexistent/secret}}").unwrap().contains("are refused"));
}

#[test]
fn who_can_change_the_configuration_is_looked_at() {
    let bench = Bench::new();
    let secret = bench.directory.path().join("secret");
    let text = format!(
        "credentials: [{{name: c, destination: {{cidr: 10.0.0.1}}, client_auth: any, login: {{user: u, password: {{file: {}}}}}}}]",
        secret.display()
    );
    assert!(bench.load_text(&text).is_ok());
    let file = bench.write("agent.yaml", &text, 0o666);
    let config = Config::load(Path::new(&file)).unwrap();
    let error = Credentials::load(&config.credentials, Path::new(&file)).unwrap_err().to_string();
    assert!(error.contains("chmod go-w"), "{error}");
}

#[test]
fn names_are_unique_and_entries_that_never_apply_are_told() {
    let bench = Bench::new();
    let base = "client_auth: any";
    let (_, warnings) = bench
        .load(&[
            &format!("destination: {{cidr: 10.0.0.1}}\nuser: \"app*\"\n{base}"),
            &format!("destination: {{cidr: 10.0.0.1, port: 5432}}\nuser: application\n{base}"),
            &format!("destination: {{cidr: 10.0.0.1}}\nuser: report\n{base}"),
        ])
        .unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("\"c1\" is never used: \"c0\""), "{warnings:?}");
    let twice = bench
        .load_text(&format!(
            "credentials:\n{}",
            format!(
                "  - {{name: c, destination: {{cidr: 10.0.0.1}}, client_auth: any, login: {{user: u, password: {{file: {}}}}}}}\n",
                bench.directory.path().join("secret").display()
            )
            .repeat(2)
        ))
        .unwrap_err();
    assert!(twice.to_string().contains("same name"), "{twice}");
}

#[test]
fn nothing_shows_a_secret_in_debug_output() {
    let bench = Bench::new();
    let entry = format!("destination: {{cidr: 10.0.0.1}}\nclient_auth: match\nverifier: {VERIFIER}");
    let (credentials, _) = bench.load(&[&entry]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(credentials.all[0].login()).unwrap();
    let shown = format!("{credentials:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("SCRAM-SHA"), "{shown}");
}

#[tokio::test]
async fn a_changed_file_is_taken_up_and_a_missing_one_refuses() {
    let bench = Bench::new();
    let (credentials, _) = bench.load(&["destination: {cidr: 10.0.0.1}\nclient_auth: any"]).unwrap();
    let credential = &credentials.all[0];
    let first = credential.login().await.unwrap();
    assert_eq!((first.user.as_str(), first.password()), ("u0", &b"hunter2"[..]));
    assert!(Arc::ptr_eq(&first, &credential.login().await.unwrap()));
    assert!(credential.login_after(&first).await.unwrap().is_none(), "the source has no other");

    bench.write("new", "rotated", 0o600);
    std::fs::rename(bench.directory.path().join("new"), bench.directory.path().join("secret")).unwrap();
    let second = credential.login().await.unwrap();
    assert_eq!(second.password(), b"rotated");
    assert!(Arc::ptr_eq(&second, &credential.login_after(&first).await.unwrap().unwrap()));

    std::fs::remove_file(bench.directory.path().join("secret")).unwrap();
    let error = credential.login().await.unwrap_err().to_string();
    assert!(error.contains("\"c0\"") && error.contains("0600"), "{error}");
    bench.write("secret", "rotated", 0o644);
    let error = credential.login().await.unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

#[tokio::test]
async fn a_program_is_asked_again_after_a_refusal_only() {
    let bench = Bench::new();
    let count = bench.directory.path().join("count");
    let script = bench.write(
        "program",
        &format!("#!/bin/sh\necho x >> {0}\necho password$(wc -l < {0})\n", count.display()),
        0o700,
    );
    let (credentials, _) = bench
        .load_text(&format!(
            "credentials:\n  - name: c\n    destination: {{cidr: 10.0.0.1}}\n    client_auth: any\n    \
             login: {{user: u, password: {{exec: {{command: [{script}]}}}}}}\n"
        ))
        .unwrap();
    let credential = &credentials.all[0];
    let (one, other) = tokio::join!(credential.login(), credential.login());
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(Arc::ptr_eq(&one, &other), "asked once for both");
    assert_eq!(one.password(), b"password1");
    let (next, same) = tokio::join!(credential.login_after(&one), credential.login_after(&one));
    let (next, same) = (next.unwrap().unwrap(), same.unwrap().unwrap());
    assert!(Arc::ptr_eq(&next, &same));
    assert_eq!(next.password(), b"password2");
}
