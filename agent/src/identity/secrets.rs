//! Masks secrets in command lines, before they go anywhere.

use std::sync::OnceLock;

use crate::mask::{Detector, HashKey, MaskSet, Transform};

const MASKED: &str = "****";

/// Options whose value is a secret whatever it looks like, without leading dashes, lower case.
const SECRET_OPTIONS: [&str; 14] = [
    "password",
    "passwd",
    "pass",
    "pwd",
    "passphrase",
    "token",
    "secret",
    "api-key",
    "apikey",
    "access-key",
    "secret-key",
    "auth-token",
    "client-secret",
    "private-key",
];

/// Masks what is a secret in a command line: values of options and assignments named like one
/// (`--password=x`, `--token x`, `PGPASSWORD=x`, `mysql -px`), passwords in URLs and connection strings,
/// and anything that the mask detectors know as a key or token.
pub(super) fn mask_arguments(arguments: Vec<String>) -> Vec<String> {
    let mysql = arguments.first().is_some_and(|program| {
        let name = program.rsplit('/').next().unwrap_or(program);
        name.starts_with("mysql") || name.starts_with("mariadb")
    });
    let mut next_is_secret = false;
    arguments
        .into_iter()
        .enumerate()
        .map(|(at, argument)| {
            if std::mem::take(&mut next_is_secret) && !argument.starts_with("--") {
                return MASKED.to_owned();
            }
            if at == 0 {
                return argument;
            }
            if let Some((name, _)) = argument.split_once('=')
                && is_secret_name(name)
            {
                return format!("{name}={MASKED}");
            }
            if argument.starts_with('-') && is_secret_name(&argument) {
                next_is_secret = true;
                return argument;
            }
            if mysql && argument.starts_with("-p") && argument.len() > 2 {
                return format!("-p{MASKED}");
            }
            detectors().mask_text(&argument).into_owned()
        })
        .collect()
}

fn is_secret_name(name: &str) -> bool {
    let name = name.trim_start_matches('-').to_ascii_lowercase().replace('_', "-");
    let plain = name.replace('-', "");
    SECRET_OPTIONS.iter().any(|secret| {
        let secret = secret.replace('-', "");
        plain == secret || (secret.len() > 4 && plain.ends_with(&secret))
    })
}

fn detectors() -> &'static MaskSet {
    static DETECTORS: OnceLock<MaskSet> = OnceLock::new();
    DETECTORS.get_or_init(|| {
        let secrets = [
            Detector::Jwt,
            Detector::PrivateKey,
            Detector::AwsAccessKey,
            Detector::GithubToken,
            Detector::GitlabToken,
            Detector::SlackToken,
            Detector::StripeKey,
            Detector::GoogleApiKey,
            Detector::UrlPassword,
            Detector::PaymentCard,
        ];
        // The key is for keyed hashes, of which there are none here.
        secrets
            .into_iter()
            .fold(MaskSet::builder(), |set, d| set.detector("argv".into(), d, Transform::Redact))
            .build(&HashKey::new(&[0; 32]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(arguments: &[&str]) -> String {
        mask_arguments(arguments.iter().map(|a| (*a).to_owned()).collect()).join(" ")
    }

    #[test]
    fn values_named_like_secrets_go() {
        assert_eq!(masked(&["x", "--password=hunter2", "-v"]), "x --password=**** -v");
        assert_eq!(masked(&["x", "--api-key", "hunter2", "y"]), "x --api-key **** y");
        assert_eq!(masked(&["env", "PGPASSWORD=hunter2", "psql"]), "env PGPASSWORD=**** psql");
        assert_eq!(masked(&["env", "DB_AUTH_TOKEN=hunter2"]), "env DB_AUTH_TOKEN=****");
        assert_eq!(masked(&["/usr/bin/mysql", "-phunter2", "-u", "root"]), "/usr/bin/mysql -p**** -u root");
    }

    #[test]
    fn plain_words_stay() {
        assert_eq!(masked(&["psql", "-p", "5432", "-h", "db"]), "psql -p 5432 -h db");
        assert_eq!(masked(&["tar", "--compass=north", "bypass=1"]), "tar --compass=north bypass=1");
        assert_eq!(masked(&["x", "--password", "--verbose"]), "x --password --verbose");
    }

    #[test]
    fn passwords_in_urls_go() {
        assert!(!masked(&["psql", "postgres://bob:hunter2@db/app"]).contains("hunter2"));
        assert!(!masked(&["psql", "host=db password=hunter2 user=bob"]).contains("hunter2"));
    }
}
