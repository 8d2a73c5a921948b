//! What is checked of a policy set when it comes in.
//!
//! Names, sizes, YAML and the outline of a policy file. What rules mean is checked by the agent, whose
//! parser knows the servers' grammars; `interlock-collector policies push` has `interlock policy check` do
//! that first. An agent that cannot load a set refuses the order, and says so.

use std::collections::BTreeMap;

use interlock_recording::order;
use interlock_shipping::v1::PolicyFiles;
use serde_json::Value;

/// The keys at the top of a policy file.
const KEYS: &[&str] = &[
    "version",
    "description",
    "mode",
    "default",
    "processes",
    "destinations",
    "egress",
    "resolvers",
    "plaintext",
    "rules",
    "masks",
];

/// Files and texts, as hashes are made of them.
pub(crate) fn pairs(files: &PolicyFiles) -> impl Iterator<Item = (&str, &str)> {
    files.files.iter().map(|file| (file.name.as_str(), file.text.as_str()))
}

/// Checks a set's files.
///
/// # Errors
/// What is wrong first, with the file.
pub fn check(files: &PolicyFiles) -> Result<(), String> {
    order::check_files(pairs(files)).map_err(|error| error.to_string())?;
    let mut names: BTreeMap<(&str, String), &str> = BTreeMap::new();
    for (name, text) in pairs(files) {
        let wrong = |what: String| format!("{name}: {what}");
        let value: Value = serde_saphyr::from_str(text).map_err(|error| {
            let error = error.without_snippet();
            wrong(error.to_string().chars().take(500).collect())
        })?;
        let Value::Object(file) = value else {
            return Err(wrong("it holds no policy: begin it with `version: 1`".into()));
        };
        if file.get("version") != Some(&Value::from(1)) {
            return Err(wrong("write `version: 1` at its top".into()));
        }
        if let Some(key) = file.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(wrong(format!("unknown key {key:?}")));
        }
        for (list, what) in [("rules", "rule"), ("masks", "mask")] {
            let items = match file.get(list) {
                None => continue,
                Some(Value::Array(items)) => items,
                Some(_) => return Err(wrong(format!("`{list}` is no list"))),
            };
            for item in items {
                let Some(called) = item.get("name").and_then(Value::as_str) else {
                    return Err(wrong(format!("a {what} has no name")));
                };
                if let Some(other) = names.insert((what, called.to_owned()), name) {
                    return Err(wrong(format!("the {what} {called:?} is in {other} already")));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use interlock_shipping::v1::PolicyFile;

    use super::*;

    fn files(files: &[(&str, &str)]) -> PolicyFiles {
        let file = |(name, text): &(&str, &str)| PolicyFile { name: (*name).into(), text: (*text).into() };
        PolicyFiles { files: files.iter().map(file).collect() }
    }

    #[test]
    fn what_is_no_policy_does_not_come_in() {
        let good = "version: 1\nprocesses: [{user: a}]\nrules: [{name: a, action: deny}]\n";
        check(&files(&[("a.yaml", good)])).unwrap();
        for (text, told) in [
            ("", "no policy"),
            ("version: 2\n", "version: 1"),
            ("version: 1\nrulez: []\n", "rulez"),
            ("version: 1\nversion: 1\n", "a.yaml"),
            ("version: 1\nrules: [{action: deny}]\n", "no name"),
            ("version: 1\nrules: {a: b}\n", "no list"),
            ("version: [1\n", "a.yaml"),
            ("- 1\n", "no policy"),
        ] {
            let error = check(&files(&[("a.yaml", text)])).unwrap_err();
            assert!(error.contains(told), "{text:?}: {error}");
        }
        let error = check(&files(&[("a.yaml", good), ("b.yaml", good)])).unwrap_err();
        assert!(error.contains("in a.yaml already"), "{error}");
        let deep = format!("version: 1\ndescription: {}1{}\n", "[".repeat(100_000), "]".repeat(100_000));
        assert!(check(&files(&[("a.yaml", &deep)])).is_err());
        let laughs = "version: 1\na: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c \
                      [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d]\n";
        assert!(check(&files(&[("a.yaml", laughs)])).is_err());
    }
}
