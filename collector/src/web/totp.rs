//! One-time codes by time (RFC 6238): HMAC-SHA-1, 30 seconds, 6 digits, as authenticator apps expect.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

/// Seconds that a code counts.
const PERIOD: u64 = 30;

/// The time step of a time in seconds since the Unix epoch.
fn step(seconds: u64) -> u64 {
    seconds / PERIOD
}

/// The code of a time step (RFC 4226, section 5.3).
fn code(secret: &[u8], step: u64) -> Option<u32> {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).ok()?;
    mac.update(&step.to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let at = usize::from(digest.last()? & 0x0f);
    let bytes: [u8; 4] = digest.get(at..at + 4)?.try_into().ok()?;
    Some((u32::from_be_bytes(bytes) & 0x7fff_ffff) % 1_000_000)
}

/// The time step whose code this is: now's, the one before or the one after, since clocks differ.
pub(super) fn matching_step(secret_hex: &str, given: &str, seconds: u64) -> Option<i64> {
    let secret = from_hex(secret_hex)?;
    let given: String = given.chars().filter(|character| !character.is_whitespace()).collect();
    if given.len() != 6 || !given.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let given: u32 = given.parse().ok()?;
    let now = step(seconds);
    // All three are computed, so that the time taken does not tell which it was.
    let steps = [now.saturating_sub(1), now, now + 1];
    let found = steps.map(|step| (step, code(&secret, step)));
    found
        .into_iter()
        .filter(|(_, code)| *code == Some(given))
        .map(|(step, _)| step)
        .next_back()
        .and_then(|step| i64::try_from(step).ok())
}

/// The code that counts now, for tests.
#[cfg(test)]
pub(super) fn now_code(secret_hex: &str, seconds: u64) -> String {
    let secret = from_hex(secret_hex).expect("hexadecimal");
    format!("{:06}", code(&secret, step(seconds)).expect("a code"))
}

/// The secret as people type it (base 32, RFC 4648).
pub(super) fn base32(secret_hex: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bytes = from_hex(secret_hex).unwrap_or_default();
    let mut text = String::new();
    for chunk in bytes.chunks(5) {
        let mut five = [0_u8; 8];
        for (to, from) in five.iter_mut().skip(3).zip(chunk) {
            *to = *from;
        }
        let bits = u64::from_be_bytes(five);
        for at in 0..(chunk.len() * 8).div_ceil(5) {
            let digit = (bits >> (35 - 5 * at)) & 31;
            text.extend(ALPHABET.get(digit as usize).map(|byte| char::from(*byte)));
        }
    }
    text
}

/// The same for an authenticator app.
pub(super) fn uri(secret_hex: &str, account: &str) -> String {
    let account: String = form_urlencoded::byte_serialize(account.as_bytes()).collect();
    format!("otpauth://totp/Interlock:{account}?secret={}&issuer=Interlock", base32(secret_hex))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits?;
    digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(high * 16 + low).ok(),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use interlock_recording::hex;

    use super::*;

    #[test]
    fn codes_are_those_of_the_standard() {
        // RFC 6238, appendix B; the last six of its eight digits.
        let secret = hex(b"12345678901234567890");
        for (seconds, expected) in
            [(59, "287082"), (1_111_111_109, "081804"), (1_234_567_890, "005924"), (20_000_000_000, "353130")]
        {
            assert_eq!(now_code(&secret, seconds), expected);
            let step = i64::try_from(seconds / 30).unwrap();
            assert_eq!(matching_step(&secret, expected, seconds), Some(step));
            assert_eq!(matching_step(&secret, expected, seconds + 30), Some(step));
            assert_eq!(matching_step(&secret, expected, seconds + 60), None);
        }
        assert_eq!(matching_step(&secret, "28708", 59), None);
        assert_eq!(matching_step(&secret, "+28708", 59), None);
        assert_eq!(matching_step(&secret, "287 082", 59), Some(1));
    }

    #[test]
    fn secrets_are_base_32() {
        // RFC 4648, section 10.
        assert_eq!(base32(&hex(b"foobar")), "MZXW6YTBOI");
        assert_eq!(base32(&hex(b"foob")), "MZXW6YQ");
        assert_eq!(uri(&hex(b"foob"), "a b"), "otpauth://totp/Interlock:a+b?secret=MZXW6YQ&issuer=Interlock");
    }
}
