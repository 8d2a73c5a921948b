use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::*;
use crate::identity::ancestors::Stat;
use crate::identity::config::{IdentityConfig, IssuerConfig};
use crate::identity::oidc::fake::{Key, Server, config};
use crate::identity::process::TICK_NS;

/// A process that waits, and whoever has started it.
struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `script` has a shell start processes; it prints the ids that it is about.
fn run(script: &str, environment: &[(&str, &str)]) -> (Waiting, Vec<Known>) {
    use std::io::{BufRead as _, BufReader};
    let mut child = Command::new("sh")
        .args(["-c", script])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let known = line.split_whitespace().map(|pid| {
        let pid: u32 = pid.parse().unwrap();
        let start_time_ns = Stat::of(pid.cast_signed()).unwrap().start * TICK_NS;
        Known { pid, start_time_ns, ..Known::default() }
    });
    let known = known.collect();
    (Waiting(child), known)
}

fn workloads(config: IssuerConfig) -> Workloads {
    Workloads::new(Arc::new(Issuers::new(&IdentityConfig { issuers: vec![config] }).unwrap()))
}

/// A process that waits for its end without a child of its own.
const WAIT: &str = "echo $$; read x";

#[test]
fn a_token_in_the_environment_belongs_to_its_tree() {
    let (server, key) = (Server::start(), Key::ec("1"));
    server.publish(&[&key]);
    let workloads = workloads(server.config());
    let token = key.sign(&server.claims());
    let environment = [("T", token.as_str())];
    // The job, and what it starts.
    let (_job, job) = run("sh -c 'echo $PPID $$; read x; :'; :", &environment);
    for process in &job {
        let found = workloads.find(process);
        assert_eq!(found.identity.unwrap().subject, "job:1", "{:?}", found.why);
    }
    // A child without it has it from its parent.
    let (_bare, bare) = run("env -u T sh -c 'echo $$; read x; :'; :", &environment);
    assert!(workloads.find(&bare[0]).identity.is_some(), "started by the same process as the job");
    // The same token in another tree: a shell of its own that sets it.
    let (_thief, thief) = run(&format!("T={} sh -c 'echo $$; read x; :'; :", *token), &[]);
    let found = workloads.find(&thief[0]);
    assert_eq!(found.identity, None);
    assert_eq!((found.misused.len(), found.misused[0].owner_pid), (1, job[0].pid));
    assert!(found.why[0].contains("belongs to the processes below"), "{:?}", found.why);
    assert!(!format!("{found:?}").contains(token.as_str()));
    // Nobody's.
    let (_none, none) = run(WAIT, &[]);
    let found = workloads.find(&none[0]);
    assert_eq!((found.identity, found.why), (None, vec!["workload: ci: no token was found".to_owned()]));
    // Another process with this id.
    let gone = Known { start_time_ns: 1, ..none[0].clone() };
    assert!(workloads.find(&gone).why[0].contains("had gone"));
}

#[test]
fn a_file_is_read_as_the_process_sees_it() {
    let (server, key, dir) = (Server::start(), Key::ec("1"), tempfile::tempdir().unwrap());
    server.publish(&[&key]);
    let path = dir.path().join("token");
    let config = config(&format!(
        "{{name: k8s, kind: workload, issuer: '{}', audience: interlock, token: {{file_variable: F, file: '{}'}}}}",
        server.url,
        path.display()
    ));
    let workloads = workloads(config);
    let (_job, job) = run(WAIT, &[]);
    assert!(workloads.find(&job[0]).why[0].contains("no token was found"));
    std::fs::write(&path, format!("{}\n", *key.sign(&server.claims()))).unwrap();
    assert!(workloads.find(&job[0]).identity.is_some());
    // It has been replaced.
    std::fs::write(&path, &*key.sign(&with(&server, json!({"sub": "job:2"})))).unwrap();
    assert_eq!(workloads.find(&job[0]).identity.unwrap().subject, "job:2");
    std::fs::write(&path, "rubbish").unwrap();
    let found = workloads.find(&job[0]);
    assert!(found.identity.is_none() && found.why[0].contains("no signed JWT"), "{:?}", found.why);
    let (_other, other) = run(WAIT, &[("F", "/proc/self/root/etc/shadow")]);
    assert!(workloads.find(&other[0]).identity.is_none());
}

fn with(server: &Server, more: serde_json::Value) -> serde_json::Value {
    let mut claims = server.claims();
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

#[test]
fn a_job_of_github_has_its_token_asked_for() {
    let (server, key) = (Server::start(), Key::ec("1"));
    server.publish(&[&key]);
    let host = server.url.strip_prefix("http://").unwrap();
    let text = |hosts: &str| {
        format!(
            "{{name: github, kind: workload, provider: github_actions, issuer: '{}', audience: 'urn:x y', token: {{request_hosts: ['{hosts}']}}}}",
            server.url
        )
    };
    let claims = |more| with(&server, json!({"aud": "urn:x y", "repository": "shop/api", "x": more}));
    server.answer("/token", 200, &json!({"value": *key.sign(&claims(1))}));
    let url = format!("{}/token?api-version=2.0", server.url);
    let environment = [
        ("ACTIONS_ID_TOKEN_REQUEST_URL", url.as_str()),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "bearer-of-the-job"),
    ];
    let (_job, job) = run(WAIT, &environment);
    // Elsewhere than allowed nobody is asked.
    let elsewhere = workloads(config(&text("127.0.0.1:1")));
    let found = elsewhere.find(&job[0]);
    assert!(found.identity.is_none() && found.why[0].contains("request_hosts"), "{:?}", found.why);
    assert_eq!(server.asked.lock().unwrap().len(), 0);

    let workloads = workloads(config(&text(host)));
    let found = workloads.find(&job[0]);
    assert_eq!(found.identity.unwrap().job.project, "shop/api", "{:?}", found.why);
    let asked =
        ("/token?api-version=2.0&audience=urn%3Ax+y".to_owned(), "Bearer bearer-of-the-job".to_owned());
    assert_eq!(server.asked.lock().unwrap()[0], asked);
    // It is not asked for at each connection.
    assert!(workloads.find(&job[0]).identity.is_some());
    assert_eq!(server.times_asked(&asked.0), 1);
    // What asks for tokens is bound as tokens are, whatever is added to the address.
    let thief = format!(
        "ACTIONS_ID_TOKEN_REQUEST_URL='{url}&x=1' ACTIONS_ID_TOKEN_REQUEST_TOKEN=bearer-of-the-job \
         sh -c 'echo $$; read x; :'; :"
    );
    let (_thief, thief) = run(&thief, &[]);
    let found = workloads.find(&thief[0]);
    assert_eq!((found.identity, found.misused.len(), server.times_asked(&asked.0)), (None, 1, 1));
    // A server that gives none.
    server.answer("/token", 403, &json!({}));
    let (_other, other) = run(WAIT, &[environment[0], ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "another")]);
    let found = workloads.find(&other[0]);
    assert!(found.why[0].contains("status 403") && !found.why[0].contains("another"), "{:?}", found.why);
}

#[test]
fn newer_tokens_are_looked_for_in_time() {
    let now = Timestamp::from_second(10_000).unwrap();
    let at = |seconds: i64| Verified {
        expires: Timestamp::from_second(10_000 + seconds).unwrap(),
        ..Verified::example(IdentityKind::Workload)
    };
    let after = |seconds| renew_after(&at(seconds), now).as_second() - 10_000;
    assert_eq!((after(3600), after(90), after(0), after(-5)), (3540, 60, 0, 0));
}
