//! `interlock policy show`: which rules there are, and where each comes from.

use std::fmt::Write as _;

use interlock_recording::text::printable;
use serde_json::{Value, json};

use super::facts::word;
use super::origin::Origin;
use super::set::PolicySet;
use super::who::Needed;

/// The rules and masks of a set, in order, with where each comes from.
pub(super) fn to_json(set: &PolicySet) -> Value {
    let mut items = Vec::new();
    for policy in &set.policies {
        let origin = match &policy.origin {
            Origin::Local => "local".to_owned(),
            Origin::Central { set, version, .. } => format!("{set}@{version}"),
        };
        let place = |line: u32| format!("{}:{line}", policy.file);
        if let Some(needed) = &policy.needs {
            items.push(json!({
                "policy": policy.name, "mode": mode(policy.observed()), "from": origin, "place": &policy.file,
                "require_identity": needed.words(),
            }));
        }
        for rule in &policy.rules {
            let mut item = json!({
                "rule": rule.name, "action": rule.action, "mode": mode(rule.observed), "from": origin,
                "place": place(rule.at.line),
            });
            if let (Some(needed), Some(item)) = (&rule.needs, item.as_object_mut()) {
                item.insert("require_identity".to_owned(), needed.words().into());
            }
            items.push(item);
        }
        for mask in &policy.masks {
            let observed = policy.observed() || mask.value.mode == Some(super::file::Mode::Observe);
            items.push(json!({
                "mask": mask.value.name.value.0, "mode": mode(observed), "from": origin,
                "place": place(mask.at.line),
            }));
        }
    }
    let central = set.central().map(|order| {
        let named = |ordered: &Option<interlock_recording::order::Ordered>| {
            ordered.as_ref().map(
                |ordered| json!({"set": ordered.set, "version": ordered.version, "author": ordered.author}),
            )
        };
        json!({
            "collector": order.collector, "issue": order.issue, "enforce": named(&order.enforce),
            "observe": named(&order.observe),
        })
    });
    json!({"hash": set.hash(), "central": central, "items": items})
}

fn mode(observed: bool) -> &'static str {
    if observed { "observe" } else { "enforce" }
}

/// The same for people.
pub(super) fn to_text(set: &PolicySet) -> String {
    let mut text = String::new();
    match set.central() {
        Some(order) => {
            let _ = writeln!(text, "order {} of the collector {}", order.issue, printable(&order.collector));
        }
        None => text.push_str("no order of a collector\n"),
    }
    let mut rows = Vec::new();
    for policy in &set.policies {
        if let Some(needed) = &policy.needs {
            let (name, mode) = (policy.identity_rule.to_string(), mode(policy.observed()).into());
            rows.push([name, "deny".into(), mode, policy.file.to_string(), unless(needed)]);
        }
        for rule in &policy.rules {
            let at = format!("{}:{}", policy.file, rule.at.line);
            let needs = rule.needs.as_ref().map(unless).unwrap_or_default();
            rows.push([rule.name.to_string(), word(&rule.action), mode(rule.observed).into(), at, needs]);
        }
        for mask in &policy.masks {
            let observed = policy.observed() || mask.value.mode == Some(super::file::Mode::Observe);
            let at = format!("{}:{}", policy.file, mask.at.line);
            let name = mask.value.name.value.0.clone();
            rows.push([name, "mask".into(), mode(observed).into(), at, String::new()]);
        }
    }
    let width = rows.iter().map(|[name, ..]| name.chars().count()).max().unwrap_or(0);
    for [name, action, mode, place, needs] in rows {
        let _ = writeln!(
            text,
            "{name:<width$}  {action:<6}  {mode:<7}  {}{}",
            printable(&place),
            printable(&needs)
        );
    }
    text
}

/// The identity without which it is refused.
fn unless(needed: &Needed) -> String {
    format!("  denied without {}", needed.words())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_an_identity_is_shown() {
        let text = "version: 1\nprocesses: [{run: x}]\nrequire_identity: person\nrules:\n  \
                    - {name: own, action: deny, require_identity: {kind: workload, issuer: [github, gitlab]}}\n  \
                    - {name: plain, action: deny}\nmasks: [{name: m, columns: [a.b.c], with: redact}]\n";
        let set = super::super::parse_str("p.yaml", text).unwrap();
        let shown = to_text(&set);
        let lines: Vec<&str> = shown.lines().skip(1).collect();
        assert!(
            lines[0].starts_with("interlock.identity") && lines[0].contains("denied without person"),
            "{shown}"
        );
        assert!(lines[1].ends_with("p.yaml:5  denied without workload of github or gitlab"), "{shown}");
        assert!(lines[2].ends_with("p.yaml:6") && lines[3].contains("mask"), "{shown}");
        let json = to_json(&set);
        let needs: Vec<_> =
            json["items"].as_array().unwrap().iter().map(|item| &item["require_identity"]).collect();
        assert_eq!(
            needs,
            [&json!("person"), &json!("workload of github or gitlab"), &Value::Null, &Value::Null]
        );
    }
}
