//! Refusing in the protocol's own words.
//!
//! A refused message is replaced on its way to the server by one of the same effect on the protocol's
//! state that is sure to fail: a text that PostgreSQL's grammar rejects before anything of it is run.
//! So the server itself aborts the transaction, skips to the next Sync and reports its status, and only
//! the text of its error is replaced on the way back.

use bytes::BufMut;

use crate::policy::{Decision, Verdict};
use crate::protocol::postgres::codec::{self, HEADER};

/// The name under which a replacement is prepared where the client sent no Parse. The statement never
/// comes to exist; a name keeps the client's unnamed statement alive, which a failed Parse would drop.
const NAME: &[u8] = b"interlock_refused";

/// Why a command is refused, as the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// SQLSTATE.
    pub(super) code: &'static str,
    /// The primary message.
    pub(super) message: String,
    /// What to do about it.
    pub(super) hint: Option<String>,
    /// The rule, as the server's own log shall show it.
    rule: String,
}

impl Refusal {
    /// By a rule.
    pub(super) fn by_rule(decision: &Decision) -> Self {
        let rule = decision.rule.as_deref().unwrap_or("default");
        let mut message = match &decision.rule {
            Some(rule) => format!("interlock: refused by rule \"{rule}\""),
            None => "interlock: refused: no rule allows it".to_owned(),
        };
        if let Some(text) = &decision.message {
            message.push_str(": ");
            message.push_str(text);
        }
        let hint = match decision.verdict {
            Verdict::Hold => {
                Some("This command needs an approval, and the rule names nobody who may give it.")
            }
            _ => None,
        };
        Self { code: "42501", message, hint: hint.map(str::to_owned), rule: rule.to_owned() }
    }

    /// As somebody decided, or nobody did, on what `rule` holds. The message stands as it is.
    pub(super) fn held(code: &'static str, message: String, hint: Option<&str>, rule: String) -> Self {
        Self { code, message, hint: hint.map(str::to_owned), rule }
    }

    /// By the agent itself, for `reason`.
    pub(super) fn own(code: &'static str, reason: &str, hint: &str) -> Self {
        Self {
            code,
            message: format!("interlock: {reason}"),
            hint: Some(hint.to_owned()),
            rule: "interlock".to_owned(),
        }
    }

    /// The text that goes to the server. It fails at its first word: no statement begins with a name
    /// that is not a keyword. Of the rule's name only what can do nothing in any lexer is left.
    fn text(&self) -> Vec<u8> {
        let rule: String = self
            .rule
            .chars()
            .take(100)
            .map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '.' { c } else { '_' })
            .collect();
        format!("interlock refused this command by rule {rule}").into_bytes()
    }

    /// The Query that takes the place of a Query or FunctionCall.
    pub(super) fn put_query(&self, out: &mut Vec<u8>) {
        codec::put_message(out, b'Q', |out| codec::put_cstr(out, &self.text()));
    }

    /// The Parse that takes the place of a Parse of `name`, or of another message where there is none.
    pub(super) fn put_parse(&self, out: &mut Vec<u8>, name: Option<&[u8]>) {
        codec::put_message(out, b'P', |out| {
            codec::put_cstr(out, name.unwrap_or(NAME));
            codec::put_cstr(out, &self.text());
            out.put_i16(0);
        });
    }

    /// The ErrorResponse that takes the place of the server's `theirs`; `None` when that one is another
    /// than the replacement's syntax error (a cancel, a shutdown) and must reach the client as it is.
    pub(super) fn put_error(&self, out: &mut Vec<u8>, theirs: &[u8]) -> bool {
        let field =
            |wanted: u8| codec::notice_fields(theirs).find(|&(code, _)| code == wanted).map(|(_, text)| text);
        if field(b'C') != Some(b"42601") {
            return false;
        }
        // The severity in the server's language.
        let severity = field(b'S').unwrap_or(b"ERROR");
        self.put(out, severity, b"ERROR");
        true
    }

    /// The ErrorResponse that ends the connection.
    pub(super) fn put_fatal(&self, out: &mut Vec<u8>) {
        self.put(out, b"FATAL", b"FATAL");
    }

    fn put(&self, out: &mut Vec<u8>, severity: &[u8], plain_severity: &[u8]) {
        codec::put_message(out, b'E', |out| {
            let mut field = |code: u8, text: &[u8]| {
                out.put_u8(code);
                codec::put_cstr(out, text);
            };
            field(b'S', severity);
            field(b'V', plain_severity);
            field(b'C', self.code.as_bytes());
            field(b'M', self.message.as_bytes());
            if let Some(hint) = &self.hint {
                field(b'H', hint.as_bytes());
            }
            out.put_u8(0);
        });
    }
}

/// A whole FATAL ErrorResponse.
pub(super) fn fatal(code: &'static str, reason: &str, hint: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + 64 + reason.len() + hint.len());
    Refusal::own(code, reason, hint).put_fatal(&mut out);
    out
}
