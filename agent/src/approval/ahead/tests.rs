//! What an approval that was given beforehand lets through, and what not.

use super::*;
use crate::approval::desk::Shape;
use crate::approval::{Approver, Event, Person, Shown, Vote};
use crate::identity::Ancestor;

const OWN: &str = "/usr/bin/own";
const TREE: Tree = Tree { pid: 70, start_time_ns: 7_000_000_000 };

fn desk() -> Arc<Desk> {
    Desk::new(crate::config::Config::default().approvals.bounds())
}

/// A process of the tree.
fn subject() -> Subject {
    let parent = Ancestor { pid: TREE.pid, start_time_ns: TREE.start_time_ns, ..Ancestor::default() };
    Subject {
        pid: 71,
        start_time_ns: 7_100_000_000,
        uid: 5,
        cgroup: "/a".into(),
        ancestors: vec![parent],
        exe: OWN.into(),
        exe_sha256: "ab".into(),
        ..Subject::default()
    }
}

fn asker() -> Asker {
    Asker { subject: Arc::new(subject()), tree: TREE }
}

fn wanted(text: &str) -> Wanted {
    Wanted {
        server: ([127, 0, 0, 1], 5432).into(),
        database: "d".into(),
        db_user: "u".into(),
        time_zone: None,
        text: text.into(),
        params: vec![Some("a".into()), None],
        shape: Some(format!("shape of {text}")),
        program: None,
    }
}

fn request() -> Request {
    Request {
        subject: Arc::new(subject()),
        server: ([127, 0, 0, 1], 5432).into(),
        hosts: Vec::new(),
        session: interlock_recording::SessionId::new(1, [1; 10]),
        shown: Shown { text: "x".into(), ..Shown::default() },
        digest: [0; 32],
        terms: Arc::new(Terms::sample()),
        shape: Some(Shape([0; 32])),
        likeness: [0; 32],
        cancel: None,
        bytes: 10,
    }
}

fn ask(desk: &Arc<Desk>, text: &str) -> Ticket {
    match desk.ask_ahead(asker(), wanted(text), Arc::new(Terms::sample()), request()).unwrap() {
        Opened::New(ticket) => ticket,
        Opened::Known(id) => panic!("{id}"),
    }
}

fn approved(desk: &Arc<Desk>, text: &str, scope: Scope) -> Ticket {
    let ticket = ask(desk, text);
    desk.ahead().approved(ticket.id(), scope, 60, vec!["d".into()]);
    ticket
}

/// Whether a command goes on: the one that was asked for, but for what `change` says.
fn passes(
    desk: &Desk,
    text: &str,
    change: impl FnOnce(&mut Subject, &mut Wanted, &mut Terms, &mut bool),
) -> bool {
    let (mut subject, mut wanted, mut terms) = (subject(), wanted(text), Terms::sample());
    let mut exact = true;
    change(&mut subject, &mut wanted, &mut terms, &mut exact);
    let command = Use {
        subject: &subject,
        server: wanted.server,
        database: &wanted.database,
        db_user: &wanted.db_user,
        time_zone: wanted.time_zone.as_deref(),
        text: &wanted.text,
        params: exact.then_some(wanted.params.as_slice()),
        shape: wanted.shape.as_deref(),
        terms: &terms,
    };
    desk.ahead().take(&command).is_some()
}

#[tokio::test]
async fn it_is_for_exactly_that_and_once() {
    let desk = desk();
    let _ticket = approved(&desk, "x", Scope::Once);
    let refused = |what: &str, change: &dyn Fn(&mut Subject, &mut Wanted, &mut Terms, &mut bool)| {
        assert!(!passes(&desk, "x", |s, w, t, e| change(s, w, t, e)), "{what}");
    };
    refused("a space", &|_, wanted, _, _| wanted.text = "x ".into());
    refused("a comment", &|_, wanted, _, _| wanted.text = "x -- y".into());
    refused("another parameter", &|_, wanted, _, _| wanted.params = vec![Some("b".into()), None]);
    refused("NULL", &|_, wanted, _, _| wanted.params = vec![None, None]);
    refused("empty for NULL", &|_, wanted, _, _| wanted.params = vec![Some("a".into()), Some("".into())]);
    refused("one less", &|_, wanted, _, _| wanted.params.truncate(1));
    refused("one more", &|_, wanted, _, _| wanted.params.push(None));
    refused("parameters that are not exactly known", &|_, _, _, exact| *exact = false);
    refused("another database", &|_, wanted, _, _| wanted.database = "e".into());
    refused("another time zone", &|_, wanted, _, _| wanted.time_zone = Some("UTC".into()));
    refused("another database user", &|_, wanted, _, _| wanted.db_user = "e".into());
    refused("another port", &|_, wanted, _, _| wanted.server.set_port(1));
    refused("another address", &|_, wanted, _, _| wanted.server.set_ip([127, 0, 0, 2].into()));
    refused("other terms", &|_, _, terms, _| terms.reason_required = true);
    refused("another user", &|subject, _, _, _| subject.uid = 6);
    refused("another login", &|subject, _, _, _| subject.login_uid = Some(6));
    refused("another login session", &|subject, _, _, _| subject.login_session = Some(6));
    refused("another cgroup", &|subject, _, _, _| subject.cgroup = "/b".into());
    refused("another container", &|subject, _, _, _| subject.container = "c".into());
    refused("another unit", &|subject, _, _, _| subject.unit = "c.service".into());
    refused("another program", &|subject, _, _, _| subject.exe = "/usr/bin/psql".into());
    refused("another file there", &|subject, _, _, _| subject.exe_sha256 = "cd".into());
    refused("a script that it runs", &|subject, _, _, _| subject.script = Some("/x.sh".into()));
    refused("a program that is not known", &|subject, _, _, _| subject.exe = "".into());
    refused("another tree", &|subject, _, _, _| subject.ancestors[0].pid = 72);
    refused("a later process of that id", &|subject, _, _, _| {
        subject.ancestors[0].start_time_ns += 20_000_000;
    });
    refused("nobody's child", &|subject, _, _, _| subject.ancestors.clear());
    refused("a start that is not known", &|subject, _, _, _| {
        (subject.pid, subject.start_time_ns) = (TREE.pid, 0);
        subject.ancestors.clear();
    });
    assert!(passes(&desk, "x", |subject, _, _, _| {
        // The one at the top itself, as exactly as the kernel tells.
        (subject.pid, subject.start_time_ns) = (TREE.pid, TREE.start_time_ns + 1234);
        subject.ancestors.clear();
    }));
    assert!(!passes(&desk, "x", |_, _, _, _| ()), "twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_at_once_one_passes() {
    let desk = desk();
    for round in 0..8 {
        let text = format!("x{round}");
        let _ticket = approved(&desk, &text, Scope::Once);
        let count = std::thread::scope(|scope| {
            let each = || passes(&desk, &text, |_, _, _, _| ());
            let all: Vec<_> = (0..8).map(|_| scope.spawn(each)).collect();
            all.into_iter().map(|one| one.join().unwrap()).filter(|passed| *passed).count()
        });
        assert_eq!(count, 1);
    }
}

#[tokio::test]
async fn before_and_after_its_time_nothing_passes() {
    let desk = desk();
    let ticket = ask(&desk, "x");
    let state = |id| desk.ahead().status(id, &asker()).unwrap().state;
    assert!(!passes(&desk, "x", |_, _, _, _| ()));
    desk.ahead().approved(ticket.id(), Scope::Shape, 0, Vec::new());
    assert!(!passes(&desk, "x", |_, _, _, _| ()));
    assert_eq!(state(ticket.id()), "lapsed");
    // Decided otherwise.
    let denied = ask(&desk, "y");
    let person = Person { uid: 7, login_uid: None, login_session: None, confirmed: false };
    let by = Approver::on_host(person, "d".into(), "".into(), Box::default());
    desk.ahead().over(denied.id(), &Outcome::Denied { by: Box::new(by), reason: "no".into() });
    assert!(!passes(&desk, "y", |_, _, _, _| ()));
    let status = desk.ahead().status(denied.id(), &asker()).unwrap();
    assert_eq!((status.state, &*status.reason, &status.by[..]), ("denied", "no", &["d".into()][..]));
    let unrecorded = approved(&desk, "z", Scope::Once);
    desk.ahead().unrecorded(unrecorded.id());
    assert!(!passes(&desk, "z", |_, _, _, _| ()));
    // Given back.
    let back = approved(&desk, "w", Scope::Once);
    desk.call_off(&back.id().to_string(), &asker()).unwrap();
    assert!(!passes(&desk, "w", |_, _, _, _| ()));
    assert!(desk.call_off(&back.id().to_string(), &asker()).is_err());
}

#[tokio::test]
async fn a_shape_covers_its_texts_for_a_time_and_a_session_begins_with_the_text() {
    let desk = desk();
    let _ticket = approved(&desk, "x", Scope::Shape);
    for params in [vec![], vec![None]] {
        assert!(passes(&desk, "x", |_, wanted, _, _| (wanted.text, wanted.params) = ("other".into(), params)));
    }
    assert!(!passes(&desk, "x", |_, wanted, _, _| (wanted.text, wanted.shape) = ("other".into(), None)));
    assert!(
        !passes(&desk, "x", |_, wanted, _, _| (wanted.text, wanted.shape) = ("o".into(), Some("s".into())))
    );
    assert!(!passes(&desk, "x", |subject, _, _, _| subject.ancestors.clear()));
    let _ticket = approved(&desk, "y", Scope::Session);
    assert!(!passes(&desk, "y", |_, wanted, _, _| wanted.text = "z".into()));
    assert!(passes(&desk, "y", |_, _, _, _| ()) && !passes(&desk, "y", |_, _, _, _| ()));
}

/// Asks for what `program` will send, approved in this scope.
fn approved_for(desk: &Arc<Desk>, asker: Asker, program: Option<&str>, scope: Scope) -> Ticket {
    let wanted = Wanted { program: program.map(|program| Path::new(program).into()), ..wanted("x") };
    match desk.ask_ahead(asker, wanted, Arc::new(Terms::sample()), request()).unwrap() {
        Opened::New(ticket) => {
            desk.ahead().approved(ticket.id(), scope, 60, vec!["d".into()]);
            ticket
        }
        Opened::Known(id) => panic!("{id}"),
    }
}

#[tokio::test]
async fn it_is_for_the_program_that_was_shown_whatever_the_scope() {
    let by = |exe: &'static str, script: Option<&'static str>| {
        move |subject: &mut Subject, _: &mut Wanted, _: &mut Terms, _: &mut bool| {
            subject.exe = exe.into();
            subject.script = script.map(Into::into);
        }
    };
    for scope in [Scope::Shape, Scope::Session, Scope::Once] {
        let desk = desk();
        let _ticket = approved_for(&desk, asker(), Some("/sbin/nightly"), scope);
        // Not the asker's own either, nor a script that the program would interpret.
        for (exe, script) in [
            (OWN, None),
            ("/usr/bin/psql", None),
            ("", None),
            ("/sbin/nightly ", None),
            ("/sbin/nightly", Some("/tmp/x")),
            ("/usr/bin/dash", Some("/tmp/sbin/nightly")),
        ] {
            assert!(!passes(&desk, "x", by(exe, script)), "{scope:?} {exe} {script:?}");
        }
        assert!(passes(&desk, "x", by("/sbin/nightly", None)), "{scope:?}");
    }
    // A script is told by its own path.
    let desk = desk();
    let _ticket = approved_for(&desk, asker(), Some("/sbin/nightly"), Scope::Once);
    assert!(passes(&desk, "x", by("/usr/bin/dash", Some("/sbin/nightly"))));
    // Another program is another request.
    let _one = approved_for(&desk, asker(), Some("/sbin/one"), Scope::Once);
    let _own = approved_for(&desk, asker(), None, Scope::Once);
    assert!(!passes(&desk, "x", by("/sbin/other", None)));
    assert!(passes(&desk, "x", by("/sbin/one", None)) && passes(&desk, "x", by(OWN, None)));
    // In a container paths are not known, and the file is; where neither is, nothing is the same.
    let unknown = |sha256: &str| {
        let own = Subject { exe: "".into(), exe_sha256: sha256.into(), ..subject() };
        Asker { subject: Arc::new(own), tree: TREE }
    };
    let _ticket = approved_for(&desk, unknown("ab"), None, Scope::Once);
    assert!(passes(&desk, "x", by("", None)));
    let _ticket = approved_for(&desk, unknown(""), None, Scope::Once);
    assert!(!passes(&desk, "x", |subject, _, _, _| {
        (subject.exe, subject.exe_sha256) = ("".into(), String::new());
    }));
}

#[tokio::test]
async fn what_is_kept_is_bounded_by_its_bytes() {
    let desk = desk();
    let large = |n: usize| Wanted {
        params: vec![Some(format!("{n}{}", "p".repeat(60 << 10))); 5],
        ..wanted(&n.to_string())
    };
    let ask = |uid: u32, n: usize| {
        let own = Subject { uid, argv: vec!["a".repeat(10 << 10)], ..subject() };
        let asker = Asker { subject: Arc::new(own), tree: TREE };
        desk.ask_ahead(asker, large(n), Arc::new(Terms::sample()), request())
    };
    let kept = || -> usize { desk.ahead().all().iter().map(|entry| entry.bytes).sum() };
    let mut tickets = Vec::new();
    let refused = loop {
        match ask(5, tickets.len()) {
            Ok(Opened::New(ticket)) => {
                // Approved it takes as much, and is open no more.
                desk.ahead().approved(ticket.id(), Scope::Once, 60, Vec::new());
                tickets.push(ticket);
            }
            other => break other,
        }
    };
    assert!(matches!(refused, Err(DeskError::Bytes)), "{refused:?}");
    assert!(tickets.len() == 6 && (1 << 20..BYTES_PER_USER).contains(&kept()), "{}", kept());
    // Another user has room of their own, until all together have as much as may be held.
    tickets.push(match ask(6, 0).unwrap() {
        Opened::New(ticket) => ticket,
        Opened::Known(id) => panic!("{id}"),
    });
    // What is over takes nothing, however it came about, and is told all the same.
    assert!(passes(&desk, "0", |subject, wanted, _, _| {
        subject.argv = vec!["a".repeat(10 << 10)];
        *wanted = large(0);
    }));
    let uses = tickets.len() - 1;
    for ticket in &tickets[1..uses] {
        desk.ahead().over(ticket.id(), &Outcome::Expired);
    }
    desk.ahead().unrecorded(tickets[uses].id());
    assert_eq!(kept(), 0);
    for entry in desk.ahead().all().iter() {
        assert!(entry.wanted.text.is_empty() && entry.wanted.params.is_empty(), "{entry:?}");
        assert!(entry.wanted.shape.is_none() && entry.asker.subject.argv.is_empty(), "{entry:?}");
        assert!(entry.shown.len() <= BRIEF);
    }
    let told = desk.ahead().of(&asker());
    assert_eq!((told.len(), told.last().map(|status| status.state)), (6, Some("used")));
    assert!(ask(5, 0).is_ok());
    // Of all together.
    let small = Desk::new(crate::approval::Bounds { bytes: 1 << 20, ..desk.bounds.clone() });
    let mut count = 0;
    for uid in 100..200 {
        let asker = Asker { subject: Arc::new(Subject { uid, ..subject() }), tree: TREE };
        match small.ask_ahead(asker, large(0), Arc::new(Terms::sample()), request()) {
            // Off the desk, and still to be used.
            Ok(Opened::New(ticket)) => small.ahead().approved(ticket.id(), Scope::Once, 60, Vec::new()),
            Ok(Opened::Known(id)) => panic!("{id}"),
            Err(error) => {
                assert!(matches!(error, DeskError::Bytes), "{error}");
                break;
            }
        }
        count += 1;
    }
    assert_eq!(count, 3);
}

#[tokio::test]
async fn only_ones_own_and_not_too_many() {
    let desk = desk();
    let mut tickets: Vec<_> = (0..OPEN_PER_USER).map(|n| ask(&desk, &n.to_string())).collect();
    let more = desk.ask_ahead(asker(), wanted("more"), Arc::new(Terms::sample()), request());
    assert!(matches!(more, Err(DeskError::UserFull(_))), "{more:?}");
    // The same again is no more.
    let same = desk.ask_ahead(asker(), wanted("3"), Arc::new(Terms::sample()), request()).unwrap();
    assert!(matches!(same, Opened::Known(id) if id == tickets[3].id()));
    let id = tickets[3].id();
    let other = Asker { tree: Tree { pid: 9, ..TREE }, ..asker() };
    assert!(desk.ahead().status(id, &other).is_none() && desk.ahead().of(&other).is_empty());
    assert!(matches!(desk.call_off(&id.to_string(), &other), Err(DeskError::Unknown(_))));
    assert_eq!(desk.ahead().of(&asker()).len(), OPEN_PER_USER);
    desk.call_off(&id.to_string(), &asker()).unwrap();
    assert!(matches!(tickets[3].take(), Some(Event::Over(Outcome::Withdrawn(_)))));
    // Too late.
    desk.ahead().approved(id, Scope::Once, 0, Vec::new());
    assert!(!passes(&desk, "3", |_, _, _, _| ()));
    let same = desk.ask_ahead(asker(), wanted("4"), Arc::new(Terms::sample()), request()).unwrap();
    assert!(matches!(same, Opened::Known(id) if id == tickets[4].id()));
    tickets.remove(3);
    for n in 0.. {
        match desk.ask_ahead(asker(), wanted(&format!("again {n}")), Arc::new(Terms::sample()), request()) {
            Ok(Opened::New(ticket)) => desk.ahead().over(ticket.id(), &Outcome::Expired),
            Ok(Opened::Known(id)) => panic!("{id}"),
            Err(error) => {
                assert!(matches!(error, DeskError::TooOften(ASKED_PER_USER)), "{error}");
                break;
            }
        }
    }
    assert!(desk.ahead().all().len() <= KEPT_PER_USER);
}

#[tokio::test]
async fn people_decide_on_it_as_on_any_other() {
    let desk = desk();
    let mut ticket = ask(&desk, "x");
    let person = Person { uid: 7, login_uid: None, login_session: None, confirmed: false };
    let approver =
        |uid| Approver::on_host(Person { uid, ..person }, "d".into(), "".into(), ["dba".into()].into());
    let by = approver(7);
    assert_eq!(desk.list(&by, false).len(), 1);
    let own = approver(5);
    let vote = |by: &Approver| Vote { by: by.clone(), reason: "".into(), scope: Scope::Once, seconds: 0 };
    assert!(desk.approve(&ticket.id().to_string(), vote(&own)).is_err());
    desk.approve(&ticket.id().to_string(), vote(&by)).unwrap();
    assert!(matches!(ticket.take(), Some(Event::Vote(_))));
    assert!(matches!(ticket.take(), Some(Event::Over(Outcome::Approved { .. }))));
    // Not before that is recorded.
    assert!(!passes(&desk, "x", |_, _, _, _| ()));
}
