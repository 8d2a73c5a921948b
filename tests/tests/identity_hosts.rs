//! Whose a token is: over hosts of one collector, over restarts of the agent, and while a debugger is at the
//! process.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use interlock_tests::issuer::Issuer;
use interlock_tests::process::{Finished, LIMIT, finish};
use interlock_tests::{Collector, Postgres, Stage, client, wait_for};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(90);

/// A host whose agent trusts the issuer's tokens in `JOB_TOKEN`, with further keys of the issuer's entry.
fn host(issuer: &Issuer, more: &str) -> Stage {
    let configuration = format!(
        "identity:\n  issuers:\n    - {{name: ci, kind: workload, issuer: '{}', audience: interlock, \
         clock_skew_seconds: 1, token: {{variable: JOB_TOKEN}}{more}}}\n",
        issuer.url
    );
    let rules = "require_identity: {kind: workload}\n";
    Stage::start_with(Postgres::start().unwrap(), rules, &configuration).unwrap()
}

fn enrolled(collector: &Collector, stage: &Stage) {
    collector.enrol(&stage.agent).unwrap();
    connected(stage);
}

fn connected(stage: &Stage) {
    wait_for("a connection to the collector", LONG, || {
        let status = stage.agent.json(&["status", "--json"]).unwrap();
        status[0]["shipping"]["connected_since"].is_string()
    })
    .unwrap();
}

fn shell(stage: &Stage, variables: &[(&str, &str)], script: &str) -> Finished {
    let mut command = stage.clients.command("/bin/bash");
    client::environment(&mut command, &stage.postgres);
    command.envs(variables.iter().copied());
    finish(command.args(["-c", script]), "", LONG).unwrap()
}

fn of_kind(stage: &Stage, kind: &str) -> Vec<Value> {
    stage.agent.events().unwrap().into_iter().filter(|event| event["event"] == kind).collect()
}

fn findings(collector: &Collector) -> Vec<Value> {
    collector
        .query("SELECT host, detail FROM findings WHERE kind = 'token_on_two_hosts' ORDER BY id")
        .unwrap()
}

/// A session that goes on until `$STOP` is there, or something ends it.
const ASKING: &str =
    "while [ ! -e \"$STOP\" ]; do echo \"SELECT 'tick';\"; sleep 0.1; done | psql -At -v ON_ERROR_STOP=1";

#[test]
fn a_token_that_another_host_showed_first_is_refused_there_and_found() {
    let (issuer, collector) = (Issuer::start().unwrap(), Collector::start().unwrap());
    let (own, other) = (host(&issuer, ""), host(&issuer, ""));
    enrolled(&collector, &own);
    enrolled(&collector, &other);
    let token = issuer.token("job:1", "main", 600).unwrap();
    let job = [("JOB_TOKEN", token.as_str())];
    shell(&own, &job, "psql -c 'SELECT 1'; exit $?").expect_success();
    let stolen = shell(&other, &job, "psql -c 'SELECT 2'; exit $?").expect_failure();
    assert!(stolen.contains("was shown on another host first"), "{stolen}");
    assert!(!other.postgres.was_sent("SELECT 2"));
    let refused = of_kind(&other, "token_refused");
    let started = of_kind(&own, "flow_started");
    let workload = &started[0]["subject"]["workload"];
    assert_eq!((refused.len(), &refused[0]["token_hash"]), (1, &workload["token_hash"]), "{refused:?}");
    assert!(other.agent.log().contains("a token is refused where it was shown"), "{}", other.agent.log());
    let status = other.agent.json(&["status", "--json"]).unwrap();
    assert_eq!(
        (&status[0]["flows"]["tokens_refused"], &status[0]["tokens"]["on_other_hosts"]),
        (&1.into(), &1.into())
    );
    // Both hosts are named, each where it belongs.
    let found = findings(&collector);
    assert_eq!(found.len(), 2, "{found:?}");
    let hosts: Vec<&str> = found.iter().filter_map(|row| row[0].as_str()).collect();
    let first = refused[0]["other_host"].as_str().unwrap();
    assert!(hosts.contains(&first) && hosts[0] != hosts[1], "{found:?} {refused:?}");
    assert!(!refused[0]["other_host_name"].as_str().unwrap().is_empty());
    assert!(
        found.iter().all(|row| row[1].as_str().unwrap().contains(workload["token_hash"].as_str().unwrap()))
    );
    // The first host goes on; the token itself is nowhere.
    shell(&own, &job, "psql -c 'SELECT 3'; exit $?").expect_success();
    assert!(of_kind(&own, "token_refused").is_empty());
    let told = format!("{found:?} {} {}", collector.log(), other.agent.log());
    assert!(!told.contains(token.rsplit('.').next().unwrap()));
    // The thief starts the agent anew, without the collector.
    drop(collector);
    let mut other = other;
    other.agent.stop();
    other.agent.launch().unwrap();
    let again = shell(&other, &job, "psql -c 'SELECT 4'; exit $?").expect_failure();
    assert!(again.contains("was shown on another host first"), "{again}");
}

#[test]
fn while_the_collector_is_away_it_counts_where_its_word_is_not_demanded() {
    let issuer = Issuer::start().unwrap();
    let mut collector = Collector::start().unwrap();
    let (own, other) = (host(&issuer, ""), host(&issuer, ""));
    let strict = host(&issuer, ", one_host: required");
    enrolled(&collector, &own);
    enrolled(&collector, &other);
    let token = issuer.token("job:1", "main", 900).unwrap();
    let job = [("JOB_TOKEN", token.as_str())];
    shell(&own, &job, "psql -c 'SELECT 1'; exit $?").expect_success();
    // Not enrolled, there is nobody who could say it.
    let unsaid = shell(&strict, &job, "psql -c 'SELECT 2'; exit $?").expect_failure();
    assert!(unsaid.contains("one_host: required"), "{unsaid}");
    assert!(of_kind(&strict, "token_refused").is_empty(), "nobody has misused it");
    collector.kill();
    wait_for("the end of the connection", LONG, || {
        let status = other.agent.json(&["status", "--json"]).unwrap();
        status[0]["shipping"]["connected_since"].is_null()
    })
    .unwrap();
    let directory = interlock_tests::temporary_directory("stop").unwrap();
    let stop = directory.path().join("stop");
    let asking = [job[0], ("STOP", stop.to_str().unwrap())];
    let ended = std::thread::scope(|scope| {
        let running = scope.spawn(|| shell(&other, &asking, ASKING));
        wait_for("commands", LIMIT, || other.agent.commands().unwrap().len() > 3).unwrap();
        collector.launch().unwrap();
        running.join().unwrap()
    });
    // It has told its token, and the running session has lost it.
    let ended = ended.expect_failure();
    assert!(ended.contains("tick") && ended.contains("was shown on another host first"), "{ended}");
    assert_eq!(of_kind(&other, "identity_changed")[0]["workload"], Value::Null);
    assert_eq!(of_kind(&other, "token_refused").len(), 1);
    wait_for("the findings", LIMIT, || findings(&collector).len() == 2).unwrap();
    // Enrolled, the strict host is told that it comes too late; for a token of its own that it may go on.
    enrolled(&collector, &strict);
    wait_for("the collector's word", LIMIT, || {
        shell(&strict, &job, "psql -c 'SELECT 3'; exit $?").both().contains("was shown on another host first")
    })
    .unwrap();
    let own_token = issuer.token("job:2", "main", 900).unwrap();
    shell(&strict, &[("JOB_TOKEN", &own_token)], "psql -c 'SELECT 4'; exit $?").expect_success();
}

#[test]
fn after_a_restart_of_the_agent_a_token_is_still_whose_it_was() {
    let issuer = Issuer::start().unwrap();
    let mut stage = host(&issuer, "");
    let token = issuer.token("job:1", "main", 600).unwrap();
    let job = [("JOB_TOKEN", token.as_str())];
    let thief = |stage: &Stage| {
        let loot = [("LOOT", token.as_str())];
        let stolen = shell(stage, &loot, "JOB_TOKEN=$LOOT psql -c 'SELECT 3'; exit $?").expect_failure();
        assert!(stolen.contains("its token belongs to the processes below"), "{stolen}");
    };
    shell(&stage, &job, "psql -c 'SELECT 1'; exit $?").expect_success();
    stage.agent.stop();
    stage.agent.launch().unwrap();
    thief(&stage);
    stage.agent.kill();
    stage.agent.launch().unwrap();
    thief(&stage);
    assert_eq!(of_kind(&stage, "token_refused").len(), 2);
    shell(&stage, &job, "psql -c 'SELECT 2'; exit $?").expect_success();
    // The file is the agent's alone, and holds no token.
    let file = stage.agent.state().join("bindings.json");
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains("boot") && !kept.contains(token.rsplit('.').next().unwrap()));
    // Damaged, what was bound is not known: neither thief nor job has what was issued before.
    stage.agent.stop();
    std::fs::write(&file, &kept[..kept.len() / 2]).unwrap();
    stage.agent.launch().unwrap();
    let lost = shell(&stage, &job, "psql -c 'SELECT 4'; exit $?").expect_failure();
    assert!(lost.contains("issued before the agent lost"), "{lost}");
    assert!(stage.agent.log().contains("bindings.json cannot be used"));
    // A newer one counts. Tokens tell seconds, and a second may be wrong.
    wait_for("a token that is new enough", LIMIT, || {
        let newer = issuer.token("job:2", "main", 600).unwrap();
        shell(&stage, &[("JOB_TOKEN", &newer)], "psql -c 'SELECT 5'; exit $?").success()
    })
    .unwrap();
}

/// Traces a process (`PTRACE_SEIZE`) until its input ends.
const TRACER: &str = "import ctypes, sys\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    print(libc.ptrace(0x4206, int(sys.argv[1]), None, 0), flush=True)\n\
    sys.stdin.read()\n";

/// Begins to trace by a Python.
fn trace(mut python: Command, pid: u64) -> Child {
    let python = python.args(["-c", TRACER, &pid.to_string()]);
    let mut tracer = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(tracer.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "0", "this host lets nobody trace");
    tracer
}

fn end(mut tracer: Child) {
    drop(tracer.stdin.take());
    tracer.wait().unwrap();
}

fn wait_for_more(stage: &Stage, log: &Path) {
    let count = || std::fs::read_to_string(log).unwrap_or_default().lines().count();
    let before = count();
    // Some looks later.
    wait_for("more answers", LIMIT, || count() > before + 30).unwrap();
    assert!(of_kind(stage, "token_refused").is_empty());
}

#[test]
fn who_begins_to_trace_a_running_process_takes_its_identity_from_it() {
    let issuer = Issuer::start().unwrap();
    let stage = host(&issuer, "");
    let token = issuer.token("job:1", "main", 600).unwrap();
    let directory = interlock_tests::temporary_directory("traced").unwrap();
    interlock_tests::open_to_all(directory.path()).unwrap();
    let (stop, said) = (directory.path().join("stop"), directory.path().join("said"));
    let variables =
        [("JOB_TOKEN", token.as_str()), ("STOP", stop.to_str().unwrap()), ("SAID", said.to_str().unwrap())];
    let ended = std::thread::scope(|scope| {
        let running = scope.spawn(|| shell(&stage, &variables, &format!("{ASKING} > \"$SAID\"")));
        wait_for("a flow", LIMIT, || !of_kind(&stage, "flow_started").is_empty()).unwrap();
        let pid = of_kind(&stage, "flow_started")[0]["subject"]["pid"].as_u64().unwrap();
        // One that has the job's token as the job has it may look: the test starts both.
        let mut python = stage.clients.command("python3");
        python.envs(variables[..1].iter().copied());
        let own = trace(python, pid);
        wait_for_more(&stage, &said);
        end(own);
        let stranger = trace(Command::new("python3"), pid);
        wait_for("the signal", LIMIT, || !of_kind(&stage, "token_refused").is_empty()).unwrap();
        // That it has gone makes no difference. It has to go: what is traced ends only with it.
        end(stranger);
        running.join().unwrap()
    });
    let ended = ended.expect_failure();
    assert!(ended.contains("traces it (ptrace)"), "{ended}");
    let changed = of_kind(&stage, "identity_changed");
    assert_eq!((changed.len(), &changed[0]["workload"]), (1, &Value::Null), "{changed:?}");
    let refused = of_kind(&stage, "token_refused");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0]["reason"].as_str().unwrap().contains("traces it"), "{refused:?}");
}
