//! Orders that count and orders that do not; and how policies of a collector stand beside a host's own.

use std::path::Path;
use std::sync::Arc;

use interlock_recording::chain::Hash;
use interlock_recording::note::{KeyKind, Signer};
use interlock_recording::order::{MAX_ORDER, MAX_SET, Order, Ordered, content_hash};

use super::central::{Accepts, Candidate, Central, Offer, Offered, Refused};
use super::origin::{CentralPolicies, PolicyFile, origins};
use super::*;
use crate::identity::Subject;
use crate::mask::copy::{CopyColumn, CopyMasker};
use crate::mask::{Fired, Format, HashKey, MaskSet, Transform};
use crate::operation::Protocol;
use crate::sql::{Copy, CopyFormat};

const HOST: Hash = [7; 32];

fn signer(seed: u8) -> Signer {
    Signer::from_seed("c.test/policies", KeyKind::Note, &[seed; 32]).unwrap()
}

fn files(text: &str) -> Vec<PolicyFile> {
    vec![("a.yaml".to_owned(), text.to_owned())]
}

fn named(version: u64, files: &[PolicyFile]) -> Ordered {
    let pairs = files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    Ordered { set: "base".into(), version, content: content_hash(pairs), author: "alice".into() }
}

fn order(issue: u64, enforce: Option<Ordered>, observe: Option<Ordered>) -> Order {
    Order { collector: "c.test".into(), host: HOST, issue, issued_ns: 1, enforce, observe }
}

fn offered(order: &Order, seed: u8) -> Offered {
    Offered {
        order: order.sign(&signer(seed)).unwrap().into_bytes(),
        told: signer(1).public().to_string(),
        pinned: None,
        authority: "aa".into(),
    }
}

fn wanted(offer: Result<Offer, Refused>) -> (Box<Candidate>, Vec<Hash>) {
    match offer.unwrap() {
        Offer::Wanted(candidate, missing) => (candidate, missing),
        other => panic!("{other:?}"),
    }
}

fn refusal(offer: Result<Offer, Refused>) -> String {
    offer.unwrap_err().why
}

const RULE: &str = "version: 1\nprocesses: [{run: a}]\nrules: [{name: r, action: deny}]\n";

/// A host that has order 5 in force.
fn obeying(directory: &Path) -> (Central, PolicyStore, Order) {
    let (policies, state) = (directory.join("policies"), directory.join("state"));
    for made in [&policies, &state] {
        std::fs::create_dir_all(made).unwrap();
    }
    let central = Central::open(&state, HOST, Accepts::Enforce).unwrap();
    let store = PolicyStore::load(&policies, &state, std::collections::BTreeSet::new()).unwrap();
    let set = files(RULE);
    let order = order(5, Some(named(1, &set)), None);
    let (candidate, missing) = wanted(central.offer(offered(&order, 1)));
    assert_eq!(missing, [named(1, &set).content]);
    store.obey(&central, &candidate, vec![set]).unwrap();
    (central, store, order)
}

#[test]
fn an_order_counts_only_when_it_is_this_hosts_next() {
    let directory = tempfile::tempdir().unwrap();
    let (central, store, first) = obeying(directory.path());
    assert_eq!(store.current().rule_count(), 1);
    assert!(matches!(central.offer(offered(&first, 1)), Ok(Offer::Known)));
    let set = named(1, &files(RULE));

    // Forged: by another key, or altered.
    let next = order(6, Some(set.clone()), None);
    assert!(refusal(central.offer(offered(&next, 2))).contains("signature"));
    // The key is kept: that the order comes with its own key helps nothing.
    let own = Offered { told: signer(2).public().to_string(), ..offered(&next, 2) };
    assert!(refusal(central.offer(own.clone())).contains("signature"));
    let pinned = Offered { pinned: Some(signer(1).public().to_string()), ..own };
    assert!(refusal(central.offer(pinned)).contains("signature"));
    let mut altered = offered(&next, 1);
    let text = String::from_utf8(altered.order).unwrap().replace("issue 6", "issue 7");
    altered.order = text.into_bytes();
    assert!(refusal(central.offer(altered)).contains("false signature"));
    // Of another host.
    let other = Order { host: [8; 32], ..next.clone() };
    assert!(refusal(central.offer(offered(&other, 1))).contains("another host"));
    // Older, or another one of the same number.
    let old = order(4, Some(set), None);
    assert!(refusal(central.offer(offered(&old, 1))).contains("order 4 is older than order 5"));
    let twin = order(5, None, None);
    assert!(refusal(central.offer(offered(&twin, 1))).contains("another one than that of this number"));
    // Over the limits.
    let long = Offered { order: vec![b'x'; MAX_ORDER + 1], ..offered(&next, 1) };
    assert!(refusal(central.offer(long)).contains("too large"));
    // None of it changed anything.
    assert_eq!(central.status().issue, 5);

    // An older version by a newer order is a roll-back; nothing ordered is nothing of the collector's.
    let (candidate, missing) = wanted(central.offer(offered(&next, 1)));
    assert!(missing.is_empty(), "its files are here");
    store.obey(&central, &candidate, Vec::new()).unwrap();
    let (candidate, _) = wanted(central.offer(offered(&order(7, None, None), 1)));
    store.obey(&central, &candidate, Vec::new()).unwrap();
    assert_eq!((store.current().rule_count(), central.status().issue), (0, 7));
}

#[test]
fn what_cannot_be_put_in_force_leaves_what_is() {
    let directory = tempfile::tempdir().unwrap();
    let (central, store, _) = obeying(directory.path());
    let large = files(&format!("version: 1\n# {}\n", "x".repeat(MAX_SET)));
    let bad = files("version: 1\nrules: [{name: r, action: refuse}]\n");
    let outside = vec![("../a.yaml".to_owned(), RULE.to_owned())];
    let other = files("version: 1\n");
    let cases: [(u64, &[PolicyFile], Vec<PolicyFile>, &str); 4] = [
        (6, &large, large.clone(), "too large"),
        (7, &bad, bad.clone(), "refuse"),
        (8, &outside, outside.clone(), "../a.yaml"),
        (9, &files(RULE.replace('r', "s").as_str()), other, "not those that the order names"),
    ];
    for (issue, ordered, came, told) in cases {
        let order = order(issue, None, Some(named(2, ordered)));
        let offered = offered(&order, 1);
        let (candidate, _) = wanted(central.offer(offered.clone()));
        let refused = store.obey(&central, &candidate, vec![came]).unwrap_err();
        assert!(refused.why.contains(told) && refused.issue == issue, "{}", refused.why);
        assert!(central.refuse(&offered.order, Some(&candidate), refused.clone()));
        assert!(!central.refuse(&offered.order, Some(&candidate), refused), "it is told once");
        assert!(matches!(central.offer(offered), Ok(Offer::Known)), "it is not tried again and again");
        let status = central.status();
        assert_eq!((status.issue, status.seen), (5, issue));
        assert_eq!(status.refused.unwrap().0, issue);
        assert_eq!(store.current().rule_count(), 1);
    }
    // What was refused has been seen: an order from before it is old.
    let between = order(8, None, None);
    assert!(refusal(central.offer(offered(&between, 1))).contains("older than order 9"));
    // Also after a start.
    let state = directory.path().join("state");
    let again = Central::open(&state, HOST, Accepts::Enforce).unwrap();
    assert_eq!((again.status().issue, again.status().seen), (5, 9));
    assert!(refusal(again.offer(offered(&between, 1))).contains("older than order 9"));
    // The host's own trouble keeps an order from being taken, not from being the next.
    let local = directory.path().join("policies").join("bad.yaml");
    std::fs::write(&local, "version: 7\n").unwrap();
    let next = offered(&order(10, None, None), 1);
    let (candidate, _) = wanted(central.offer(next));
    let refused = store.obey(&central, &candidate, Vec::new()).unwrap_err();
    assert!(refused.why.contains("bad.yaml"), "{}", refused.why);
    std::fs::remove_file(&local).unwrap();
    store.obey(&central, &candidate, Vec::new()).unwrap();
}

#[test]
fn what_was_refused_for_a_passing_cause_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let (central, _, _) = obeying(directory.path());
    let (policies, state) = (directory.path().join("policies"), directory.path().join("state"));
    let mut central = Arc::new(central);
    let others = std::collections::BTreeSet::new;
    let store = PolicyStore::load_with(&policies, &state, others(), Some(Arc::clone(&central))).unwrap();
    let refuse = |store: &PolicyStore, central: &Central, offered: &Offered, came: Vec<Vec<PolicyFile>>| {
        let (candidate, _) = wanted(central.offer(offered.clone()));
        let refused = store.obey(central, &candidate, came).unwrap_err();
        central.refuse(&offered.order, Some(&candidate), refused)
    };
    let known =
        |central: &Central, offered: &Offered| matches!(central.offer(offered.clone()), Ok(Offer::Known));

    // A file of the host that is half written: the order waits, and a reload that works has it tried again.
    let local = policies.join("half.yaml");
    std::fs::write(&local, "version: 1\nproces").unwrap();
    let next = offered(&order(6, Some(named(1, &files(RULE))), None), 1);
    assert!(refuse(&store, &central, &next, Vec::new()));
    assert!(central.waits(&next.order) && known(&central, &next), "it is not tried again and again");
    store.reload().unwrap_err();
    assert!(known(&central, &next), "nothing is better yet");
    std::fs::remove_file(&local).unwrap();
    assert!(!store.reload().unwrap(), "the same policies as before");
    let (candidate, _) = wanted(central.offer(next.clone()));
    store.obey(&central, &candidate, Vec::new()).unwrap();
    assert_eq!((central.status().issue, central.status().refused), (6, None));
    assert!(!central.waits(&next.order));

    // It cannot be kept. Nothing is reloaded: it is tried again after a time, and told once.
    let temporary = state.join("central-policies.tmp");
    std::fs::create_dir(&temporary).unwrap();
    let next = offered(&order(7, None, None), 1);
    assert!(refuse(&store, &central, &next, Vec::new()));
    assert!(known(&central, &next));
    drop(store);
    Arc::get_mut(&mut central).unwrap().again = std::time::Duration::ZERO;
    let store = PolicyStore::load_with(&policies, &state, others(), Some(Arc::clone(&central))).unwrap();
    assert!(!refuse(&store, &central, &next, Vec::new()), "it is told once");
    std::fs::remove_dir(&temporary).unwrap();
    let (candidate, _) = wanted(central.offer(next));
    store.obey(&central, &candidate, Vec::new()).unwrap();
    assert_eq!(central.status().issue, 7);

    // What is wrong in its own files, or with whose it is, stays wrong.
    let bad = files("version: 1\nrules: [{name: r, action: refuse}]\n");
    std::fs::write(&local, "version: 1\nproces").unwrap();
    let next = offered(&order(8, Some(named(2, &bad)), None), 1);
    assert!(refuse(&store, &central, &next, vec![bad]));
    let forged = offered(&order(9, None, None), 2);
    std::fs::remove_file(&local).unwrap();
    store.reload().unwrap();
    assert!(!central.waits(&next.order) && known(&central, &next));
    let refused = central.offer(forged.clone()).unwrap_err();
    assert!(central.refuse(&forged.order, None, refused));
    store.reload().unwrap();
    assert!(!central.waits(&forged.order) && known(&central, &forged));
}

#[test]
fn what_is_kept_is_verified_when_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    drop(obeying(directory.path()));
    let state = directory.path().join("state");
    let path = state.join("central-policies.json");
    let open = |accepts| Central::open(&state, HOST, accepts);
    assert_eq!(open(Accepts::Enforce).unwrap().in_force().unwrap().sets.len(), 1);
    assert!(open(Accepts::Off).unwrap().in_force().is_none());
    let set = open(Accepts::Observe).unwrap().in_force().unwrap().sets;
    assert!(set.iter().all(|(origin, _)| origin.is_staged()));
    assert!(Central::open(&state, [8; 32], Accepts::Enforce).is_err(), "another host's");
    let whole = std::fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("deny", "hold"),
        ("issue 5", "issue 6"),
        ("base 1", "base 2"),
        ("\"seen\":5", "\"seen\":4"),
        ("{", "["),
    ] {
        std::fs::write(&path, whole.replacen(from, to, 1)).unwrap();
        let error = open(Accepts::Enforce).unwrap_err().to_string();
        assert!(error.contains("central-policies.json"), "{from}: {error}");
        // What does not count is not looked at.
        open(Accepts::Off).unwrap();
    }
    std::fs::write(&path, &whole).unwrap();
    let central = open(Accepts::Enforce).unwrap();
    assert!(!central.look_after());
    std::fs::remove_file(&path).unwrap();
    assert!(central.look_after() && !central.look_after());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    std::fs::write(&path, "{}").unwrap();
    assert!(central.look_after());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
}

/// A host's own policy beside an enforced and a staged set.
fn together(local: &str, enforce: &str, observe: &str, accepts: bool) -> PolicySet {
    let directory = tempfile::tempdir().unwrap();
    if !local.is_empty() {
        std::fs::write(directory.path().join("local.yaml"), format!("version: 1\n{local}")).unwrap();
    }
    let made = |text: &str| (!text.is_empty()).then(|| files(&format!("version: 1\n{text}")));
    let (enforce, observe) = (made(enforce), made(observe));
    let order = order(
        1,
        enforce.as_ref().map(|files| named(1, files)),
        observe.as_ref().map(|files| named(2, files)),
    );
    let texts: Vec<Arc<[PolicyFile]>> = enforce.into_iter().chain(observe).map(Into::into).collect();
    let sets = origins(&order, accepts).into_iter().map(|(origin, _)| origin).zip(texts).collect();
    let central = CentralPolicies { order: Arc::new(order), sets };
    PolicySet::load_with(directory.path(), super::read::Trust::Anyone, Some(&central)).unwrap()
}

fn flow(set: &PolicySet, port: u16) -> FlowPolicy {
    let entries: Vec<EntryId> = set.selection().entries.iter().map(|entry| entry.id).collect();
    let address = std::net::SocketAddr::from(([10, 0, 0, 1], port));
    set.flow(&entries, &Subject::default(), &Destination { address, hosts: Vec::new() })
}

const RUN: &str = "processes: [{run: a}]\n";

#[test]
fn what_a_host_refuses_no_collector_opens() {
    let closed = format!("{RUN}destinations: [{{port: 5432}}]\negress: deny\n");
    let wide = format!("{RUN}egress: allow\n");
    let named = format!("{RUN}destinations: [{{port: 6000, protocol: postgres}}]\n");
    for (enforce, observe) in [(&*wide, ""), (&*named, ""), ("", &*wide), ("", &*named), (&*wide, &*named)] {
        let set = together(&closed, enforce, observe, true);
        assert_eq!(flow(&set, 6000).treatment(), Treatment::Egress(Egress::Deny), "{enforce} {observe}");
        assert_eq!(flow(&set, 5432).treatment(), Treatment::Intercept(Protocol::Postgres));
    }
    // `default: deny` is closed for its own file, whatever another one allows.
    let strict = format!("{RUN}default: deny\n");
    let allow = format!("{RUN}rules: [{{name: all, action: allow}}]\n");
    let set = together(&strict, &allow, &allow, true);
    let decision = flow(&set, 5432).decide(&sample_operation(), &Subject::default());
    assert_eq!((decision.verdict, decision.rule.as_deref()), (Verdict::Deny, Some(DEFAULT_RULE)));
    // A deny of the host's own is not undone by a rule of the same name.
    let deny = format!("{RUN}rules: [{{name: all, action: deny}}]\n");
    let set = together(&deny, &allow, "", true);
    let decision = flow(&set, 5432).decide(&sample_operation(), &Subject::default());
    assert_eq!((decision.verdict, decision.rule.as_deref()), (Verdict::Deny, Some("all")));
    assert!(decision.matched.iter().any(|rule| **rule == *"all@base"));
}

#[test]
fn what_is_staged_changes_nothing_of_what_happens() {
    let strict = format!(
        "{RUN}egress: deny\nresolvers: deny\nplaintext: deny\ndefault: deny\ndestinations: [{{port: 5432, tls: deny}}]\n\
         rules: [{{name: all, action: deny}}]\nmasks: [{{name: m, detect: email, with: redact}}]\n"
    );
    let own = format!("{RUN}destinations: [{{port: 5432, tls: passthrough}}]\n");
    // Beside a host's own policy, by itself, and on a host that lets nothing be enforced.
    for set in [together(&own, "", &strict, true), together(&own, &strict, "", false)] {
        let flow = flow(&set, 5432);
        assert_eq!(flow.treatment(), Treatment::Intercept(Protocol::Postgres));
        assert_eq!(flow.tls(), TlsTreatment::Passthrough);
        assert_eq!(flow.refuses_plaintext(), None);
        assert!(flow.masks().names().is_empty() && !flow.record_masks().names().is_empty());
        let decision = flow.decide(&sample_operation(), &Subject::default());
        assert_eq!((decision.verdict, decision.enforced), (Verdict::Allow, false));
        assert_eq!(decision.observed.len(), 1, "{decision:?}");
        assert!(decision.observed.iter().all(|one| one.rule.contains("@base.")), "{decision:?}");
    }
    let alone = together("", "", &strict, true);
    assert_eq!(flow(&alone, 5432).treatment(), Treatment::Detect(Egress::Record));
    assert_eq!(flow(&alone, 6000).treatment(), Treatment::Egress(Egress::Record));
    assert!(alone.selection().entries.iter().all(|entry| entry.resolvers && entry.egress == Egress::Record));
    // A destination that the host's own policy lets go is looked into, and still goes.
    let elsewhere = together(&format!("{RUN}destinations: [{{port: 7000}}]\n"), "", &strict, true);
    assert_eq!(flow(&elsewhere, 5432).treatment(), Treatment::Detect(Egress::Record));
}

#[test]
fn a_file_in_observe_mode_enforces_nothing() {
    let strict = |mode: &str| {
        format!(
            "{mode}{RUN}egress: deny\nresolvers: deny\nplaintext: deny\ndefault: deny\n\
             destinations: [{{port: 5432, tls: deny}}]\n"
        )
    };
    let (watched, refused) = ("mode: observe\n", Treatment::Egress(Egress::Deny));
    // By itself: a file of the host, and a set that is ordered to be enforced.
    for (local, enforce, looked) in [
        (strict(watched), "".to_owned(), Treatment::Intercept(Protocol::Postgres)),
        ("".to_owned(), strict(watched), Treatment::Detect(Egress::Record)),
    ] {
        let set = together(&local, &enforce, "", true);
        let here = flow(&set, 5432);
        assert_eq!((here.treatment(), here.tls()), (looked, TlsTreatment::WhereKnown));
        assert_eq!(here.refuses_plaintext(), None);
        assert!(here.decide(&sample_operation(), &Subject::default()).passes());
        assert_eq!(flow(&set, 6000).treatment(), Treatment::Egress(Egress::Record));
        assert!(
            set.selection().entries.iter().all(|entry| entry.resolvers && entry.egress == Egress::Record)
        );
    }
    // The same file enforced.
    let set = together(&strict(""), "", "", true);
    assert_eq!((flow(&set, 6000).treatment(), flow(&set, 5432).tls()), (refused, TlsTreatment::Deny));
    assert!(flow(&set, 5432).refuses_plaintext().is_some());
    // Nor does it open what another refuses, or read TLS that another leaves unread.
    let opening = format!("{watched}{RUN}destinations: [{{port: 6000, protocol: postgres}}]\n");
    assert_eq!(flow(&together(&opening, &strict(""), "", true), 6000).treatment(), refused);
    let passing = format!("{RUN}destinations: [{{port: 5432, tls: passthrough}}]\n");
    let reading = format!("{watched}{RUN}destinations: [{{port: 5432, tls: intercept}}]\n");
    for (local, enforce) in [(&reading, &passing), (&passing, &reading)] {
        assert_eq!(flow(&together(local, enforce, "", true), 5432).tls(), TlsTreatment::Passthrough);
    }
    // What clients do not trust it with it does not read.
    let unread = format!("{watched}{passing}");
    assert_eq!(flow(&together(&unread, "", "", true), 5432).tls(), TlsTreatment::Passthrough);
}

/// What one value of a column becomes in a row and in COPY, of both formats.
fn shown(masks: &Arc<MaskSet>, column: &str, value: &str) -> Vec<String> {
    let (text, mask) = (25, masks.column("public", "t", column).cloned());
    let mut all = Vec::new();
    for (row, format) in [(Format::Text, CopyFormat::Text), (Format::Binary, CopyFormat::Binary)] {
        let (mut out, mut fired) = (Vec::new(), Fired::default());
        match &mask {
            Some(mask) => {
                mask.apply(text, -1, row, value.as_bytes(), &mut out);
            }
            None => {
                masks.detect_typed(text, row, value.as_bytes(), &mut out, &mut fired);
            }
        }
        all.push(String::from_utf8(out).unwrap());
        let copy = Copy {
            to_client: true,
            relation: None,
            columns: Vec::new(),
            format,
            delimiter: b'\t',
            null: "\\N".into(),
            quote: b'"',
            escape: b'"',
            header: false,
        };
        let columns = vec![CopyColumn { mask: mask.clone(), type_oid: text, typmod: -1 }];
        let mut masker = CopyMasker::new(Arc::clone(masks), &copy, columns);
        let data = if format == CopyFormat::Text {
            format!("{value}\n").into_bytes()
        } else {
            let length = u32::try_from(value.len()).unwrap().to_be_bytes();
            [b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01", &length[..], value.as_bytes()].concat()
        };
        let mut out = Vec::new();
        masker.push(&data, &mut out, &mut fired).unwrap();
        masker.finish(&mut out, &mut fired).unwrap();
        all.push(String::from_utf8_lossy(&out).into_owned());
    }
    all
}

#[test]
fn what_a_host_masks_no_collector_shows() {
    const CARD: &str = "4111111111111111";
    let detect = format!("{RUN}masks: [{{name: own, detect: payment_card, with: redact}}]\n");
    let watched = format!("{RUN}masks: [{{name: own, detect: payment_card, with: redact, mode: observe}}]\n");
    let long = format!("{CARD} {}", "x".repeat(70_000));
    let all = |with: &str| {
        format!(
            "{RUN}masks: [{{name: m, columns: \"*.*.*\", with: {with}}}, \
             {{name: d, detect: [phone, national_id], with: {with}}}]\n"
        )
    };
    for with in ["{partial: {keep_first: 15}}", "{partial: {keep_first: 65535}}", "hash"] {
        let (wide, none) = (all(with), "");
        for (local, enforce, observe) in [
            (&*detect, &*wide, none),
            (&*detect, none, &*wide),
            (&*detect, &*wide, &*wide),
            (&*watched, &*wide, none),
        ] {
            let set = together(local, enforce, observe, true).with_key(HashKey::new(&[3; 32]));
            let flow = flow(&set, 5432);
            // Of a mask that is only watched nothing is enforced, and nothing that it finds is stored.
            let enforced = (local == detect).then(|| flow.masks());
            for masks in enforced.into_iter().chain([flow.record_masks()]) {
                for value in [CARD, &long] {
                    for shown in shown(masks, "card", value) {
                        let whole = shown.contains("[redacted]") && !shown.contains("4111");
                        assert!(whole, "{with}: {:?}", shown.get(..shown.len().min(40)));
                    }
                }
                assert_eq!(masks.mask_text(CARD), "[redacted]");
            }
        }
    }
    // A partial of the host's own: another keeps nothing else of the value.
    let own = format!("{RUN}masks: [{{name: own, columns: card, with: {{partial: {{keep_last: 4}}}}}}]\n");
    for with in ["{partial: {keep_first: 4}}", "{partial: {keep_first: 3}}"] {
        let set = together(&own, &all(with), "", true);
        let shown = shown(flow(&set, 5432).masks(), "card", CARD);
        assert!(shown.iter().all(|shown| !shown.contains("411")), "{with}: {shown:?}");
    }
    // Stricter ones stay, and so do a collector's where the host itself masks nothing.
    let set = together(&detect, &all("null"), "", true);
    let mask = |set: &PolicySet| flow(set, 5432).masks().column("public", "t", "card").unwrap().transform();
    assert_eq!(mask(&set), Transform::Null);
    let partial = Transform::Partial { keep_first: 2, keep_last: 0 };
    assert_eq!(mask(&together(RUN, &all("{partial: {keep_first: 2}}"), "", true)), partial);
    // The host's own column beside its own detector is as its file says.
    let both = format!(
        "{RUN}masks: [{{name: own, detect: payment_card, with: redact}}, \
         {{name: c, columns: card, with: {{partial: {{keep_first: 2}}}}}}]\n"
    );
    assert_eq!(mask(&together(&both, "", "", true)), partial);
}

#[test]
fn the_same_version_enforced_and_staged_is_there_once() {
    let set = files(RULE);
    let order = order(1, Some(named(1, &set)), Some(named(1, &set)));
    assert_eq!(origins(&order, true).len(), 1);
}
