//! Everything that is asked of the database and done in it goes the same way on both.

use std::time::Duration;

use interlock_collector::config::Config;
use interlock_collector::serve;
use interlock_collector::store::{
    AuditFilter, CommandFilter, HealthReport, JournalKind, NewApiToken, NewHold, NewSignIn, Progress,
    SessionFilter, Store, now_ns,
};

use crate::{kept, search};

/// Does all there is to do; gives what came of it, but for times.
#[expect(clippy::too_many_lines, reason = "one thing after another")]
async fn doings(store: &Store) -> Vec<String> {
    let mut said = Vec::new();
    // By what is asked: what it gives.
    macro_rules! say {
        ($what:expr) => {{
            let got = $what.await.expect(stringify!($what));
            said.push(format!("{}: {got:?}", stringify!($what)));
        }};
    }
    let later = now_ns() + 3_600_000_000_000;
    let host = store.agents().await.expect("agents").pop().expect("an agent").host;
    let host = host.as_str();

    // Outputs first, so that the journal has everything.
    let mut write = store.write().await.expect("writes");
    say!(write.add_output("siem"));
    say!(write.add_output("siem"));
    write.commit().await.expect("committed");
    say!(store.lease("output siem", "one", Duration::from_secs(60)));
    say!(store.lease("output siem", "two", Duration::from_secs(60)));

    let mut write = store.write().await.expect("writes");
    say!(write.add_user("anna", "hash", "admin", "set-up"));
    say!(write.add_user("anna", "hash", "admin", "set-up"));
    say!(write.add_user("bert", "hash", "viewer", "anna"));
    say!(write.set_password("bert", "other"));
    say!(write.set_user("bert", "auditor", false));
    say!(write.set_user("nobody", "auditor", false));
    say!(write.active_admins());
    say!(write.propose_totp("anna", "aa"));
    say!(write.confirm_totp("anna", "bb", 1));
    say!(write.confirm_totp("anna", "aa", 1));
    say!(write.use_totp_step("anna", 1));
    say!(write.use_totp_step("anna", 2));
    say!(write.remove_totp("anna"));
    say!(write.set_setup("cc", later));
    say!(write.audit("anna", "user.add", "bert", "with a \0 in it", "127.0.0.1"));
    write.commit().await.expect("committed");
    say!(store.setup_counts("cc"));
    let mut write = store.write().await.expect("writes");
    say!(write.use_setup("cc"));
    say!(write.use_setup("cc"));
    write.commit().await.expect("committed");
    let users = store.users().await.expect("users");
    said.extend(
        users.iter().map(|user| format!("{} {} {} {}", user.name, user.role, user.active, user.totp)),
    );
    say!(store.has_users());
    said.push(
        store.credentials("anna").await.expect("read").map(|own| own.password_hash).unwrap_or_default(),
    );

    let mut write = store.write().await.expect("writes");
    for token in ["0123456789abcdef0", "1123456789abcdef1"] {
        let sign_in = NewSignIn {
            token_sha256: token,
            user: "anna",
            expires_ns: later,
            address: "::1",
            user_agent: "",
            authenticated_ns: 0,
        };
        say!(write.add_sign_in(&sign_in));
    }
    let (token_sha256, expires_ns) = ("dd", later);
    let token = NewApiToken {
        token_sha256,
        id: "id",
        label: "ci",
        owner: "anna",
        role: "viewer",
        scopes: "*",
        expires_ns,
    };
    say!(write.add_api_token(&token));
    say!(write.add_enrolment_token("secret", "ci", "anna", later, 1));
    write.commit().await.expect("committed");
    let idle = 3_600_000_000_000;
    say!(store.sign_in_used("0123456789abcdef0"));
    said.push(format!(
        "{:?}",
        store.sign_in("0123456789abcdef0", idle).await.expect("read").map(|one| one.id)
    ));
    said.push(store.sign_ins("anna", idle).await.expect("read").len().to_string());
    say!(store.api_token_used("id"));
    said.push(format!(
        "{:?}",
        store.api_token("dd").await.expect("read").map(|(token, owner)| (token.id, owner.role))
    ));
    said.push(store.api_tokens(Some("anna")).await.expect("read").len().to_string());
    said.push(store.api_tokens(None).await.expect("read").len().to_string());
    say!(store.knows_enrolment_token("secret"));
    let tokens = store.enrolment_tokens().await.expect("read");
    said.extend(tokens.iter().map(|token| format!("{} {}", token.id, token.uses_left)));
    let mut write = store.write().await.expect("writes");
    say!(write.use_enrolment_token("secret", "ab"));
    said.push(write.use_enrolment_token("secret", "cd").await.is_err().to_string());
    say!(write.revoke_enrolment_token("nothing"));
    say!(write.end_sign_in("anna", "0123456789abcdef"));
    say!(write.end_sign_ins("anna", ""));
    say!(write.revoke_api_token("id", Some("bert")));
    say!(write.revoke_api_token("id", None));
    say!(write.revoke_api_tokens("anna"));
    write.commit().await.expect("committed");
    for _ in 0..3 {
        say!(store.attempt("key", 2, 3_600_000_000_000));
    }
    say!(store.take_back_attempt("key"));
    say!(store.attempt("key", 2, 3_600_000_000_000));
    say!(store.forget_attempts("key"));

    let mut write = store.write().await.expect("writes");
    let hold = NewHold { label: "case", host: "", from_ns: 0, until_ns: i64::MAX, by: "anna" };
    let number = write.add_hold(&hold).await.expect("a hold");
    say!(write.is_held(host, 0));
    said.push(format!("{:?}", write.release_hold(number, "anna").await.expect("released")));
    say!(write.add_finding(host, "session", "a \0 finding", None));
    say!(write.is_found(host, "session", "a \0 finding"));
    write.commit().await.expect("committed");
    said.push(store.holds().await.expect("holds").len().to_string());
    let findings = store.findings(true, None, 10).await.expect("findings").items;
    said.extend(
        findings.iter().map(|finding| format!("{} {} {}", finding.host_name, finding.kind, finding.detail)),
    );
    say!(store.open_findings());
    let mut write = store.write().await.expect("writes");
    say!(write.acknowledge_finding(findings[0].id, "anna"));
    say!(write.acknowledge_finding(findings[0].id, "anna"));
    say!(write.health(host, &HealthReport { policy_hash: "a\0".into(), ..HealthReport::default() }));
    say!(write.seen(host, "1", "6.1"));
    say!(write.renewed(host, "00", "11", later));
    write.commit().await.expect("committed");
    said.push(format!("{:?}", store.finding(findings[0].id).await.expect("read").is_some()));
    say!(store.admit(host, "00"));
    say!(store.admit(host, "11"));
    say!(store.admit(host, "00"));
    said.push(store.inactive_hosts().await.expect("read").len().to_string());
    say!(store.hosts_called("bastion"));
    say!(store.hosts_called(&host[..10]));
    say!(store.kept_bytes(host));
    said.push(store.live_marks(host).await.expect("read").len().to_string());
    say!(store.sealed_before(host));
    say!(store.next_start(host, 0));
    say!(store.is_deleted(host, 0));
    said.push(store.expired(host, now_ns(), 5).await.expect("read").len().to_string());
    let commands = store.commands(&CommandFilter::default(), None, 1).await.expect("commands").items;
    let session = commands[0].session.as_str();
    said.push(format!("{:?}", store.session_place(session).await.expect("read").map(|place| place.ended)));
    said.push(store.session_commands(session, 0, 9).await.expect("read").items.len().to_string());
    said.push(store.told_commands(host, 0, i64::MAX, 99).await.expect("read").len().to_string());
    said.push(store.told_host_events(host, 0, i64::MAX, 99).await.expect("read").len().to_string());
    let told = store.told_command(host, session, 1).await.expect("read");
    said.push(format!("{:?}", told.map(|command| command.verdict)));
    said.push(store.host_events(host, None, 5).await.expect("read").items.len().to_string());
    let hosts = Some(vec![host.to_owned(), "ff".to_owned()]);
    let filter = SessionFilter { hosts, ..SessionFilter::default() };
    said.push(store.sessions(&filter, None, 50).await.expect("read").items.len().to_string());
    let filter = AuditFilter { actor: Some("anna".into()), since_ns: Some(0), ..AuditFilter::default() };
    said.push(store.audit(&filter, None, 50).await.expect("read").items.len().to_string());

    // PostgreSQL shows what was noted once no older transaction runs, of other tests' databases either.
    let mut rows = store.journal((0, 0), 1000).await.expect("the journal");
    for _ in 0..1500 {
        if rows.last().is_some_and(|row| row.kind == JournalKind::Finding) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        rows = store.journal((0, 0), 1000).await.expect("the journal");
    }
    said.extend(rows.iter().map(|row| format!("{:?} {} {}", row.kind, row.segment, row.first - row.last)));
    let last = rows.last().expect("rows").place;
    let mut write = store.write().await.expect("writes");
    say!(write.progress("siem", "one", &Progress { place: last, sent: 3, ..Progress::default() }));
    say!(write.progress("siem", "two", &Progress::default()));
    say!(write.output_fails("siem", "one", "refused", true));
    say!(write.prune_journal());
    write.commit().await.expect("committed");
    let outputs = store.outputs().await.expect("outputs");
    said.extend(outputs.iter().map(|output| format!("{} {} {}", output.name, output.sent, output.error)));
    let mut write = store.write().await.expect("writes");
    say!(write.remove_output("siem"));
    write.commit().await.expect("committed");
    say!(store.release("output siem", "one"));

    let id = store.order(host, [7; 16], "enough").await.expect("ordered");
    said.push(store.orders().await.expect("orders").len().to_string());
    let mut write = store.write().await.expect("writes");
    say!(write.claim_order(id));
    say!(write.claim_order(id));
    write.commit().await.expect("committed");
    say!(store.was_told(id));
    say!(store.withdraw(id));

    say!(store.assignments());
    say!(store.policy_versions());
    say!(store.policy_version("baseline", 1));
    say!(store.labels(host));
    say!(store.all_labels());
    say!(store.policy_orders());
    say!(store.policy_standings());
    let mut write = store.write().await.expect("writes");
    said.push(write.heads_went().await.expect("heads").len().to_string());
    said.push(write.heads_went().await.expect("heads").len().to_string());
    say!(write.policies_change());
    say!(write.revoke_agent(host));
    say!(write.revoke_agent(host));
    say!(write.dispute(host, "a \0 reason"));
    write.commit().await.expect("committed");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_the_same_way_on_both() {
    let (state, own) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let (config, _kept) = kept::config(state.path()).await;
    let shared = serve::open(&config).await.expect("opened").intake;
    let config =
        Config { state: own.path().into(), name: Some("collector.test".into()), ..Config::default() };
    let embedded = serve::open(&config).await.expect("opened").intake;
    search::fill(&embedded.store).await;
    search::fill(&shared.store).await;
    let (embedded, shared) = (doings(&embedded.store).await, doings(&shared.store).await);
    let apart: Vec<_> = embedded.iter().zip(&shared).filter(|(one, other)| one != other).collect();
    assert!(apart.is_empty() && embedded.len() == shared.len(), "SQLite, PostgreSQL: {apart:#?}");
}
