//! People sign in at a real identity provider, and stand behind what their login session does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

mod fresh;
mod kept;

use interlock_tests::people::{People, Shell};
use interlock_tests::process::LIMIT;
use interlock_tests::{Postgres, Stage, client, wait_for};
use serde_json::{Value, json};

/// Whose login sessions the tests begin: nobody needs to have these ids.
const ALICE: u32 = 4_242;
const BOB: u32 = 4_243;

/// Exit code of `whoami` when there is no verified identity.
const NOBODY: i32 = 3;

struct Scene {
    people: People,
    stage: Stage,
}

impl Scene {
    fn new(more: &str, rules: &str) -> Self {
        let people = People::start(&json!({"alice": ["dba", "staff"], "bob": ["staff"]})).unwrap();
        let stage =
            Stage::start_with(Postgres::start().unwrap(), rules, &people.configuration(more)).unwrap();
        Self { people, stage }
    }

    /// A shell among the designated processes.
    fn shell(&self) -> Shell {
        let mut command = self.stage.clients.command("/bin/bash");
        client::environment(&mut command, &self.stage.postgres);
        let agent = self.stage.agent.command();
        let directory = std::path::Path::new(agent.get_program()).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        command
            .env("PATH", format!("{}:{path}", directory.display()))
            .env("INTERLOCK_CONFIG", self.stage.agent.config());
        Shell::start(&mut command).unwrap()
    }

    /// One in a login session of its own.
    fn session(&self, uid: u32) -> Shell {
        let mut shell = self.shell();
        shell.log_in(uid).unwrap().expect("this kernel has no login sessions (CONFIG_AUDIT)");
        shell
    }

    /// Has somebody sign in with a device code; what the command said last.
    fn sign_in(&self, shell: &mut Shell, name: &str) -> Value {
        let begun = self.begin(shell, "--device");
        let url = begun["complete_url"].as_str().unwrap();
        let page = self.people.visit(url, name, false).unwrap();
        assert_eq!(page["title"], "Sign-in Success", "{page}");
        let (said, code) = shell.end().unwrap();
        assert_eq!(code, 0, "{said}");
        serde_json::from_str(&said).unwrap()
    }

    fn begin(&self, shell: &mut Shell, how: &str) -> Value {
        shell.begin(&format!("interlock login --json {how}")).unwrap();
        let line = shell.line().unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// The host's events of this kind.
    fn events(&self, kind: &str) -> Vec<Value> {
        self.stage.agent.events().unwrap().into_iter().filter(|event| event["event"] == kind).collect()
    }
}

/// `whoami --json`, and its exit code.
fn whoami(shell: &mut Shell, prefix: &str) -> (Value, i32) {
    let (said, code) = shell.run(&format!("{prefix} interlock whoami --json")).unwrap();
    (serde_json::from_str(&said).unwrap_or_else(|error| panic!("{said}: {error}")), code)
}

fn name(shell: &mut Shell, prefix: &str) -> Option<String> {
    let (who, code) = whoami(shell, prefix);
    let name = who["person"]["name"].as_str().map(str::to_owned);
    assert_eq!(code, if name.is_some() { 0 } else { NOBODY }, "{who}");
    name
}

#[test]
fn a_person_stands_behind_their_login_session_alone() {
    let scene = Scene::new("", "default: allow");
    let mut shell = scene.session(ALICE);
    let (who, code) = whoami(&mut shell, "");
    assert_eq!((code, &who["person"]), (NOBODY, &Value::Null));
    assert!(who["no_person"].as_str().unwrap().contains("run `interlock login` (at okta)"), "{who}");
    // An earlier session of the same user, and one to come.
    let mut earlier = scene.session(ALICE);
    let signed_in = scene.sign_in(&mut shell, "alice");
    assert_eq!(signed_in["person"]["groups"], json!(["dba", "staff"]));
    let mut later = scene.session(ALICE);
    let mut plain = scene.shell();

    let (who, code) = whoami(&mut shell, "");
    let person = &who["person"];
    assert_eq!((code, &person["name"], &who["login_uid"]), (0, &"alice".into(), &ALICE.into()), "{who}");
    assert!(person["place"].as_str().unwrap().starts_with("login session "), "{who}");
    assert!(person["checked"] == true && person["authenticated"].is_string(), "{who}");
    // Whatever is made of the user, the login session stays.
    for prefix in [
        "setpriv --reuid=5 --regid=60 --clear-groups",
        "setsid --wait",
        "nohup",
        "runuser -u games --",
        "env -i PATH=$PATH INTERLOCK_CONFIG=$INTERLOCK_CONFIG setsid --wait",
    ] {
        assert_eq!(name(&mut shell, prefix).as_deref(), Some("alice"), "{prefix}");
    }
    let (said, _) = shell.run("su -m -s /bin/bash games -c 'interlock whoami'").unwrap();
    assert!(said.contains("alice (alice at okta)") && said.contains("games"), "{said}");
    let (said, _) = shell
        .run("sudo -n -u games env PATH=$PATH INTERLOCK_CONFIG=$INTERLOCK_CONFIG interlock whoami")
        .unwrap();
    assert!(said.contains("alice (alice at okta)") && said.contains("games"), "{said}");
    // A double fork leaves nothing of it behind.
    let (said, _) = shell
        .run("(setsid bash -c 'sleep 0.2; interlock whoami > $HOME/out.$$; mv $HOME/out.$$ /tmp/interlock-login-orphan' &); \
              until [ -e /tmp/interlock-login-orphan ]; do sleep 0.1; done; cat /tmp/interlock-login-orphan; rm /tmp/interlock-login-orphan")
        .unwrap();
    assert!(said.contains("alice (alice at okta)"), "{said}");
    // Nobody else: other sessions of the same user, and processes of none, the same program or not.
    for other in [&mut earlier, &mut later, &mut plain] {
        assert_eq!(name(other, ""), None);
    }
    // Root can take on a login user of another's name, and never their session.
    assert_eq!(name(&mut plain, &format!("echo {ALICE} > /proc/self/loginuid;")), None);
    let (_, code) = plain.run(&format!("echo {} > /proc/self/sessionid", who["login_session"])).unwrap();
    assert_ne!(code, 0);
    // Whoever steers a process of the session from outside of it is not taken for the person.
    let status = scene.stage.agent.json(&["status", "--json"]).unwrap();
    assert_eq!(status[0]["people"]["signed_in"], 1);

    let (said, code) = shell.run("interlock logout").unwrap();
    assert_eq!((said.trim(), code), ("alice is signed out", 0));
    assert_eq!(name(&mut shell, ""), None);
    let (said, code) = shell.run("interlock logout").unwrap();
    assert_eq!((said.trim(), code), ("nobody is signed in here", 0));

    let [signed_in] = &scene.events("person_signed_in")[..] else { panic!() };
    assert_eq!((&signed_in["subject"], &signed_in["way"]), (&"alice".into(), &"device".into()));
    assert_eq!(
        (&signed_in["login_uid"], &signed_in["login_session"]),
        (&ALICE.into(), &who["login_session"])
    );
    let [signed_out] = &scene.events("person_signed_out")[..] else { panic!() };
    assert_eq!(signed_out["reason"], "logout");
    // No token is left anywhere: what begins every one of them, and the word for one.
    let events =
        scene.stage.agent.interlock(&["sessions", "export", "--format", "jsonl"]).unwrap().expect_success();
    for text in [events, scene.stage.agent.log()] {
        assert!(!text.contains("eyJ") && !text.contains("refresh_token"), "{text}");
    }
    let left: Vec<_> =
        std::fs::read_dir(scene.stage.agent.run()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(
        left.iter().all(|name| ["control.sock", "agent.lock", "authority.pem", "trust"]
            .iter()
            .any(|known| name.to_str() == Some(known))),
        "{left:?}"
    );
    let verified = scene.stage.agent.interlock(&["sessions", "verify"]).unwrap();
    assert!(verified.success(), "{}", verified.both());
}

#[test]
fn without_a_login_session_it_is_the_shells_process_tree() {
    let scene = Scene::new("", "default: allow");
    let (mut shell, mut other) = (scene.shell(), scene.shell());
    let signed_in = scene.sign_in(&mut shell, "alice");
    assert_eq!(signed_in["place"]["tree"]["pid"], shell.pid(), "{signed_in}");
    assert_eq!(name(&mut shell, "").as_deref(), Some("alice"));
    assert_eq!(name(&mut shell, "setpriv --reuid=5 --regid=60 --clear-groups").as_deref(), Some("alice"));
    assert_eq!(name(&mut other, ""), None);
    // A login user that the process gives itself changes nothing, and a sign-in of its own is of its own tree.
    assert_eq!(name(&mut other, &format!("echo {ALICE} > /proc/self/loginuid;")), None);
    // The tree ends with its root.
    drop(shell);
    wait_for("the end of the sign-in", LIMIT, || {
        scene.stage.agent.json(&["status", "--json"]).unwrap()[0]["people"]["signed_in"] == 0
    })
    .unwrap();
    let [ended] = &scene.events("person_signed_out")[..] else { panic!() };
    assert_eq!(ended["reason"], "session_ended");
}

#[test]
fn with_a_browser() {
    let scene = Scene::new("", "default: allow");
    let mut shell = scene.session(ALICE);
    let begun = scene.begin(&mut shell, "--browser");
    let url = begun["url"].as_str().unwrap();
    for part in ["code_challenge_method=S256", "nonce=", "state=", "redirect_uri=http%3A%2F%2F127.0.0.1%3A"] {
        assert!(url.contains(part), "{part}: {url}");
    }
    let page = scene.people.visit(url, "bob", false).unwrap();
    assert_eq!((&page["status"], &page["title"]), (&200.into(), &"Signed in as bob".into()), "{page}");
    let (said, code) = shell.end().unwrap();
    assert_eq!(code, 0, "{said}");
    assert_eq!(name(&mut shell, "").as_deref(), Some("bob"));
    let events = scene.events("person_signed_in");
    assert_eq!(events[0]["way"], "browser");
}

#[test]
fn who_does_not_prove_it_is_not_signed_in() {
    let scene = Scene::new("", "default: allow");
    let mut shell = scene.session(ALICE);
    let refused = |shell: &mut Shell, why: &str| {
        let (said, code) = shell.end().unwrap();
        assert!(code == 1 && said.contains(why), "{why}: {said}");
        assert_eq!(name(shell, ""), None);
    };
    // Denied, by either way.
    let begun = scene.begin(&mut shell, "--device");
    scene.people.visit(begun["complete_url"].as_str().unwrap(), "alice", true).unwrap();
    refused(&mut shell, "was denied at okta");
    let begun = scene.begin(&mut shell, "--browser");
    scene.people.visit(begun["url"].as_str().unwrap(), "alice", true).unwrap();
    refused(&mut shell, "was denied at okta");
    // Of another sign-in, another client, about another token, an old one, for others, by another.
    for (claims, way, why) in [
        (json!({"nonce": "another"}), "--browser", "of another sign-in (nonce)"),
        (json!({"nonce": null}), "--browser", "of another sign-in (nonce)"),
        (json!({"azp": "another"}), "--device", "azp"),
        (json!({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}), "--device", "at_hash"),
        (json!({"iat": 1_600_000_000}), "--device", "not made just now"),
        (json!({"aud": "another"}), "--device", "aud"),
        (json!({"iss": "https://another.example"}), "--device", "made by"),
        (json!({"exp": 1_600_000_000}), "--device", "expired"),
    ] {
        scene.people.steer(&json!({"claims": claims})).unwrap();
        let begun = scene.begin(&mut shell, way);
        let url = begun["complete_url"].as_str().unwrap_or_else(|| begun["url"].as_str().unwrap());
        scene.people.visit(url, "alice", false).unwrap();
        refused(&mut shell, why);
    }
    // Nobody comes.
    scene.people.steer(&json!({"claims": null, "code_seconds": 2})).unwrap();
    scene.begin(&mut shell, "--device");
    refused(&mut shell, "nobody signed in at okta in time");
    let (said, code) = shell.run("interlock login --issuer elsewhere --device").unwrap();
    assert!(code == 1 && said.contains("but at okta"), "{said}");
    assert_eq!(scene.events("person_refused").len(), 11);
    assert!(scene.events("person_signed_in").is_empty());
}

#[test]
fn groups_change_and_sign_ins_are_revoked() {
    let scene = Scene::new(", recheck_seconds: 1", "default: allow");
    let (mut first, mut second) = (scene.session(ALICE), scene.session(BOB));
    scene.sign_in(&mut first, "alice");
    scene.sign_in(&mut second, "bob");
    scene.people.steer(&json!({"groups": {"alice": ["staff"]}})).unwrap();
    let groups = |shell: &mut Shell| whoami(shell, "").0["person"]["groups"].clone();
    wait_for("other groups", LIMIT, || groups(&mut first) == json!(["staff"])).unwrap();
    let [changed] = &scene.events("person_groups_changed")[..] else { panic!() };
    assert_eq!(
        (&changed["groups"], &changed["groups_before"]),
        (&json!(["staff"]), &json!(["dba", "staff"]))
    );
    scene.people.steer(&json!({"gone": ["alice"]})).unwrap();
    wait_for("the end", LIMIT, || whoami(&mut first, "").1 == NOBODY).unwrap();
    assert_eq!(name(&mut second, "").as_deref(), Some("bob"));
    let [ended] = &scene.events("person_signed_out")[..] else { panic!() };
    assert_eq!((&ended["reason"], &ended["subject"]), (&"revoked".into(), &"alice".into()));
}

#[test]
fn another_person_replaces_the_first_and_a_restart_ends_all() {
    let mut scene = Scene::new("", "default: allow");
    let mut shell = scene.session(ALICE);
    scene.sign_in(&mut shell, "alice");
    let signed_in = scene.sign_in(&mut shell, "bob");
    assert_eq!(signed_in["replaced"], "alice");
    assert_eq!(name(&mut shell, "").as_deref(), Some("bob"));
    let [ended] = &scene.events("person_signed_out")[..] else { panic!() };
    assert_eq!((&ended["reason"], &ended["subject"]), (&"replaced".into(), &"alice".into()));
    scene.stage.agent.kill();
    scene.stage.agent.launch().unwrap();
    assert_eq!(name(&mut shell, ""), None);
    scene.sign_in(&mut shell, "alice");
    assert_eq!(name(&mut shell, "").as_deref(), Some("alice"));
}

#[test]
fn a_code_is_of_use_to_whoever_is_meant_alone() {
    let scene = Scene::new(", user_claim: preferred_username", "default: allow");
    // Somebody is made to sign in for another's session.
    let mut shell = scene.session(5);
    let begun = scene.begin(&mut shell, "--device");
    assert!(begun["who"].as_str().unwrap().contains("logged in as games"), "{begun}");
    scene.people.visit(begun["complete_url"].as_str().unwrap(), "alice", false).unwrap();
    let (said, code) = shell.end().unwrap();
    assert!(code == 1 && said.contains("who logged in on this host is \"games\""), "{said}");
    let [refused] = &scene.events("person_refused")[..] else { panic!() };
    assert_eq!((&refused["subject"], &refused["login_uid"]), (&"alice".into(), &5.into()));
    scene.sign_in(&mut shell, "games");
    assert_eq!(name(&mut shell, "").as_deref(), Some("games"));
    // A sign-in under way is of the process that began it: another cannot ask for it.
    let ask = |id: &str| {
        let script = "import json, socket, sys\n\
            s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n\
            s.sendall(json.dumps({'request': 'sign_in_wait', 'id': sys.argv[2]}).encode() + b'\\n')\n\
            print(s.makefile().read())";
        let socket = scene.stage.agent.run().join("control.sock");
        let output =
            std::process::Command::new("python3").args(["-c", script]).arg(socket).arg(id).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(ask("0123456789abcdef").contains("no such sign-in under way"));
}

/// psql that is told one command after the other, in one connection.
struct Psql {
    directory: tempfile::TempDir,
}

impl Psql {
    /// Started by `shell`, with `prefix` before it.
    fn start(shell: &mut Shell, prefix: &str) -> Self {
        let directory = interlock_tests::temporary_directory("psql").unwrap();
        let at = directory.path().display();
        let (said, code) = shell
            .run(&format!(
                "mkfifo {at}/in && touch {at}/out && chmod 666 {at}/*; \
                 {prefix} psql -X -A -t -q -v VERBOSITY=verbose \"$PGURL\" < {at}/in > {at}/out 2>&1 & exec {{keep}}> {at}/in"
            ))
            .unwrap();
        assert_eq!(code, 0, "{said}");
        Self { directory }
    }

    /// Runs SQL; what it said about it.
    fn ask(&self, sql: &str) -> String {
        let out = self.directory.path().join("out");
        let before = std::fs::read_to_string(&out).unwrap().len();
        let mark = format!("mark {before}");
        std::fs::write(self.directory.path().join("in"), format!("{sql}\n\\echo {mark}\n")).unwrap();
        let mut said = String::new();
        wait_for("psql's answer", LIMIT, || {
            said = std::fs::read_to_string(&out).unwrap()[before..].to_owned();
            said.contains(&mark)
        })
        .unwrap_or_else(|error| panic!("{error}: {said}"));
        said
    }
}

const RULES: &str = "rules:
  - {name: people, match: {sql: {}}, action: allow, require_identity: person}
  - {name: dba-alone-writes, match: {sql: {kind: insert}, not_identity: {groups: dba}}, action: deny, message: Only a dba writes.}
";

#[test]
fn a_connection_has_the_person_as_they_come_and_go() {
    let scene = Scene::new(", recheck_seconds: 1", RULES);
    scene.stage.postgres.admin("CREATE TABLE t (v text)").unwrap();
    let mut shell = scene.session(ALICE);
    let psql = Psql::start(&mut shell, "");
    // Whatever is made of the user.
    let sudoed = Psql::start(&mut shell, "sudo -n --preserve-env=PGURL -u games");
    let mut other = scene.session(ALICE);
    let others = Psql::start(&mut other, "");
    let select = "SELECT 'passes';";
    for psql in [&psql, &sudoed, &others] {
        let said = psql.ask(select);
        assert!(said.contains("42501") && said.contains("run `interlock login`"), "{said}");
    }
    scene.sign_in(&mut shell, "alice");
    for psql in [&psql, &sudoed] {
        let said = psql.ask("SELECT 'passes'; INSERT INTO t VALUES ('x');");
        assert!(said.contains("passes") && !said.contains("ERROR"), "{said}");
    }
    let said = others.ask(select);
    assert!(said.contains("42501"), "{said}");
    // One that begins now has the person too.
    let (said, _) = shell.run("psql -X -A -t \"$PGURL\" -c 'SELECT 41 + 1'").unwrap();
    assert!(said.contains("42"), "{said}");
    // Out of the group: from the next command on.
    scene.people.steer(&json!({"groups": {"alice": ["staff"]}})).unwrap();
    wait_for("other groups", LIMIT, || psql.ask("INSERT INTO t VALUES ('y');").contains("Only a dba writes"))
        .unwrap();
    assert!(psql.ask(select).contains("passes"));
    let (said, code) = shell.run("interlock logout").unwrap();
    assert_eq!(code, 0, "{said}");
    for psql in [&psql, &sudoed] {
        let said = psql.ask(select);
        assert!(said.contains("42501") && said.contains("run `interlock login`"), "{said}");
    }
    scene.sign_in(&mut shell, "bob");
    assert!(psql.ask(select).contains("passes"));
    let said = psql.ask("INSERT INTO t VALUES ('z');");
    assert!(said.contains("Only a dba writes"), "{said}");
    drop((psql, sudoed, others));
    let names: Vec<_> = scene
        .events("identity_changed")
        .iter()
        .map(|event| event["person"]["name"].as_str().unwrap_or("nobody").to_owned())
        .collect();
    for name in ["alice", "bob", "nobody"] {
        assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
    }
}

#[test]
fn a_mask_for_all_but_some_follows_who_has_signed_in() {
    let rules = "masks:\n  \
        - {name: for-all-but-dba, columns: [public.t.v], with: redact, not_identity: {kind: person, groups: dba}}\n";
    let scene = Scene::new(", recheck_seconds: 1", rules);
    scene
        .stage
        .postgres
        .admin("CREATE TABLE t (v text); INSERT INTO t VALUES ('plain'); GRANT SELECT ON t TO PUBLIC")
        .unwrap();
    let mut shell = scene.session(ALICE);
    let psql = Psql::start(&mut shell, "");
    let seen = || psql.ask("SELECT v FROM t;").contains("plain");
    assert!(!seen(), "nobody has signed in");
    scene.sign_in(&mut shell, "bob");
    assert!(!seen(), "bob is no dba");
    scene.sign_in(&mut shell, "alice");
    // The server's catalog is asked for anew.
    wait_for("the value", LIMIT, seen).unwrap();
    scene.people.steer(&json!({"groups": {"alice": ["staff"]}})).unwrap();
    wait_for("the mask", LIMIT, || !seen()).unwrap();
    scene.people.steer(&json!({"groups": {"alice": ["dba"]}})).unwrap();
    wait_for("the value", LIMIT, seen).unwrap();
    shell.run("interlock logout").unwrap();
    assert!(!seen(), "alice has signed out");
}

#[test]
fn a_person_does_not_approve_what_they_asked_for_as_another_user() {
    let scene = Scene::new(
        ", approver_groups: true",
        "rules:\n  - name: writes\n    match: {sql: {kind: insert}}\n    action: hold\n    approval: {groups: [\"okta:dba\"], fresh: 10m}\n",
    );
    scene.stage.postgres.admin("CREATE TABLE t (v text)").unwrap();
    let (mut asks, mut same, mut other) = (scene.session(ALICE), scene.session(5), scene.session(BOB));
    scene.people.steer(&json!({"groups": {"bob": ["dba"]}})).unwrap();
    scene.sign_in(&mut asks, "alice");
    let psql = Psql::start(&mut asks, "");
    let waiting = || scene.stage.agent.json(&["approvals", "list", "--json"]).unwrap();
    let approve = |shell: &mut Shell, uid: u32, id: &str| {
        // Each as a user of their own: two of one user are one person anyway.
        shell
            .run(&format!(
                "setpriv --reuid={uid} --regid={uid} --init-groups interlock approvals approve {id}"
            ))
            .unwrap()
    };
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| psql.ask("INSERT INTO t VALUES ('x');"));
        let mut id = String::new();
        wait_for("the request", LIMIT, || {
            id = waiting().first().and_then(|one| one["id"].as_str()).unwrap_or_default().to_owned();
            !id.is_empty()
        })
        .unwrap();
        // Not before they have signed in: the group is the provider's.
        let (said, code) = approve(&mut other, 1, &id);
        assert!(code == 1 && said.contains("there is no request"), "{said}");
        scene.sign_in(&mut same, "alice");
        let (said, code) = approve(&mut same, 5, &id);
        assert!(code == 1 && said.contains("the same verified person"), "{said}");
        scene.sign_in(&mut other, "bob");
        let (said, code) = approve(&mut other, 1, &id);
        assert!(code == 0 && said.contains("is approved"), "{said}");
        assert!(!asked.join().unwrap().contains("ERROR"));
    });
    let [voted] = &scene.events("approval_voted")[..] else { panic!() };
    assert_eq!((&voted["by"]["person"]["subject"], &voted["by"]["uid"]), (&"bob".into(), &1.into()));
    assert!(voted["by"]["groups"].as_array().unwrap().contains(&"okta:dba".into()), "{voted}");
}

#[test]
fn who_steers_a_process_of_the_session_from_outside_is_not_the_person() {
    let scene = Scene::new("", RULES);
    let mut shell = scene.session(ALICE);
    scene.sign_in(&mut shell, "alice");
    // A process of the session that connects when it is told to.
    let directory = interlock_tests::temporary_directory("traced").unwrap();
    let at = directory.path().display();
    let (said, _) = shell
        .run(&format!(
            "bash -c 'until [ -e {at}/go ]; do sleep 0.05; done; interlock whoami > {at}/said 2>&1; touch {at}/done' \
             > /dev/null 2>&1 & echo $!"
        ))
        .unwrap();
    // Of the same user, in another session.
    let tracer = "import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
pid, at = int(sys.argv[1]), sys.argv[2]
# PTRACE_SEIZE, and along with all that it starts.
if libc.ptrace(0x4206, pid, None, 0x6 | 0x8) != 0: print('not traced'); sys.exit()
open(at + '/go', 'w').close()
while not os.path.exists(at + '/done'):
    got, status = os.waitpid(-1, 0x40000000 | 1)
    if got and os.WIFSTOPPED(status):
        signal = os.WSTOPSIG(status)
        libc.ptrace(7, got, None, 0 if signal == 5 or status >> 16 else signal)
    time.sleep(0.001)
print('traced')";
    let mut other = scene.session(ALICE);
    let (traced, _) = other.run(&format!("python3 -c \"{tracer}\" {} {at}", said.trim())).unwrap();
    assert_eq!(traced.trim(), "traced", "this host lets nobody trace");
    let seen = std::fs::read_to_string(directory.path().join("said")).unwrap();
    assert!(seen.contains("nobody has signed in") && !seen.contains("alice at okta"), "{seen}");
    assert_eq!(name(&mut shell, "").as_deref(), Some("alice"));
}

#[test]
fn who_begins_to_steer_a_running_command_from_outside_takes_the_person_from_it() {
    let scene = Scene::new("", "require_identity: person");
    let mut shell = scene.session(ALICE);
    scene.sign_in(&mut shell, "alice");
    let directory = interlock_tests::temporary_directory("steered").unwrap();
    let at = directory.path().display();
    shell
        .begin("while true; do echo \"SELECT 'tick';\"; sleep 0.1; done | psql -At -v ON_ERROR_STOP=1")
        .unwrap();
    wait_for("a flow", LIMIT, || !scene.events("flow_started").is_empty()).unwrap();
    let pid = scene.events("flow_started")[0]["subject"]["pid"].as_u64().unwrap();
    // PTRACE_SEIZE, until the test is over.
    let tracer = "import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(0x4206, int(sys.argv[1]), None, 0), flush=True)
while not os.path.exists(sys.argv[2] + '/over'):
    time.sleep(0.01)";
    let mut other = scene.session(ALICE);
    other.begin(&format!("python3 -c \"{tracer}\" {pid} {at}")).unwrap();
    assert_eq!(other.line().unwrap(), "0", "this host lets nobody trace");
    wait_for("the change", LIMIT, || !scene.events("identity_changed").is_empty()).unwrap();
    // What is traced ends only when its tracer has gone.
    std::fs::write(directory.path().join("over"), "").unwrap();
    other.end().unwrap();
    let (said, _) = shell.end().unwrap();
    assert!(said.contains("tick") && said.contains("traces it (ptrace)"), "{said}");
    let changed = scene.events("identity_changed");
    assert_eq!((changed.len(), &changed[0]["person"]), (1, &Value::Null), "{changed:?}");
    // The session is still theirs.
    assert_eq!(name(&mut shell, "").as_deref(), Some("alice"));
}
