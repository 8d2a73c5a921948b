//! `sign_in:` in the configuration file.

use std::path::PathBuf;

use serde::Deserialize;

use crate::web::{Role, is_group};

/// How people sign in.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SignIn {
    /// Accounts of the collector's own, with passwords. Without them only identity providers sign people in;
    /// `interlock-collector users reset NAME` opens one for an hour when no provider can be used.
    pub local: bool,
    /// Hours after which a browser is signed out, however much it is used: 1 to 168.
    pub hours: u32,
    /// Minutes after which a browser that is not used is signed out: 1 to 1440.
    pub idle_minutes: u32,
    /// Days after which API tokens of an account from a provider count no longer, unless its owner has signed in
    /// again: that is when it is asked whether they still may. 1 to 366.
    pub token_days: u32,
    /// Providers of OpenID Connect.
    pub oidc: Vec<Oidc>,
    /// Identity providers of SAML 2.0.
    pub saml: Vec<Saml>,
}

impl Default for SignIn {
    fn default() -> Self {
        Self { local: true, hours: 12, idle_minutes: 60, token_days: 30, oidc: Vec::new(), saml: Vec::new() }
    }
}

/// A provider of OpenID Connect.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Oidc {
    /// Its name here, in small letters, digits and hyphens: it stands in the address that the provider sends
    /// browsers back to, and before the names of its accounts.
    pub name: String,
    /// What its button says; the name when left out.
    pub label: Option<String>,
    /// The issuer, as the provider itself writes it (`issuer` in its discovery document).
    pub issuer: String,
    /// The client id that the provider gave the collector.
    pub client_id: String,
    /// A file with the client secret alone. Without it the collector is a public client.
    pub client_secret_file: Option<PathBuf>,
    /// PEM file of certificate authorities to trust for this provider, instead of the system's.
    pub ca: Option<PathBuf>,
    /// Scopes to ask for, beside `openid`.
    #[serde(default = "scopes")]
    pub scopes: Vec<String>,
    /// The claim that names a person's groups: a name, or a JSON pointer such as `/realm_access/roles`. With `email`
    /// the address counts as the one group, if the provider says that it has verified it.
    #[serde(default = "groups")]
    pub groups_claim: String,
    /// Minutes since people typed their password at the provider, at most; older sign-ins there must be done anew.
    pub max_age_minutes: Option<u32>,
    /// Which groups have which role.
    pub roles: RoleGroups,
    /// Groups of it that count for approvals, where policies name groups of the same names; none when left out: at
    /// many providers people other than who writes policies say who is in which group.
    #[serde(default)]
    pub approver_groups: Vec<String>,
}

/// An identity provider of SAML 2.0.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Saml {
    /// Its name here, in small letters, digits and hyphens: it stands in the addresses that the provider is told,
    /// and before the names of its accounts.
    pub name: String,
    /// What its button says; the name when left out.
    pub label: Option<String>,
    /// A file with the provider's metadata: its entity id, address for requests, and certificates. Read at the start.
    pub metadata_file: PathBuf,
    /// The collector's own entity id; the address of its metadata when left out.
    pub entity_id: Option<String>,
    /// The attribute that names a person's groups.
    #[serde(default = "groups")]
    pub groups_attribute: String,
    /// The attribute that names a person, for people to read; the NameID when left out.
    pub name_attribute: Option<String>,
    /// Which groups have which role.
    pub roles: RoleGroups,
    /// Groups of it that count for approvals, where policies name groups of the same names; none when left out: at
    /// many providers people other than who writes policies say who is in which group.
    #[serde(default)]
    pub approver_groups: Vec<String>,
}

fn scopes() -> Vec<String> {
    vec!["profile".into(), "email".into()]
}

fn groups() -> String {
    "groups".into()
}

/// Which groups of a provider have which role. Who is in several has the first of admin, reviewer, auditor and
/// viewer; who is in none cannot sign in.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RoleGroups {
    /// Groups of administrators.
    pub admin: Vec<String>,
    /// Groups of reviewers.
    pub reviewer: Vec<String>,
    /// Groups of auditors.
    pub auditor: Vec<String>,
    /// Groups of viewers.
    pub viewer: Vec<String>,
}

impl RoleGroups {
    /// The role of who is in `groups`, and by which of them.
    pub fn role<'g>(&self, groups: &'g [String]) -> Option<(Role, &'g str)> {
        let roles = [
            (Role::Admin, &self.admin),
            (Role::Reviewer, &self.reviewer),
            (Role::Auditor, &self.auditor),
            (Role::Viewer, &self.viewer),
        ];
        roles.into_iter().find_map(|(role, named)| {
            groups.iter().find(|group| named.contains(group)).map(|group| (role, group.as_str()))
        })
    }

    fn check(&self) -> Result<(), String> {
        let mut all = [&self.admin, &self.reviewer, &self.auditor, &self.viewer].into_iter().flatten();
        if all.clone().next().is_none() {
            return Err("roles: name the groups of at least one role, or nobody can sign in".into());
        }
        if all.any(|group| group.trim().is_empty()) {
            return Err("roles: a group has a name".into());
        }
        Ok(())
    }
}

impl SignIn {
    /// Checks what the types do not say. `url` is the address that people use, if it is configured.
    ///
    /// # Errors
    /// A value cannot be worked with; the message says which.
    pub fn check(&self, url: Option<&str>) -> Result<(), String> {
        let within = |what: &str, value: u32, most: u32| match value {
            0 => Err(format!("sign_in.{what}: it is 1 at least")),
            value if value > most => Err(format!("sign_in.{what}: it is {most} at most")),
            _ => Ok(()),
        };
        within("hours", self.hours, 168)?;
        within("idle_minutes", self.idle_minutes, 1440)?;
        within("token_days", self.token_days, 366)?;
        let mut names: Vec<&str> = Vec::new();
        let oidc = self.oidc.iter().map(|provider| (&provider.name, &provider.approver_groups));
        let saml = self.saml.iter().map(|provider| (&provider.name, &provider.approver_groups));
        for (name, groups) in oidc.chain(saml) {
            if let Some(group) = groups.iter().find(|group| !is_group(group)) {
                return Err(format!(
                    "sign_in: {name}: approver_groups: {group:?} is none that a policy can name: 1 to 32 letters, \
                     digits, `-`, `_` and `.`"
                ));
            }
        }
        let oidc = self.oidc.iter().map(|provider| (&provider.name, &provider.label, &provider.roles));
        let saml = self.saml.iter().map(|provider| (&provider.name, &provider.label, &provider.roles));
        for (name, label, roles) in oidc.chain(saml) {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if name.is_empty() || name.len() > 32 || !name.bytes().all(plain) {
                return Err(format!(
                    "sign_in: {name:?}: a provider's name has 1 to 32 small letters, digits and hyphens; label: is \
                     what people read"
                ));
            }
            if names.contains(&name.as_str()) {
                return Err(format!("sign_in: two providers are called {name}"));
            }
            names.push(name);
            if label.as_ref().is_some_and(|label| label.trim().is_empty() || label.chars().count() > 60) {
                return Err(format!("sign_in: {name}: a label has 1 to 60 characters"));
            }
            roles.check().map_err(|error| format!("sign_in: {name}: {error}"))?;
        }
        let mut issuers: Vec<(&str, &str)> = Vec::new();
        for provider in &self.oidc {
            // Whom both know would have one account, with the role that the last one gave.
            let issuer = provider.issuer.trim_end_matches('/');
            if let Some((_, other)) = issuers.iter().find(|(known, _)| *known == issuer) {
                return Err(format!(
                    "sign_in: {}: issuer: it is that of {other} too; a provider is configured once",
                    provider.name
                ));
            }
            issuers.push((issuer, &provider.name));
            let url = openidconnect::url::Url::parse(&provider.issuer)
                .map_err(|error| format!("sign_in: {}: issuer: {error}", provider.name))?;
            if !is_safe(&url) {
                return Err(format!(
                    "sign_in: {}: issuer: it is an https:// address (http:// for one on this host only)",
                    provider.name
                ));
            }
            if provider.client_id.trim().is_empty() || provider.groups_claim.is_empty() {
                return Err(format!(
                    "sign_in: {}: client_id and groups_claim cannot be empty",
                    provider.name
                ));
            }
            if provider.max_age_minutes == Some(0) {
                return Err(format!("sign_in: {}: max_age_minutes: it is 1 at least", provider.name));
            }
        }
        if names.is_empty() {
            if !self.local {
                return Err(
                    "sign_in: without local accounts and without a provider nobody could sign in".into()
                );
            }
            return Ok(());
        }
        let url = url.ok_or(
            "sign_in: providers send browsers back to the collector: set web.url to the address that people use",
        )?;
        let parsed = openidconnect::url::Url::parse(url).map_err(|error| format!("web.url: {error}"))?;
        if !is_safe(&parsed)
            || parsed.path() != "/"
            || parsed.query().is_some()
            || parsed.fragment().is_some()
        {
            return Err(
                "web.url: with identity providers it is https://NAME, without a path (http:// on this host only)".into(),
            );
        }
        Ok(())
    }
}

/// HTTPS, or this host itself.
pub(super) fn is_safe(url: &openidconnect::url::Url) -> bool {
    use openidconnect::url::Host;
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return false,
    };
    let plain = url.username().is_empty() && url.password().is_none();
    plain && (url.scheme() == "https" || loopback && url.scheme() == "http")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> SignIn {
        serde_saphyr::from_str(text).expect("a configuration")
    }

    const OKTA: &str =
        "oidc: [{name: okta, issuer: 'https://x.okta.com', client_id: c, roles: {viewer: [all]}}]";

    #[test]
    fn what_nobody_could_sign_in_with_is_refused() {
        let url = Some("https://interlock.example.com");
        assert_eq!(SignIn::default().check(None), Ok(()));
        assert_eq!(parse(OKTA).check(url), Ok(()));
        assert_eq!(parse(OKTA).check(Some("http://localhost:7480/")), Ok(()));
        let two = |issuer: &str| {
            let more = format!(", {{name: b, issuer: '{issuer}', client_id: d, roles: {{admin: [all]}}}}]");
            OKTA.trim_end_matches(']').to_owned() + &more
        };
        assert_eq!(parse(&two("https://y.okta.com")).check(url), Ok(()));
        let saml = "saml: [{name: okta, metadata_file: /m, roles: {viewer: [all]}}]";
        for (text, url, said) in [
            (OKTA, None, "web.url"),
            (OKTA, Some("http://interlock.example.com"), "web.url"),
            (OKTA, Some("https://interlock.example.com/path"), "web.url"),
            (&OKTA.replace("https://x", "http://x"), url, "issuer"),
            (&OKTA.replace("https://x", "https://u:p@x"), url, "issuer"),
            (&OKTA.replace("name: okta", "name: Okta"), url, "small letters"),
            (&OKTA.replace("c, roles", "c, approver_groups: ['d b'], roles"), url, "approver_groups"),
            (&OKTA.replace("viewer: [all]", ""), url, "at least one role"),
            (&OKTA.replace("viewer: [all]", "viewer: ['']"), url, "a group has a name"),
            (&format!("{OKTA}\n{saml}"), url, "two providers"),
            (&two("https://x.okta.com"), url, "it is that of okta too"),
            (&two("https://x.okta.com/"), url, "it is that of okta too"),
            ("local: false", url, "nobody could sign in"),
            ("hours: 0", url, "hours"),
            ("idle_minutes: 10000", url, "idle_minutes"),
        ] {
            let error = parse(text).check(url).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
        for text in ["hour: 1", "oidc: [{name: a}]", &OKTA.replace("viewer:", "root:")] {
            assert!(serde_saphyr::from_str::<SignIn>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_strongest_role_counts_and_no_group_is_none() {
        let roles = RoleGroups {
            admin: vec!["sre".into()],
            reviewer: vec!["dba".into()],
            auditor: vec!["audit".into()],
            viewer: vec!["all".into(), "dba".into()],
        };
        let role = |groups: &[&str]| {
            let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
            roles.role(&groups).map(|(role, by)| (role, by.to_owned()))
        };
        assert_eq!(role(&["all", "sre"]), Some((Role::Admin, "sre".into())));
        assert_eq!(role(&["all", "audit", "dba"]), Some((Role::Reviewer, "dba".into())));
        assert_eq!(role(&["all"]), Some((Role::Viewer, "all".into())));
        for none in [&[][..], &["SRE"], &["sre "], &["admin"], &["sre,all"]] {
            assert_eq!(role(none), None, "{none:?}");
        }
    }
}
