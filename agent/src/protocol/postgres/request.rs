//! What people are asked to approve: what they are shown of it, and the digests that it is told by.

use sha2::{Digest, Sha256};

use crate::approval::{Does, Shown};
use crate::record::Step;
use crate::sql::{Kind, Script, Statement};

/// Bytes of a text that approvers are shown; of all texts that it runs by name; of each parameter, and of all.
pub(super) const TEXT: usize = 16 << 10;
pub(super) const RUNS: usize = 16 << 10;
const PARAM: usize = 1 << 10;
const PARAMS: usize = 16 << 10;
/// Statements, and entries of a list, that they are shown.
pub(super) const STATEMENTS: usize = 25;
const LIST: usize = 12;
/// Texts that it runs by name, at the most.
pub(super) const MOST_RUN: usize = 256;
/// Bytes of a name.
const NAME: usize = 130;
/// What a request may take beside the message that is held.
pub(super) const OWN: usize = TEXT + RUNS + PARAMS + STATEMENTS * 5 * LIST * NAME;

/// What approvers see of an operation: all that runs. `None` where that is more than they are shown. The caller
/// fills in where it runs. Text and parameters are masked by now.
pub(super) fn show(
    step: Step,
    text: String,
    runs: Vec<String>,
    all: &[Option<String>],
    script: &Script,
) -> Option<Shown> {
    if text.len() > TEXT
        || runs.iter().map(String::len).sum::<usize>() > RUNS
        || runs.len() >= MOST_RUN
        || script.statements.len() > STATEMENTS
    {
        return None;
    }
    let mut room = PARAMS;
    let mut params = Vec::new();
    for param in all {
        if room == 0 {
            break;
        }
        let shown = param.as_deref().map(|value| {
            let shown = clipped(value, PARAM.min(room));
            let omitted = value.len() - shown.len();
            if omitted == 0 { shown.to_owned() } else { format!("{shown}… ({omitted} more bytes)") }
        });
        room = room.saturating_sub(shown.as_ref().map_or(1, |shown| shown.len().max(1)));
        params.push(shown);
    }
    Some(Shown {
        step: step_word(step),
        text,
        runs,
        params_omitted: all.len() - params.len(),
        params,
        statements: script.statements.iter().map(does).collect(),
        ..Shown::default()
    })
}

/// Its text alone says what it does, so that an approval can cover texts of its shape.
pub(super) fn has_shape(script: &Script) -> bool {
    script.statements.iter().all(|statement| {
        statement.executes.is_empty()
            && statement.cursor.is_none()
            && !statement.dynamic
            && !statement.kinds.contains(&Kind::Unparsed)
            && !statement.kinds.contains(&Kind::Fetch)
    })
}

pub(super) fn step_word(step: Step) -> &'static str {
    match step {
        Step::Query => "query",
        Step::Prepare => "prepare",
        Step::Bind => "bind",
        Step::Execute => "execute",
        Step::FunctionCall => "function_call",
        Step::Replication => "replication",
        Step::Cancel => "cancel",
    }
}

fn does(statement: &Statement) -> Does {
    fn words<T: serde::Serialize>(items: impl IntoIterator<Item = T>) -> Vec<String> {
        let word = |item: T| match serde_json::to_value(item) {
            Ok(serde_json::Value::String(word)) => Some(word),
            _ => None,
        };
        items.into_iter().filter_map(word).take(LIST).collect()
    }
    fn names<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
        let mut items = items.into_iter();
        let mut names: Vec<String> =
            items.by_ref().take(LIST).map(|item| clipped(&item.to_string(), NAME).to_owned()).collect();
        let more = items.count();
        if more > 0 {
            names.push(format!("… and {more} more"));
        }
        names
    }
    let others = statement.kinds.iter().filter(|kind| **kind != statement.kind);
    Does {
        kinds: words(std::iter::once(&statement.kind).chain(others)),
        classes: words(&statement.classes),
        reads: names(&statement.reads),
        writes: names(&statement.writes),
        functions: names(&statement.functions),
        r#where: words(statement.where_clause).concat(),
        limit: words(statement.limit).concat(),
        dynamic: statement.dynamic,
        // The reason quotes the text, which may hold what is masked.
        unparsed: if statement.error.is_some() { "it cannot be read".to_owned() } else { String::new() },
    }
}

/// The beginning of a text, at most `most` bytes.
fn clipped(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

/// A digest over parts that cannot run into one another.
pub(super) struct Parts(Sha256);

impl Parts {
    pub(super) fn new(purpose: &str) -> Self {
        let mut parts = Self(Sha256::new());
        parts.text(purpose);
        parts
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    pub(super) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}
