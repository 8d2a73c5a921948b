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
    Workloads::new(Arc::new(Issuers::new(&IdentityConfig { issuers: vec![config] }).unwrap()), Arc::default())
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
        let found = workloads.find(process, Purpose::Flow);
        assert_eq!(found.identity.unwrap().subject, "job:1", "{:?}", found.why);
    }
    // A child without it has it from its parent.
    let (_bare, bare) = run("env -u T sh -c 'echo $$; read x; :'; :", &environment);
    assert!(
        workloads.find(&bare[0], Purpose::Flow).identity.is_some(),
        "started by the same process as the job"
    );
    // The same token in another tree: a shell of its own that sets it.
    let (_thief, thief) = run(&format!("T={} sh -c 'echo $$; read x; :'; :", *token), &[]);
    let found = workloads.find(&thief[0], Purpose::Flow);
    assert_eq!(found.identity, None);
    assert_eq!((found.misused.len(), found.misused[0].owner_pid), (1, job[0].pid));
    assert!(found.why[0].contains("belongs to the processes below"), "{:?}", found.why);
    assert!(!format!("{found:?}").contains(token.as_str()));
    // Nobody's.
    let (_none, none) = run(WAIT, &[]);
    let found = workloads.find(&none[0], Purpose::Flow);
    assert_eq!((found.identity, found.why), (None, vec!["workload: ci: no token was found".to_owned()]));
    // Another process with this id.
    let gone = Known { start_time_ns: 1, ..none[0].clone() };
    assert!(workloads.find(&gone, Purpose::Flow).why[0].contains("had gone"));
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
    assert!(workloads.find(&job[0], Purpose::Flow).why[0].contains("no token was found"));
    std::fs::write(&path, format!("{}\n", *key.sign(&server.claims()))).unwrap();
    assert!(workloads.find(&job[0], Purpose::Flow).identity.is_some());
    // It has been replaced.
    std::fs::write(&path, &*key.sign(&with(&server, json!({"sub": "job:2"})))).unwrap();
    assert_eq!(workloads.find(&job[0], Purpose::Flow).identity.unwrap().subject, "job:2");
    std::fs::write(&path, "rubbish").unwrap();
    let found = workloads.find(&job[0], Purpose::Flow);
    assert!(found.identity.is_none() && found.why[0].contains("no signed JWT"), "{:?}", found.why);
    let (_other, other) = run(WAIT, &[("F", "/proc/self/root/etc/shadow")]);
    assert!(workloads.find(&other[0], Purpose::Flow).identity.is_none());
}

fn with(server: &Server, more: serde_json::Value) -> serde_json::Value {
    let mut claims = server.claims();
    let serde_json::Value::Object(more) = more else { panic!("claims are an object") };
    for (name, value) in more {
        claims[name.as_str()] = value;
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
    let found = elsewhere.find(&job[0], Purpose::Flow);
    assert!(found.identity.is_none() && found.why[0].contains("request_hosts"), "{:?}", found.why);
    assert_eq!(server.asked.lock().unwrap().len(), 0);

    let workloads = workloads(config(&text(host)));
    let found = workloads.find(&job[0], Purpose::Flow);
    assert_eq!(found.identity.unwrap().job.project, "shop/api", "{:?}", found.why);
    let asked =
        ("/token?api-version=2.0&audience=urn%3Ax+y".to_owned(), "Bearer bearer-of-the-job".to_owned());
    assert_eq!(server.asked.lock().unwrap()[0], asked);
    // It is not asked for at each connection.
    assert!(workloads.find(&job[0], Purpose::Flow).identity.is_some());
    assert_eq!(server.times_asked(&asked.0), 1);
    // What asks for tokens is bound as tokens are, whatever is added to the address.
    let thief = format!(
        "ACTIONS_ID_TOKEN_REQUEST_URL='{url}&x=1' ACTIONS_ID_TOKEN_REQUEST_TOKEN=bearer-of-the-job \
         sh -c 'echo $$; read x; :'; :"
    );
    let (_thief, thief) = run(&thief, &[]);
    let found = workloads.find(&thief[0], Purpose::Flow);
    assert_eq!((found.identity, found.misused.len(), server.times_asked(&asked.0)), (None, 1, 1));
    // A server that gives none.
    server.answer("/token", 403, &json!({}));
    let (_other, other) = run(WAIT, &[environment[0], ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "another")]);
    let found = workloads.find(&other[0], Purpose::Flow);
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

/// Who reads a job's environment and is quicker than the job does not become its owner.
#[test]
fn what_two_trees_show_first_is_nobodys() {
    let (server, key) = (Server::start(), Key::ec("1"));
    server.publish(&[&key]);
    let workloads = workloads(server.config());
    let token = key.sign(&server.claims());
    let (job_process, job) = run(WAIT, &[("T", token.as_str())]);
    let thief = || run(&format!("T=' {}' sh -c 'echo $$; read x; :'; :", *token), &[]);
    let (first, stolen) = thief();
    for (process, other) in [(&stolen[0], job[0].pid), (&job[0], stolen[0].pid)] {
        let found = workloads.find(process, Purpose::Flow);
        assert_eq!(found.identity, None);
        assert_eq!((found.misused.len(), found.misused[0].owner_pid), (1, other));
        assert!(found.why[0].contains("nobody can tell whose it is"), "{:?}", found.why);
    }
    end(first, &stolen);
    // Who asks alone makes nothing theirs.
    let found = workloads.find(&job[0], Purpose::Question);
    assert!(found.identity.is_some(), "{:?}", found.why);
    assert_eq!(workloads.bindings.is_of(&found.identity.unwrap().token_hash, &nobody()), Ok(false));
    let found = workloads.find(&job[0], Purpose::Flow);
    assert!(found.identity.is_some(), "{:?}", found.why);
    // From then on it has it, whoever else shows it.
    let (_second, stolen) = thief();
    for purpose in [Purpose::Question, Purpose::Flow] {
        let found = workloads.find(&stolen[0], purpose);
        assert!(found.identity.is_none() && found.why[0].contains("belongs to"), "{:?}", found.why);
    }
    assert!(workloads.find(&job[0], Purpose::Flow).identity.is_some());
    drop(job_process);
}

fn nobody() -> holder::Holder {
    holder::Holder::Container("nothing".to_owned())
}

/// Ends what `run` has started, and waits until those processes are gone.
fn end(waiting: Waiting, processes: &[Known]) {
    drop(waiting);
    for process in processes {
        let pid = rustix::process::Pid::from_raw(process.pid.cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        let is_there =
            || std::fs::read(format!("/proc/{}/environ", process.pid)).is_ok_and(|it| !it.is_empty());
        while is_there() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_pods_token_counts_in_that_pod_alone() {
    let (server, key) = (Server::start(), Key::ec("1"));
    server.publish(&[&key]);
    let workloads = workloads(server.config());
    let claims =
        with(&server, json!({"kubernetes.io": {"pod": {"uid": "0a1b2c3d-0000-1111-2222-333344445555"}}}));
    let (_job, job) = run(WAIT, &[("T", &key.sign(&claims))]);
    let found = workloads.find(&job[0], Purpose::Flow);
    assert_eq!((found.identity, found.misused.len()), (None, 1));
    assert!(found.why[0].contains("belongs to the pod 0a1b2c3d"), "{:?}", found.why);
}

/// What has not got a token yet shuts out nobody.
#[test]
fn a_bearer_is_bound_when_it_has_got_a_token() {
    let (server, key) = (Server::start(), Key::ec("1"));
    server.publish(&[&key]);
    let host = server.url.strip_prefix("http://").unwrap();
    let workloads = Workloads { verified_for: Duration::ZERO, ..workloads(github(&server, host)) };
    let url = format!("{}/token", server.url);
    let environment =
        [("ACTIONS_ID_TOKEN_REQUEST_URL", url.as_str()), ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "b")];
    server.answer("/token", 403, &json!({}));
    let (_job, job) = run(WAIT, &environment);
    assert!(workloads.find(&job[0], Purpose::Flow).why[0].contains("status 403"));
    assert_eq!(workloads.bindings.len(), 0);
    let token = || json!({"value": *key.sign(&with(&server, json!({"repository": "shop/api"})))});
    server.answer("/token", 200, &token());
    let found = loop {
        let found = workloads.find(&job[0], Purpose::Flow);
        if found.identity.is_some() {
            break found;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(workloads.bindings.len(), 2, "{found:?}");
    // It is the job's for longer than the token that it got: by itself, and as the collector is told.
    let (now, token) = (Timestamp::now(), found.identity.unwrap());
    let after = |hours: u64| now.checked_add(Duration::from_secs(hours * 3600)).unwrap();
    let until: Vec<_> = {
        let state = workloads.bindings.lock();
        let asks = state.bound.iter().filter(|(hash, _)| **hash != token.token_hash);
        asks.map(|(_, bound)| bound.until).collect()
    };
    assert!(token.expires < after(1) && matches!(until[..], [until] if until >= after(23)), "{until:?}");
    // What is to be verified again and cannot be had again does not count any more.
    server.answer("/token", 401, &json!({}));
    let found = workloads.find(&job[0], Purpose::Flow);
    assert!(found.identity.is_none() && found.why[0].contains("status 401"), "{:?}", found.why);
}

fn github(server: &Server, hosts: &str) -> IssuerConfig {
    config(&format!(
        "{{name: github, kind: workload, provider: github_actions, issuer: '{}', audience: interlock, token: {{request_hosts: ['{hosts}']}}}}",
        server.url
    ))
}

/// A key that the issuer has withdrawn ends what it has signed.
#[test]
fn a_running_flows_token_is_verified_again() {
    let (dir, key, now) = (tempfile::tempdir().unwrap(), Key::ec("1"), Timestamp::now());
    let (server, path) = (Server::start(), dir.path().join("keys"));
    let publish = |key: &Key| {
        std::fs::write(dir.path().join("new"), json!({"keys": [key.jwk()]}).to_string()).unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
    };
    publish(&key);
    let config = config(&format!(
        "{{name: ci, kind: workload, issuer: '{}', audience: interlock, jwks_file: '{}', token: {{variable: T}}}}",
        server.url,
        path.display()
    ));
    let workloads = Workloads { verified_for: Duration::ZERO, ..workloads(config) };
    let (_job, job) = run(WAIT, &[("T", &key.sign(&server.claims()))]);
    let identity = workloads.find(&job[0], Purpose::Flow).identity.unwrap();
    let for_a_day =
        Verified { expires: now.checked_add(Duration::from_secs(86_400)).unwrap(), ..(*identity).clone() };
    assert_eq!(workloads.next_look(&for_a_day, now), Duration::ZERO);
    let workloads = workloads.verifying_after(VERIFIED);
    assert!(workloads.next_look(&identity, now) <= VERIFIED);
    assert_eq!(workloads.next_look(&for_a_day, now), VERIFIED);
    let workloads = workloads.verifying_after(Duration::ZERO);
    publish(&Key::ec("1"));
    while workloads.find(&job[0], Purpose::Flow).identity.is_some() {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A process namespace of one's own makes nobody a container's first process.
#[test]
fn a_thief_in_namespaces_of_their_own_is_no_container() {
    let (server, key) = (Server::start(), Key::ec("1"));
    server.publish(&[&key]);
    let workloads = workloads(server.config());
    let token = key.sign(&server.claims());
    let (_job, job) = run(WAIT, &[("T", token.as_str())]);
    let depth = |pid: u32| tree::Account::of(pid.cast_signed()).unwrap().depth;
    let script =
        format!("exec 3<&0; {OWN_NAMESPACES} env T=' {}' sh -c 'read x; :' <&3 & echo $!; wait", *token);
    let (thief, outer) = run(&script, &[]);
    let stolen = inner(outer[0].pid);
    assert_eq!(depth(stolen.pid), depth(job[0].pid) + 1);
    for (process, other) in [(&stolen, job[0].pid), (&job[0], stolen.pid)] {
        let found = workloads.find(process, Purpose::Flow);
        assert_eq!(found.identity, None);
        assert!(found.why[0].contains("nobody can tell whose it is"), "{:?}", found.why);
        assert_eq!((found.misused.len(), found.misused[0].owner_pid), (1, other));
    }
    end(thief, &[stolen]);
    assert!(workloads.find(&job[0], Purpose::Flow).identity.is_some());
    // What a job starts in namespaces of its own is the job's.
    let script = format!("sh -c 'exec 3<&0; {OWN_NAMESPACES} sh -c \"read x; :\" <&3 & echo $!; wait'; :");
    let token = key.sign(&with(&server, json!({"jti": "another"})));
    let (_other, outer) = run(&script, &[("T", token.as_str())]);
    let found = workloads.find(&inner(outer[0].pid), Purpose::Flow);
    assert!(found.identity.is_some(), "{:?}", found.why);
}

/// What anybody may do where the kernel lets them, and root anywhere.
const OWN_NAMESPACES: &str = "unshare --user --map-root-user --pid --fork --kill-child";

/// The process that `unshare --fork` has started.
fn inner(unshare: u32) -> Known {
    loop {
        let path = format!("/proc/{unshare}/task/{unshare}/children");
        let children = std::fs::read_to_string(path).unwrap();
        let child = children.split_whitespace().next().and_then(|pid| pid.parse::<u32>().ok());
        let is_shell = |pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sh"))
        };
        if let Some(pid) = child.filter(is_shell) {
            let start_time_ns = Stat::of(pid.cast_signed()).unwrap().start * TICK_NS;
            break Known { pid, start_time_ns, ..Known::default() };
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// GitHub's tokens last five minutes, what asks for them as long as the job.
#[test]
fn what_asks_for_tokens_ends_by_itself() {
    let (key, now) = (Key::ec("1"), Timestamp::now());
    let after = |seconds: u64| now.checked_add(Duration::from_secs(seconds)).unwrap();
    let says = |seconds: u64| key.sign(&json!({"exp": after(seconds).as_second()}));
    let until = |bearer: &str| asks_until(bearer, after(300), now).as_second() - now.as_second();
    assert_eq!(until(&says(6 * 3600)), 6 * 3600);
    assert_eq!(until(&says(60)), 300, "the token that it got is held anyway");
    assert_eq!(until(&says(400 * 24 * 3600)), 31 * 24 * 3600);
    for opaque in ["bearer-of-the-job", "a.b.c", ""] {
        assert!((24 * 3600..=25 * 3600).contains(&until(opaque)), "{opaque}");
    }
    // It is not told anew with each connection.
    let hour = Timestamp::from_second(1_700_000_000 / 3600 * 3600).unwrap();
    let at = |seconds: u64| asks_until("b", hour, hour.checked_add(Duration::from_secs(seconds)).unwrap());
    assert_eq!(at(1), at(3599));
}
