//! Copying all rows from SQLite to PostgreSQL, so that it can be gone on with after it was broken off.

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::batch::{MAX_NAME, clip_to};
use super::index::places;
use super::{Dialect, Store, StoreError, plain, words};

/// Rows that are copied at one time; fewer of those that may be large.
const ROWS: i64 = 500;
const LARGE_ROWS: i64 = 20;

/// What is no row of a collector's: SQLite's own, the index over words, and what is made anew.
const NOT_COPIED: &[&str] = &["schema_steps", "leases", "orders"];

/// What indexes go by: PostgreSQL does not take it as long as SQLite does.
const NAMES: &[&str] = &[
    "user_name",
    "db_user",
    "database_name",
    "exe",
    "destination",
    "host_names",
    "rule",
    "verdict",
    "observed",
];

/// A table.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its name.
    pub name: String,
    columns: Vec<Column>,
}

#[derive(Debug, Clone)]
struct Column {
    name: String,
    kind: Kind,
    /// Numbers are given out for it.
    serial: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Bytes,
}

/// A value of any of the kinds.
#[derive(Debug)]
enum Value {
    Text(Option<String>),
    Number(Option<i64>),
    Bytes(Option<Vec<u8>>),
}

impl Table {
    fn read(&self, row: &AnyRow) -> Result<Vec<Value>, StoreError> {
        let mut values = Vec::with_capacity(self.columns.len());
        for (at, column) in self.columns.iter().enumerate() {
            // The row's number comes first.
            values.push(match column.kind {
                Kind::Number => Value::Number(row.try_get(at + 1)?),
                Kind::Bytes => Value::Bytes(row.try_get(at + 1)?),
                Kind::Text => {
                    let text: Option<String> = row.try_get(at + 1)?;
                    Value::Text(text.map(|text| self.fit(&column.name, &text)))
                }
            });
        }
        Ok(values)
    }

    /// A text as PostgreSQL has it.
    fn fit(&self, column: &str, text: &str) -> String {
        match (self.name.as_str(), column) {
            ("commands", "search") => words::words(text),
            ("commands" | "sessions" | "rule_counts", column) if NAMES.contains(&column) => {
                clip_to(text, MAX_NAME)
            }
            _ => plain(text).into_owned(),
        }
    }
}

/// The fact that holds how far a table has been copied.
fn progress(table: &str) -> String {
    format!("migration of {table}")
}

impl Store {
    /// The tables whose rows are copied, of SQLite.
    ///
    /// # Errors
    /// The database fails, or has a column of a kind that is not known.
    pub async fn tables(&self) -> Result<Vec<Table>, StoreError> {
        let rows = sqlx::query(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' \
             AND name NOT LIKE 'command_search%' ORDER BY name",
        )
        .fetch_all(self.pool())
        .await?;
        let mut tables = Vec::new();
        for row in rows {
            let name: String = row.try_get(0)?;
            if NOT_COPIED.contains(&name.as_str()) {
                continue;
            }
            let rows = sqlx::query("SELECT name, UPPER(type), pk FROM pragma_table_info($1) ORDER BY cid")
                .bind(&name)
                .fetch_all(self.pool())
                .await?;
            let mut columns = Vec::new();
            for row in rows {
                let kind: String = row.try_get(1)?;
                columns.push(Column {
                    name: row.try_get(0)?,
                    kind: match kind.as_str() {
                        "TEXT" => Kind::Text,
                        "BIGINT" | "INTEGER" => Kind::Number,
                        "BLOB" => Kind::Bytes,
                        _ => return Err(StoreError::Damaged("a column of an unknown kind")),
                    },
                    serial: kind == "INTEGER" && row.try_get::<i64, _>(2)? == 1,
                });
            }
            tables.push(Table { name, columns });
        }
        Ok(tables)
    }

    /// How many rows a table has, but for facts about copying.
    ///
    /// # Errors
    /// The database fails.
    pub async fn row_count(&self, table: &Table) -> Result<i64, StoreError> {
        let but = if table.name == "facts" { " WHERE name NOT LIKE 'migration%'" } else { "" };
        let text = format!("SELECT COUNT(*) FROM {}{but}", table.name);
        Ok(sqlx::query(AssertSqlSafe(text)).fetch_one(self.pool()).await?.try_get(0)?)
    }

    /// The largest number that the audit trail has: it tells whether anything was done since.
    ///
    /// # Errors
    /// The database fails.
    pub async fn last_audit(&self) -> Result<i64, StoreError> {
        let row = sqlx::query("SELECT COALESCE(MAX(id), 0) FROM audit").fetch_one(self.pool()).await?;
        Ok(row.try_get(0)?)
    }

    /// Copies the next rows of a table to `to`, which is PostgreSQL, and notes there how far that is; gives how
    /// many they were. None is copied twice, whenever it is broken off.
    ///
    /// # Errors
    /// Either database fails.
    pub async fn copy_rows(&self, table: &Table, to: &Store) -> Result<usize, StoreError> {
        debug_assert!(self.dialect == Dialect::Sqlite && to.dialect == Dialect::Postgres);
        let mark = progress(&table.name);
        let after: i64 = match to.fact(&mark).await? {
            Some(done) => done.parse().map_err(|_| StoreError::Damaged("a place that is none"))?,
            None => i64::MIN,
        };
        let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
        let names = names.join(", ");
        let text =
            format!("SELECT rowid, {names} FROM {} WHERE rowid > $1 ORDER BY rowid LIMIT $2", table.name);
        let limit = if table.name == "live_records" { LARGE_ROWS } else { ROWS };
        let rows = sqlx::query(AssertSqlSafe(text)).bind(after).bind(limit).fetch_all(self.pool()).await?;
        let Some(last) = rows.last() else { return Ok(0) };
        let last: i64 = last.try_get(0)?;
        let text = format!(
            "INSERT INTO {} ({names}) VALUES {} ON CONFLICT DO NOTHING",
            table.name,
            places(rows.len(), table.columns.len())
        );
        let mut query = sqlx::query(AssertSqlSafe(text));
        for row in &rows {
            for value in table.read(row)? {
                query = match value {
                    Value::Text(text) => query.bind(text),
                    Value::Number(number) => query.bind(number),
                    Value::Bytes(bytes) => query.bind(bytes),
                };
            }
        }
        let mut write = to.write().await?;
        query.execute(write.on()).await?;
        write.set_fact(&mark, &last.to_string()).await?;
        write.commit().await?;
        Ok(rows.len())
    }

    /// Ends the copying of a table: new rows get numbers beyond the copied ones.
    ///
    /// # Errors
    /// The database fails.
    pub async fn end_copy(&self, table: &Table) -> Result<(), StoreError> {
        for column in table.columns.iter().filter(|column| column.serial) {
            let text = format!(
                "SELECT setval(pg_get_serial_sequence('{table}', '{column}'), \
                 (SELECT COALESCE(MAX({column}), 0) + 1 FROM {table}), false)",
                table = table.name,
                column = column.name
            );
            sqlx::query(AssertSqlSafe(text)).execute(&self.writers).await?;
        }
        Ok(())
    }

    /// Notes that all is copied, and forgets how far it was.
    ///
    /// # Errors
    /// The database fails.
    pub async fn end_migration(&self, mark: &str) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        sqlx::query("DELETE FROM facts WHERE name LIKE 'migration of %'").execute(write.on()).await?;
        write.set_fact("migration", mark).await?;
        write.commit().await
    }
}
