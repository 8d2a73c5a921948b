//! Passwords: argon2id, a few at a time, and as slow for names that nobody has.

use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::problem::Problem;

/// The shortest password, in characters.
const SHORTEST: usize = 12;
/// The longest, in bytes.
const LONGEST: usize = 512;

/// Hashes and verifies.
#[derive(Debug)]
pub(super) struct Passwords {
    /// What is verified against where there is no account.
    nobody: String,
    /// Each takes 19 MiB and a core while it lasts.
    at_once: Semaphore,
}

impl Passwords {
    pub(super) fn new() -> std::io::Result<Self> {
        let mut salt = [0; 16];
        interlock_recording::fill_random(&mut salt)?;
        let nobody = Argon2::default()
            .hash_password_with_salt(b"the password of nobody", &salt)
            .map_err(std::io::Error::other)?
            .to_string();
        Ok(Self { nobody, at_once: Semaphore::new(2) })
    }

    /// The hash of a new password.
    pub(super) async fn hash(&self, password: Zeroizing<String>) -> Result<String, Problem> {
        let _turn = self.at_once.acquire().await.map_err(Problem::internal)?;
        tokio::task::spawn_blocking(move || {
            let mut salt = [0; 16];
            interlock_recording::fill_random(&mut salt).map_err(Problem::internal)?;
            let hash = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
            Ok(hash.map_err(Problem::internal)?.to_string())
        })
        .await
        .map_err(Problem::internal)?
    }

    /// Whether the password is the one that was hashed. Without a hash it is not, after the same work.
    pub(super) async fn verify(
        &self,
        password: Zeroizing<String>,
        hash: Option<String>,
    ) -> Result<bool, Problem> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.clone());
        let _turn = self.at_once.acquire().await.map_err(Problem::internal)?;
        let right = tokio::task::spawn_blocking(move || {
            password.len() <= LONGEST
                && Argon2::default().verify_password(password.as_bytes(), hash.as_str()).is_ok()
        })
        .await
        .map_err(Problem::internal)?;
        Ok(known && right)
    }
}

/// Refuses what is easily guessed.
pub(super) fn check(password: &str, name: &str) -> Result<(), Problem> {
    let distinct: std::collections::HashSet<char> = password.chars().collect();
    let reason = if password.chars().count() < SHORTEST {
        "has fewer than 12 characters"
    } else if password.len() > LONGEST {
        "is longer than 512 bytes"
    } else if distinct.len() < 5 {
        "repeats a few characters"
    } else if password.to_lowercase().replace(&name.to_lowercase(), "").chars().count() < 8 {
        "is little more than the account's name"
    } else {
        return Ok(());
    };
    Err(Problem::invalid(format!("The password {reason}. Take a longer one, such as four random words.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn easily_guessed_passwords_are_refused() {
        for bad in ["short", "aaaaaaaaaaaaaaaa", "alice-alice-1", &"ab1cd".repeat(200)] {
            assert!(check(bad, "alice").is_err(), "{bad}");
        }
        assert!(check("correct horse battery", "alice").is_ok());
    }

    #[tokio::test]
    async fn a_password_is_verified_and_nobody_has_none() {
        let passwords = Passwords::new().unwrap();
        let hash = passwords.hash(Zeroizing::new("correct horse".into())).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(passwords.verify(Zeroizing::new("correct horse".into()), Some(hash.clone())).await.unwrap());
        assert!(!passwords.verify(Zeroizing::new("wrong horse".into()), Some(hash)).await.unwrap());
        assert!(!passwords.verify(Zeroizing::new("the password of nobody".into()), None).await.unwrap());
    }
}
