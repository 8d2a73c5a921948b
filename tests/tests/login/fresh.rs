//! `interlock login --fresh`: who is signed in shows anew who they are, and nothing older is taken for that.

use interlock_tests::people::Shell;
use interlock_tests::process::LIMIT;
use interlock_tests::wait_for;
use serde_json::{Value, json};

use super::{ALICE, BOB, Psql, Scene, name, whoami};

/// When whoever stands behind the shell has shown who they are.
fn authenticated(shell: &mut Shell) -> String {
    whoami(shell, "").0["person"]["authenticated"].as_str().unwrap_or_default().to_owned()
}

/// Until what was done before is older than the clocks may be apart.
fn later(than: std::time::Instant) {
    wait_for("time to pass", LIMIT, || than.elapsed() > std::time::Duration::from_secs(4)).unwrap();
}

/// An address without what asks the provider to ask anew.
fn stripped(url: &str) -> String {
    let kept = |pair: &&str| !pair.starts_with("prompt=") && !pair.starts_with("max_age=");
    let (place, query) = url.split_once('?').unwrap();
    let stripped = format!("{place}?{}", query.split('&').filter(kept).collect::<Vec<_>>().join("&"));
    assert_ne!(stripped, url);
    stripped
}

#[test]
fn whoever_is_signed_in_is_asked_anew() {
    let scene = Scene::new(", clock_skew_seconds: 1", "default: allow");
    let mut shell = scene.session(ALICE);
    let directory = interlock_tests::temporary_directory("jar").unwrap();
    let jar = directory.path().join("cookies");
    let visit = |begun: &Value, url: &dyn Fn(&str) -> String| {
        let address = begun["complete_url"].as_str().or(begun["url"].as_str()).unwrap();
        scene.people.visit_again(&jar, &url(address), "alice").unwrap()
    };
    let as_it_is = |url: &str| url.to_owned();
    let begun = scene.begin(&mut shell, "--browser");
    assert_eq!(visit(&begun, &as_it_is)["asked"], true);
    assert_eq!(shell.end().unwrap().1, 0);
    let first = authenticated(&mut shell);
    later(std::time::Instant::now());

    // They are still signed in at the provider: it asks nothing, and says since when.
    let begun = scene.begin(&mut shell, "--browser");
    assert_eq!(visit(&begun, &as_it_is)["asked"], false);
    assert_eq!(shell.end().unwrap().1, 0);
    assert_eq!(authenticated(&mut shell), first);
    // What would have it ask is left out on the way: it counts for nothing, and who was signed in stays so.
    let begun = scene.begin(&mut shell, "--browser --fresh");
    let url = begun["url"].as_str().unwrap();
    assert!(url.contains("prompt=login") && url.contains("max_age=0"), "{url}");
    let page = visit(&begun, &stripped);
    assert_eq!((&page["asked"], &page["status"]), (&false.into(), &403.into()), "{page}");
    let (said, code) = shell.end().unwrap();
    assert!(code == 1 && said.contains("has not asked you anew"), "{said}");
    assert_eq!(authenticated(&mut shell), first);
    // As it is meant.
    let begun = scene.begin(&mut shell, "--browser --fresh");
    assert_eq!(visit(&begun, &as_it_is)["asked"], true);
    let (said, code) = shell.end().unwrap();
    assert_eq!(code, 0, "{said}");
    let second = authenticated(&mut shell);
    assert!(second > first, "{first} {second}");
    later(std::time::Instant::now());
    // With a code this provider asks whoever is not signed in there, and nobody else.
    let begun = scene.begin(&mut shell, "--device --fresh");
    assert_eq!(visit(&begun, &as_it_is)["asked"], false);
    let (said, code) = shell.end().unwrap();
    assert!(code == 1 && said.contains("has not asked you anew"), "{said}");
    assert_eq!(authenticated(&mut shell), second);
    let begun = scene.begin(&mut shell, "--device --fresh");
    scene.people.visit(begun["complete_url"].as_str().unwrap(), "alice", false).unwrap();
    assert_eq!(shell.end().unwrap().1, 0);
    assert!(authenticated(&mut shell) > second);
    let refused = scene.events("person_refused");
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert_eq!(scene.events("person_signed_in").len(), 4);
}

#[test]
fn a_provider_that_does_not_ask_makes_for_no_fresh_sign_in() {
    let scene = Scene::new("", "default: allow");
    let mut shell = scene.session(ALICE);
    scene.sign_in(&mut shell, "bob");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for (said, why) in [
        (json!({"auth_time": now - 7200}), "has not asked you anew"),
        (json!({"auth_time": null}), "does not say when you have shown who you are"),
        (json!({"auth_time": "now"}), ""),
    ] {
        scene.people.steer(&json!({"claims": said})).unwrap();
        for way in ["--device --fresh", "--browser --fresh"] {
            let begun = scene.begin(&mut shell, way);
            let url = begun["complete_url"].as_str().or(begun["url"].as_str()).unwrap();
            scene.people.visit(url, "alice", false).unwrap();
            let (told, code) = shell.end().unwrap();
            assert!(code == 1 && told.contains(why), "{said} {way}: {told}");
            assert_eq!(name(&mut shell, "").as_deref(), Some("bob"), "{said} {way}");
        }
    }
    assert!(scene.events("person_signed_out").is_empty());
}

#[test]
fn a_rule_that_asks_for_a_fresh_sign_in_is_met_on_the_host() {
    let scene = Scene::new(
        ", approver_groups: true",
        "rules:\n  - name: writes\n    match: {sql: {kind: insert}}\n    action: hold\n    \
         approval: {groups: [\"okta:dba\"], fresh: 10m}\n",
    );
    scene.stage.postgres.admin("CREATE TABLE t (v text)").unwrap();
    let (mut asks, mut approves) = (scene.session(ALICE), scene.session(BOB));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    scene.people.steer(&json!({"groups": {"bob": ["dba"]}, "claims": {"auth_time": now - 3600}})).unwrap();
    scene.sign_in(&mut approves, "bob");
    scene.people.steer(&json!({"claims": null})).unwrap();
    let psql = Psql::start(&mut asks, "");
    let approve = |shell: &mut Shell, id: &str| {
        shell
            .run(&format!("setpriv --reuid=1 --regid=1 --init-groups interlock approvals approve {id}"))
            .unwrap()
    };
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| psql.ask("INSERT INTO t VALUES ('x');"));
        let mut id = String::new();
        wait_for("the request", LIMIT, || {
            let waiting = scene.stage.agent.json(&["approvals", "list", "--json"]).unwrap();
            id = waiting.first().and_then(|one| one["id"].as_str()).unwrap_or_default().to_owned();
            !id.is_empty()
        })
        .unwrap();
        let (said, code) = approve(&mut approves, &id);
        assert!(code == 1 && said.contains("interlock login --fresh"), "{said}");
        let begun = scene.begin(&mut approves, "--device --fresh");
        scene.people.visit(begun["complete_url"].as_str().unwrap(), "bob", false).unwrap();
        assert_eq!(approves.end().unwrap().1, 0);
        let (said, code) = approve(&mut approves, &id);
        assert!(code == 0 && said.contains("is approved"), "{said}");
        assert!(!asked.join().unwrap().contains("ERROR"));
    });
}
