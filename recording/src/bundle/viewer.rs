//! The page in a bundle: the chosen sessions, to be looked at in any browser without anything else. It
//! loads nothing, and its policy lets nothing run but its own script, named by hash. What was recorded
//! stands in it as data, which its script puts on the page as text.

use std::collections::BTreeMap;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize as _;
use serde_json::{Value, json};

use super::sessions::Session;
use crate::chain::{Hash, digest};
use crate::json;
use crate::note::{Checkpoint, VerifierKey};
use crate::proto::Event;
use crate::text::SafeJson;
use crate::{SessionId, hex};

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Beyond this many bytes of events results are shown without their rows,
const ROWS: usize = 24 << 20;
/// and beyond this many further events are left out. Browsers do not take much more.
const EVENTS: usize = 32 << 20;

/// The page as it is put together.
#[derive(Debug, Default)]
pub(super) struct Page {
    bundle: Value,
    /// Each session's events, as JSON.
    events: BTreeMap<(Hash, SessionId), Vec<Vec<u8>>>,
    bytes: usize,
    names: BTreeMap<Hash, String>,
    taken: BTreeMap<(Hash, u64), u64>,
    sessions: Vec<(Value, (Hash, SessionId))>,
}

impl Page {
    pub(super) fn new(
        collector: &VerifierKey,
        checkpoint: &Checkpoint,
        created: &str,
        requested_by: &str,
        reason: &str,
    ) -> Self {
        let bundle = json!({
            "collector": collector.to_string(),
            "entries": checkpoint.size,
            "root": hex(&checkpoint.root),
            "created": created,
            "requested_by": requested_by,
            "reason": reason,
        });
        Self { bundle, ..Self::default() }
    }

    /// Takes an event of a chosen session.
    pub(super) fn event(&mut self, host: &Hash, name: &str, event: &Event) -> io::Result<()> {
        let Some(session) = SessionId::from_slice(&event.session) else { return Ok(()) };
        self.names.entry(*host).or_insert_with(|| name.to_owned());
        if self.bytes > EVENTS {
            return Ok(());
        }
        let mut value = json::event(event);
        if self.bytes > ROWS {
            for key in ["rows", "lines"] {
                if let Some(rows) = value.get_mut(key).and_then(|rows| rows.get_mut("rows")) {
                    *rows = Value::Null;
                }
            }
        }
        let text = safe(&value)?;
        self.bytes += text.len();
        self.events.entry((*host, session)).or_default().push(text);
        Ok(())
    }

    /// When the collector took a segment.
    pub(super) fn taken(&mut self, host: &Hash, segment: u64, at_ns: u64) {
        self.taken.insert((*host, segment), at_ns);
    }

    /// What a session came to.
    pub(super) fn session(&mut self, host: &Hash, session: &SessionId, state: &Session) {
        let (first, last) = state.segments;
        let taken = self.taken.range((*host, first)..=(*host, last.max(first))).map(|(_, at)| *at).max();
        let head = json!({
            "session": session.to_string(),
            "host": hex(host),
            "host_name": self.names.get(host),
            "started": json::time(state.started_ns),
            "last": json::time(state.last_ns),
            "ended": state.ended,
            "cut_off": state.cut_off,
            "taken": taken.map(json::time),
            "count": state.events,
        });
        self.sessions.push((head, (*host, *session)));
    }

    /// The page.
    pub(super) fn html(mut self) -> io::Result<Vec<u8>> {
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; base-uri 'none'; form-action 'none'",
            source(SCRIPT),
            source(STYLE)
        );
        let mut page = Vec::with_capacity(self.bytes + (64 << 10));
        let mut rest = PAGE;
        // The places stand in this order, and what is put in is not looked through again.
        for place in ["@CSP@", "@STYLE@", "@DATA@", "@SCRIPT@"] {
            let Some((before, after)) = rest.split_once(place) else {
                return Err(io::Error::other("the page has no place for what belongs in it"));
            };
            page.extend_from_slice(before.as_bytes());
            match place {
                "@CSP@" => page.extend_from_slice(policy.as_bytes()),
                "@STYLE@" => page.extend_from_slice(STYLE.as_bytes()),
                "@SCRIPT@" => page.extend_from_slice(SCRIPT.as_bytes()),
                _ => self.data(&mut page)?,
            }
            rest = after;
        }
        page.extend_from_slice(rest.as_bytes());
        Ok(page)
    }

    fn data(&mut self, page: &mut Vec<u8>) -> io::Result<()> {
        page.extend_from_slice(b"{\"bundle\":");
        page.extend_from_slice(&safe(&self.bundle)?);
        page.extend_from_slice(b",\"sessions\":[");
        for (at, (head, key)) in self.sessions.iter().enumerate() {
            if at > 0 {
                page.push(b',');
            }
            let mut head = safe(head)?;
            // The events go into the same object.
            head.pop();
            page.extend_from_slice(&head);
            page.extend_from_slice(b",\"events\":[");
            page.extend_from_slice(&self.events.remove(key).unwrap_or_default().join(&b','));
            page.extend_from_slice(b"]}");
        }
        page.extend_from_slice(b"]}");
        Ok(())
    }
}

/// A script's or style's name in a policy.
fn source(content: &str) -> String {
    format!("sha256-{}", STANDARD.encode(digest(content.as_bytes())))
}

/// JSON that can stand in a page: nothing in it ends the element that it stands in or begins another.
fn safe(value: &Value) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, SafeJson))?;
    let mut safe = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            // These stand in strings alone, where an escape means the same.
            b'<' | b'>' | b'&' => safe.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            byte => safe.push(byte),
        }
    }
    Ok(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_gets_out_of_its_place() {
        let hostile = "</script><script>alert(1)</script><!-- ]]> @SCRIPT@ @DATA@ \u{2028} & \u{202e}";
        let text = safe(&json!({ "text": hostile })).expect("written");
        let text = String::from_utf8(text).expect("UTF-8");
        assert!(!text.contains(['<', '>', '&', '\u{2028}', '\u{202e}']), "{text}");
        let back: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(back["text"], hostile);
    }

    #[test]
    fn the_page_lets_nothing_run_but_its_own_script() {
        let page = String::from_utf8(Page::default().html().expect("a page")).expect("UTF-8");
        assert!(page.contains("default-src 'none'"));
        for inside in [SCRIPT, STYLE] {
            assert!(!inside.contains("</"), "would end its element");
            assert!(page.contains(inside));
            assert!(page.contains(&source(inside)));
        }
        for never in [
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "fetch(",
            "http://",
            "https://",
            " style=\"",
            " onclick",
        ] {
            assert!(!page.contains(never), "{never}");
        }
    }
}
