//! AWS Signature Version 4, for requests to a service's root path without a query.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::credential::verifier::mac;

/// What a request is signed with.
pub(super) struct Keys {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: Zeroizing<String>,
    /// Of keys that last for some hours.
    pub(super) session_token: Option<Zeroizing<String>>,
}

/// The value of the `Authorization` header. `headers` are all that are signed, `host` and `x-amz-date`
/// among them; `time` is as in `x-amz-date`, `20150830T123600Z`.
pub(super) fn authorization(
    keys: &Keys,
    region: &str,
    service: &str,
    time: &str,
    method: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> String {
    let mut headers: Vec<(String, String)> =
        headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), trimmed(value))).collect();
    headers.sort();
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");
    let mut canonical = format!("{method}\n/\n\n");
    for (name, value) in &headers {
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let _ = write!(canonical, "\n{names}\n{}", hex(&Sha256::digest(body)));

    let day = time.get(..8).unwrap_or_default();
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(&canonical)));
    let mut first = Zeroizing::new(Vec::with_capacity(4 + keys.secret_access_key.len()));
    first.extend_from_slice(b"AWS4");
    first.extend_from_slice(keys.secret_access_key.as_bytes());
    let mut key = Zeroizing::new(mac(&first, &[day.as_bytes()]));
    for part in [region, service, "aws4_request"] {
        key = Zeroizing::new(mac(&*key, &[part.as_bytes()]));
    }
    let signature = hex(&mac(&*key, &[to_sign.as_bytes()]));
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
        keys.access_key_id
    )
}

/// Without white space around it, and with runs of spaces as one.
fn trimmed(value: &str) -> String {
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "20150830T123600Z";

    /// AWS's published `aws-sig-v4-test-suite`: those of its cases that have the root path and no query.
    #[test]
    fn the_published_test_suite() {
        let keys = Keys {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: Zeroizing::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
            session_token: None,
        };
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeo\
                     IYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5V\
                     SXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yj\
                     c8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, &'a str, &'a str);
        let cases: [Case<'_>; 6] = [
            (
                "get-vanilla",
                "GET",
                &[],
                "",
                "host;x-amz-date",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "post-vanilla",
                "POST",
                &[],
                "",
                "host;x-amz-date",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "get-header-value-trim",
                "GET",
                &[("My-Header1", " value1"), ("My-Header2", " \"a   b   c\"")],
                "",
                "host;my-header1;my-header2;x-amz-date",
                "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
            ),
            (
                "get-header-key-duplicate",
                "GET",
                &[("My-Header1", "value2,value2,value1")],
                "",
                "host;my-header1;x-amz-date",
                "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
            ),
            (
                "post-x-www-form-urlencoded",
                "POST",
                &[("Content-Type", "application/x-www-form-urlencoded")],
                "Param1=value1",
                "content-type;host;x-amz-date",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            (
                "post-sts-header-before",
                "POST",
                &[("X-Amz-Security-Token", token)],
                "",
                "host;x-amz-date;x-amz-security-token",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
        ];
        for (name, method, further, body, signed, signature) in cases {
            let mut headers = vec![("Host", "example.amazonaws.com"), ("X-Amz-Date", TIME)];
            headers.extend(further);
            let header =
                authorization(&keys, "us-east-1", "service", TIME, method, &headers, body.as_bytes());
            assert_eq!(
                header,
                format!(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                     SignedHeaders={signed}, Signature={signature}"
                ),
                "{name}"
            );
        }
    }
}
