//! What is to be sent next: an output's place in the journal, and the messages from there on.

use interlock_recording::ledger::{self, proto::entry::Body as Entry};

use super::approval::{ToldApproval, name_of as approval_name};
use super::config::{Kind, Only, Output};
use super::message::{Body, Deleted, Hold, Message, Missing, kind};
use crate::store::{AuditFilter, JournalKind, JournalRow, Store, StoreError, ToldCommand};

/// Rows of the journal that are read at one time.
const ROWS: i64 = 64;
/// Things that are looked at for one batch, whether they are told or not.
const LOOKED_AT: usize = 4000;
/// Bytes of text that one batch holds, about.
const BYTES: usize = 1 << 20;
/// Commands that are read at one time.
const COMMANDS: i64 = 500;

/// A place in the journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The last row of which all is done.
    pub(super) row: (i64, i64),
    /// How much of the row after that is done.
    pub(super) done: i64,
}

/// Messages one after another.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Each with the place after it.
    pub(super) messages: Vec<(Message, Place)>,
    /// The place after all that was looked at.
    pub(super) end: Place,
    /// There is more, as far as is known.
    pub(super) more: bool,
    looked_at: usize,
    bytes: usize,
}

impl Batch {
    fn is_full(&self, limit: usize) -> bool {
        self.messages.len() >= limit || self.looked_at >= LOOKED_AT || self.bytes >= BYTES
    }

    fn put(&mut self, output: &Output, id: String, body: Body, after: Place) {
        self.looked_at += 1;
        self.end = after;
        if !is_told(output, &body) {
            return;
        }
        self.bytes += match &body {
            Body::Command(command) | Body::Result(command) => command.text.len() + 512,
            Body::HostEvent { event, .. } => event.detail.len() + 256,
            Body::Approval(told) => told.text.len() + 2048,
            _ => 1024,
        };
        // What was deleted in one run is one message.
        if let (Body::Deleted(next), Some((Message { id, body: Body::Deleted(last) }, place))) =
            (&body, self.messages.last_mut())
            && last.host == next.host
            && let (Missing::Events { end, .. }, Missing::Events { end: further, .. }) =
                (&mut last.what, &next.what)
        {
            *end = (*end).max(*further);
            *id = last.id("");
            *place = after;
            return;
        }
        self.messages.push((Message { id, body }, after));
    }
}

fn fits(wanted: &[String], has: &[&str]) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| has.contains(&wanted.as_str()))
}

fn is_told(output: &Output, body: &Body) -> bool {
    let Only { verdict, observed, rules, hosts } = &output.only;
    if kind(body).is_some_and(|kind| !output.kinds.contains(&kind)) {
        return false;
    }
    match body {
        Body::Command(command) | Body::Result(command) => {
            fits(verdict, &[&command.verdict])
                && fits(observed, &[&command.observed])
                && fits(rules, &[&command.rule])
                && fits(hosts, &[&command.host, &command.host_name])
        }
        Body::SessionBegun(session) | Body::SessionEnded(session) => {
            fits(hosts, &[&session.host, &session.host_name])
        }
        Body::HostEvent { host, host_name, .. } => fits(hosts, &[host, host_name]),
        Body::Deleted(deleted) => fits(hosts, &[&deleted.host, &deleted.host_name]),
        Body::Approval(told) => {
            let rules_of = told.rules();
            fits(rules, &rules_of) && fits(hosts, &[&told.item.host, &told.item.host_name])
        }
        Body::Finding(_) | Body::Hold(_) | Body::Audit(_) => true,
    }
}

/// Reads what comes after `from`, at most `limit` messages.
///
/// # Errors
/// The database fails.
pub(super) async fn next(
    store: &Store,
    output: &Output,
    from: Place,
    limit: usize,
) -> Result<Batch, StoreError> {
    let mut batch = Batch { end: from, ..Batch::default() };
    loop {
        let rows = store.journal(batch.end.row, ROWS).await?;
        if rows.is_empty() {
            return Ok(batch);
        }
        for row in &rows {
            batch.looked_at += 1;
            let wants = |kinds: &[Kind]| kinds.iter().any(|kind| output.kinds.contains(kind));
            match row.kind {
                JournalKind::Events if wants(&[Kind::Command, Kind::HostEvent]) => {
                    events(store, output, row, limit, &mut batch).await?;
                }
                JournalKind::Results if wants(&[Kind::Result]) => {
                    results(store, output, row, limit, &mut batch).await?;
                }
                JournalKind::SessionBegun | JournalKind::SessionEnded if wants(&[Kind::Session]) => {
                    session(store, output, row, &mut batch).await?;
                }
                JournalKind::Finding if wants(&[Kind::Finding]) => {
                    if let Some(finding) = store.finding(row.first).await? {
                        let id = format!("finding:{}", finding.id);
                        batch.put(output, id, Body::Finding(finding), whole(row));
                    }
                }
                JournalKind::Hold if wants(&[Kind::Hold]) => {
                    if let Some(hold) = hold(store, row.first).await? {
                        batch.put(output, format!("hold:{}", hold.entry), Body::Hold(hold), whole(row));
                    }
                }
                JournalKind::Audit if wants(&[Kind::Audit]) => {
                    let before = row.first.checked_add(1);
                    let page = store.audit(&AuditFilter::default(), before, 1).await?;
                    if let Some(entry) = page.items.into_iter().find(|entry| entry.id == row.first) {
                        batch.put(output, format!("audit:{}", entry.id), Body::Audit(entry), whole(row));
                    }
                }
                JournalKind::Approval if wants(&[Kind::Approval]) => {
                    approval(store, output, row, &mut batch).await?;
                }
                _ => batch.end = whole(row),
            }
            // It was left in the middle of the row.
            if batch.end.done > 0 {
                batch.more = true;
                return Ok(batch);
            }
            batch.end = whole(row);
            if batch.is_full(limit) {
                batch.more = true;
                return Ok(batch);
            }
        }
    }
}

fn whole(row: &JournalRow) -> Place {
    Place { row: row.place, done: 0 }
}

async fn name_of(store: &Store, host: &str) -> Result<String, StoreError> {
    Ok(store.agent(host).await?.map(|agent| agent.name).unwrap_or_default())
}

/// The place before a row of which so much is done. `batch.end` is in the row or before it.
fn within(batch: &Batch, done: i64) -> Place {
    Place { row: batch.end.row, done }
}

async fn events(
    store: &Store,
    output: &Output,
    row: &JournalRow,
    limit: usize,
    batch: &mut Batch,
) -> Result<(), StoreError> {
    let host_name = name_of(store, &row.host).await?;
    let mut next = row.first.saturating_add(batch.end.done);
    while next < row.last {
        let (commands, events) =
            (output.kinds.contains(&Kind::Command), output.kinds.contains(&Kind::HostEvent));
        let commands = if commands {
            store.told_commands(&row.host, next, row.last, COMMANDS).await?
        } else {
            Vec::new()
        };
        let events = if events {
            store.told_host_events(&row.host, next, row.last, COMMANDS).await?
        } else {
            Vec::new()
        };
        // Asked after they were read: had it been deleted before, they would not have been whole.
        if store.is_deleted(&row.host, row.segment).await? {
            let deleted = Deleted {
                host: row.host.clone(),
                host_name,
                what: Missing::Events { first: next, end: row.last },
                at_ns: row.at_ns,
                retention: true,
            };
            batch.put(output, deleted.id(""), Body::Deleted(deleted), whole(row));
            batch.end = whole(row);
            return Ok(());
        }
        // As far as both lists go.
        let full = |last: Option<i64>, length: usize| {
            last.filter(|_| length >= usize::try_from(COMMANDS).unwrap_or(usize::MAX))
                .map_or(row.last, |last| last + 1)
        };
        let end = full(commands.last().map(|last| last.event), commands.len())
            .min(full(events.last().map(|last| last.event), events.len()));
        let commands = commands.into_iter().map(|command| {
            (
                command.event,
                format!("command:{}:{}", command.host, command.event),
                Body::Command(Box::new(command)),
            )
        });
        let events = events.into_iter().map(|event| {
            let id = format!("host_event:{}:{}", row.host, event.event);
            (event.event, id, Body::HostEvent { host: row.host.clone(), host_name: host_name.clone(), event })
        });
        let mut bodies: Vec<(i64, String, Body)> =
            commands.chain(events).filter(|(event, ..)| *event < end).collect();
        bodies.sort_by_key(|(event, ..)| *event);
        for (event, id, body) in bodies {
            next = event.saturating_add(1);
            let after =
                if next >= row.last { whole(row) } else { within(batch, next.saturating_sub(row.first)) };
            batch.put(output, id, body, after);
            if batch.is_full(limit) {
                return Ok(());
            }
        }
        next = end;
        batch.end = if next >= row.last { whole(row) } else { within(batch, next.saturating_sub(row.first)) };
    }
    batch.end = whole(row);
    Ok(())
}

async fn results(
    store: &Store,
    output: &Output,
    row: &JournalRow,
    limit: usize,
    batch: &mut Batch,
) -> Result<(), StoreError> {
    let done = usize::try_from(batch.end.done).unwrap_or(usize::MAX);
    let ended: Vec<(&str, i64)> = row
        .about
        .split(' ')
        .filter_map(|ended| {
            let (session, number) = ended.split_once('/')?;
            Some((session, number.parse().ok()?))
        })
        .collect();
    for (at, (session, number)) in (1..).zip(&ended).skip(done) {
        let after =
            if at >= ended.len() { whole(row) } else { within(batch, i64::try_from(at).unwrap_or(i64::MAX)) };
        let found: Option<ToldCommand> = store.told_command(&row.host, session, *number).await?;
        let (id, body) = match found {
            Some(command) => (format!("result:{session}:{number}"), Body::Result(Box::new(command))),
            None => gone(store, row, "result", Missing::Result((*session).to_owned(), *number)).await?,
        };
        batch.put(output, id, body, after);
        if batch.is_full(limit) {
            return Ok(());
        }
    }
    batch.end = whole(row);
    Ok(())
}

async fn session(
    store: &Store,
    output: &Output,
    row: &JournalRow,
    batch: &mut Batch,
) -> Result<(), StoreError> {
    let begun = row.kind == JournalKind::SessionBegun;
    let name = if begun { "session_begun" } else { "session_ended" };
    let (id, body) = match store.session(&row.about).await? {
        Some(session) if begun => (format!("{name}:{}", row.about), Body::SessionBegun(Box::new(session))),
        Some(session) => (format!("{name}:{}", row.about), Body::SessionEnded(Box::new(session))),
        None => gone(store, row, name, Missing::Session(row.about.clone())).await?,
    };
    batch.put(output, id, body, whole(row));
    Ok(())
}

/// A request is as it was when it came; what has changed since stands in the journal. So it is the same each time.
async fn approval(
    store: &Store,
    output: &Output,
    row: &JournalRow,
    batch: &mut Batch,
) -> Result<(), StoreError> {
    let Some((id, news, change)) = row.approval() else { return Ok(()) };
    let of = approval_name(news);
    let (id, body) = match store.approval(id).await? {
        Some(one) => {
            let told = ToldApproval::new(one, news, change, row.at_ns);
            (format!("{of}:{id}:{}", row.place.1), Body::Approval(Box::new(told)))
        }
        None => gone(store, row, of, Missing::Approval(id.to_owned(), row.place.1)).await?,
    };
    batch.put(output, id, body, whole(row));
    Ok(())
}

/// Something that the journal tells of and that is not there any more.
async fn gone(
    store: &Store,
    row: &JournalRow,
    kind: &str,
    what: Missing,
) -> Result<(String, Body), StoreError> {
    let deleted = Deleted {
        host: row.host.clone(),
        host_name: name_of(store, &row.host).await?,
        what,
        at_ns: row.at_ns,
        retention: row.kind == JournalKind::Approval || store.is_deleted(&row.host, row.segment).await?,
    };
    Ok((deleted.id(kind), Body::Deleted(deleted)))
}

async fn hold(store: &Store, number: i64) -> Result<Option<Hold>, StoreError> {
    let entry = u64::try_from(number).map_err(|_| StoreError::Damaged("an entry's number that is none"))?;
    let Some(stored) =
        store.ledger_entries(entry, 1).await?.into_iter().find(|stored| stored.number == entry)
    else {
        return Ok(None);
    };
    let body = ledger::decode(&stored.bytes).ok().and_then(|entry| entry.body);
    let at_ns = stored.at_ns;
    Ok(match body {
        Some(Entry::HoldSet(body)) => Some(Hold {
            entry,
            at_ns,
            set: true,
            hold: body.hold,
            reason: body.reason,
            who: body.who,
            scope: body.scope,
        }),
        Some(Entry::HoldReleased(body)) => Some(Hold {
            entry,
            at_ns,
            set: false,
            hold: body.hold,
            reason: body.reason,
            who: body.who,
            scope: String::new(),
        }),
        _ => None,
    })
}
