//! The index over recordings: sessions, commands, rules and events of hosts, filled as events come in.
//!
//! Each event is indexed once, in the transaction that takes it in: live when it comes live, otherwise with
//! its sealed segment. The recording itself stays what it is; the index can be made anew from it.
//!
//! What several hosts brought is written together: a statement for many rows costs little more than one for a
//! single row.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use interlock_recording::SessionId;
use interlock_recording::query::identities;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AssertSqlSafe, Row as _};

use super::batch::{Batch, CommandRow, MAX_TEXT, SessionChange, clip, clip_name, int};
use super::journal::{JournalKind, NewRow};
use super::{Dialect, StoreError, Write, words};

/// So far may the time in a session's id be from its first event's: the agent makes both at once.
const APART_MS: i64 = 60_000;
/// Rows in one statement. With powers of two there are few different statements, which stay prepared.
const ROWS: usize = 64;

/// The time in a session's id (UUID version 7), milliseconds since the Unix epoch.
fn time_of(id: SessionId) -> i64 {
    id.as_bytes().iter().take(6).fold(0, |time, byte| (time << 8) | i64::from(*byte))
}

/// `($1, $2), ($3, $4)` …
pub(super) fn places(rows: usize, columns: usize) -> String {
    let mut text = String::with_capacity(rows * columns * 6);
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..columns {
            let _ = write!(text, "{}${}", if column == 0 { "" } else { ", " }, row * columns + column + 1);
        }
        text.push(')');
    }
    text
}

/// Adds a number, which is not negative, to a column, and stays at the largest there is. Hosts say how much they
/// counted: a sum beyond it would be no whole number any more in SQLite, and an error in PostgreSQL.
fn adding(table: &str, column: &str, more: &str) -> String {
    format!(
        "{column} = CASE WHEN {table}.{column} > {most} - {more} THEN {most} ELSE {table}.{column} + {more} END",
        most = i64::MAX
    )
}

/// Cuts rows into portions for one statement each.
pub(super) fn portions<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let most = rows.len().min(ROWS);
        let size = if most == 0 { return None } else { 1 << most.ilog2() };
        let (portion, rest) = rows.split_at_checked(size)?;
        rows = rest;
        Some(portion)
    })
}

/// A statement's parameters.
pub(super) type Bound<'q> = Query<'q, Any, AnyArguments>;

/// What is known of a session.
struct Known {
    host: String,
    /// The number that is due; negative when it is not known.
    due: i64,
    ended: bool,
}

/// A session's rows, sorted by what is to be done.
#[derive(Default)]
struct Sorted<'b> {
    new: Vec<(&'b str, SessionId, &'b SessionChange)>,
    known: Vec<(&'b str, SessionId, &'b SessionChange)>,
    /// Sessions of other hosts, by host.
    strangers: HashSet<(&'b str, SessionId)>,
}

impl Write<'_> {
    /// Runs `text` with rows in the place of `{rows}`, `columns` parameters for each.
    pub(super) async fn rows<T>(
        &mut self,
        text: &str,
        columns: usize,
        rows: &[T],
        bind: impl for<'q> Fn(Bound<'q>, &T) -> Bound<'q>,
    ) -> Result<(), StoreError> {
        for portion in portions(rows) {
            let text = text.replace("{rows}", &places(portion.len(), columns));
            let mut query = sqlx::query(AssertSqlSafe(text));
            for row in portion {
                query = bind(query, row);
            }
            query.execute(self.on()).await?;
        }
        Ok(())
    }

    /// Indexes a batch of events of `host`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn index(&mut self, host: &str, batch: &Batch) -> Result<(), StoreError> {
        self.index_all(&[(host, batch)]).await
    }

    /// Indexes events of several hosts, one batch of each.
    ///
    /// # Errors
    /// The database fails.
    pub async fn index_all(&mut self, batches: &[(&str, &Batch)]) -> Result<(), StoreError> {
        let sorted = self.sort_sessions(batches).await?;
        self.add_sessions(&sorted.new).await?;
        self.go_on_with_sessions(&sorted.known).await?;
        self.index_commands(batches, &sorted.strangers).await?;
        if self.has_outputs().await? {
            for (host, batch) in batches {
                self.tell(host, batch, &sorted.strangers).await?;
            }
        }
        self.count_rules(batches).await?;
        let events: Vec<_> = batches
            .iter()
            .flat_map(|(host, batch)| batch.host_events.iter().map(move |event| (*host, event)))
            .collect();
        self.rows(
            "INSERT INTO host_events (host, event, at_ns, kind, detail) VALUES {rows} \
             ON CONFLICT (host, event) DO NOTHING",
            5,
            &events,
            |query, (host, row)| {
                query
                    .bind((*host).to_owned())
                    .bind(row.event)
                    .bind(row.at_ns)
                    .bind(row.kind)
                    .bind(row.detail.clone())
            },
        )
        .await?;
        for (host, batch) in batches {
            for fault in &batch.faults {
                self.note(host, "clock", fault).await?;
            }
            for glass in &batch.glass {
                self.note(host, "broken_glass", glass).await?;
            }
            self.take_recorded(host, batch, &sorted.strangers).await?;
        }
        Ok(())
    }

    /// Looks up the sessions that the batches are about, and writes down what is wrong with them.
    async fn sort_sessions<'b>(
        &mut self,
        batches: &[(&'b str, &'b Batch)],
    ) -> Result<Sorted<'b>, StoreError> {
        let ids: Vec<SessionId> = batches.iter().flat_map(|(_, batch)| batch.order.iter().copied()).collect();
        let mut known = self.known_sessions(&ids).await?;
        let mut sorted = Sorted::default();
        for (host, batch) in batches {
            for id in &batch.order {
                let Some(change) = batch.sessions.get(id) else { continue };
                match known.get(id) {
                    Some(known) if known.host != *host || change.start.is_some() => {
                        let detail = format!(
                            "it records a session {id} that is there already: the events are not indexed"
                        );
                        self.note(host, "session", &detail).await?;
                        // What a host says of another one's session is not listed with that.
                        sorted.strangers.insert((*host, *id));
                        continue;
                    }
                    Some(known) => {
                        if let Some(fault) = going_on(known, change) {
                            self.note(host, "session", &format!("session {id} is not whole: {fault}"))
                                .await?;
                        }
                        sorted.known.push((*host, *id, change));
                    }
                    None if change.start.is_some() => {
                        let due = change.due.map_or(-1, int);
                        let row = Known { host: (*host).to_owned(), due, ended: change.end.is_some() };
                        known.insert(*id, row);
                        sorted.new.push((*host, *id, change));
                    }
                    // Its beginning may have been deleted by retention.
                    None if self.has_deleted(host).await? => {}
                    None => {
                        let event = change.first_event;
                        let detail = format!("session {id} is not whole: at event {event}: it has not begun");
                        self.note(host, "session", &detail).await?;
                    }
                }
                if let Some(fault) = &change.fault {
                    self.note(host, "session", &format!("session {id} is not whole: {fault}")).await?;
                }
                if let Some((started_ns, _)) = &change.start {
                    // Lists go by ids, which begin with a time: one that says another could hide in the past.
                    let (said, began) = (time_of(*id), *started_ns / 1_000_000);
                    if (said - began).abs() > APART_MS {
                        let detail = format!("the id of session {id} says another time than its first event");
                        self.note(host, "session", &detail).await?;
                    }
                }
            }
        }
        Ok(sorted)
    }

    async fn known_sessions(&mut self, ids: &[SessionId]) -> Result<HashMap<SessionId, Known>, StoreError> {
        let mut known = HashMap::new();
        for portion in portions(ids) {
            let marks: Vec<String> = (1..=portion.len()).map(|number| format!("${number}")).collect();
            let text = format!(
                "SELECT id, host, next_sequence, ended_ns FROM sessions WHERE id IN ({})",
                marks.join(", ")
            );
            let mut query = sqlx::query(AssertSqlSafe(text));
            for id in portion {
                query = query.bind(id.to_string());
            }
            for row in query.fetch_all(self.on()).await? {
                let Ok(id) = row.try_get::<String, _>(0)?.parse::<SessionId>() else { continue };
                let ended = row.try_get::<Option<i64>, _>(3)?.is_some();
                known.insert(id, Known { host: row.try_get(1)?, due: row.try_get(2)?, ended });
            }
        }
        Ok(known)
    }

    async fn has_deleted(&mut self, host: &str) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM segments WHERE host = $1 AND state = 'deleted' LIMIT 1")
            .bind(host)
            .fetch_optional(self.on())
            .await?;
        Ok(row.is_some())
    }

    async fn add_sessions(
        &mut self,
        sessions: &[(&str, SessionId, &SessionChange)],
    ) -> Result<(), StoreError> {
        self.rows(
            "INSERT INTO sessions (id, host, started_ns, ended_ns, end_reason, first_segment, last_segment, \
             first_event, last_event, pid, user_name, login_user, exe, command_line, unit, destination, host_names, \
             protocol, db_user, database_name, policy_hash, commands, denied, held, observed, masked_values, \
             rows_returned, next_sequence, terminal_bytes, identity) VALUES {rows}",
            30,
            sessions,
            |query, (host, id, change)| {
                let (started_ns, start) =
                    change.start.as_ref().map_or((0, None), |(started_ns, start)| (*started_ns, Some(start)));
                let start = start.map(|start| (**start).clone()).unwrap_or_default();
                let subject = start.subject.unwrap_or_default();
                let exe = subject.script.as_deref().unwrap_or(&subject.exe);
                let (user, database) = change.login.clone().unwrap_or_default();
                let (person, workload) = (&subject.person, &subject.workload);
                query
                    .bind(id.to_string())
                    .bind((*host).to_owned())
                    .bind(started_ns)
                    .bind(change.end.as_ref().map(|(ended_ns, _)| *ended_ns))
                    .bind(change.end.as_ref().map(|(_, end)| clip(&end.reason)))
                    .bind(change.first_segment)
                    .bind(change.last_segment)
                    .bind(change.first_event)
                    .bind(change.last_event)
                    .bind(i64::from(subject.pid))
                    .bind(clip_name(&subject.user))
                    .bind(clip(&subject.login_user))
                    .bind(clip_name(exe))
                    .bind(clip(&subject.argv.join(" ")))
                    .bind(clip(&subject.unit))
                    .bind(clip_name(&start.destination))
                    .bind(clip_name(&start.hosts.join(" ")))
                    .bind(clip(&start.protocol))
                    .bind(user)
                    .bind(database)
                    .bind(clip(&start.policy_hash))
                    .bind(change.commands)
                    .bind(change.denied)
                    .bind(change.held)
                    .bind(change.observed)
                    .bind(change.masked)
                    .bind(change.rows)
                    .bind(change.due.map_or(-1, int))
                    .bind(change.terminal)
                    .bind(clip(&{
                        let first = identities(person.as_ref(), workload.as_ref());
                        let later = change.identities.iter().filter(|one| !first.contains(one)).cloned();
                        first.iter().cloned().chain(later).collect::<Vec<_>>().join("; ")
                    }))
            },
        )
        .await
    }

    async fn go_on_with_sessions(
        &mut self,
        sessions: &[(&str, SessionId, &SessionChange)],
    ) -> Result<(), StoreError> {
        let text = format!(
            "UPDATE sessions SET last_segment = v.column3, last_event = v.column4, {}, {}, {}, {}, {}, {}, \
             next_sequence = v.column11, db_user = COALESCE(v.column12, sessions.db_user), \
             database_name = COALESCE(v.column13, sessions.database_name), \
             ended_ns = COALESCE(v.column14, sessions.ended_ns), \
             end_reason = COALESCE(v.column15, sessions.end_reason), {}, \
             identity = CASE WHEN v.column17 = '' OR LENGTH(sessions.identity) > {MAX_TEXT} \
             OR REPLACE(sessions.identity, v.column17, '') <> sessions.identity THEN sessions.identity \
             WHEN sessions.identity = '' THEN v.column17 ELSE sessions.identity || '; ' || v.column17 END \
             FROM (VALUES {{rows}}) AS v WHERE sessions.id = v.column1 AND sessions.host = v.column2",
            adding("sessions", "commands", "v.column5"),
            adding("sessions", "denied", "v.column6"),
            adding("sessions", "held", "v.column7"),
            adding("sessions", "observed", "v.column8"),
            adding("sessions", "masked_values", "v.column9"),
            adding("sessions", "rows_returned", "v.column10"),
            adding("sessions", "terminal_bytes", "v.column16"),
        );
        self.rows(&text, 17, sessions, |query, (host, id, change)| {
            query
                .bind(id.to_string())
                .bind((*host).to_owned())
                .bind(change.last_segment)
                .bind(change.last_event)
                .bind(change.commands)
                .bind(change.denied)
                .bind(change.held)
                .bind(change.observed)
                .bind(change.masked)
                .bind(change.rows)
                .bind(change.due.map_or(-1, int))
                .bind(change.login.as_ref().map(|(user, _)| user.clone()))
                .bind(change.login.as_ref().map(|(_, database)| database.clone()))
                .bind(change.end.as_ref().map(|(ended_ns, _)| *ended_ns))
                .bind(change.end.as_ref().map(|(_, end)| clip(&end.reason)))
                .bind(change.terminal)
                // What stands there already is not said again.
                .bind(clip(&change.identities.iter().cloned().collect::<Vec<_>>().join("; ")))
        })
        .await
    }

    async fn index_commands(
        &mut self,
        batches: &[(&str, &Batch)],
        strangers: &HashSet<(&str, SessionId)>,
    ) -> Result<(), StoreError> {
        let commands: Vec<(&str, &CommandRow)> = batches
            .iter()
            .flat_map(|(host, batch)| batch.commands.iter().map(move |row| (*host, row)))
            .filter(|(host, row)| !strangers.contains(&(*host, row.session)))
            .collect();
        // SQLite takes texts apart itself.
        let dialect = self.dialect;
        let search = |row: &CommandRow| match dialect {
            Dialect::Sqlite => row.search.clone(),
            Dialect::Postgres => words::words(&row.search),
        };
        self.rows(
            "INSERT INTO commands (host, event, segment, session, number, goes_on, step, at_ns, kind, verdict, \
             observed, rule, text, search, status, duration_ns, rows_returned, sqlstate) VALUES {rows} \
             ON CONFLICT (host, event) DO NOTHING",
            18,
            &commands,
            |query, (host, row)| {
                query
                    .bind((*host).to_owned())
                    .bind(row.event)
                    .bind(row.segment)
                    .bind(row.session.to_string())
                    .bind(row.number)
                    .bind(row.goes_on)
                    .bind(row.step.clone())
                    .bind(row.at_ns)
                    .bind(row.kind.clone())
                    .bind(row.verdict.clone())
                    .bind(row.observed.clone())
                    .bind(row.rule.clone())
                    .bind(row.text.clone())
                    .bind(search(row))
                    .bind(row.outcome.status.clone())
                    .bind(row.outcome.duration_ns)
                    .bind(row.outcome.rows)
                    .bind(row.outcome.sqlstate.clone())
            },
        )
        .await?;
        let results: Vec<_> = batches
            .iter()
            .flat_map(|(host, batch)| batch.results.iter().map(move |result| (*host, result)))
            .collect();
        self.rows(
            "UPDATE commands SET status = v.column4, duration_ns = v.column5, rows_returned = v.column6, \
             sqlstate = v.column7 FROM (VALUES {rows}) AS v WHERE commands.session = v.column1 \
             AND commands.number = v.column2 AND commands.host = v.column3",
            7,
            &results,
            |query, (host, (session, number, outcome))| {
                query
                    .bind(session.to_string())
                    .bind(int(*number))
                    .bind((*host).to_owned())
                    .bind(outcome.status.clone())
                    .bind(outcome.duration_ns)
                    .bind(outcome.rows)
                    .bind(outcome.sqlstate.clone())
            },
        )
        .await
    }

    /// Writes into the journal what came.
    async fn tell(
        &mut self,
        host: &str,
        batch: &Batch,
        strangers: &HashSet<(&str, SessionId)>,
    ) -> Result<(), StoreError> {
        let ours = |id: &SessionId| !strangers.contains(&(host, *id));
        let sessions: Vec<(&SessionId, &SessionChange)> = batch
            .order
            .iter()
            .filter(|id| ours(id))
            .filter_map(|id| Some((id, batch.sessions.get(id)?)))
            .collect();
        fn of_session<'r>(host: &'r str, kind: JournalKind, at: (i64, i64), about: &'r str) -> NewRow<'r> {
            NewRow { kind, host, segment: at.0, first: at.1, last: at.1, about }
        }
        for (id, change) in sessions.iter().filter(|(_, change)| change.start.is_some()) {
            let about = id.to_string();
            let at = (change.first_segment, change.first_event);
            self.journal(of_session(host, JournalKind::SessionBegun, at, &about)).await?;
        }
        let events = batch.commands.iter().filter(|row| ours(&row.session)).map(|row| row.event);
        let events = events.chain(batch.host_events.iter().map(|row| row.event));
        let (first, last) =
            events.fold((i64::MAX, -1), |(first, last), event| (first.min(event), last.max(event)));
        if last >= 0 {
            let row = NewRow {
                kind: JournalKind::Events,
                host,
                segment: batch.segment,
                first,
                last: last.saturating_add(1),
                about: "",
            };
            self.journal(row).await?;
        }
        let ended: Vec<String> = batch
            .ended
            .iter()
            .filter(|(session, _)| ours(session))
            .map(|(session, number)| format!("{session}/{number}"))
            .collect();
        self.journal_results(host, batch.segment, &ended).await?;
        for (id, change) in sessions.iter().filter(|(_, change)| change.end.is_some()) {
            let about = id.to_string();
            let at = (change.last_segment, change.last_event);
            self.journal(of_session(host, JournalKind::SessionEnded, at, &about)).await?;
        }
        Ok(())
    }

    async fn count_rules(&mut self, batches: &[(&str, &Batch)]) -> Result<(), StoreError> {
        let rules: Vec<_> = batches
            .iter()
            .flat_map(|(host, batch)| batch.rules.iter().map(move |(rule, count)| (*host, rule, count)))
            .collect();
        let text = format!(
            "INSERT INTO rule_counts (host, rule, verdict, observed, count, last_ns) VALUES {{rows}} \
             ON CONFLICT (host, rule, verdict, observed) DO UPDATE SET {}, last_ns = excluded.last_ns",
            adding("rule_counts", "count", "excluded.count")
        );
        self.rows(&text, 6, &rules, |query, (host, (rule, verdict, observed), (count, last_ns))| {
            query
                .bind((*host).to_owned())
                .bind(rule.clone())
                .bind(verdict.clone())
                .bind(i64::from(*observed))
                .bind(*count)
                .bind(*last_ns)
        })
        .await
    }
}

/// What is wrong with how a session goes on.
fn going_on(known: &Known, change: &SessionChange) -> Option<String> {
    let (event, number) = (change.first_event, int(change.goes_on?));
    if known.ended {
        return Some(format!("at event {event}: it goes on after its end"));
    }
    (known.due >= 0 && known.due != number)
        .then(|| format!("at event {event}: the session's event {} is due, {number} stands here", known.due))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_have_few_sizes() {
        let rows: Vec<usize> = (0..203).collect();
        let sizes: Vec<usize> = portions(&rows).map(<[_]>::len).collect();
        assert_eq!(sizes, [64, 64, 64, 8, 2, 1]);
        assert_eq!(portions(&rows).flatten().copied().collect::<Vec<_>>(), rows);
        assert_eq!(portions::<u8>(&[]).count(), 0);
    }

    #[tokio::test]
    async fn counts_that_a_host_makes_up_stay_whole_numbers() {
        use interlock_recording::proto::event::Body;
        use interlock_recording::proto::{CommandResult, MaskCount, Rows};

        use crate::sample::{SampleHost, SampleSession};
        use crate::store::{SessionFilter, Store};

        let directory = tempfile::tempdir().unwrap();
        let store = Store::open_file(&directory.path().join("db")).await.unwrap();
        let mut host = SampleHost::enrol(&store, "db-1", 1).await.unwrap();
        let started = crate::store::now_ns();
        let id = SessionId::new(started as u64 / 1_000_000, [7; 10]);
        let open = SampleSession { ended: false, ..SampleSession::default() };
        let bodies = open.bodies();
        let mut sequence = bodies.len() as u64;
        host.record(&store, id, started, 0, bodies).await.unwrap();
        let result = |command| {
            Body::Result(CommandResult {
                command,
                duration_ns: u64::MAX,
                rows: Some(Rows {
                    count: u64::MAX,
                    masks: vec![MaskCount { mask: "m".into(), count: u64::MAX }; 2],
                    ..Rows::default()
                }),
                ..CommandResult::default()
            })
        };
        for _ in 0..3 {
            host.record(&store, id, started, sequence, vec![result(1), result(1)]).await.unwrap();
            sequence += 2;
        }
        let page = store.sessions(&SessionFilter::default(), None, 10).await.unwrap();
        let listed = &page.items[0];
        assert_eq!((listed.rows_returned, listed.masked_values), (i64::MAX, i64::MAX));
        assert_eq!(listed.commands, 1);
    }

    #[test]
    fn rows_have_their_places() {
        assert_eq!(places(2, 3), "($1, $2, $3), ($4, $5, $6)");
    }
}
