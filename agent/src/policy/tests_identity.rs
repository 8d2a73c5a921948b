//! Tests of rules about verified identities.

use std::sync::Arc;

use super::tests::set;
use super::*;
use crate::identity::{Subject, Verified};

fn who(pairs: &[(&str, &str)]) -> Subject {
    subject(pairs.iter().copied()).unwrap()
}

fn destination() -> Destination {
    Destination { address: "10.0.0.5:5432".parse().unwrap(), hosts: Vec::new() }
}

fn flow(text: &str, subject: &Subject) -> FlowPolicy {
    set(&format!("version: 1\nprocesses: [{{run: x}}]\n{text}")).flow_of_all(subject, &destination())
}

fn decide(text: &str, subject: &Subject) -> Decision {
    flow(text, subject).decide(&sample_operation(), subject)
}

/// The verdicts on somebody who is nobody, and on each of these.
fn verdicts(text: &str, subjects: &[&[(&str, &str)]]) -> Vec<Verdict> {
    let all = [Subject::default()].into_iter().chain(subjects.iter().map(|pairs| who(pairs)));
    all.map(|subject| decide(text, &subject).verdict).collect()
}

const MAIN: &[(&str, &str)] = &[
    ("workload.issuer", "github"),
    ("workload.subject", "repo:shop/api:ref:refs/heads/main"),
    ("workload.project", "shop/api"),
    ("workload.branch", "main"),
    ("workload.claims.ref", "refs/heads/main"),
];
const OTHER: &[(&str, &str)] =
    &[("workload.issuer", "github"), ("workload.project", "shop/api"), ("workload.branch", "feature")];
const TAG: &[(&str, &str)] = &[("workload.issuer", "github"), ("workload.project", "shop/api")];
const PERSON: &[(&str, &str)] = &[
    ("person.issuer", "corp"),
    ("person.subject", "ann"),
    ("person.groups", "dba"),
    ("person.groups", "dev"),
];

use Verdict::{Allow, Deny};

#[test]
fn identities_match_by_all_keys_of_one() {
    let rule = |matcher: &str| {
        let text =
            format!("default: deny\nrules: [{{name: a, match: {{identity: {matcher}}}, action: allow}}]");
        verdicts(&text, &[MAIN, OTHER, TAG, PERSON])
    };
    assert_eq!(rule("{issuer: github, branch: main}"), [Deny, Allow, Deny, Deny, Deny]);
    assert_eq!(rule("{project: shop/*}"), [Deny, Allow, Allow, Allow, Deny]);
    assert_eq!(rule("{branch: '*'}"), [Deny, Allow, Allow, Deny, Deny], "a tag has no branch");
    assert_eq!(rule("{claims: {ref: refs/heads/main}}"), [Deny, Allow, Deny, Deny, Deny]);
    assert_eq!(rule("{kind: person}"), [Deny, Deny, Deny, Deny, Allow]);
    assert_eq!(rule("{groups: [admin, dba]}"), [Deny, Deny, Deny, Deny, Allow]);
    assert_eq!(rule("{}"), [Deny, Allow, Allow, Allow, Allow], "nobody is not anybody");
    // Keys of two identities do not make one.
    let both: Vec<_> = MAIN.iter().chain(PERSON).copied().collect();
    let text =
        "default: deny\nrules: [{name: a, match: {identity: {branch: main, groups: dba}}, action: allow}]";
    assert_eq!(decide(text, &who(&both)).verdict, Deny);
}

/// Who hides who they are gains nothing by it.
#[test]
fn absent_is_unknown() {
    let deny = |matcher: &str| {
        let text = format!("rules: [{{name: d, match: {{{matcher}}}, action: deny}}]");
        verdicts(&text, &[MAIN, OTHER, PERSON])
    };
    assert_eq!(deny("identity: {branch: feature}"), [Deny, Allow, Deny, Deny], "only workloads have one");
    assert_eq!(deny("not_identity: {branch: main}"), [Deny, Allow, Deny, Deny]);
    assert_eq!(deny("identity: {kind: person, groups: contractors}"), [Deny, Deny, Deny, Allow]);
    assert_eq!(deny("identity: {kind: workload, issuer: other}"), [Deny, Allow, Allow, Deny]);
    assert_eq!(deny("identity: {groups: contractors}"), [Deny; 4], "the other may be in it");
    let allow = |matcher: &str| {
        let text = format!("default: deny\nrules: [{{name: a, match: {{{matcher}}}, action: allow}}]");
        verdicts(&text, &[MAIN, OTHER, PERSON])
    };
    assert_eq!(allow("not_identity: {branch: feature}"), [Deny, Allow, Deny, Deny]);
    assert_eq!(allow("not_identity: {kind: person, groups: contractors}"), [Deny, Deny, Deny, Allow]);
    let when = |when: &str, action: &str| {
        let text = format!(
            "default: {}\nrules: [{{name: w, when: '{when}', action: {action}}}]",
            if action == "allow" { "deny" } else { "allow" }
        );
        verdicts(&text, &[MAIN, OTHER, PERSON])
    };
    assert_eq!(when("subject.workload.branch == \"main\"", "allow"), [Deny, Allow, Deny, Deny]);
    assert_eq!(when("subject.workload.branch != \"main\"", "deny"), [Deny, Allow, Deny, Deny]);
    assert_eq!(when("subject.workload.claims.ref != \"refs/heads/main\"", "deny"), [Deny, Allow, Deny, Deny]);
    assert_eq!(when("subject.person == null", "deny"), [Deny, Deny, Deny, Allow]);
    assert_eq!(when("\"dba\" in subject.person.groups", "allow"), [Deny, Deny, Deny, Allow]);
}

/// Where a kind cannot be had, a rule that names none is about the other.
#[test]
fn what_no_issuer_gives_is_not_hidden() {
    use crate::identity::IdentityKind::{Person, Workload};
    let denied = |matcher: &str, no_issuer: &[_], pairs| {
        let subject = Subject { no_issuer: no_issuer.to_vec(), ..who(pairs) };
        let text = format!("rules: [{{name: d, match: {{{matcher}}}, action: deny}}]");
        decide(&text, &subject).verdict == Deny
    };
    let rule = "identity: {groups: contractors}";
    assert!(denied(rule, &[], MAIN) && denied(rule, &[Workload], MAIN));
    assert!(!denied(rule, &[Person], MAIN) && !denied(rule, &[Workload], PERSON));
    assert!(denied(rule, &[Person, Workload], &[]), "nobody is known at all");
    assert!(denied("identity: {kind: person, groups: contractors}", &[Person], MAIN), "it is said");
}

#[test]
fn groups_that_are_not_told_are_unknown() {
    use crate::identity::{GroupsKnown, IdentityKind};
    let of = |groups_known| {
        let mut subject = who(PERSON);
        let person = Verified { groups_known, ..(**subject.person.as_ref().unwrap()).clone() };
        subject.put(IdentityKind::Person, Some(Arc::new(person)), &[]);
        move |text: &str| decide(text, &subject).verdict
    };
    let deny = |matcher: &str| format!("rules: [{{name: d, match: {{{matcher}}}, action: deny}}]");
    let when = |expression: &str| format!("rules: [{{name: d, when: '{expression}', action: deny}}]");
    let contractor = deny("identity: {kind: person, groups: contractors}");
    let listed = when("\"contractors\" in subject.person.groups");
    let all = of(GroupsKnown::All);
    assert_eq!((all(&contractor), all(&listed)), (Allow, Allow));
    for known in [GroupsKnown::Unsaid, GroupsKnown::Partly] {
        let some = of(known);
        assert_eq!((some(&contractor), some(&listed)), (Deny, Deny));
        assert_eq!(some(&deny("identity: {kind: person, groups: contractors, issuer: other}")), Allow);
        assert_eq!(some(&deny("not_identity: {kind: person, groups: dba}")), Allow, "what is told counts");
        let allow = "default: deny\nrules: [{name: a, match: {not_identity: {kind: person, groups: contractors}}, action: allow}]";
        assert_eq!((some(allow), all(allow)), (Deny, Allow));
    }
}

#[test]
fn a_policy_can_need_an_identity() {
    let text =
        "require_identity: {kind: workload, issuer: github, message: 'add `permissions: {id-token: write}`'}";
    assert_eq!(verdicts(text, &[MAIN, TAG, PERSON]), [Deny, Allow, Allow, Deny]);
    let nobody = decide(text, &Subject::default());
    assert_eq!(nobody.rule.as_deref(), Some(IDENTITY_RULE));
    assert_eq!(nobody.message.as_deref(), Some("add `permissions: {id-token: write}`"));
    let other = who(&[("workload.issuer", "gitlab")]);
    assert_eq!(decide(text, &other).verdict, Deny);
    assert!(flow(text, &other).refuses_subject(&other).unwrap().contains("interlock.identity"));
    assert_eq!(flow(text, &who(MAIN)).refuses_subject(&who(MAIN)), None);
    // What was wrong with what it has is told.
    let mut expired = Subject::default();
    expired.put(
        crate::identity::IdentityKind::Workload,
        None,
        &["workload: github: the token has expired".into()],
    );
    expired.missing.push("exe: gone".into());
    let told = decide("require_identity: workload", &expired).message.unwrap();
    assert!(told.contains("(workload: github: the token has expired)"), "{told}");
    assert_eq!(verdicts("require_identity: any", &[MAIN, PERSON]), [Deny, Allow, Allow]);
    assert_eq!(verdicts("require_identity: person", &[MAIN, PERSON]), [Deny, Deny, Allow]);
    // Only watched.
    let watched = decide("mode: observe\nrequire_identity: any", &Subject::default());
    assert!(watched.verdict == Allow && !watched.enforced);
    assert_eq!(
        flow("mode: observe\nrequire_identity: any", &Subject::default())
            .refuses_subject(&Subject::default()),
        None
    );
}

#[test]
fn a_rule_can_need_an_identity() {
    for action in ["allow", "hold", "deny"] {
        let text = format!(
            "rules: [{{name: r, match: {{sql: {{class: read}}}}, require_identity: workload, action: {action}}}]"
        );
        let nobody = decide(&text, &Subject::default());
        assert_eq!((nobody.verdict, nobody.rule.as_deref()), (Deny, Some("r")), "{action}");
        assert!(nobody.message.unwrap().contains("needs a job with a token"));
    }
    let text = "rules: [{name: r, match: {sql: {class: write}}, require_identity: workload, action: allow}]";
    assert_eq!(verdicts(text, &[MAIN]), [Allow, Allow], "it is about writes alone");
    // One that allows is no way around `default: deny` without it.
    let text = "default: deny\nrules: [{name: r, require_identity: workload, action: allow}]";
    assert_eq!(verdicts(text, &[MAIN, PERSON]), [Deny, Allow, Deny]);
}

#[test]
fn what_is_no_identity_is_told() {
    let error = |text: &str| {
        let text = format!("version: 1\nprocesses: [{{run: x}}]\n{text}");
        parse_str("p.yaml", &text).map(drop).unwrap_err().to_string()
    };
    assert!(error("require_identity: human").contains("kind of identity"));
    assert!(error("require_identity: {kinds: person}").contains("did you mean `kind`"));
    assert!(
        error("rules: [{name: a, match: {identity: {branches: main}}, action: deny}]")
            .contains("did you mean `branch`")
    );
    assert!(error("rules: [{name: a, match: {identity: {claims: {}}}, action: deny}]").contains("claims"));
    assert!(
        error("rules: [{name: a, match: {identity: {claims: {x: [1]}}}, action: deny}]")
            .contains("expected text")
    );
    assert!(
        error("rules: [{name: a, when: 'subject.person.mail == \"x\"', action: deny}]")
            .contains("no field `mail`")
    );
    assert!(subject([("workload.branche", "x")]).unwrap_err().contains("did you mean `branch`"));
}

/// What this host's files need no policy of a collector's takes back.
#[test]
fn what_one_policy_needs_another_does_not_take_back() {
    let needs = "version: 1\nprocesses: [{run: x}]\nrequire_identity: workload\n";
    let allows = "version: 1\nprocesses: [{run: x}]\nrules: [{name: all, action: allow}]\n";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("10.yaml"), needs).unwrap();
    std::fs::write(dir.path().join("20.yaml"), allows).unwrap();
    let set = PolicySet::load_trusting(dir.path(), super::read::Trust::Anyone).unwrap();
    let nobody = Subject::default();
    let decision = set.flow_of_all(&nobody, &destination()).decide(&sample_operation(), &nobody);
    assert_eq!((decision.verdict, decision.rule), (Deny, Some(Arc::from(IDENTITY_RULE))));
}

/// A mask that is for some is for whoever hides who they are, and so is one that is for all but some.
#[test]
fn masks_are_for_whoever_cannot_be_told_from_whom_they_are_for() {
    let masked = |matcher: &str, subject: &Subject| {
        let text = format!("masks: [{{name: m, columns: [public.t.c], with: redact, {matcher}}}]");
        flow(&text, subject).masks().has_columns()
    };
    let all = |matcher: &str| {
        let people = [&[][..], MAIN, OTHER, PERSON].map(who);
        people.map(|subject| masked(matcher, &subject))
    };
    assert_eq!(all("not_identity: {kind: person, groups: dba}"), [true, true, true, false]);
    assert_eq!(
        all("not_identity: {branch: main}"),
        [true, false, true, true],
        "a person alone hides the job"
    );
    assert_eq!(all("identity: {kind: person, groups: contractors}"), [true, true, true, false]);
    assert_eq!(all("identity: {kind: person, groups: dba}"), [true; 4]);
    assert_eq!(all("identity: {branch: main}"), [true, true, false, true]);
    // All that is said must hold.
    let both = "identity: {branch: main}, not_identity: {kind: person, groups: dba}";
    assert_eq!(all(both), [true, true, false, false]);
    assert_eq!(all("identity: {branch: main}, when: 'false'"), [false; 4]);
    // Groups that are not told make no exemption.
    let mut subject = who(PERSON);
    let mut person = Verified::clone(subject.person.as_deref().unwrap());
    person.groups = vec!["dev".to_owned()];
    person.groups_known = crate::identity::GroupsKnown::Partly;
    subject.person = Some(Arc::new(person));
    assert!(masked("not_identity: {kind: person, groups: dba}", &subject));
    assert!(masked("identity: {kind: person, groups: dba}", &subject));
    // Nor does an identity that has lapsed.
    subject.put(crate::identity::IdentityKind::Person, None, &[]);
    assert!(masked("not_identity: {kind: person, groups: dba}", &subject));
}
