//! Addresses, keys and passwords: what a byte or two in it give away.

use std::net::Ipv6Addr;

use super::Scan;
use crate::mask::{Detector, REDACTED};

/// Longest local part and domain of an e-mail address (RFC 5321, section 4.5.3.1).
const LOCAL_PART: usize = 64;
const DOMAIN: usize = 255;

/// Longest password looked for in a URL or connection string.
const PASSWORD: usize = 1024;

/// Longest header of a JSON Web Token that is decoded.
const JWT_HEADER: usize = 4096;

fn base64_url(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')
}

fn word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

impl Scan<'_> {
    /// The bytes before `at`, at most `n`.
    fn back(&self, at: usize, n: usize) -> &[u8] {
        self.value.get(at.saturating_sub(n)..at).unwrap_or_default()
    }

    fn rest(&self, at: usize) -> &[u8] {
        self.value.get(at..).unwrap_or_default()
    }

    /// How many bytes from `at` on are of this class.
    fn run(&self, at: usize, class: impl Fn(u8) -> bool) -> usize {
        let rest = self.rest(at);
        rest.iter().position(|b| !class(*b)).unwrap_or(rest.len())
    }

    /// What starts here is not the continuation of a word.
    fn starts_word(&self, at: usize) -> bool {
        !self.byte_before(at).is_ascii_alphanumeric() || self.escaped(at)
    }

    /// At `@`.
    pub(super) fn email(&mut self, at: usize) {
        let local = |b: u8| b.is_ascii_alphanumeric() || b >= 0x80 || b"._%+-'&~!#$*".contains(&b);
        let before = self.back(at, LOCAL_PART);
        let mut start = at - before.iter().rev().position(|b| !local(*b)).unwrap_or(before.len());
        if self.byte_before(start) == b'\\' {
            start += 1; // The letter of an escape.
        }
        let before = self.value.get(start..at).unwrap_or_default();
        if let Some(mark) = before.iter().rposition(|b| punctuation(*b)) {
            start += mark + if before.get(mark) == Some(&0xc2) { 2 } else { 3 };
        }
        let leads = |b: u8| word(b) || b == b'+' || (b >= 0x80 && b & 0xc0 != 0x80);
        while start < at && !leads(self.byte(start)) {
            start += 1;
        }
        let domain = self.rest(at + 1);
        let domain = domain.get(..DOMAIN).unwrap_or(domain);
        let length = domain
            .iter()
            .position(|b| {
                !(b.is_ascii_alphanumeric() || *b >= 0x80 || matches!(b, b'-' | b'.')) || punctuation(*b)
            })
            .unwrap_or(domain.len());
        let mut domain = domain.get(..length).unwrap_or_default();
        // A PEM line right behind.
        if let Some(line) = domain.windows(3).position(|w| w == b"---") {
            domain = domain.get(..line).unwrap_or_default();
        }
        while let [rest @ .., b'.' | b'-'] = domain {
            domain = rest;
        }
        let Some(dot) = domain.iter().rposition(|b| *b == b'.') else { return };
        let (host, top) = domain.split_at(dot);
        let top = top.get(1..).unwrap_or_default();
        let top_level = top.starts_with(b"xn--")
            || (top.len() > 1
                && top.iter().all(|b| b.is_ascii_alphabetic() || *b >= 0x80)
                && !file_type(top));
        let labels = host.split(|b| *b == b'.').all(|label| !label.is_empty() && !label.starts_with(b"-"));
        if start < at && top_level && labels {
            let end = at + 1 + domain.len();
            self.hit(Detector::Email, start, end);
        }
    }

    /// At `J`: a base64 text that starts with `{"`.
    pub(super) fn jwt(&mut self, at: usize) {
        let Some(start) = at.checked_sub(2) else { return };
        if self.back(at, 2) != b"ey" || !self.starts_word(start) || start < self.jwt_until {
            return;
        }
        let header = self.run(start, base64_url);
        self.jwt_until = start + header;
        if header > JWT_HEADER || self.byte(start + header) != b'.' {
            return;
        }
        if !self.value.get(start..start + header).is_some_and(jwt_header) {
            return;
        }
        // Claims and signature; an encrypted token has five parts.
        let mut end = start + header;
        let mut parts = 1;
        while parts < 5 && self.byte(end) == b'.' {
            let part = self.run(end + 1, base64_url);
            if parts > 2 && part == 0 {
                break; // A full stop.
            }
            end += 1 + part;
            parts += 1;
        }
        self.jwt_until = end;
        if parts > 2 {
            self.hit(Detector::Jwt, start, end);
        }
    }

    /// At `I`: keys of AWS (AKIA…) and Google (AIza…).
    pub(super) fn capital_i(&mut self, at: usize) {
        if self.on(Detector::AwsAccessKey) && matches!(self.back(at, 2), b"AK" | b"AS" | b"AB") {
            let start = at - 2;
            let length = self.run(start, |b| b.is_ascii_uppercase() || b.is_ascii_digit());
            if length == 20
                && self.byte(at + 1) == b'A'
                && self.starts_word(start)
                && !word(self.byte(start + 20))
            {
                self.hit(Detector::AwsAccessKey, start, start + 20);
            }
        } else if self.on(Detector::GoogleApiKey) && self.byte_before(at) == b'A' {
            let start = at - 1;
            if self.rest(at).starts_with(b"Iza")
                && self.starts_word(start)
                && self.run(start, base64_url) == 39
            {
                self.hit(Detector::GoogleApiKey, start, start + 39);
            }
        }
    }

    /// At `_`: keys of GitHub and Stripe.
    pub(super) fn underscore(&mut self, at: usize) {
        // The last letter of any of the prefixes.
        if !b"pousrtec".contains(&self.byte_before(at)) {
            return;
        }
        if let [b'g', b'h', b'p' | b'o' | b'u' | b's' | b'r'] = self.back(at, 3) {
            let end = at + 1 + self.run(at + 1, |b| word(b) || matches!(b, b'.' | b'-'));
            self.key(Detector::GithubToken, at - 3, at + 1, end, 36);
        } else if self.back(at, 10) == b"github_pat" {
            let end = at + 1 + self.run(at + 1, word);
            self.key(Detector::GithubToken, at - 10, at + 1, end, 40);
        } else if let [b's' | b'r', b'k', b'_', mode @ ..] = self.back(at, 7) {
            if matches!(mode, b"live" | b"test") {
                let end = at + 1 + self.run(at + 1, |b| b.is_ascii_alphanumeric());
                self.key(Detector::StripeKey, at - 7, at + 1, end, 16);
            }
        } else if self.back(at, 5) == b"whsec" {
            let end =
                at + 1 + self.run(at + 1, |b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
            self.key(Detector::StripeKey, at - 5, at + 1, end, 24);
        }
    }

    /// A key with a known prefix from `start` to `body`, that has at least `shortest` bytes in its body.
    fn key(&mut self, detector: Detector, start: usize, body: usize, end: usize, shortest: usize) {
        // A sentence's full stop, not the key's.
        let end = end - self.back(end, end - body).iter().rev().take_while(|b| **b == b'.').count();
        if self.on(detector) && end - body >= shortest && self.starts_word(start) {
            self.hit(detector, start, end);
        }
    }

    /// At `-` without a digit before it: PEM blocks, keys of GitLab, Slack and Google.
    pub(super) fn dash(&mut self, at: usize) {
        if self.byte(at + 1) == b'-' {
            self.pem(at);
            return;
        }
        let before = self.back(at, 7);
        // What all prefixes have in common: a letter, and two that hardly any other word has there.
        match before {
            [.., b'x', b'o', b'x', _] | [.., b'x', b'a', b'p', b'p'] | [.., b'P', b'X'] => {}
            [.., b't' | b'r' | b's'] if before.windows(2).any(|w| w == b"gl") => {}
            _ => return,
        }
        let gitlab: &[&[u8]] = &[
            b"glpat", b"gldt", b"glrt", b"glrtr", b"glptt", b"glsoat", b"gloas", b"glcbt", b"glagent",
            b"glft", b"glimt", b"glffct", b"glwt",
        ];
        if let Some(prefix) = gitlab.iter().find(|prefix| before.ends_with(prefix)) {
            let end = at + 1 + self.run(at + 1, |b| base64_url(b) || b == b'.');
            self.key(Detector::GitlabToken, at - prefix.len(), at + 1, end, 20);
        } else if let [.., b'x', b'o', b'x', _] | [.., b'x', b'a', b'p', b'p'] = before {
            // Rotated tokens have two prefixes: xoxe.xoxp-1-…
            let double = self.back(at, 9).starts_with(b"xoxe.") as usize * 5;
            let end = at + 1 + self.run(at + 1, base64_url);
            self.key(Detector::SlackToken, at - 4 - double, at + 1, end, 10);
        } else if before.ends_with(b"GOCSPX") {
            let end = at + 1 + self.run(at + 1, base64_url);
            self.key(Detector::GoogleApiKey, at - 6, at + 1, end, 28);
        }
    }

    /// At a dash that another follows. A block without an end is taken to the value's end.
    fn pem(&mut self, at: usize) {
        const LINE: &[u8] = b"-----";
        if at < self.pem_until || !self.on(Detector::PrivateKey) {
            return;
        }
        // The first of them may have been passed over for the digit before it.
        let at = at - usize::from(self.byte_before(at) == b'-');
        let dashes = self.run(at, |b| b == b'-');
        self.pem_until = at + dashes;
        let (Some(start), true) = ((at + dashes).checked_sub(LINE.len()), dashes >= LINE.len()) else {
            return;
        };
        let Some(label) = self.rest(at + dashes).strip_prefix(b"BEGIN ") else { return };
        let label = label.get(..64).unwrap_or(label);
        let Some(length) = label.windows(LINE.len()).position(|w| w == LINE) else { return };
        let label = label.get(..length).unwrap_or_default();
        if !label.windows(11).any(|w| w == b"PRIVATE KEY") {
            return;
        }
        let body = at + dashes + b"BEGIN ".len() + label.len() + LINE.len();
        let ending = b"-----END ";
        let end = self.rest(body).windows(ending.len()).position(|w| w == ending).map_or(
            self.value.len(),
            |found| {
                let label = body + found + ending.len();
                let tail = self.rest(label);
                let tail = tail.get(..96).unwrap_or(tail);
                tail.windows(LINE.len()).position(|w| w == LINE).map_or(label, |n| label + n + LINE.len())
            },
        );
        self.pem_until = end;
        self.hit(Detector::PrivateKey, start, end);
    }

    /// At `:`: URLs and IPv6 addresses, and secrets named before it.
    pub(super) fn colon(&mut self, at: usize) {
        match self.byte(at + 1) {
            b'/' if self.byte(at + 2) == b'/' => self.url(at + 3),
            b' ' | b'"' | b'\'' | b'=' => self.named_secret(at),
            next if at >= self.colon_until && (next == b':' || next.is_ascii_hexdigit()) => self.ip_v6(at),
            _ => {}
        }
    }

    fn ip_v6(&mut self, at: usize) {
        let digit = |b: u8| b.is_ascii_hexdigit();
        let head = self.back(at, 4).iter().rev().take_while(|b| digit(**b)).count();
        let mut start = at - head;
        let length = self.run(at, |b| digit(b) || b == b':').min(48);
        let mut end = at + length;
        self.colon_until = end;
        if !self.on(Detector::IpAddress) {
            return;
        }
        let inside = self.value.get(at..end).unwrap_or_default();
        let colons = inside.iter().filter(|b| **b == b':').count();
        let gap = inside.windows(2).any(|w| w == b"::");
        if !(colons == 7 || colons == 6 || (gap && colons < 8)) {
            return;
        }
        // An IPv4 address at the end.
        if self.byte(end) == b'.' {
            let dotted = end + self.run(end, |b| b.is_ascii_digit() || b == b'.');
            end = dotted - usize::from(self.byte_before(dotted) == b'.');
        }
        while end > start && self.byte_before(end) == b':' && self.byte_before(end - 1) != b':' {
            end -= 1;
        }
        // A colon of the text before: "address:::1" is none.
        if self.byte_before(start) == b':' {
            start -= 1;
        }
        let before = self.byte_before(start);
        let Some(Ok(text)) = self.value.get(start..end).map(std::str::from_utf8) else { return };
        // C++ and SQL put :: between words too: an address has digits, or more than two groups.
        let groups = text.split(':').filter(|group| !group.is_empty()).count();
        let address = groups > 2 || (groups > 1 && text.bytes().any(|b| b.is_ascii_digit()));
        if address
            && (!word(before) || self.escaped(start))
            && !word(self.byte(end))
            && text.parse::<Ipv6Addr>().is_ok()
        {
            self.hit(Detector::IpAddress, start, end);
        }
    }

    /// Behind `://`: the password before `@`, or a webhook's path.
    fn url(&mut self, at: usize) {
        const HOOKS: &[u8] = b"hooks.slack.com/";
        if self.on(Detector::SlackToken) && self.rest(at).starts_with(HOOKS) {
            let path = at + HOOKS.len();
            let end = path + self.run(path, |b| base64_url(b) || b == b'/');
            if end - path > 24 {
                self.hit(Detector::SlackToken, path, end);
            }
        }
        if !self.on(Detector::UrlPassword) {
            return;
        }
        let text = self.rest(at);
        let text = text.get(..PASSWORD + 256).unwrap_or(text);
        let stop = |b: &u8| b.is_ascii_whitespace() || b.is_ascii_control() || b"\"'<>`\\".contains(b);
        let text = text.split(stop).next().unwrap_or_default();
        let authority = text.split(|b| b"/?#".contains(b)).next().unwrap_or_default();
        let Some(colon) = authority.iter().position(|b| *b == b':') else { return };
        // A password with an unescaped slash in it still ends at the @, unless what follows the
        // colon is a port.
        let port = authority.get(colon + 1..).is_some_and(|p| p.iter().all(u8::is_ascii_digit));
        let user_info = match authority.iter().rposition(|b| *b == b'@') {
            Some(end) => Some(end),
            None if port => None,
            None => text.iter().position(|b| *b == b'@'),
        };
        match user_info {
            Some(end) if colon + 1 < end => self.password(at + colon + 1, at + end),
            _ => {}
        }
    }

    /// At `=`: a password or key named before it.
    pub(super) fn named_secret(&mut self, at: usize) {
        let equals = self.byte(at) == b'=';
        let mut last = at;
        while last > 0 && at - last < 4 && matches!(self.byte(last - 1), b' ' | b'"' | b'\'') {
            last -= 1;
        }
        // The last letter of any of the names.
        match self.byte_before(last) | 0x20 {
            b'y' | b't' => {}
            b'd' | b's' if equals => {}
            _ => return,
        }
        let quote_or_space = |b: &u8| matches!(b, b' ' | b'"' | b'\'');
        let before = self.back(at, 40);
        let gap = before.iter().rev().take_while(|b| quote_or_space(b)).count();
        let before = before.get(..before.len() - gap.min(before.len())).unwrap_or_default();
        let start = before.iter().rposition(|b| !(word(*b) || matches!(b, b'-' | b'.'))).map_or(0, |i| i + 1);
        let mut name = [0u8; 40];
        let mut length = 0;
        for byte in before.get(start..).unwrap_or_default().iter().filter(|b| b.is_ascii_alphanumeric()) {
            if let Some(place) = name.get_mut(length) {
                *place = byte.to_ascii_lowercase();
                length += 1;
            }
        }
        let name = name.get(..length).unwrap_or_default();
        let ends = |endings: &[&[u8]]| endings.iter().any(|ending| name.ends_with(ending));
        if equals
            && self.on(Detector::UrlPassword)
            && (ends(&[b"password", b"passwd", b"pwd"]) || name == b"pass")
        {
            self.keyword_password(at + 1);
        } else if self.on(Detector::AwsSecretKey)
            && ends(&[b"secretaccesskey", b"awssecretkey", b"awssecret", b"secretkey"])
        {
            let value = at + 1 + self.run(at + 1, |b| quote_or_space(&b) || matches!(b, b'=' | b'>'));
            let length = self.run(value, |b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'+' | b'='));
            if length == 40 {
                self.hit(Detector::AwsSecretKey, value, value + 40);
            }
        }
    }

    /// The value of libpq's `password=` keyword and its like, quoted or not.
    fn keyword_password(&mut self, at: usize) {
        let start = at + self.run(at, |b| b == b' ').min(8);
        let text = self.rest(start);
        let text = text.get(..PASSWORD).unwrap_or(text);
        match text {
            [quote @ (b'\'' | b'"'), quoted @ ..] => {
                let mut escaped = false;
                let end = quoted.iter().position(|b| {
                    let ends = b == quote && !escaped;
                    escaped = *b == b'\\' && !escaped;
                    ends
                });
                self.password(start + 1, start + 1 + end.unwrap_or(quoted.len()));
            }
            // A parameter of a statement is no password.
            [b'$', b'0'..=b'9', ..] | [b'%', b's' | b'(', ..] | [b'?', ..] => {}
            _ => {
                let stop = |b: &u8| b.is_ascii_whitespace() || b.is_ascii_control() || b"&;\"'<>".contains(b);
                let end = text.iter().position(stop).unwrap_or(text.len());
                self.password(start, start + end);
            }
        }
    }

    fn password(&mut self, start: usize, mut end: usize) {
        // The longest password looked for may end within a character.
        while self.byte(end) & 0xc0 == 0x80 {
            end += 1;
        }
        let value = self.value.get(start..end).unwrap_or_default();
        if !value.is_empty() && value != REDACTED.as_bytes() {
            self.hit(Detector::UrlPassword, start, end);
        }
    }
}

/// The first byte of a character that is no letter: U+0080 to U+00BF, U+2000 to U+2FFF (spaces,
/// dashes, quotes, zero-width marks, symbols), U+F000 and up.
fn punctuation(b: u8) -> bool {
    matches!(b, 0xc2 | 0xe2 | 0xef)
}

/// Names of files with an @ in them, as designers give: icon@2x.png.
fn file_type(top: &[u8]) -> bool {
    [&b"png"[..], b"jpg", b"jpeg", b"gif", b"svg", b"webp", b"css", b"js", b"html", b"pdf"]
        .iter()
        .any(|known| top.eq_ignore_ascii_case(known))
}

/// Base64url without padding that decodes to a JSON object with an algorithm (RFC 7515, section 4).
fn jwt_header(text: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Header {
        #[serde(rename = "alg")]
        _alg: serde::de::IgnoredAny,
    }
    let mut json = Vec::with_capacity(text.len());
    let (mut bits, mut held) = (0u32, 0);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            _ => 63,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            json.push((bits >> held) as u8);
        }
    }
    serde_json::from_slice::<Header>(&json).is_ok()
}
