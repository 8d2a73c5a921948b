//! Labels of hosts, which hosts labels select, and which of several assignments counts.

use crate::store::{Assignment, Labels, VersionName};

/// Labels of one host or one selector.
const MOST: usize = 32;
/// Selects one host by its id, which is no label that anybody sets.
const HOST: &str = "host";

/// Something is no label or no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no label: write key=value, of letters, digits, . - and _, 63 at most each; keys in lower case"
)]
pub struct LabelError(String);

fn is_word(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !word.is_empty() && word.len() <= 63 && word.bytes().all(plain)
}

/// Reads labels such as `env=prod,tier=db`; nothing is no label at all.
///
/// # Errors
/// One is no label, or stands twice; or they are more than 32.
pub(super) fn parse(text: &str) -> Result<Labels, LabelError> {
    let mut labels = Labels::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = || LabelError(part.chars().take(130).collect());
        let (name, value) = part.split_once('=').ok_or_else(wrong)?;
        let lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
        if !(is_word(name) && lower && is_word(value)) || labels.len() == MOST {
            return Err(wrong());
        }
        if labels.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(wrong());
        }
    }
    Ok(labels)
}

/// The same for labels that a host is given: `host` is not one of them.
///
/// # Errors
/// One is no label, or stands twice; or they are more than 32.
pub fn parse_given(text: &str) -> Result<Labels, LabelError> {
    let labels = parse(text)?;
    if labels.contains_key(HOST) {
        return Err(LabelError(format!("{HOST}=… (it stands for a host's id)")));
    }
    Ok(labels)
}

/// Reads a selector; `*` is every host.
///
/// # Errors
/// One is no label, or stands twice; or they are more than 32.
pub fn selector(text: &str) -> Result<String, LabelError> {
    if text.trim() == "*" { Ok(String::new()) } else { parse(text).map(|labels| written(&labels)) }
}

/// Labels in their one way of writing.
pub fn written(labels: &Labels) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// Whether a selector takes in a host of these labels.
pub(super) fn selects(selector: &str, host: &str, labels: &Labels) -> bool {
    // One that cannot be read takes in nobody.
    let Ok(wanted) = parse(selector) else { return false };
    wanted.iter().all(|(name, value)| match name.as_str() {
        HOST => value == host,
        name => labels.get(name) == Some(value),
    })
}

/// What a host goes by: enforced, and staged. Each by itself: of the assignments that take the host in and
/// have something to say there, that of the greatest priority; of equal ones that with the most labels; of
/// those the first by its text.
pub fn choose<'a>(
    assignments: &'a [Assignment],
    host: &str,
    labels: &Labels,
) -> (Option<&'a VersionName>, Option<&'a VersionName>) {
    let mut fitting: Vec<&Assignment> =
        assignments.iter().filter(|assignment| selects(&assignment.selector, host, labels)).collect();
    let count = |selector: &str| selector.split(',').filter(|part| !part.is_empty()).count();
    fitting.sort_by(|a, b| {
        let by_count = || count(&b.selector).cmp(&count(&a.selector));
        b.priority.cmp(&a.priority).then_with(by_count).then_with(|| a.selector.cmp(&b.selector))
    });
    (
        fitting.iter().find_map(|assignment| assignment.enforce.as_ref()),
        fitting.iter().find_map(|assignment| assignment.observe.as_ref()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Former;

    fn assignment(selector: &str, priority: i64, enforce: &str, observe: &str) -> Assignment {
        let name = |set: &str| (!set.is_empty()).then(|| VersionName { set: set.to_owned(), version: 1 });
        Assignment {
            selector: super::selector(selector).unwrap(),
            priority,
            enforce: name(enforce),
            former: Former::Unknown,
            observe: name(observe),
            changed_ns: 0,
            changed_by: String::new(),
            reason: String::new(),
        }
    }

    fn chosen(assignments: &[Assignment], labels: &str) -> (String, String) {
        let labels = parse(labels).unwrap();
        let (enforce, observe) = choose(assignments, "ab", &labels);
        let set = |name: Option<&VersionName>| name.map(|name| name.set.clone()).unwrap_or_default();
        (set(enforce), set(observe))
    }

    #[test]
    fn of_several_assignments_one_counts() {
        let mut assignments = vec![
            assignment("*", 0, "base", ""),
            assignment("env=prod", 0, "prod", "next"),
            assignment("env=prod,tier=db", 0, "db", ""),
            assignment("tier=web", 5, "web", ""),
            assignment("canary=yes", 0, "", "canary"),
        ];
        for _ in 0..assignments.len() {
            let is = |labels: &str, enforce: &str, observe: &str| {
                assert_eq!(
                    chosen(&assignments, labels),
                    (enforce.to_owned(), observe.to_owned()),
                    "{labels}"
                );
            };
            is("", "base", "");
            is("env=dev", "base", "");
            is("env=prod", "prod", "next");
            // The more labels, and each place by itself.
            is("env=prod,tier=db", "db", "next");
            is("env=prod,tier=db,canary=yes", "db", "canary");
            // Priority goes before that.
            is("env=prod,tier=web", "web", "next");
            assignments.rotate_left(1);
        }
        // Equal in all: by text.
        let equal = [assignment("b=1", 0, "b", ""), assignment("a=1", 0, "a", "")];
        assert_eq!(chosen(&equal, "a=1,b=1").0, "a");
        let one = [assignment("*", 0, "base", ""), assignment("host=ab", 0, "one", "")];
        assert_eq!(chosen(&one, "").0, "one");
        assert_eq!(choose(&one, "cd", &Labels::new()).0.unwrap().set, "base");
    }

    #[test]
    fn labels_are_plain_words() {
        assert_eq!(selector(" tier=db , env=prod ").unwrap(), "env=prod,tier=db");
        assert_eq!(selector("*").unwrap(), "");
        for wrong in ["env", "=x", "env=", "Env=x", "env=a b", "env=x,env=y", "e=x;y", "env=\u{e4}"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse_given("host=ab").is_err() && parse("host=ab").is_ok());
        let many: Vec<String> = (0..33).map(|n| format!("k{n}=v")).collect();
        assert!(parse(&many.join(",")).is_err());
    }
}
