//! Commands: search over all of them, and those of one session.

use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::page::{Sql, rfc3339};
use super::{Dialect, Page, Store, StoreError, words};

/// Matches of a search that one request looks at.
const MATCHES: i64 = 5_000;
/// The newest commands, which are looked at one by one for words with a beginning.
const NEAR: i64 = 8000;

/// Commands that one request looks at when no index answers the question by itself.
const WALK: i64 = 10_000;

/// Which commands to list. Every field that is given must hold.
#[derive(Debug, Clone, Default)]
pub struct CommandFilter {
    /// Not before.
    pub since_ns: Option<i64>,
    /// Before.
    pub until_ns: Option<i64>,
    /// On one of these hosts, by id.
    pub hosts: Option<Vec<String>>,
    /// With this verdict.
    pub verdict: Option<String>,
    /// A rule in observe mode would have given this verdict.
    pub observed: Option<String>,
    /// Decided by this rule.
    pub rule: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
    /// With these words.
    pub text: Option<String>,
}

/// A command, as it is listed.
#[derive(Debug, Clone, Serialize)]
pub struct CommandItem {
    /// Its number in the collector.
    pub id: i64,
    /// The host's id.
    pub host: String,
    /// The host's name.
    pub host_name: String,
    /// Its session.
    pub session: String,
    /// Its event's index in the host's log.
    pub event: i64,
    /// Its number in the session.
    pub number: i64,
    /// The command that it goes on with; 0 for none.
    pub goes_on: i64,
    /// query, prepare, bind, execute …
    pub step: String,
    /// When.
    #[serde(rename = "at", serialize_with = "rfc3339")]
    pub at_ns: i64,
    /// The statement's kind.
    pub kind: String,
    /// What happened.
    pub verdict: String,
    /// What a rule in observe mode would have had happen; empty when none matched.
    pub observed: String,
    /// The rule that decided.
    pub rule: String,
    /// The beginning of its text, at most 4000 characters.
    pub text: String,
    /// How long the text is, in characters.
    pub text_length: i64,
    /// How it ended; empty while it has not.
    pub status: String,
    /// How long it took.
    pub duration_ns: i64,
    /// Rows returned.
    pub rows_returned: i64,
    /// The error.
    pub sqlstate: String,
}

const COLUMNS: &str = "c.id, c.host, COALESCE(a.name, ''), c.session, c.event, c.number, c.goes_on, c.step, c.at_ns, \
     c.kind, c.verdict, c.observed, c.rule, substr(c.text, 1, 4000), CAST(LENGTH(c.text) AS BIGINT), c.status, \
     c.duration_ns, c.rows_returned, c.sqlstate";

fn read(row: &AnyRow) -> Result<CommandItem, StoreError> {
    Ok(CommandItem {
        id: row.try_get(0)?,
        host: row.try_get(1)?,
        host_name: row.try_get(2)?,
        session: row.try_get(3)?,
        event: row.try_get(4)?,
        number: row.try_get(5)?,
        goes_on: row.try_get(6)?,
        step: row.try_get(7)?,
        at_ns: row.try_get(8)?,
        kind: row.try_get(9)?,
        verdict: row.try_get(10)?,
        observed: row.try_get(11)?,
        rule: row.try_get(12)?,
        text: row.try_get(13)?,
        text_length: row.try_get(14)?,
        status: row.try_get(15)?,
        duration_ns: row.try_get(16)?,
        rows_returned: row.try_get(17)?,
        sqlstate: row.try_get(18)?,
    })
}

/// A statement for the ids of commands below `before` with these words, the newest first; `None` when
/// there is nothing to look for.
pub(super) fn matching(dialect: Dialect, text: &str, before: i64, limit: i64) -> Option<Sql> {
    let mut sql;
    match dialect {
        Dialect::Sqlite => {
            sql = Sql::new("SELECT rowid AS id FROM command_search WHERE command_search MATCH ");
            sql.text(&words::sqlite(text)?)
                .push(" AND rowid < ")
                .number(before)
                .push(" ORDER BY rowid DESC LIMIT ")
                .number(limit);
        }
        Dialect::Postgres => {
            sql = Sql::new("SELECT id FROM commands");
            if !words::postgres(text, &mut sql) {
                return None;
            }
            sql.and("id < ").number(before);
            if words::has_beginning(text) {
                // How many commands have a beginning the planner guesses, by far too many: it would walk back
                // through all of them. So the newest are walked, and if these do not do, the index of words is
                // made to answer: `id + 0` is in no other.
                sql.and("id >= (SELECT COALESCE(MIN(id), 0) FROM (SELECT id FROM commands WHERE id < ")
                    .number(before)
                    .push(" ORDER BY id DESC LIMIT ")
                    .number(NEAR)
                    .push(") n) ORDER BY id DESC LIMIT ")
                    .number(limit);
                sql = sql.within("WITH near AS MATERIALIZED (", ") SELECT id FROM near");
                sql.push(" WHERE (SELECT COUNT(*) FROM near) >= ")
                    .number(limit)
                    .push(" UNION ALL (SELECT id FROM commands");
                sql.and("(SELECT COUNT(*) FROM near) < ").number(limit);
                words::postgres(text, &mut sql);
                sql.and("id < ").number(before).push(" ORDER BY id + 0 DESC LIMIT ").number(limit).push(")");
            } else {
                sql.push(" ORDER BY id DESC LIMIT ").number(limit);
            }
        }
    }
    Some(sql)
}

/// A statement that has a row if the command `id` has these words; `None` when there is nothing to look for.
pub(super) fn has_words(dialect: Dialect, text: &str, id: i64) -> Option<Sql> {
    let mut sql;
    match dialect {
        Dialect::Sqlite => {
            sql = Sql::new("SELECT rowid AS id FROM command_search");
            sql.and("command_search MATCH ").text(&words::sqlite(text)?);
            sql.and("rowid = ").number(id);
        }
        Dialect::Postgres => {
            sql = Sql::new("SELECT id FROM commands");
            if !words::postgres(text, &mut sql) {
                return None;
            }
            sql.and("id = ").number(id);
        }
    }
    Some(sql)
}

/// A place among commands in the order of time.
fn place(cursor: &str) -> Option<(i64, i64)> {
    let (at, id) = cursor.split_once('-')?;
    Some((at.parse().ok()?, id.parse().ok()?))
}

impl Store {
    /// Commands before `cursor`, the newest first: by time, or with words to look for by when they were
    /// taken in.
    ///
    /// # Errors
    /// The database fails.
    pub async fn commands(
        &self,
        filter: &CommandFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<CommandItem>, StoreError> {
        if filter.hosts.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Page::empty());
        }
        let mut end = None;
        let mut sql = if let Some(text) = &filter.text {
            let before = cursor.and_then(|cursor| cursor.strip_prefix('c')?.parse().ok()).unwrap_or(i64::MAX);
            let Some(walked) = matching(self.dialect(), text, before, MATCHES) else {
                return Ok(Page::empty());
            };
            let last = walked
                .within("SELECT CAST(COUNT(*) AS BIGINT), MIN(id) FROM (", ") m")
                .optional(self.searchers())
                .await?;
            if let Some(row) = last
                && row.try_get::<i64, _>(0)? >= MATCHES
            {
                end = Some(format!("c{}", row.try_get::<i64, _>(1)?));
            }
            walked.within(
                &format!("SELECT {COLUMNS} FROM ("),
                ") m JOIN commands c ON c.id = m.id LEFT JOIN agents a ON a.host = c.host",
            )
        } else {
            Sql::new(&format!("SELECT {COLUMNS} FROM commands c LEFT JOIN agents a ON a.host = c.host"))
        };
        // One of the conditions is answered by an index that ends with the time, the others by looking.
        let mut driver = filter.text.is_none();
        let mut floor = Sql::new("SELECT c.at_ns FROM commands c");
        for (column, value, partial) in [
            ("c.rule", &filter.rule, Some("c.rule <> ''")),
            ("c.observed", &filter.observed, Some("c.observed <> ''")),
            ("c.verdict", &filter.verdict, Some("c.verdict <> 'allow'")),
            ("c.kind", &filter.kind, None),
        ] {
            let Some(value) = value else { continue };
            if driver && column != "c.kind" && !(column == "c.verdict" && value == "allow") {
                driver = false;
                for sql in [&mut sql, &mut floor] {
                    sql.and(column).push(" = ").text(value);
                    if let Some(partial) = partial {
                        sql.and(partial);
                    }
                }
            } else {
                sql.and("(").push(column).push(" || '') = ").text(value);
            }
        }
        if let Some(hosts) = &filter.hosts {
            sql.and("(c.host || '')").one_of(hosts);
        }
        let mut from = filter.since_ns;
        if filter.text.is_none() {
            for sql in [&mut sql, &mut floor] {
                if let Some((at, id)) = cursor.and_then(place) {
                    sql.and("c.at_ns <= ").number(at);
                    sql.and("(c.at_ns < ").number(at).push(" OR c.id < ").number(id).push(")");
                }
                if let Some(until) = filter.until_ns {
                    sql.and("c.at_ns < ").number(until);
                }
            }
            if let Some(since) = filter.since_ns {
                floor.and("c.at_ns >= ").number(since);
            }
            floor.push(" ORDER BY c.at_ns DESC LIMIT 1 OFFSET ").number(WALK);
            if let Some(row) = floor.optional(self.searchers()).await? {
                let at: i64 = row.try_get(0)?;
                from = Some(at);
                end = Some(format!("{at}-0"));
            }
        } else if let Some(until) = filter.until_ns {
            sql.and("c.at_ns < ").number(until);
        }
        if let Some(from) = from {
            sql.and("c.at_ns >= ").number(from);
        }
        let by_time = filter.text.is_none();
        sql.push(if by_time { " ORDER BY c.at_ns DESC, c.id DESC" } else { " ORDER BY c.id DESC" });
        sql.push(" LIMIT ").number(limit as i64 + 1);
        let rows = sql.all(self.searchers()).await?;
        let items: Result<Vec<_>, _> = rows.iter().map(read).collect();
        let mut page = Page::cut(items?, limit, |command| {
            if by_time { format!("{}-{}", command.at_ns, command.id) } else { format!("c{}", command.id) }
        });
        if page.next.is_none() {
            page.next = end;
        }
        Ok(page)
    }

    /// Commands of a session after the one with number `after`, in order.
    ///
    /// # Errors
    /// The database fails.
    pub async fn session_commands(
        &self,
        session: &str,
        after: i64,
        limit: usize,
    ) -> Result<Page<CommandItem>, StoreError> {
        let mut sql =
            Sql::new(&format!("SELECT {COLUMNS} FROM commands c LEFT JOIN agents a ON a.host = c.host"));
        sql.and("c.session = ").text(session);
        sql.and("c.number > ").number(after);
        sql.push(" ORDER BY c.number LIMIT ").number(limit as i64 + 1);
        let rows = sql.all(self.searchers()).await?;
        let items: Result<Vec<_>, _> = rows.iter().map(read).collect();
        Ok(Page::cut(items?, limit, |command| command.number.to_string()))
    }
}
