//! By whom a held command is decided, and by whom not.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use interlock_tests::client;
use interlock_tests::process::{LIMIT, finish};
use serde_json::Value;

use super::{DAEMON, GAMES, by, during, of_kind, one, rows, stage};

#[test]
fn by_whom_and_by_whom_not() {
    let stage = stage(
        "rules:\n  - name: two\n    match: {sql: {kind: delete}}\n    action: hold\n    approval: {groups: [games, daemon, root], needed: 2}\n",
    );
    // A session that root has logged in, as sshd does; `sudo` keeps its login user.
    let script = "echo 4242 > /proc/self/loginuid; exec psql -X -q \"$PGURL\" -c 'DELETE FROM t' 2>&1";
    let run = || {
        let mut command = stage.clients.command("/bin/bash");
        client::environment(&mut command, &stage.postgres);
        command.env("PGURL", stage.postgres.url());
        finish(command.args(["-c", script]), "", LIMIT)
    };
    let sudo = |login: &str, user: &str, arguments: &str| {
        let interlock = format!("{:?}", stage.agent.command()).replace('"', "'");
        let script = format!(
            "echo {login} > /proc/self/loginuid; exec setpriv --reuid={user} --regid={user} --init-groups {interlock} approvals {arguments}"
        );
        finish(Command::new("/bin/bash").args(["-c", &script]), "", LIMIT).unwrap()
    };
    let (finished, ()) = during(run, || {
        let id = one(&stage);
        // Root asks: root does not approve, though its group may.
        let own = stage.agent.interlock(&["approvals", "approve", &id]).unwrap().expect_failure();
        assert!(own.contains("the same user"), "{own}");
        let logins = stage.agent.json(&["approvals", "show", &id, "--json"]).unwrap();
        if logins[0]["subject"]["login_uid"] == 4242 {
            let sudoed = sudo("4242", "games", &format!("approve {id}")).expect_failure();
            assert!(sudoed.contains("the same login user"), "{sudoed}");
            let none = by(&stage, GAMES, &["approve", &id]).expect_failure();
            assert!(none.contains("no loginuid"), "{none}");
        }
        // In none of the groups: it does not even learn that there is one.
        let other = by(&stage, (2, 2), &["approve", &id]).expect_failure();
        assert!(other.contains("there is no request"), "{other}");
        assert!(by(&stage, (2, 2), &["list"]).expect_success().contains("nothing waits"));
        let glass = stage.agent.interlock(&["approvals", "break-glass", &id, "--reason", "x"]).unwrap();
        assert!(glass.expect_failure().contains("does not allow to break the glass"));
        assert!(by(&stage, GAMES, &["approve", "zzzzzzzz"]).expect_failure().contains("there is no request"));

        let first = sudo("5", "games", &format!("approve {id}")).expect_success();
        assert!(first.contains("1 more needed"), "{first}");
        let twice = sudo("5", "games", &format!("approve {id}")).expect_failure();
        assert!(twice.contains("already; 1 more"), "{twice}");
        assert_eq!(rows(&stage), "100");
        let second = sudo("1", "daemon", &format!("approve {id}")).expect_success();
        assert!(second.contains("is approved"), "{second}");
    });
    assert!(finished.success(), "{}", finished.both());
    assert_eq!(rows(&stage), "0");
    // The other commands of the socket are root's.
    let status = {
        let mut command = stage.agent.command();
        command.arg("status").uid(GAMES.0).gid(GAMES.1);
        finish(&mut command, "", LIMIT).unwrap()
    };
    assert!(status.expect_failure().contains("needs root"));
}

#[test]
fn glass_is_broken_by_who_asks() {
    let stage = stage(
        "rules:\n  - name: writes\n    match: {sql: {kind: delete}}\n    action: hold\n    \
         approval: {groups: games, break_glass: true}\n",
    );
    let (finished, ()) = during(
        || stage.psql("DELETE FROM t;\n"),
        || {
            let id = one(&stage);
            let other = by(&stage, GAMES, &["break-glass", &id, "--reason", "x"]).expect_failure();
            assert!(other.contains("only who asks"), "{other}");
            let own = &["approvals", "break-glass", &id, "--reason", "the shop is down"];
            stage.agent.interlock(own).unwrap().expect_success();
        },
    );
    assert!(
        finished.stderr.contains("break-glass") && !finished.stderr.contains("ERROR"),
        "{}",
        finished.both()
    );
    assert_eq!(rows(&stage), "0");
    let [decided] = &of_kind(&stage, "approval_decided")[..] else { panic!() };
    assert_eq!((&decided["outcome"], &decided["needs_review"]), (&"broken_glass".into(), &true.into()));
    assert_eq!(decided["reason"], "the shop is down");
    assert!(stage.agent.log().contains("glass was broken"));
}

#[test]
fn a_login_that_a_process_claims_keeps_whoever_has_it_from_deciding() {
    let stage = stage(
        "rules:\n  - name: deletes\n    match: {sql: {kind: delete}}\n    action: hold\n    \
         approval: {groups: [games, daemon]}\n",
    );
    // As a shell from before the agent's first start: of somebody's login session, which root was not seen to begin.
    let script = "echo 5 > /proc/self/loginuid; exec psql -X -q \"$PGURL\" -c 'DELETE FROM t' 2>&1";
    let run = || {
        let mut command = stage.clients.command("setpriv");
        client::environment(&mut command, &stage.postgres);
        command.env("PGURL", stage.postgres.url());
        finish(command.args(["--reuid=65534", "--clear-groups", "/bin/bash", "-c", script]), "", LIMIT)
    };
    let logged_in = |login: &str, user: &str, arguments: &str| {
        let interlock = format!("{:?}", stage.agent.command()).replace('"', "'");
        let script = format!(
            "echo {login} > /proc/self/loginuid; exec setpriv --reuid={user} --regid={user} --init-groups {interlock} approvals {arguments}"
        );
        finish(Command::new("/bin/bash").args(["-c", &script]), "", LIMIT).unwrap()
    };
    let (finished, ()) = during(run, || {
        let id = one(&stage);
        let shown = stage.agent.json(&["approvals", "show", &id, "--json"]).unwrap();
        let subject = &shown[0]["subject"];
        assert_eq!((&subject["login_uid"], &subject["login_user"]), (&Value::Null, &"".into()), "{subject}");
        let claimed = &subject["login_claimed"];
        assert_eq!((&claimed["uid"], &claimed["user"]), (&5.into(), &"games".into()), "{subject}");
        let shown = stage.agent.interlock(&["approvals", "show", &id]).unwrap().expect_success();
        assert!(shown.contains("games (uid 5): root was not seen to set it"), "{shown}");
        // Whoever that login is, as themselves and as another user.
        for user in ["games", "daemon"] {
            let own = logged_in("5", user, &format!("approve {id}")).expect_failure();
            assert!(own.contains("the same login user"), "{own}");
            let own = logged_in("5", user, &format!("deny {id} --reason no")).expect_failure();
            assert!(own.contains("the same login user"), "{own}");
        }
        // Whoever has no login may be them.
        let none = by(&stage, DAEMON, &["approve", &id]).expect_failure();
        assert!(none.contains("no loginuid"), "{none}");
        // The claim is of no use to who makes it: it breaks no glass, and shows nobody what waits.
        let other = by(&stage, (5, 2), &["break-glass", &id, "--reason", "x"]).expect_failure();
        assert!(other.contains("break the glass") || other.contains("there is no request"), "{other}");
        logged_in("1", "daemon", &format!("approve {id}")).expect_success();
    });
    assert!(finished.success(), "{}", finished.both());
    assert_eq!(rows(&stage), "0");
    let started = of_kind(&stage, "flow_started");
    let claims: Vec<_> =
        started.iter().map(|event| event["subject"]["login_claimed"]["uid"].clone()).collect();
    assert!(claims.contains(&5.into()), "{started:?}");
    let [asked] = &of_kind(&stage, "approval_requested")[..] else { panic!() };
    let session = asked["session"].as_str().unwrap();
    let told = stage.agent.interlock(&["sessions", "show", session]).unwrap().expect_success();
    assert!(told.contains("claims games (uid 5): root was not seen to set it"), "{told}");
}
