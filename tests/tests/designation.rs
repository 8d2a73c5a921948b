//! Who is designated, and who is not: an unmodified script with a hard-coded password comes under
//! control by each kind of selector, and nobody else does.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it must be")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use interlock_tests::postgres::{PASSWORD, USER, user};
use interlock_tests::process::{Finished, LIMIT, finish};
use interlock_tests::{Agent, Cgroup, Postgres, temporary_directory};
use tempfile::TempDir;

/// A server, an agent under a policy for some processes, and a script with a password in it.
struct World {
    agent: Agent,
    postgres: Postgres,
    directory: TempDir,
}

impl World {
    /// `processes` is the list's one entry; `{script}` in it is the script's path.
    fn new(processes: &str) -> Self {
        let postgres = Postgres::start().unwrap();
        postgres
            .admin("CREATE TABLE salaries (name text, salary int); INSERT INTO salaries VALUES ('Ada', 1)")
            .unwrap();
        let directory = temporary_directory("script").unwrap();
        let world = Self { agent: Agent::start(&[]).unwrap(), postgres, directory };
        world.script("nightly-report");
        let policy = format!(
            "version: 1\nprocesses:\n  - {}\ndestinations:\n  - {{port: {}, protocol: postgres}}\n{}",
            processes.replace("{script}", world.path("nightly-report").to_str().unwrap()),
            world.postgres.port(),
            "rules:\n  - name: salaries\n    match: {sql: {reads: [public.salaries]}}\n    action: deny\n    \
             message: Ask payroll.\n"
        );
        world.agent.write_policy("10-test.yaml", &policy).unwrap();
        world.agent.reload().unwrap().expect_success();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An ordinary script, a hard-coded password in it.
    fn script(&self, name: &str) {
        let text = format!(
            "#!/bin/bash\nexport PGPASSWORD={PASSWORD}\n\
             {}/psql -X -A -t -h 127.0.0.1 -p {} -U {USER} -d shop -c 'SELECT salary FROM salaries' -c 'SELECT 40 + 2'\n",
            self.postgres.programs().display(),
            self.postgres.port()
        );
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The agent's root cgroup is this test's own: whatever is to be seen by it runs there.
    fn run(&self, command: &mut Command) -> Finished {
        finish(command, "", LIMIT).unwrap()
    }

    fn inside(&self, name: &str) -> Command {
        self.agent.cgroup().command(self.path(name))
    }

    #[track_caller]
    fn assert_controlled(&self, finished: &Finished) {
        assert!(
            finished.stderr.contains("salaries") && finished.stderr.contains("Ask payroll."),
            "{}",
            finished.both()
        );
        assert_eq!(finished.stdout, "42\n", "{}", finished.both());
        assert!(!self.postgres.was_sent("salaries"), "the refused statement reached the server");
        let denied = self.agent.texts("deny").unwrap();
        assert_eq!(denied, ["SELECT salary FROM salaries"]);
    }

    #[track_caller]
    fn assert_direct(&self, finished: &Finished) {
        assert_eq!(finished.stdout, "1\n42\n", "{}", finished.both());
        assert!(self.agent.commands().unwrap().is_empty(), "it was recorded");
        assert!(self.postgres.was_sent("salaries"));
    }
}

#[test]
fn a_script_by_its_own_path() {
    let world = World::new("{exe: '{script}'}");
    let finished = world.run(&mut world.inside("nightly-report"));
    world.assert_controlled(&finished);
    // The connection is psql's; who started psql stands beside it.
    let events = world.agent.events().unwrap();
    let started = events.iter().find(|event| event["event"] == "flow_started").unwrap();
    let subject = started["subject"].to_string();
    assert!(subject.contains("nightly-report"), "the session does not name the script: {subject}");
    assert!(!subject.contains(PASSWORD));
}

#[test]
fn another_script_is_not_designated_by_its_like() {
    let world = World::new("{exe: '{script}'}");
    world.script("weekly-report");
    let finished = world.run(&mut world.inside("weekly-report"));
    world.assert_direct(&finished);
}

#[test]
fn a_program_by_its_path() {
    let postgres = interlock_tests::postgres::programs().unwrap();
    let world = World::new(&format!("{{exe: {}}}", postgres.join("psql").display()));
    let finished = world.run(&mut world.inside("nightly-report"));
    world.assert_controlled(&finished);
}

#[test]
fn a_user_by_name() {
    let world = World::new("{user: nobody}");
    let (uid, gid) = user("nobody").unwrap();
    let as_root = world.run(&mut world.inside("nightly-report"));
    world.assert_direct(&as_root);
    // The move into the cgroup needs root; it is done by the time that setpriv runs.
    let mut command = world.agent.cgroup().command("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
    let as_nobody = world.run(command.arg(world.path("nightly-report")));
    assert!(as_nobody.stderr.contains("Ask payroll."), "{}", as_nobody.both());
    assert_eq!(world.agent.texts("deny").unwrap().len(), 1);
}

#[test]
fn a_group_by_number() {
    let (_, gid) = user("nobody").unwrap();
    let world = World::new(&format!("{{group: {gid}}}"));
    let mut command = world.agent.cgroup().command("setpriv");
    let finished = world.run(
        command.args([format!("--regid={gid}"), "--clear-groups".into()]).arg(world.path("nightly-report")),
    );
    world.assert_controlled(&finished);
}

#[test]
fn a_systemd_unit_by_its_cgroup() {
    let world = World::new("{unit: gitlab-runner.service}");
    let unit = world.agent.cgroup().child("gitlab-runner.service").unwrap();
    let other = world.agent.cgroup().child("gitlab-runner-two.service").unwrap();
    let outside = world.run(&mut other.command(world.path("nightly-report")));
    world.assert_direct(&outside);
    let inside = world.run(&mut unit.command(world.path("nightly-report")));
    assert!(inside.stderr.contains("Ask payroll."), "{}", inside.both());
}

#[test]
fn a_slice_with_the_units_below_it() {
    let world = World::new("{slice: ci.slice}");
    let slice = world.agent.cgroup().child("ci.slice").unwrap();
    let unit = slice.child("job-17.service").unwrap();
    let finished = world.run(&mut unit.command(world.path("nightly-report")));
    world.assert_controlled(&finished);
}

#[test]
fn all_keys_of_an_entry_must_hold() {
    let world = World::new("{user: nobody, exe: '{script}'}");
    let finished = world.run(&mut world.inside("nightly-report"));
    world.assert_direct(&finished);
}

#[test]
fn interlock_run() {
    let world = World::new("{run: nightly}");
    let script = world.path("nightly-report");
    let script = script.to_str().unwrap();
    let finished = world.run(world.agent.command().args(["run", "--as", "nightly", "--", script]));
    world.assert_controlled(&finished);
}

#[test]
fn interlock_run_exits_as_its_command_does() {
    let world = World::new("{run: \"*\"}");
    let run = |words: &[&str]| world.run(world.agent.command().args(["run", "--as", "x", "--"]).args(words));
    assert_eq!(run(&["sh", "-c", "exit 37"]).status.code(), Some(37));
    assert_eq!(run(&["sh", "-c", "echo out; echo err >&2"]).both(), "out\nerr\n");
    assert_eq!(run(&["/no/such/program"]).status.code(), Some(127));
    assert_eq!(run(&["true"]).status.code(), Some(0));
}

#[test]
fn interlock_run_under_a_name_that_no_policy_knows_does_not_run() {
    let world = World::new("{run: nightly}");
    let marker = world.path("marker");
    let finished = world.run(world.agent.command().args([
        "run",
        "--as",
        "unknown",
        "--",
        "touch",
        marker.to_str().unwrap(),
    ]));
    let printed = finished.expect_failure();
    assert!(printed.contains("unknown"), "{printed}");
    assert!(!marker.exists(), "it ran all the same");
}

#[test]
fn descendants_stay_designated_when_their_parent_is_gone() {
    let world = World::new("{exe: '{script}'}");
    let worker = world.path("worker");
    fs::copy(world.path("nightly-report"), &worker).unwrap();
    // The designated script leaves a daemon behind: reparented, in a session of its own.
    let starter = format!(
        "#!/bin/bash\nsetsid bash -c 'while kill -0 {parent} 2>/dev/null; do sleep 0.01; done; exec {worker}' \
         >{out} 2>&1 </dev/null &\n",
        parent = "$PPID_OF_STARTER",
        worker = worker.display(),
        out = world.path("out").display()
    )
    .replace("$PPID_OF_STARTER", "'$$'");
    fs::write(world.path("nightly-report"), starter).unwrap();
    world.run(&mut world.inside("nightly-report")).expect_success();
    interlock_tests::wait_for("the daemon's output", LIMIT, || {
        fs::read_to_string(world.path("out")).is_ok_and(|text| text.contains("42"))
    })
    .unwrap();
    let printed = fs::read_to_string(world.path("out")).unwrap();
    assert!(printed.contains("Ask payroll."), "{printed}");
    assert!(!world.postgres.was_sent("salaries"));
}

#[test]
fn a_hard_link_or_an_interpreter_is_no_way_around() {
    let world = World::new("{exe: '{script}'}");
    // Called by its interpreter the script is not what is executed: that must be a descendant or a unit
    // rule's business. By a symbolic link it is the same file.
    let link = world.path("innocent");
    std::os::unix::fs::symlink(world.path("nightly-report"), &link).unwrap();
    let finished = world.run(&mut world.agent.cgroup().command(&link));
    assert!(finished.stderr.contains("Ask payroll."), "{}", finished.both());
}

#[test]
fn processes_outside_the_attached_cgroup_are_left_alone() {
    let world = World::new("{user: root}");
    let outside = Cgroup::new().unwrap();
    let finished = world.run(&mut outside.command(world.path("nightly-report")));
    world.assert_direct(&finished);
}

#[test]
fn the_client_sees_the_address_that_it_asked_for() {
    let world = World::new("{run: nightly}");
    for host in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        let script = format!(
            "import socket\ns = socket.create_connection(('{host}', {port}))\n\
             print(s.getpeername()[0], s.getpeername()[1])\n",
            port = world.postgres.port()
        );
        let mut command = world.agent.command();
        command.args(["run", "--as", "nightly", "--", "python3", "-c", &script]);
        let printed = world.run(&mut command).expect_success();
        assert_eq!(printed.trim(), format!("{host} {}", world.postgres.port()));
    }
}

#[test]
fn arg0_does_not_matter() {
    let postgres = interlock_tests::postgres::programs().unwrap();
    let world = World::new(&format!("{{exe: {}}}", postgres.join("psql").display()));
    let mut command = Command::new("/bin/bash");
    command.arg0("harmless").args([
        "-c",
        r#"echo 0 > "$1/cgroup.procs"; exec -a harmless "$0" "$2" -X -c 'SELECT salary FROM salaries'"#,
    ]);
    command.arg(postgres.join("psql")).arg(world.agent.cgroup().path()).arg(world.postgres.url());
    let finished = world.run(&mut command);
    assert!(finished.stderr.contains("Ask payroll."), "{}", finished.both());
}
