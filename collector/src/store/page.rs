//! Pages of long lists, and statements whose text depends on what is asked for.

use serde::{Serialize, Serializer};
use sqlx::any::AnyRow;

use super::search::{LIMIT, Searchers};
use super::{StoreError, plain};

/// A part of a list, the newest first.
#[derive(Debug, Clone, Serialize)]
pub struct Page<T> {
    /// What stands on it. It can be fewer than were asked for although more follow: one request looks at
    /// so many rows and no more.
    pub items: Vec<T>,
    /// Where the next page begins; absent on the last.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page with nothing on it and nothing after it.
    pub(super) fn empty() -> Self {
        Self { items: Vec::new(), next: None }
    }

    /// A page of at most `limit` out of one more than that.
    pub(super) fn cut(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(cursor);
        Self { items, next }
    }
}

/// Writes a time as RFC 3339.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(super) fn rfc3339<S: Serializer>(ns: &i64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&interlock_recording::json::time(u64::try_from(*ns).unwrap_or_default()))
}

/// Writes a time as RFC 3339, or null.
pub(super) fn rfc3339_or_null<S: Serializer>(ns: &Option<i64>, to: S) -> Result<S::Ok, S::Error> {
    match ns {
        Some(ns) => rfc3339(ns, to),
        None => to.serialize_none(),
    }
}

/// A parameter.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Number(i64),
}

/// A statement that is put together from fixed parts. What was asked for goes into parameters only.
#[derive(Debug, Clone)]
pub(super) struct Sql {
    text: String,
    values: Vec<Value>,
    conditions: usize,
}

impl Sql {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), values: Vec::new(), conditions: 0 }
    }

    pub(super) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    pub(super) fn text(&mut self, value: &str) -> &mut Self {
        self.values.push(Value::Text(plain(value).into_owned()));
        self.placeholder()
    }

    pub(super) fn number(&mut self, value: i64) -> &mut Self {
        self.values.push(Value::Number(value));
        self.placeholder()
    }

    fn placeholder(&mut self) -> &mut Self {
        self.text.push_str(&format!("${}", self.values.len()));
        self
    }

    /// ` WHERE ` before the first condition, ` AND ` before the others.
    pub(super) fn and(&mut self, condition: &str) -> &mut Self {
        self.text.push_str(if self.conditions == 0 { " WHERE " } else { " AND " });
        self.conditions += 1;
        self.text.push_str(condition);
        self
    }

    /// `IN ($1, $2 …)`. There must be at least one.
    pub(super) fn one_of(&mut self, values: &[String]) -> &mut Self {
        self.push(" IN (");
        for (at, value) in values.iter().enumerate() {
            if at > 0 {
                self.push(", ");
            }
            self.text(value);
        }
        self.push(")")
    }

    /// The statement inside of another; conditions from here on are the outer one's.
    pub(super) fn within(&self, before: &str, after: &str) -> Self {
        Self { text: format!("{before}{}{after}", self.text), values: self.values.clone(), conditions: 0 }
    }

    /// Its text.
    pub(super) fn statement(&self) -> &str {
        &self.text
    }

    /// Its parameters.
    pub(super) fn values(&self) -> &[Value] {
        &self.values
    }

    pub(super) async fn all(&self, searchers: &Searchers) -> Result<Vec<AnyRow>, StoreError> {
        searchers.all(self, LIMIT).await
    }

    pub(super) async fn optional(&self, searchers: &Searchers) -> Result<Option<AnyRow>, StoreError> {
        Ok(self.all(searchers).await?.into_iter().next())
    }
}

/// A pattern for `LIKE … ESCAPE '\'` that finds `part` anywhere.
pub(super) fn containing(part: &str) -> String {
    let mut pattern = String::with_capacity(part.len() + 2);
    pattern.push('%');
    for character in part.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_literally() {
        assert_eq!(containing(r"50%_\"), r"%50\%\_\\%");
    }

    #[test]
    fn values_never_stand_in_the_text() {
        let mut sql = Sql::new("SELECT 1 FROM t");
        sql.and("a = ").text("'; DROP TABLE t").and("b").one_of(&["x".into(), "y".into()]);
        assert_eq!(sql.text, "SELECT 1 FROM t WHERE a = $1 AND b IN ($2, $3)");
    }
}
