//! A Java keystore of trusted roots, in the format that every Java reads (JKS).
//!
//! Written here rather than by `keytool`: that takes one start of a JVM a certificate, and the agent must
//! make it where no JDK is. The digest at its end only finds damage: its password is known to all.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

use super::pem::Certificate;

/// The password that Java's own stores of roots have.
pub(super) const PASSWORD: &str = "changeit";

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const TRUSTED: u32 = 2;

/// A keystore of these certificates.
pub(super) fn keystore<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> Vec<u8> {
    let (mut entries, mut count) = (Vec::new(), 0u32);
    for certificate in certificates {
        // An entry whose length its field cannot hold is none that Java could read.
        let Ok(length) = u32::try_from(certificate.0.len()) else { continue };
        entries.extend(TRUSTED.to_be_bytes());
        text(&mut entries, &certificate.fingerprint());
        // When it was added: unknown, so that the same roots give the same bytes.
        entries.extend(0u64.to_be_bytes());
        text(&mut entries, "X.509");
        entries.extend(length.to_be_bytes());
        entries.extend(&certificate.0);
        count += 1;
    }
    let mut store = Vec::with_capacity(entries.len() + 32);
    for number in [MAGIC, VERSION, count] {
        store.extend(number.to_be_bytes());
    }
    store.extend(entries);
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(&PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>());
    digest.update(b"Mighty Aphrodite");
    digest.update(&store);
    store.extend(digest.finish().as_ref());
    store
}

/// A short ASCII text as Java's `DataOutput.writeUTF` writes it.
fn text(to: &mut Vec<u8>, text: &str) {
    to.extend(u16::try_from(text.len()).unwrap_or_default().to_be_bytes());
    to.extend(text.as_bytes());
}
