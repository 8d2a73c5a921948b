//! Certificates in PEM files: reading, joining, writing.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use super::files;

/// A certificate in DER.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Certificate(pub(super) Vec<u8>);

impl Certificate {
    /// SHA-256 over the certificate, hex.
    pub(super) fn fingerprint(&self) -> String {
        files::hex(&Sha256::digest(&self.0))
    }
}

/// All certificates of a PEM text, in order. Keys, comments and blocks that are damaged are passed over.
pub(super) fn certificates(text: &[u8]) -> Vec<Certificate> {
    CertificateDer::pem_slice_iter(text).filter_map(|der| Some(Certificate(der.ok()?.to_vec()))).collect()
}

/// All certificates of a PEM file.
pub(super) fn read(path: &Path) -> io::Result<Vec<Certificate>> {
    Ok(certificates(&files::read(path)?))
}

/// The certificates as PEM, each once, under a first line that says where they come from.
pub(super) fn bundle<'a>(comment: &str, all: impl IntoIterator<Item = &'a Certificate>) -> String {
    let mut text = format!("# {comment}\n");
    let mut seen = BTreeSet::new();
    for certificate in all {
        if seen.insert(certificate) {
            text.push_str("-----BEGIN CERTIFICATE-----\n");
            let encoded = base64(&certificate.0);
            let mut rest = encoded.as_str();
            while !rest.is_empty() {
                let (line, after) = rest.split_at(rest.len().min(64));
                text.push_str(line);
                text.push('\n');
                rest = after;
            }
            text.push_str("-----END CERTIFICATE-----\n");
        }
    }
    text
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648).
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |place: usize| u32::from(group.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place) & 0x3f) as usize;
            let known = ALPHABET.get(index).filter(|_| place <= group.len());
            text.push(char::from(known.copied().unwrap_or(b'=')));
        }
    }
    text
}

/// The bytes of a Base64 text; `None` when it is none.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let (mut bits, mut held, mut bytes) = (0u32, 0, Vec::with_capacity(text.len() * 3 / 4));
    for byte in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == byte)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_goes_both_ways() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
            assert_eq!(from_base64(encoded).unwrap(), plain.as_bytes());
        }
        assert_eq!(from_base64("Zm9v!"), None);
    }

    #[test]
    fn a_bundle_holds_each_certificate_once_and_no_keys() {
        let one = rcgen::generate_simple_self_signed(["one".to_owned()]).unwrap();
        let two = rcgen::generate_simple_self_signed(["two".to_owned()]).unwrap();
        let text = format!(
            "words\n{}{}{}{}",
            one.cert.pem(),
            one.signing_key.serialize_pem(),
            two.cert.pem(),
            one.cert.pem()
        );
        let read = certificates(text.as_bytes());
        assert_eq!(read.len(), 3);
        let bundle = bundle("roots", &read);
        assert_eq!(certificates(bundle.as_bytes()), [read[0].clone(), read[1].clone()]);
        assert!(!bundle.contains("PRIVATE"));
        assert!(bundle.lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn hostile_text_is_passed_over() {
        assert_eq!(certificates(b"-----BEGIN CERTIFICATE-----\n\xff\xff\n"), []);
        assert_eq!(certificates(b"-----BEGIN CERTIFICATE-----\n====\n-----END CERTIFICATE-----"), []);
    }
}
