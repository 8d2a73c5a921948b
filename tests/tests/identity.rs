//! Jobs with tokens of a real issuer: who passes, who does not, and what becomes of them while they run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

use std::fmt::Write as _;

use interlock_tests::issuer::Issuer;
use interlock_tests::process::{Finished, LIMIT, finish};
use interlock_tests::{Postgres, Stage, client, wait_for};
use serde_json::{Value, json};

/// A stage whose agent trusts the issuer: tokens in the variable `JOB_TOKEN`, and `place` besides.
fn stage(issuer: &Issuer, rules: &str, place: &str) -> Stage {
    let mut configuration = String::from("identity:\n  issuers:\n");
    let url = &issuer.url;
    let _ = write!(
        configuration,
        "    - {{name: gitlab, kind: workload, provider: gitlab, issuer: '{url}', audience: interlock, \
         clock_skew_seconds: 1, token: {{variable: JOB_TOKEN{place}}}}}\n\
         \x20   - {{name: github, kind: workload, provider: github_actions, issuer: '{url}', \
         audience: interlock-github, token: {{request_hosts: ['{}']}}}}\n",
        issuer.jobs
    );
    Stage::start_with(Postgres::start().unwrap(), rules, &configuration).unwrap()
}

const NEEDED: &str = "require_identity: {kind: workload, message: give the job an id_token}\n";

/// A shell as a designated process, with these variables.
fn shell(stage: &Stage, variables: &[(&str, &str)], script: &str) -> Finished {
    let mut command = stage.clients.command("/bin/bash");
    client::environment(&mut command, &stage.postgres);
    command.envs(variables.iter().copied());
    finish(command.args(["-c", script]), "", LIMIT).unwrap()
}

fn of_kind(stage: &Stage, kind: &str) -> Vec<Value> {
    stage.agent.events().unwrap().into_iter().filter(|event| event["event"] == kind).collect()
}

#[test]
fn a_job_passes_by_its_token_alone() {
    let issuer = Issuer::start().unwrap();
    let rules = format!(
        "{NEEDED}rules:\n  - name: writes-from-main\n    match: {{sql: {{class: [write, ddl]}}, \
         not_identity: {{issuer: gitlab, project: shop/*, branch: main}}}}\n    action: deny\n"
    );
    let stage = stage(&issuer, &rules, "");
    let sql = "psql -At -v ON_ERROR_STOP=1 -c 'SELECT 1+1' -c 'CREATE TABLE made (id int)'";
    let main = issuer.token("job:1", "main", 600).unwrap();
    let passed = shell(&stage, &[("JOB_TOKEN", &main)], &format!("{sql}; true"));
    assert!(passed.stdout.contains("2\nCREATE TABLE"), "{}", passed.both());

    let nobody = shell(&stage, &[], sql).expect_failure();
    assert!(nobody.contains("interlock.identity") && nobody.contains("give the job an id_token"), "{nobody}");
    assert!(nobody.contains("workload: gitlab: no token was found"), "{nobody}");
    assert!(!stage.postgres.was_sent("nobody-of-this-name"));

    // Another branch reads, and does not write.
    let branch = issuer.token("job:2", "feature", 600).unwrap();
    let refused = shell(&stage, &[("JOB_TOKEN", &branch)], &format!("{sql} ; true"));
    assert!(
        refused.stdout.starts_with("2\n") && refused.stderr.contains("writes-from-main"),
        "{}",
        refused.both()
    );

    // For others, by another, too old, and none at all.
    let other = json!({"aud": "api", "sub": "job:3"});
    let other = issuer.sign(&other, 600).unwrap();
    let stranger = Issuer::start().unwrap();
    let (old, stranger) =
        (issuer.token("job:4", "main", -60).unwrap(), stranger.token("job:5", "main", 600).unwrap());
    for (token, words) in [
        (other.as_str(), "made for \"api\""),
        (&old, "has expired"),
        (&stranger, "made by"),
        (&format!("{}AAAA", &main[..main.len() - 4]), "no key of the issuer's"),
        ("rubbish", "no signed JWT"),
    ] {
        let output = shell(&stage, &[("JOB_TOKEN", token)], sql).expect_failure();
        assert!(output.contains(words) && !output.contains(token), "{words}: {output}");
    }

    // The issuer has another key.
    issuer.ask(&json!({"rotate": true})).unwrap();
    let rotated = issuer.token("job:6", "main", 600).unwrap();
    shell(&stage, &[("JOB_TOKEN", &rotated)], "psql -c 'SELECT 1'").expect_success();
    // It is away: its keys are known for a while.
    issuer.ask(&json!({"stop": true})).unwrap();
    shell(&stage, &[("JOB_TOKEN", &rotated)], "psql -c 'SELECT 2'").expect_success();

    let started = of_kind(&stage, "flow_started");
    let first = &started[0]["subject"]["workload"];
    assert_eq!(
        (&first["subject"], &first["issuer_name"], &first["branch"]),
        (&"job:1".into(), &"gitlab".into(), &"main".into())
    );
    assert_eq!((&first["claims"]["user_login"], &first["actor"]), (&"ann".into(), &"ann".into()));
    let list = stage.agent.json(&["sessions", "list", "--identity", "JOB:6", "--json"]).unwrap();
    assert_eq!(list.len(), 2, "{list:?}");
    let session = started[0]["session"].as_str().unwrap();
    let shown = stage.agent.interlock(&["sessions", "show", session]).unwrap().expect_success();
    assert!(shown.contains("shop/api (job:1) of gitlab") && shown.contains("branch main"), "{shown}");
    // No token is anywhere.
    let recorded = format!("{:?} {}", stage.agent.events().unwrap(), stage.agent.log());
    for token in [&main, &branch, &rotated, &old] {
        let signature = token.rsplit('.').next().unwrap();
        assert!(!recorded.contains(signature) && !recorded.contains(token.as_str()));
    }
    stage.agent.interlock(&["sessions", "verify"]).unwrap().expect_success();
}

/// A session that goes on until something ends it: it asks again and again.
const ASKING: &str =
    "while [ ! -e \"$STOP\" ]; do echo \"SELECT 'tick';\"; sleep 0.1; done | psql -At -v ON_ERROR_STOP=1";

#[test]
fn a_token_that_ends_ends_what_it_opened() {
    let issuer = Issuer::start().unwrap();
    let stage = stage(&issuer, NEEDED, "");
    let token = issuer.token("job:1", "main", 4).unwrap();
    let ended =
        shell(&stage, &[("JOB_TOKEN", &token), ("STOP", "/nonexistent/stop")], ASKING).expect_failure();
    assert!(ended.contains("tick") && ended.contains("give the job an id_token"), "{ended}");
    assert!(ended.contains("what gitlab says has expired"), "{ended}");
    let commands = stage.agent.commands().unwrap();
    let (last, before) = commands.split_last().unwrap();
    assert!(before.iter().all(|command| command["verdict"] == "allow"), "{commands:?}");
    assert_eq!((&last["verdict"], &last["rule"]), (&"deny".into(), &"interlock.identity".into()));
    let changed = of_kind(&stage, "identity_changed");
    assert_eq!((changed.len(), &changed[0]["workload"]), (1, &Value::Null), "{changed:?}");
    assert!(changed[0]["index"].as_u64() < last["index"].as_u64());
}

#[test]
fn a_newer_token_in_the_jobs_file_goes_on() {
    let issuer = Issuer::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (file, stop) = (dir.path().join("token"), dir.path().join("stop"));
    let put = |token: &str| {
        std::fs::write(dir.path().join("new"), token).unwrap();
        std::fs::rename(dir.path().join("new"), &file).unwrap();
    };
    let stage = stage(&issuer, NEEDED, &format!(", file: '{}'", file.display()));
    put(&issuer.token("job:1", "main", 12).unwrap());
    std::thread::scope(|scope| {
        let stop_text = stop.to_str().unwrap();
        let running = scope.spawn(|| shell(&stage, &[("STOP", stop_text)], ASKING));
        wait_for("a command", LIMIT, || !stage.agent.commands().unwrap().is_empty()).unwrap();
        put(&issuer.token("job:2", "main", 600).unwrap());
        wait_for("another identity", LIMIT, || !of_kind(&stage, "identity_changed").is_empty()).unwrap();
        let before = stage.agent.commands().unwrap().len();
        wait_for("more commands", LIMIT, || stage.agent.commands().unwrap().len() > before + 3).unwrap();
        std::fs::write(&stop, "").unwrap();
        running.join().unwrap().expect_success();
    });
    let changed = of_kind(&stage, "identity_changed");
    assert_eq!(changed[0]["workload"]["subject"], "job:2", "{changed:?}");
}

#[test]
fn a_stolen_token_is_refused_and_told() {
    let issuer = Issuer::start().unwrap();
    let stage = stage(&issuer, NEEDED, "");
    let token = issuer.token("job:1", "main", 600).unwrap();
    // The steps of a job, one after the other, and what they start.
    for _ in 0..2 {
        shell(&stage, &[("JOB_TOKEN", &token)], "bash -c 'psql -c \"SELECT 1\"; true' && psql -c 'SELECT 2'")
            .expect_success();
    }
    // Another process tree that has got hold of it.
    let stolen =
        shell(&stage, &[("LOOT", &token)], "JOB_TOKEN=$LOOT psql -c 'SELECT 3'; exit $?").expect_failure();
    assert!(stolen.contains("its token belongs to the processes below"), "{stolen}");
    assert!(!stage.postgres.was_sent("SELECT 3"));
    let refused = of_kind(&stage, "token_refused");
    assert_eq!(refused.len(), 1, "{refused:?}");
    let started = of_kind(&stage, "flow_started");
    assert_eq!(refused[0]["token_hash"], started[0]["subject"]["workload"]["token_hash"]);
    assert_eq!(refused[0]["issuer_name"], "gitlab");
    assert!(refused[0]["owner_pid"].as_u64().unwrap() > 0);
    assert!(stage.agent.log().contains("a token is refused where it was shown"), "{}", stage.agent.log());
    let status = stage.agent.json(&["status", "--json"]).unwrap();
    assert_eq!(status[0]["flows"]["tokens_refused"], 1, "{status:?}");
    // The job goes on.
    shell(&stage, &[("JOB_TOKEN", &token)], "psql -c 'SELECT 4'").expect_success();
}

#[test]
fn a_job_of_github_has_its_token_asked_for() {
    let issuer = Issuer::start().unwrap();
    let stage = stage(&issuer, "require_identity: {kind: workload, issuer: github}\n", "");
    let url = format!("http://{}/token?api-version=2.0", issuer.jobs);
    let job = |url: &str, bearer: &str| {
        let variables = [("ACTIONS_ID_TOKEN_REQUEST_URL", url), ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", bearer)];
        shell(&stage, &variables, "psql -c 'SELECT 1'")
    };
    job(&url, "of-the-job").expect_success();
    let wrong = job(&url, "of-another").expect_failure();
    assert!(wrong.contains("status 401") && !wrong.contains("of-another"), "{wrong}");
    // The agent asks nobody else for a process.
    let elsewhere = job(&format!("{}/token", issuer.url), "of-the-job").expect_failure();
    assert!(elsewhere.contains("token.request_hosts"), "{elsewhere}");
    let started = of_kind(&stage, "flow_started");
    assert_eq!(started[0]["subject"]["workload"]["claims"]["repository"], "shop/api");
}

/// Namespaces of one's own make nobody the first process of a container that the job has started.
#[test]
fn a_token_stolen_into_namespaces_of_ones_own_does_not_count() {
    use std::os::unix::fs::PermissionsExt as _;
    let issuer = Issuer::start().unwrap();
    let stage = stage(&issuer, NEEDED, "");
    let token = issuer.token("job:1", "main", 600).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let (ready, go) = (dir.path().join("ready"), dir.path().join("go"));
    let plain = "exec setpriv --reuid=5 --regid=60 --clear-groups";
    let script = format!(
        "{plain} bash -c 'touch {}; while [ ! -e {} ]; do sleep 0.05; done; psql -c \"SELECT 1\"; exit $?'",
        ready.display(),
        go.display()
    );
    std::thread::scope(|scope| {
        // A job that has not connected yet, and another of the same user's that has read its environment.
        let job = scope.spawn(|| shell(&stage, &[("JOB_TOKEN", &token)], &script));
        wait_for("the job", LIMIT, || ready.exists()).unwrap();
        let thief = format!(
            "{plain} unshare --user --map-root-user --pid --fork --kill-child \
             bash -c 'export JOB_TOKEN=$LOOT; exec psql -c \"SELECT 2\"'"
        );
        let stolen = shell(&stage, &[("LOOT", &token)], &thief);
        std::fs::write(&go, "").unwrap();
        let job = job.join().unwrap();
        let stolen = stolen.expect_failure();
        assert!(stolen.contains("nobody can tell whose it is"), "{stolen}");
        job.expect_success();
    });
    assert!(stage.postgres.was_sent("SELECT 1") && !stage.postgres.was_sent("SELECT 2"));
    assert_eq!(of_kind(&stage, "token_refused").len(), 1);
}
