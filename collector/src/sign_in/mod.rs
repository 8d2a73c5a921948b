//! Signing in through identity providers: what they say of whom, once it has been proven.
//!
//! A provider says who someone is (issuer and subject) and which groups they are in; the configuration says
//! which groups have which role. Nothing else of what a provider says has any effect.

pub mod config;
#[cfg(test)]
pub(crate) mod forge;
mod oidc;
mod saml;
mod signature;
mod xml;

use std::sync::Arc;

use interlock_recording::{fill_random, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use config::{RoleGroups, SignIn};
pub use oidc::{Answer, OidcError, OidcProvider};
pub use saml::{Proven, SamlError, SamlProvider};

/// Groups of one person that are looked at.
const MOST_GROUPS: usize = 5000;

/// Someone, as a provider knows them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    /// Who says so: the issuer, or a SAML provider's entity id.
    pub issuer: String,
    /// Who it is, for ever, among those of the issuer.
    pub subject: String,
    /// What people call them. It can change, and someone else can have it later.
    pub called: String,
    /// The groups that they are in.
    pub groups: Vec<String>,
    /// Their e-mail address, as the provider says.
    #[serde(default)]
    pub email: Option<String>,
    /// The provider says that it has made sure of the address.
    #[serde(default)]
    pub email_verified: bool,
    /// When they have shown the provider who they are, nanoseconds since the Unix epoch, if it says.
    #[serde(default)]
    pub authenticated_ns: Option<i64>,
    /// Why there may be fewer groups than there should be, for who is refused because of it.
    pub hint: Option<String>,
}

/// What is known of a sign-in that has begun: a secret that the browser keeps, from which everything that must
/// not be guessed is derived. So the collector keeps nothing of it, and any collector can finish it.
#[derive(Debug, Clone)]
pub struct Begun {
    /// What the provider sends back with the browser.
    pub state: String,
    /// What must stand in the ID token.
    pub nonce: String,
    /// What proves to the provider that whoever has the code is who asked for it (PKCE).
    pub verifier: String,
}

impl Begun {
    /// Derives it from what the browser keeps.
    pub fn from_kept(kept: &str) -> Self {
        let derive = |what: &str| hex(&Sha256::digest(format!("interlock sign-in {what} {kept}").as_bytes()));
        Self { state: derive("state"), nonce: derive("nonce"), verifier: derive("verifier") }
    }
}

/// 32 random bytes, hexadecimal.
///
/// # Errors
/// The system gives none.
pub fn random() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    fill_random(&mut bytes)?;
    Ok(hex(&bytes))
}

/// A provider that people sign in with.
#[derive(Debug)]
pub enum Provider {
    /// By OpenID Connect.
    Oidc(Box<OidcProvider>),
    /// By SAML 2.0.
    Saml(Arc<SamlProvider>),
}

impl Provider {
    /// Its name, which stands in addresses.
    pub fn name(&self) -> &str {
        match self {
            Self::Oidc(provider) => &provider.config().name,
            Self::Saml(provider) => &provider.config().name,
        }
    }

    /// Who it is, as identities that it proves have it: its issuer, or its entity id.
    pub fn issuer(&self) -> String {
        match self {
            Self::Oidc(provider) => provider.issuer().to_owned(),
            Self::Saml(provider) => provider.issuer(),
        }
    }

    /// What people call it.
    pub fn label(&self) -> &str {
        let label = match self {
            Self::Oidc(provider) => &provider.config().label,
            Self::Saml(provider) => &provider.config().label,
        };
        label.as_deref().unwrap_or(self.name())
    }

    /// Where one signs out of it too, if there is such a place.
    pub fn sign_out_url(&self) -> Option<String> {
        match self {
            Self::Oidc(provider) => provider.sign_out_url(),
            Self::Saml(_) => None,
        }
    }

    /// Which groups have which role.
    pub fn roles(&self) -> &RoleGroups {
        match self {
            Self::Oidc(provider) => &provider.config().roles,
            Self::Saml(provider) => &provider.config().roles,
        }
    }

    /// Which groups count for approvals.
    pub fn approver_groups(&self) -> &[String] {
        match self {
            Self::Oidc(provider) => &provider.config().approver_groups,
            Self::Saml(provider) => &provider.config().approver_groups,
        }
    }
}

/// All that people can sign in with.
#[derive(Debug, Clone)]
pub struct Providers {
    all: Arc<Vec<Provider>>,
    /// With a password too.
    pub local: bool,
    /// For so long after its owner signed in an API token of a provider's account counts, nanoseconds.
    pub token_ns: i64,
}

impl Default for Providers {
    fn default() -> Self {
        Self { all: Arc::default(), local: true, token_ns: token_ns(SignIn::default().token_days) }
    }
}

/// For how long an account of a provider counts after its owner has signed in, nanoseconds.
pub(crate) fn token_ns(days: u32) -> i64 {
    i64::from(days) * 86_400 * 1_000_000_000
}

impl Providers {
    /// Makes them ready. `url` is the collector's own address, without a slash at the end.
    ///
    /// # Errors
    /// A file that the configuration names cannot be read, or holds something else.
    pub fn new(config: &SignIn, url: &str) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for provider in &config.oidc {
            all.push(Provider::Oidc(Box::new(OidcProvider::new(provider, url)?)));
        }
        for provider in &config.saml {
            let provider = Provider::Saml(Arc::new(SamlProvider::new(provider, url)?));
            let issuer = provider.issuer();
            // Whom both know would have one account, with the role that the last one gave.
            if let Some(other) = all.iter().find(|other: &&Provider| other.issuer() == issuer) {
                anyhow::bail!(
                    "sign_in: {}: metadata_file: it is of the entity id of {} too; a provider is configured once",
                    provider.name(),
                    other.name()
                );
            }
            all.push(provider);
        }
        Ok(Self { all: Arc::new(all), local: config.local, token_ns: token_ns(config.token_days) })
    }

    /// What is wrong with the files that the configuration names, of each provider by itself.
    pub fn check_files(config: &SignIn, url: &str) -> Vec<anyhow::Error> {
        let oidc = config.oidc.iter().filter_map(|provider| OidcProvider::new(provider, url).err());
        let saml = config.saml.iter().filter_map(|provider| SamlProvider::new(provider, url).err());
        oidc.chain(saml).collect()
    }

    /// The one of this name.
    pub fn get(&self, name: &str) -> Option<&Provider> {
        self.all.iter().find(|provider| provider.name() == name)
    }

    /// All of them, as configured.
    pub fn all(&self) -> &[Provider] {
        &self.all
    }
}

/// Text of a provider's, to be shown: short, and nothing that turns or hides text.
pub(crate) fn said(text: &str) -> String {
    let shown: String = text
        .chars()
        .take(300)
        .map(|c| if interlock_recording::text::is_unprintable(c) { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(300).is_some() { shown + "…" } else { shown }
}
