//! What the kernel keeps of a login session, and so of the person, in what is started from it: rows of the table in
//! docs/login.md.

use interlock_tests::process::LIMIT;
use interlock_tests::wait_for;

use super::{ALICE, Scene, name};

/// What a command starts in a place of its own, told by a file.
const SAY: &str = "PATH=$PATH INTERLOCK_CONFIG=$INTERLOCK_CONFIG";

#[test]
fn login_shells_of_another_user_keep_the_person() {
    let scene = Scene::new("", "default: allow");
    let mut shell = scene.session(ALICE);
    scene.sign_in(&mut shell, "alice");
    for (how, user) in [
        (format!("sudo -n -i env {SAY} interlock whoami"), "root"),
        (format!("sudo -n -i -u root env {SAY} interlock whoami"), "root"),
        (format!("su - -s /bin/bash games -c \"env {SAY} interlock whoami\""), "games"),
        (format!("su -l root -c \"env {SAY} interlock whoami\""), "root"),
        (format!("runuser -l root -c \"env {SAY} interlock whoami\""), "root"),
    ] {
        let (said, code) = shell.run(&how).unwrap();
        assert!(code == 0 && said.contains("alice (alice at okta)") && said.contains(user), "{how}: {said}");
    }
}

#[test]
fn namespaces_of_its_own_keep_the_person() {
    let scene = Scene::new("", "default: allow");
    let mut shell = scene.session(ALICE);
    scene.sign_in(&mut shell, "alice");
    // As containers without a daemon are: the kernel counts what descends from the session.
    for how in
        ["unshare --mount --uts --ipc", "unshare --pid --fork --mount-proc", "unshare --user --map-root-user"]
    {
        assert_eq!(name(&mut shell, how).as_deref(), Some("alice"), "{how}");
    }
}

#[test]
fn a_terminal_multiplexer_is_of_the_session_that_began_it() {
    let scene = Scene::new("", "default: allow");
    let (mut first, mut second) = (scene.session(ALICE), scene.session(ALICE));
    scene.sign_in(&mut first, "alice");
    let directory = interlock_tests::temporary_directory("tmux").unwrap();
    let at = directory.path().display();
    let window = |shell: &mut interlock_tests::people::Shell, what: &str, file: &str| {
        let (said, code) = shell
            .run(&format!(
                "tmux -S {at}/socket {what} 'interlock whoami > {at}/{file} 2>&1; mv {at}/{file} {at}/{file}.done; sleep 600'"
            ))
            .unwrap();
        assert_eq!(code, 0, "{what}: {said}");
        let done = directory.path().join(format!("{file}.done"));
        wait_for("what is said in the window", LIMIT, || done.exists()).unwrap();
        std::fs::read_to_string(done).unwrap()
    };
    let begun = window(&mut first, "new-session -d", "begun");
    assert!(begun.contains("alice (alice at okta)"), "{begun}");
    // From another login session, in which nobody has signed in.
    assert_eq!(name(&mut second, ""), None);
    let attached = window(&mut second, "new-window -d", "attached");
    assert!(attached.contains("alice (alice at okta)"), "the server is of the first session: {attached}");
    let own = directory.path().join("own");
    let (said, code) = second
        .run(&format!(
            "tmux -S {} new-session -d 'interlock whoami > {at}/own.said 2>&1; touch {at}/own.done'",
            own.display()
        ))
        .unwrap();
    assert_eq!(code, 0, "{said}");
    wait_for("what is said there", LIMIT, || directory.path().join("own.done").exists()).unwrap();
    let said = std::fs::read_to_string(directory.path().join("own.said")).unwrap();
    assert!(!said.contains("alice at okta"), "{said}");
    second.run(&format!("tmux -S {at}/socket kill-server")).unwrap();
}
