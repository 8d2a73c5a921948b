//! What is made is as OCSF 1.8.0 has it.

use serde_json::{Value, json};

use super::*;
use crate::proto;

/// What OCSF 1.8.0 requires of an event, of its class, and of the objects in it; and the numbers that it knows.
fn check(event: &Value) {
    let is = |value: &Value, names: &[&str], what: &str| {
        for name in names {
            assert!(value.get(name).is_some_and(|value| !value.is_null()), "{what} has no {name}: {event}");
        }
    };
    is(
        event,
        &["activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"],
        "it",
    );
    is(&event["metadata"], &["product", "version"], "metadata");
    is(&event["metadata"]["product"], &["name", "vendor_name"], "product");
    is(&event["device"], &["type_id", "hostname"], "device");
    let number = |name: &str| event[name].as_u64().unwrap();
    assert_eq!(number("type_uid"), number("class_uid") * 100 + number("activity_id"));
    assert!(number("time") > 1_600_000_000_000 && number("time") < 10_000_000_000_000, "milliseconds");
    assert!(number("severity_id") <= 6);
    let (category, activities): (u64, &[u64]) = match number("class_uid") {
        0 => (0, &[0, 99]),
        3002 => (3, &[0, 1, 2, 3, 4, 5, 6, 7, 99]),
        4001 => (4, &[0, 1, 2, 3, 4, 5, 6, 7, 99]),
        6002 => (6, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 99]),
        6005 => (6, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 99]),
        other => panic!("a class that is not known: {other}"),
    };
    assert_eq!(number("category_uid"), category);
    assert!(activities.contains(&number("activity_id")), "{event}");
    match number("class_uid") {
        3002 => {
            is(event, &["user", "service", "dst_endpoint"], "an authentication");
            is(&event["service"], &["name"], "service");
            assert!(event["user"]["name"].is_string() || event["user"]["uid"].is_string(), "{event}");
            assert!(event["auth_protocol_id"].as_u64().is_some_and(|id| id <= 12 || id == 99), "{event}");
            if let Some(idp) = event.pointer("/actor/idp") {
                assert!(idp["name"].is_string() || idp["uid"].is_string(), "{event}");
            }
            for at in ["created_time", "expiration_time"] {
                let at = event["session"].get(at).map_or(1_700_000_000_000, |at| at.as_u64().unwrap());
                assert!((1_600_000_000_000..10_000_000_000_000).contains(&at), "milliseconds: {event}");
            }
        }
        4001 => is(event, &["src_endpoint", "dst_endpoint"], "network activity"),
        6002 => is(event, &["app"], "a lifecycle"),
        6005 => {
            is(event, &["actor", "src_endpoint", "database", "query_info"], "datastore activity");
            is(&event["query_info"], &["query_string"], "query_info");
            is(&event["database"], &["type_id", "name"], "database");
            assert!(event["type_id"].as_u64().is_some_and(|id| [0, 1, 2, 3, 99].contains(&id)));
        }
        _ => {}
    }
    for endpoint in [&event["src_endpoint"], &event["dst_endpoint"]] {
        let one = ["ip", "uid", "name", "hostname", "svc_name"];
        assert!(endpoint.is_null() || one.iter().any(|name| endpoint.get(name).is_some()), "{event}");
    }
    if let Some(process) = event.pointer("/actor/process") {
        is(process, &["pid"], "a process");
        is(&process["file"], &["name", "type_id"], "a file");
    }
    if let Some(action) = event.get("action_id") {
        assert!([0, 1, 2, 99].contains(&action.as_u64().unwrap()));
    }
    if let Some(disposition) = event.get("disposition_id") {
        assert!(disposition.as_u64().unwrap() <= 27);
    }
}

fn event(index: u64, session: u8, body: Body) -> Event {
    Event {
        index,
        wall_ns: 1_700_000_000_000_000_000 + index * 1_000_000_000,
        session: if session == 0 { Vec::new() } else { vec![session; 16] },
        sequence: index,
        body: Some(body),
        ..Event::default()
    }
}

fn command(number: u64, kind: &str, verdict: &str) -> Body {
    Body::Command(proto::Command {
        command: number,
        text: format!("{kind} …"),
        statements: vec![proto::Statement { kind: kind.into(), ..Default::default() }],
        verdict: verdict.into(),
        rule: (verdict != "allow").then(|| "no-such".into()),
        ..Default::default()
    })
}

#[test]
fn every_event_is_one_of_ocsf() {
    let subject = Subject { user: "alice".into(), exe: "/usr/bin/psql".into(), pid: 7, ..Default::default() };
    let bodies = vec![
        (0, Body::AgentStarted(proto::AgentStarted { version: "0.1".into(), ..Default::default() })),
        (0, Body::PolicyLoaded(proto::PolicyLoaded::default())),
        (0, Body::Lost(proto::Lost::default())),
        (0, Body::Egress(proto::EgressConnection { verdict: "deny".into(), ..Default::default() })),
        (
            1,
            Body::FlowStarted(proto::FlowStarted {
                subject: Some(subject),
                client: "10.0.0.5:51234".into(),
                destination: "[fd00::7]:5432".into(),
                hosts: vec!["db.internal".into()],
                protocol: "postgres".into(),
                ..Default::default()
            }),
        ),
        (1, Body::Login(proto::Login { user: "app".into(), database: "shop".into(), ..Default::default() })),
        (1, command(1, "select", "allow")),
        (1, command(2, "drop_table", "deny")),
        (
            1,
            Body::Result(proto::CommandResult {
                command: 1,
                status: "complete".into(),
                duration_ns: 5_000_000,
                rows: Some(proto::Rows { count: 3, bytes: 99, ..Default::default() }),
                ..Default::default()
            }),
        ),
        (1, Body::Result(proto::CommandResult { command: 9, ..Default::default() })),
        (1, Body::Notice(proto::Notice::default())),
        (1, Body::TerminalOutput(proto::TerminalOutput::default())),
        (1, command(3, "no_such_kind", "hold")),
        (1, Body::SessionEnded(proto::SessionEnded::default())),
        // Of a session whose beginning is not there.
        (2, command(1, "", "allow")),
        (2, Body::SessionEnded(proto::SessionEnded::default())),
        (0, Body::AgentStopped(proto::AgentStopped {})),
    ];
    let host = Host { id: "ab".repeat(32), name: "bastion".into() };
    let mut ocsf = Ocsf::new();
    let mut made = Vec::new();
    for (index, (session, body)) in (0..).zip(bodies) {
        made.extend(ocsf.event(&host, &event(index, session, body)));
    }
    made.extend(ocsf.flush(&host));
    made.push(notice(&host, "segments_deleted", 1_700_000_000_000_000_000, "gone", json!({})));
    made.iter().for_each(check);
    let commands: Vec<&Value> = made.iter().filter(|event| event["class_uid"] == 6005).collect();
    assert_eq!(commands.len(), 4);
    let select = commands[0];
    assert_eq!((&select["activity_name"], &select["status"]), (&json!("Query"), &json!("Success")));
    assert_eq!(select["duration"], 5);
    assert_eq!(select["actor"]["user"]["name"], "alice");
    assert_eq!(select["dst_endpoint"], json!({"ip": "fd00::7", "port": 5432, "hostname": "db.internal"}));
    assert_eq!(select["database"]["name"], "shop");
    assert_eq!(select["unmapped"]["rows"], 3);
    let drop = commands[1];
    assert_eq!((&drop["activity_name"], &drop["disposition"]), (&json!("Delete"), &json!("Blocked")));
    assert_eq!(drop["policy"], json!({"name": "no-such", "is_applied": true}));
    assert_eq!(drop["status"], "Unknown");
}

#[test]
fn commands_that_never_end_do_not_fill_memory() {
    let (host, mut ocsf) = (Host::default(), Ocsf::new());
    let mut made = 0;
    for number in 0..3000 {
        made += ocsf.event(&host, &event(number, 1, command(number + 1, "select", "allow"))).len();
    }
    assert!(ocsf.pending.len() <= PENDING);
    assert_eq!(made + ocsf.flush(&host).len(), 3000);
}

#[test]
fn people_sign_in_and_out() {
    let change = |reason: &str| proto::PersonChange {
        issuer_name: "okta".into(),
        issuer: "https://corp.okta.example".into(),
        subject: "00u1".into(),
        name: "Alice".into(),
        groups: vec!["dba".into()],
        authenticated_ns: 1_700_000_000_000_000_000,
        until_ns: 1_700_000_100_000_000_000,
        login_session: Some(52),
        way: "device".into(),
        reason: reason.into(),
        process: Some(Subject {
            pid: 7,
            user: "alice".into(),
            exe: "/usr/bin/interlock".into(),
            ..Subject::default()
        }),
        ..Default::default()
    };
    let bodies = [
        Body::PersonSignedIn(change("")),
        Body::PersonGroupsChanged(change("")),
        Body::PersonSignedOut(change("logout")),
        Body::PersonExpired(change("")),
        Body::PersonRefused(change("the answer of okta cannot be trusted")),
        // Nobody was verified, and the host does not say where.
        Body::PersonRefused(proto::PersonChange::default()),
    ];
    let host = Host { id: "ab".repeat(32), name: "bastion".into() };
    let mut ocsf = Ocsf::new();
    let made: Vec<Value> =
        (0..).zip(bodies).flat_map(|(index, body)| ocsf.event(&host, &event(index, 0, body))).collect();
    made.iter().for_each(check);
    let said: Vec<_> = made
        .iter()
        .map(|event| {
            assert_eq!(event["class_uid"], 3002, "{event}");
            (event["activity_name"].as_str().unwrap(), event["status"].as_str().unwrap())
        })
        .collect();
    let (success, failure) = ("Success", "Failure");
    assert_eq!(
        said,
        [
            ("Logon", success),
            ("Groups changed", success),
            ("Logoff", success),
            ("Logoff", success),
            ("Logon", failure),
            ("Logon", failure),
        ]
    );
    let first = &made[0];
    assert_eq!(first["user"], json!({"name": "Alice", "uid": "00u1", "groups": [{"name": "dba"}]}));
    assert_eq!(first["actor"]["idp"], json!({"name": "okta", "uid": "https://corp.okta.example"}));
    assert_eq!(
        (&first["actor"]["process"]["pid"], &first["dst_endpoint"]["hostname"]),
        (&json!(7), &json!("bastion"))
    );
    assert_eq!(
        (&first["session"]["uid"], &first["session"]["expiration_time"]),
        (&json!("52"), &json!(1_700_000_100_000u64))
    );
    assert_eq!(
        (&made[2]["status_detail"], &made[2]["unmapped"]["reason"]),
        (&json!("logout"), &json!("logout"))
    );
    assert_eq!(made[5]["user"]["name"], "unknown");
}
