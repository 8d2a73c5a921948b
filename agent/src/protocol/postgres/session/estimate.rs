//! How many rows a statement is expected to touch: what the server's planner says before it is held.
//!
//! EXPLAIN without ANALYZE plans a statement and does not run it, in a transaction of the agent's own that is read-only,
//! bounded in time and rolled back. Planning can run functions: those that are said to be immutable or stable, with
//! constants. So it is done where a rule asks for it, between two transactions, and not for statements that name
//! functions beyond a few of the server's own.

use super::Core;
use super::look::{own_name, put_run};
use crate::approval::Estimate;
use crate::protocol::postgres::codec::{self, BindHead, HEADER, Header, Reader};
use crate::sql::{Kind, Script};

/// How long the server may take.
const LIMIT: &[u8] = b"SET LOCAL statement_timeout = 2000";
/// Functions that planning may run.
const PLAIN: &[&str] = &["avg", "count", "length", "lower", "max", "min", "now", "sum", "upper"];

impl Core {
    /// The messages that ask for the plan of what is to be held, the first of `undecided`.
    ///
    /// # Errors
    /// Why it is not asked for.
    pub(super) fn ask_plan(&self, undecided: &[u8]) -> Result<Vec<u8>, &'static str> {
        let unread = "it cannot be read again";
        let header = Header::read(undecided).ok().flatten().ok_or(unread)?;
        let body = undecided.get(HEADER..header.total()).ok_or(unread)?;
        let name = own_name().ok_or("there are no random numbers")?;
        let mut message = Vec::new();
        let mut begin = |text: &[u8]| put_run(&mut message, &name, text, &[], &[]);
        begin(b"BEGIN TRANSACTION READ ONLY");
        begin(LIMIT);
        match header.tag {
            b'Q' => {
                let text = Reader::new(body).cstr().map_err(|_| unread)?;
                let text = std::str::from_utf8(text).map_err(|_| "it is not in UTF-8")?;
                fits(&self.scripts.analyze(text))?;
                put_run(&mut message, &name, &explain(text), &[], &[]);
            }
            b'B' => {
                let head = BindHead::read(body).map_err(|_| unread)?;
                let statements = self.names.bindable(head.statement, self.epoch);
                let [prepared] = statements.as_slice() else {
                    return Err("it is not known which statement runs");
                };
                fits(&prepared.script)?;
                let mut params = Vec::new();
                head.params(|_, format, value| params.push((format, value))).map_err(|_| unread)?;
                let types = prepared.types.get().map(|types| &**types).unwrap_or_default();
                put_run(&mut message, &name, &explain(&prepared.text), types, &params);
            }
            _ => return Err("it is no statement that is planned"),
        }
        put_run(&mut message, &name, b"ROLLBACK", &[], &[]);
        codec::put_message(&mut message, b'S', |_| {});
        Ok(message)
    }
}

/// As a statement of the extended protocol, which takes no second one.
fn explain(text: &str) -> Vec<u8> {
    [b"EXPLAIN (FORMAT JSON) ", text.as_bytes()].concat()
}

/// It is planned, and nothing is known that planning would run.
fn fits(script: &Script) -> Result<(), &'static str> {
    let [statement] = script.statements.as_slice() else { return Err("it is not one statement") };
    if !matches!(statement.kind, Kind::Select | Kind::Insert | Kind::Update | Kind::Delete | Kind::Merge)
        || !statement.executes.is_empty()
        || statement.dynamic
    {
        return Err("it is no statement that is planned");
    }
    let plain = |schema: Option<&str>, name: &str| {
        schema.is_none_or(|schema| schema == "pg_catalog") && PLAIN.contains(&name)
    };
    if !statement.functions.iter().all(|function| plain(function.schema.as_deref(), &function.name)) {
        return Err("planning it may run functions");
    }
    Ok(())
}

/// What the answer says.
pub(super) fn read(answer: &[u8]) -> Estimate {
    let none = |why: &str| Estimate { why_not: why.to_owned(), ..Estimate::default() };
    let Ok(plan) = serde_json::from_slice::<serde_json::Value>(answer) else {
        return none("the server's plan cannot be read");
    };
    let Some(plan) = plan.get(0).and_then(|first| first.get("Plan")) else {
        return none("the server's plan cannot be read");
    };
    let rows = |plan: &serde_json::Value| plan["Plan Rows"].as_f64().unwrap_or_default();
    // What changes rows gives none by itself: it changes those of what is below.
    let rows = match plan["Node Type"].as_str() {
        Some("ModifyTable") => plan["Plans"].as_array().into_iter().flatten().map(rows).sum(),
        _ => rows(plan),
    };
    let cost = plan["Total Cost"].as_f64();
    // Beyond what a float counts exactly it is a guess anyway.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let rows = rows.clamp(0.0, 1e18) as u64;
    Estimate { rows: Some(rows), cost, why_not: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql;

    #[test]
    fn plans_say_how_many_rows() {
        let rows = |plan: &str| read(plan.as_bytes()).rows;
        assert_eq!(
            rows(r#"[{"Plan": {"Node Type": "Seq Scan", "Plan Rows": 17, "Total Cost": 1.5}}]"#),
            Some(17)
        );
        let update = r#"[{"Plan": {"Node Type": "ModifyTable", "Plan Rows": 0,
            "Plans": [{"Plan Rows": 4}, {"Plan Rows": 5}]}}]"#;
        assert_eq!(rows(update), Some(9));
        for broken in ["", "[]", "{}", "[{}]", "\u{0}", "[[[["] {
            assert_eq!(rows(broken), None, "{broken}");
        }
        assert_eq!(rows(r#"[{"Plan": {"Plan Rows": 1e300}}]"#), Some(1_000_000_000_000_000_000));
    }

    #[test]
    fn only_what_is_planned_and_runs_nothing() {
        let fits = |text: &str| fits(&sql::analyze(text)).is_ok();
        for text in [
            "delete from t",
            "select count(*) from t",
            "update t set a = $1;",
            "insert into t values (1) -- x",
        ] {
            assert!(fits(text), "{text}");
        }
        for text in [
            "",
            "select 1; select 2",
            "truncate t",
            "explain analyze delete from t",
            "execute p",
            "call p()",
            "select f(1)",
            "delete from t where a = my.max(1)",
            "select pg_terminate_backend(1)",
            "do $$ begin end $$",
            "copy t to stdout",
            "create table x as select 1",
        ] {
            assert!(!fits(text), "{text}");
        }
    }
}
