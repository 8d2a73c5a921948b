//! The token that an agent is enrolled with.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// An enrolment token: `ilk1.SECRET.FINGERPRINT`. The fingerprint says which authority the collector's
/// certificate must come from, so that the first connection is to the right one.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What the collector knows the token by.
    pub secret: String,
    /// SHA-256 of the authority's certificate (DER).
    pub authority: [u8; 32],
}

/// A text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a whole enrolment token: it begins with `ilk1.` and has three parts with dots between. \
         `interlock-collector tokens create` prints one"
)]
pub struct ParseTokenError;

const VERSION: &str = "ilk1";

impl Token {
    /// The token of some secret bytes.
    pub fn new(secret: &[u8; 24], authority: [u8; 32]) -> Self {
        Self { secret: URL_SAFE_NO_PAD.encode(secret), authority }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}.{}.{}", self.secret, URL_SAFE_NO_PAD.encode(self.authority))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl FromStr for Token {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let mut parts = text.trim().split('.');
        let (Some(VERSION), Some(secret), Some(authority), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseTokenError);
        };
        let decoded = URL_SAFE_NO_PAD.decode(secret).map_err(|_| ParseTokenError)?;
        let authority = URL_SAFE_NO_PAD.decode(authority).map_err(|_| ParseTokenError)?;
        let authority = authority.try_into().map_err(|_| ParseTokenError)?;
        if decoded.len() != 24 {
            return Err(ParseTokenError);
        }
        Ok(Self { secret: secret.to_owned(), authority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_printed() {
        let token = Token::new(&[7; 24], [9; 32]);
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert_eq!(format!(" {token}\n").parse(), Ok(token));
    }

    #[test]
    fn a_part_of_a_token_is_none() {
        let text = Token::new(&[7; 24], [9; 32]).to_string();
        for end in 0..text.len() {
            assert_eq!(text[..end].parse::<Token>(), Err(ParseTokenError), "{}", &text[..end]);
        }
        assert!(format!("{text}.x").parse::<Token>().is_err());
        assert!(text.replace("ilk1", "ilk2").parse::<Token>().is_err());
    }

    #[test]
    fn a_token_is_not_logged() {
        assert_eq!(format!("{:?}", Token::new(&[7; 24], [9; 32])), "Token");
    }
}
