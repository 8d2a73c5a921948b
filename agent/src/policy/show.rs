//! `interlock policy show`: which rules there are, and where each comes from.

use std::fmt::Write as _;

use interlock_recording::text::printable;
use serde_json::{Value, json};

use super::facts::word;
use super::load::PolicySet;
use super::origin::Origin;

/// The rules and masks of a set, in order, with where each comes from.
pub(super) fn to_json(set: &PolicySet) -> Value {
    let mut items = Vec::new();
    for policy in &set.policies {
        let origin = match &policy.origin {
            Origin::Local => "local".to_owned(),
            Origin::Central { set, version, .. } => format!("{set}@{version}"),
        };
        let place = |line: u32| format!("{}:{line}", policy.file);
        for rule in &policy.rules {
            items.push(json!({
                "rule": rule.name, "action": rule.action, "mode": mode(rule.observed), "from": origin,
                "place": place(rule.at.line),
            }));
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
        for rule in &policy.rules {
            let at = format!("{}:{}", policy.file, rule.at.line);
            rows.push([rule.name.to_string(), word(&rule.action), mode(rule.observed).into(), at]);
        }
        for mask in &policy.masks {
            let observed = policy.observed() || mask.value.mode == Some(super::file::Mode::Observe);
            let at = format!("{}:{}", policy.file, mask.at.line);
            rows.push([mask.value.name.value.0.clone(), "mask".into(), mode(observed).into(), at]);
        }
    }
    let width = rows.iter().map(|[name, ..]| name.chars().count()).max().unwrap_or(0);
    for [name, action, mode, place] in rows {
        let _ = writeln!(text, "{name:<width$}  {action:<6}  {mode:<7}  {}", printable(&place));
    }
    text
}
