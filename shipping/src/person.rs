//! Whether an account of the collector's and a user of a host may be one person.

/// Claims of a token that may name the person, verified or not: enough to keep somebody from deciding, never to
/// let them. Microsoft Entra ID has another subject for each application, and verifies no addresses.
pub const NAME_CLAIMS: &[&str] =
    &["email", "preferred_username", "upn", "unique_name", "name", "oid", "user_email", "user_login"];

/// A user's name without what says which directory it is from: `CORP\Alice`, `alice@corp.example` and `alice`
/// are one.
pub fn plain_name(name: &str) -> String {
    let name = name.rsplit('\\').next().unwrap_or_default();
    name.split('@').next().unwrap_or_default().trim().to_lowercase()
}

/// Names that whoever has an account may have on hosts: the account's own (what a provider's account is called
/// stands behind the provider's name and a colon, and what tells two of one name apart behind a `~`), what is
/// before the @ of its e-mail address, and the login names that were set for it.
pub fn names_of(account: &str, email: &str, logins: &[String]) -> Vec<String> {
    let called = account.rsplit(':').next().unwrap_or_default();
    let called = called.split('~').next().unwrap_or_default();
    let all = [called, email].into_iter().chain(logins.iter().map(String::as_str)).map(plain_name);
    all.filter(|name| !name.is_empty()).collect()
}
