//! Sessions: lists by what is asked for.
//!
//! A list is answered from one index, chosen by how few sessions it leaves, and a request walks so many
//! entries of it and no more: a page can come back short, with a cursor to go on from. So the time that a
//! request takes does not grow with the number of sessions, whatever is asked for.

use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::commands::{has_words, matching};
use super::page::{Sql, containing, rfc3339, rfc3339_or_null};
use super::{Page, Store, StoreError};

/// Entries of an index that one request walks at most.
const WALK: i64 = 20_000;

/// Sessions that rules and verdicts stand in, which one request looks at.
const CANDIDATES: usize = 2_000;

/// Distinct executables or destinations among which parts of their names are looked for.
const NAMES: i64 = 5_000;

/// Which sessions to list. Every field that is given must hold.
#[derive(Debug, Clone, Default)]
pub struct SessionFilter {
    /// Begun then or later.
    pub since_ns: Option<i64>,
    /// Begun before.
    pub until_ns: Option<i64>,
    /// On one of these hosts, by id.
    pub hosts: Option<Vec<String>>,
    /// The host user.
    pub user: Option<String>,
    /// The database user.
    pub db_user: Option<String>,
    /// The database.
    pub database: Option<String>,
    /// A part of the executable's path.
    pub exe: Option<String>,
    /// A part of the destination's address or host names.
    pub destination: Option<String>,
    /// A command with this verdict.
    pub verdict: Option<String>,
    /// A command that a rule in observe mode would have given this verdict.
    pub observed: Option<String>,
    /// A command that this rule decided.
    pub rule: Option<String>,
    /// A command with these words.
    pub text: Option<String>,
    /// Still going on.
    pub open: bool,
}

impl SessionFilter {
    /// Whether it looks at single commands, beyond what is counted with the session.
    fn by_command(&self) -> bool {
        self.observed.is_some()
            || self.rule.is_some()
            || self.verdict.as_deref().is_some_and(|verdict| !matches!(verdict, "deny" | "hold"))
    }
}

/// A session, as it is listed.
#[derive(Debug, Clone, Serialize)]
pub struct SessionItem {
    /// Its id.
    pub id: String,
    /// The host's id.
    pub host: String,
    /// The host's name.
    pub host_name: String,
    /// When it began.
    #[serde(rename = "started", serialize_with = "rfc3339")]
    pub started_ns: i64,
    /// When it ended.
    #[serde(rename = "ended", serialize_with = "rfc3339_or_null")]
    pub ended_ns: Option<i64>,
    /// How.
    pub end_reason: Option<String>,
    /// The process.
    pub pid: i64,
    /// The host user.
    pub user: String,
    /// Who logged in to the host.
    pub login_user: String,
    /// The executable.
    pub exe: String,
    /// Its arguments.
    pub command_line: String,
    /// The systemd unit.
    pub unit: String,
    /// Where to.
    pub destination: String,
    /// Host names of it.
    pub host_names: String,
    /// The protocol.
    pub protocol: String,
    /// The database user.
    pub db_user: String,
    /// The database.
    pub database: String,
    /// The policies that it was judged under.
    pub policy_hash: String,
    /// Commands.
    pub commands: i64,
    /// Those denied.
    pub denied: i64,
    /// Those held.
    pub held: i64,
    /// Those that a rule in observe mode would have had refused or held.
    pub observed: i64,
    /// Values that masks changed.
    pub masked_values: i64,
    /// Rows returned.
    pub rows_returned: i64,
    /// Bytes that were written to a terminal; 0 when it has none.
    pub terminal_bytes: i64,
    /// Its last event's index in the host's log.
    #[serde(skip)]
    pub last_event: i64,
}

const SELECT: &str = "SELECT s.id, s.host, COALESCE(a.name, ''), s.started_ns, s.ended_ns, s.end_reason, s.pid, \
     s.user_name, s.login_user, s.exe, substr(s.command_line, 1, 4000), s.unit, s.destination, s.host_names, \
     s.protocol, s.db_user, s.database_name, s.policy_hash, s.commands, s.denied, s.held, s.observed, \
     s.masked_values, s.rows_returned, s.terminal_bytes, s.last_event FROM sessions s LEFT JOIN agents a ON a.host = s.host";

fn read(row: &AnyRow) -> Result<SessionItem, StoreError> {
    Ok(SessionItem {
        id: row.try_get(0)?,
        host: row.try_get(1)?,
        host_name: row.try_get(2)?,
        started_ns: row.try_get(3)?,
        ended_ns: row.try_get(4)?,
        end_reason: row.try_get(5)?,
        pid: row.try_get(6)?,
        user: row.try_get(7)?,
        login_user: row.try_get(8)?,
        exe: row.try_get(9)?,
        command_line: row.try_get(10)?,
        unit: row.try_get(11)?,
        destination: row.try_get(12)?,
        host_names: row.try_get(13)?,
        protocol: row.try_get(14)?,
        db_user: row.try_get(15)?,
        database: row.try_get(16)?,
        policy_hash: row.try_get(17)?,
        commands: row.try_get(18)?,
        denied: row.try_get(19)?,
        held: row.try_get(20)?,
        observed: row.try_get(21)?,
        masked_values: row.try_get(22)?,
        rows_returned: row.try_get(23)?,
        terminal_bytes: row.try_get(24)?,
        last_event: row.try_get(25)?,
    })
}

/// The least id that a session begun then can have.
fn first_id(ns: i64) -> String {
    format!("{:012x}", u64::try_from(ns / 1_000_000).unwrap_or_default())
}

/// A condition that an index answers.
#[derive(Debug, Clone)]
struct Indexed {
    /// `column`, as it stands in sessions.
    column: &'static str,
    /// What it must be; a partial index is named by its condition alone.
    value: Option<String>,
}

impl Indexed {
    /// Puts the condition so that its index serves it.
    fn put(&self, sql: &mut Sql) {
        sql.and(self.column);
        if let Some(value) = &self.value {
            sql.push(" = ").text(value);
        }
    }

    /// Puts the condition so that no index is taken for it.
    fn put_aside(&self, sql: &mut Sql) {
        match &self.value {
            Some(value) => sql.and("(").push(self.column).push(" || '') = ").text(value),
            None => sql.and("(").push(self.column).push(") IS TRUE"),
        };
    }
}

/// The bounds on ids: not before, and before.
#[derive(Debug, Clone)]
struct Bounds {
    from: String,
    before: String,
}

impl Bounds {
    fn put(&self, sql: &mut Sql, column: &str) {
        if !self.from.is_empty() {
            sql.and(column).push(" >= ").text(&self.from);
        }
        sql.and(column).push(" < ").text(&self.before);
    }
}

impl Store {
    /// One session.
    ///
    /// # Errors
    /// The database fails.
    pub async fn session(&self, id: &str) -> Result<Option<SessionItem>, StoreError> {
        let mut sql = Sql::new(SELECT);
        sql.and("s.id = ").text(id);
        sql.optional(self.searchers()).await?.as_ref().map(read).transpose()
    }

    /// Sessions before `cursor`, the newest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn sessions(
        &self,
        filter: &SessionFilter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<SessionItem>, StoreError> {
        let mut indexed = Vec::new();
        let equal = |column, value: &Option<String>| {
            value.clone().map(|value| Indexed { column, value: Some(value) })
        };
        indexed.extend(equal("s.user_name", &filter.user));
        indexed.extend(equal("s.db_user", &filter.db_user));
        indexed.extend(equal("s.database_name", &filter.database));
        match filter.hosts.as_deref() {
            Some([]) => return Ok(Page::empty()),
            Some([host]) => indexed.push(Indexed { column: "s.host", value: Some(host.clone()) }),
            _ => {}
        }
        if filter.open {
            indexed.push(Indexed { column: "s.ended_ns IS NULL", value: None });
        }
        match filter.verdict.as_deref() {
            Some("deny") => indexed.push(Indexed { column: "s.denied > 0", value: None }),
            Some("hold") => indexed.push(Indexed { column: "s.held > 0", value: None }),
            _ => {}
        }
        // A part of a name becomes the whole name where only one has it.
        let mut exe = None;
        if let Some(part) = &filter.exe {
            match self.names("exe", part).await?.as_deref() {
                Some([]) => return Ok(Page::empty()),
                Some([name]) => indexed.push(Indexed { column: "s.exe", value: Some(name.clone()) }),
                _ => exe = Some(part.to_lowercase()),
            }
        }
        let mut destinations = None;
        if let Some(part) = &filter.destination {
            let (addresses, names) =
                (self.names("destination", part).await?, self.names("host_names", part).await?);
            match (addresses.as_deref(), names.as_deref()) {
                (Some([]), Some([])) => return Ok(Page::empty()),
                (Some([address]), Some([])) => {
                    indexed.push(Indexed { column: "s.destination", value: Some(address.clone()) });
                }
                (Some([]), Some([name])) => {
                    indexed.push(Indexed { column: "s.host_names", value: Some(name.clone()) });
                }
                _ => destinations = Some(part.to_lowercase()),
            }
        }
        let residual = |sql: &mut Sql| {
            if let Some(hosts) = filter.hosts.as_deref().filter(|hosts| hosts.len() > 1) {
                sql.and("(s.host || '')").one_of(hosts);
            }
            if let Some(part) = &exe {
                sql.and("LOWER(s.exe) LIKE ").text(&containing(part)).push(" ESCAPE '\\'");
            }
            if let Some(part) = &destinations {
                let pattern = containing(part);
                sql.and("(LOWER(s.destination) LIKE ")
                    .text(&pattern)
                    .push(" ESCAPE '\\' OR LOWER(s.host_names) LIKE ");
                sql.text(&pattern).push(" ESCAPE '\\')");
            }
        };
        let mut bounds = Bounds {
            from: filter.since_ns.map(first_id).unwrap_or_default(),
            before: filter.until_ns.map_or_else(|| "g".to_owned(), first_id),
        };
        if let Some(text) = &filter.text {
            return self.with_text(filter, text, &bounds, &indexed, &residual, cursor, limit).await;
        }
        if let Some(cursor) = cursor {
            bounds.before = bounds.before.min(cursor.to_owned());
        }
        if filter.by_command() {
            return self.with_commands(filter, &bounds, &indexed, &residual, limit).await;
        }

        // The condition that leaves the fewest is the one whose index is walked.
        let mut best = (None, i64::MAX);
        if indexed.len() > 1 {
            for (at, condition) in indexed.iter().enumerate() {
                let count = self.count(condition, &bounds).await?;
                if count < best.1 {
                    best = (Some(at), count);
                }
            }
        } else if !indexed.is_empty() {
            best.0 = Some(0);
        }
        let driver = best.0.and_then(|at| indexed.get(at));
        let mut floor = Sql::new("SELECT s.id FROM sessions s");
        if let Some(driver) = driver {
            driver.put(&mut floor);
        }
        bounds.put(&mut floor, "s.id");
        floor.push(" ORDER BY s.id DESC LIMIT 1 OFFSET ").number(WALK);
        let floor: Option<String> =
            floor.optional(self.searchers()).await?.map(|row| row.try_get(0)).transpose()?;
        if let Some(floor) = &floor {
            bounds.from.clone_from(floor);
        }
        let mut sql = Sql::new(SELECT);
        for (at, condition) in indexed.iter().enumerate() {
            if best.0 == Some(at) { condition.put(&mut sql) } else { condition.put_aside(&mut sql) }
        }
        bounds.put(&mut sql, "s.id");
        residual(&mut sql);
        sql.push(" ORDER BY s.id DESC LIMIT ").number(limit as i64 + 1);
        let rows = sql.all(self.searchers()).await?;
        let items: Result<Vec<_>, _> = rows.iter().map(read).collect();
        let mut page = Page::cut(items?, limit, |session| session.id.clone());
        if page.next.is_none() {
            page.next = floor;
        }
        Ok(page)
    }

    /// How many sessions a condition leaves, up to 2000.
    async fn count(&self, condition: &Indexed, bounds: &Bounds) -> Result<i64, StoreError> {
        let mut sql = Sql::new("SELECT COUNT(*) FROM (SELECT 1 FROM sessions s");
        condition.put(&mut sql);
        bounds.put(&mut sql, "s.id");
        sql.push(" LIMIT 2000) AS found");
        let row = sql.optional(self.searchers()).await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or_default())
    }

    /// The distinct values of a column with `part` in them, at most 16; `None` when there are more, or
    /// too many distinct ones to look through. They are found by leaps along the column's index.
    async fn names(&self, column: &'static str, part: &str) -> Result<Option<Vec<String>>, StoreError> {
        let mut sql = Sql::new("WITH RECURSIVE v(x, n) AS (SELECT (SELECT MIN(");
        sql.push(column).push(") FROM sessions), 1 UNION ALL SELECT (SELECT MIN(").push(column);
        sql.push(") FROM sessions WHERE ")
            .push(column)
            .push(" > v.x), v.n + 1 FROM v WHERE v.x IS NOT NULL AND v.n <= ");
        sql.number(NAMES).push(") SELECT x, n FROM v WHERE x IS NOT NULL AND (LOWER(x) LIKE ");
        sql.text(&containing(&part.to_lowercase()))
            .push(" ESCAPE '\\' OR n > ")
            .number(NAMES)
            .push(") LIMIT 17");
        let rows = sql.all(self.searchers()).await?;
        let mut names = Vec::new();
        for row in &rows {
            if row.try_get::<i64, _>(1)? > NAMES {
                return Ok(None);
            }
            names.push(row.try_get(0)?);
        }
        Ok((names.len() <= 16).then_some(names))
    }

    /// Sessions with a command that a rule decided, or that a verdict was given on.
    async fn with_commands(
        &self,
        filter: &SessionFilter,
        bounds: &Bounds,
        indexed: &[Indexed],
        residual: &(impl Fn(&mut Sql) + Sync),
        limit: usize,
    ) -> Result<Page<SessionItem>, StoreError> {
        let mut before = bounds.before.clone();
        let mut items = Vec::new();
        let mut looked_at = 0;
        while looked_at < CANDIDATES {
            // Each step leaps to the next session, over all of its commands.
            let next = |sql: &mut Sql, before: &dyn Fn(&mut Sql)| {
                sql.push("(SELECT session FROM commands WHERE session < ");
                before(sql);
                if !bounds.from.is_empty() {
                    sql.push(" AND session >= ").text(&bounds.from);
                }
                for (column, value) in
                    [("rule", &filter.rule), ("verdict", &filter.verdict), ("observed", &filter.observed)]
                {
                    if let Some(value) = value {
                        sql.push(" AND ").push(column).push(" = ").text(value);
                    }
                }
                // Words that the partial indexes need to see.
                if filter.rule.is_some() {
                    sql.push(" AND rule <> ''");
                }
                if filter.verdict.as_deref().is_some_and(|verdict| verdict != "allow") {
                    sql.push(" AND verdict <> 'allow'");
                }
                if filter.observed.is_some() {
                    sql.push(" AND observed <> ''");
                }
                sql.push(" ORDER BY session DESC LIMIT 1)");
            };
            let mut sql = Sql::new("WITH RECURSIVE k(id) AS (SELECT ");
            next(&mut sql, &|sql| {
                sql.text(&before);
            });
            sql.push(" UNION ALL SELECT ");
            next(&mut sql, &|sql| {
                sql.push("k.id");
            });
            sql.push(" FROM k WHERE k.id IS NOT NULL) SELECT id FROM k WHERE id IS NOT NULL LIMIT ");
            let batch = 200.max(limit + 1);
            sql.number(batch as i64);
            let rows = sql.all(self.searchers()).await?;
            let candidates: Result<Vec<String>, _> = rows.iter().map(|row| row.try_get(0)).collect();
            let candidates = candidates?;
            let Some(last) = candidates.last() else { return Ok(Page { items, next: None }) };
            before.clone_from(last);
            looked_at += candidates.len();
            let found = self.among(&candidates, indexed, residual).await?;
            items.extend(found);
            if items.len() > limit {
                return Ok(Page::cut(items, limit, |session| session.id.clone()));
            }
            if candidates.len() < batch {
                return Ok(Page { items, next: None });
            }
        }
        Ok(Page { items, next: Some(before) })
    }

    /// Those of the sessions `ids` that the other conditions hold for, the newest first.
    async fn among(
        &self,
        ids: &[String],
        indexed: &[Indexed],
        residual: &(impl Fn(&mut Sql) + Sync),
    ) -> Result<Vec<SessionItem>, StoreError> {
        let mut sql = Sql::new(SELECT);
        sql.and("s.id").one_of(ids);
        for condition in indexed {
            condition.put_aside(&mut sql);
        }
        residual(&mut sql);
        sql.push(" ORDER BY s.id DESC");
        sql.all(self.searchers()).await?.iter().map(read).collect()
    }

    /// Sessions with a command in which the words of `text` stand, by the newest such command.
    #[expect(clippy::too_many_arguments, reason = "the parts of one question")]
    async fn with_text(
        &self,
        filter: &SessionFilter,
        text: &str,
        bounds: &Bounds,
        indexed: &[Indexed],
        residual: &(impl Fn(&mut Sql) + Sync),
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page<SessionItem>, StoreError> {
        let before = cursor.and_then(|cursor| cursor.strip_prefix('c')?.parse().ok()).unwrap_or(i64::MAX);
        let Some(walked) = matching(self.dialect(), text, before, CANDIDATES as i64) else {
            return Ok(Page::empty());
        };
        let mut wrapped =
            walked.within("SELECT c.id, c.session FROM (", ") m JOIN commands c ON c.id = m.id");
        for (column, value) in [
            ("c.rule = ", &filter.rule),
            ("c.verdict = ", &filter.verdict),
            ("c.observed = ", &filter.observed),
        ] {
            if let Some(value) = value {
                wrapped.and(column).text(value);
            }
        }
        bounds.put(&mut wrapped, "c.session");
        wrapped.push(" ORDER BY c.id DESC");
        let rows = wrapped.all(self.searchers()).await?;
        let mut order: Vec<(i64, String)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for row in &rows {
            let session: String = row.try_get(1)?;
            if seen.insert(session.clone()) {
                order.push((row.try_get(0)?, session));
            }
        }
        let mut items: Vec<SessionItem> = Vec::new();
        let mut last = None;
        for batch in order.chunks(200) {
            let ids: Vec<String> = batch.iter().map(|(_, session)| session.clone()).collect();
            let mut found = self.among(&ids, indexed, residual).await?;
            for (command, id) in batch {
                let Some(at) = found.iter().position(|session| &session.id == id) else { continue };
                if cursor.is_some() && self.stands_before(id, text, before).await? {
                    continue;
                }
                if items.len() == limit {
                    return Ok(Page { items, next: last });
                }
                items.push(found.swap_remove(at));
                last = Some(format!("c{command}"));
            }
        }
        // Fewer than were asked for: go on where the walk through the matches ended.
        let end = walked.all(self.searchers()).await?;
        let next = match end.last() {
            Some(row) if end.len() >= CANDIDATES => Some(format!("c{}", row.try_get::<i64, _>(0)?)),
            _ => None,
        };
        Ok(Page { items, next })
    }

    /// Whether a page before this one has the session: one of its newer commands has the words. Of a session
    /// that has gone on for long, 200 of these are looked at.
    async fn stands_before(&self, session: &str, text: &str, before: i64) -> Result<bool, StoreError> {
        let mut newer = Sql::new("SELECT c.id FROM commands c");
        newer.and("c.session = ").text(session);
        newer.and("c.id >= ").number(before);
        newer.push(" LIMIT 200");
        for row in newer.all(self.searchers()).await? {
            let id: i64 = row.try_get(0)?;
            let Some(same) = has_words(self.dialect(), text, id) else {
                return Ok(false);
            };
            if same.optional(self.searchers()).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
