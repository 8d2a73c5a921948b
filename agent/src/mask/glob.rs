//! Globs over identifiers: `*` for any run of characters, `?` for any one. Case counts, as it does
//! in PostgreSQL's catalogs.

/// A glob, split up once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    pattern: Box<str>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Literal,
    Wild,
}

impl Glob {
    pub(crate) fn new(pattern: &str) -> Self {
        let kind = if !pattern.is_empty() && pattern.bytes().all(|b| b == b'*') {
            Kind::Any
        } else if pattern.contains(['*', '?']) {
            Kind::Wild
        } else {
            Kind::Literal
        };
        Self { pattern: pattern.into(), kind }
    }

    pub(crate) fn pattern(&self) -> &str {
        &self.pattern
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        match self.kind {
            Kind::Any => true,
            Kind::Literal => *self.pattern == *name,
            Kind::Wild => wild(&self.pattern, name),
        }
    }
}

/// Greedy matching that goes back to the last `*` alone: time at most the product of the lengths.
fn wild(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let name_before = name.clone();
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                retry = Some((pattern.clone(), name_before.clone()));
                name = name_before;
                continue;
            }
            (Some('?'), Some(_)) => continue,
            (Some(p), Some(n)) if p == n => continue,
            _ => {}
        }
        match retry.take() {
            Some((after_star, mut from)) => {
                if from.next().is_none() {
                    return false;
                }
                pattern = after_star.clone();
                name = from.clone();
                retry = Some((after_star, from));
            }
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("customers", "customers", true),
            ("customers", "Customers", false),
            ("card_*", "card_number", true),
            ("card_*", "card", false),
            ("*_card", "old_card_card", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
            ("c?rd", "cérd", true),
            ("c?rd", "crd", false),
            ("", "", true),
            ("", "x", false),
            ("a**b", "ab", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    fn naive(pattern: &[char], name: &[char]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (['*', p @ ..], n) => naive(p, n) || (!n.is_empty() && naive(pattern, &n[1..])),
            (['?', p @ ..], [_, n @ ..]) => naive(p, n),
            ([a, p @ ..], [b, n @ ..]) => a == b && naive(p, n),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn as_by_definition(pattern in "[ab*?]{0,6}", name in "[ab]{0,8}") {
            let p: Vec<char> = pattern.chars().collect();
            let n: Vec<char> = name.chars().collect();
            prop_assert_eq!(Glob::new(&pattern).matches(&name), naive(&p, &n));
        }
    }
}
