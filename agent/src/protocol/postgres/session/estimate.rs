//! How many rows a statement is expected to touch: what the server's planner says before it is held.
//!
//! EXPLAIN without ANALYZE plans a statement and does not run it, read-only, bounded in time and in waiting for
//! locks. Between two transactions that is a transaction of the agent's own that is rolled back. Within one it is a
//! savepoint of the agent's own, which takes locks and settings back with it: only under READ COMMITTED, where the
//! next statement has a snapshot of its own anyway, while with any other isolation the transaction's snapshot
//! would be taken for it.
//!
//! Planning can run functions: those that are said to be immutable or stable, with constants. So it is done where a
//! rule asks for it, and not for statements that name functions beyond a few of the server's own.

use std::time::Duration;

use serde_json::Value;

use super::Core;
use super::judge::IDLE;
use super::look::{put_close, put_run};
use crate::approval::Estimate;
use crate::protocol::postgres::codec::{self, BindHead, HEADER, Header, Reader};
use crate::sql::{self, Kind, Script};

/// How long the server may take.
pub(super) const LIMIT: Duration = Duration::from_secs(2);
/// How long it may wait for a lock: well below `deadlock_timeout`, so that nobody is chosen as the victim of a
/// deadlock that would not be there without it.
const LOCKS: &[u8] = b"SET LOCAL lock_timeout = 50";
/// What such functions raise is not for the client.
const QUIET: &[u8] = b"SET LOCAL client_min_messages = error";
/// Object ids from here on are of what was made after the server was set up (`FirstNormalObjectId`).
const FIRST_OWN_TYPE: u32 = 16_384;
/// Functions that planning may run.
const PLAIN: &[&str] = &["avg", "count", "length", "lower", "max", "min", "now", "sum", "upper"];

impl Core {
    /// The messages that ask for the plan of what is to be held, the first of `undecided`. What they make is called
    /// `name`.
    ///
    /// # Errors
    /// Why it is not asked for.
    pub(super) fn ask_plan(
        &self,
        undecided: &[u8],
        name: &[u8],
        limit: Duration,
    ) -> Result<Vec<u8>, &'static str> {
        let unread = "it cannot be read again";
        let header = Header::read(undecided).ok().flatten().ok_or(unread)?;
        let body = undecided.get(HEADER..header.total()).ok_or(unread)?;
        let idle = self.status == IDLE;
        let mut message = Vec::new();
        let mut run = |text: &[u8]| put_run(&mut message, name, text, &[], &[]);
        if idle {
            run(b"BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY");
        } else {
            run(&savepoint("SAVEPOINT", name));
            run(b"SET LOCAL transaction_read_only = on");
        }
        run(format!("SET LOCAL statement_timeout = {}", limit.as_millis().max(1)).as_bytes());
        run(LOCKS);
        run(QUIET);
        match header.tag {
            b'Q' => {
                let text = Reader::new(body).cstr().map_err(|_| unread)?;
                let text = std::str::from_utf8(text).map_err(|_| "it is not in UTF-8")?;
                fits(&self.scripts.analyze(text), text)?;
                put_run(&mut message, name, &explain(text), &[], &[]);
            }
            b'B' => {
                let head = BindHead::read(body).map_err(|_| unread)?;
                let statements = self.names.bindable(head.statement, self.epoch);
                let [prepared] = statements.as_slice() else {
                    return Err("it is not known which statement runs");
                };
                fits(&prepared.script, &prepared.text)?;
                let mut params = Vec::new();
                head.params(|_, format, value| params.push((format, value))).map_err(|_| unread)?;
                let types = prepared.types.get().map(|types| &**types).unwrap_or_default();
                // A domain's checks run when it gets a value.
                if types.iter().any(|kind| *kind >= FIRST_OWN_TYPE) {
                    return Err(
                        "a parameter is of a type that is not the server's own, which may run functions",
                    );
                }
                put_run(&mut message, name, &explain(&prepared.text), types, &params);
            }
            _ => return Err("it is no statement that is planned"),
        }
        if idle {
            put_run(&mut message, name, b"ROLLBACK", &[], &[]);
        } else {
            put_undo_savepoint(&mut message, name, name);
        }
        codec::put_message(&mut message, b'S', |_| {});
        Ok(message)
    }
}

/// The messages that end what the plan was asked for in, when that has failed.
pub(super) fn undo(name: &[u8], in_transaction: bool) -> Vec<u8> {
    let mut message = Vec::new();
    // What has failed may have left its statement, which is in the way of another of its name.
    let own = [name, b" undo"].concat();
    if in_transaction {
        put_undo_savepoint(&mut message, &own, name);
    } else {
        put_run(&mut message, &own, b"ROLLBACK", &[], &[]);
    }
    put_close(&mut message, b'S', name);
    codec::put_message(&mut message, b'S', |_| {});
    message
}

fn put_undo_savepoint(message: &mut Vec<u8>, own: &[u8], name: &[u8]) {
    for what in ["ROLLBACK TO SAVEPOINT", "RELEASE SAVEPOINT"] {
        put_run(message, own, &savepoint(what, name), &[], &[]);
    }
}

/// Its name has letters, digits and a space.
fn savepoint(what: &str, name: &[u8]) -> Vec<u8> {
    [what.as_bytes(), b" \"", name, b"\""].concat()
}

/// What the server's refusal to plan a statement means, by its SQLSTATE.
pub(super) fn refused(code: &str) -> String {
    let what = match code {
        "25006" => "planning it would write",
        "40P01" | "55P03" => "somebody else holds a lock on it",
        "42501" => "the database user may not run it",
        "42P01" | "42703" | "3F000" => "the server knows no such table or column",
        "57014" => "planning it takes too long",
        _ => "the server does not plan it",
    };
    format!("{what} (SQLSTATE {code})")
}

/// As a statement of the extended protocol, which takes no second one.
fn explain(text: &str) -> Vec<u8> {
    [b"EXPLAIN (FORMAT JSON) ", text.as_bytes()].concat()
}

/// It is planned, and nothing is known that planning would run.
fn fits(script: &Script, text: &str) -> Result<(), &'static str> {
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
    if !sql::plans_builtins_alone(text) {
        return Err("planning it may run functions, behind operators or types that are not the server's own");
    }
    Ok(())
}

/// What the answer says.
pub(super) fn read(answer: &[u8]) -> Estimate {
    let none = |why: &str| Estimate { why_not: why.to_owned(), ..Estimate::default() };
    let Ok(plans) = serde_json::from_slice::<Value>(answer) else {
        return none("the server's plan cannot be read");
    };
    // Rewrite rules make several of one statement, or none.
    let plans: Vec<&Value> =
        plans.as_array().into_iter().flatten().filter_map(|one| one.get("Plan")).collect();
    if plans.is_empty() {
        return none("the server's plan cannot be read");
    }
    let changed: Vec<f64> = plans.iter().filter_map(|plan| changes(plan)).collect();
    // What changes rows counts, also where it stands in a WITH below what reads a few.
    let rows: f64 = match changed.as_slice() {
        [] => plans.iter().map(|plan| number(plan)).sum(),
        changed => changed.iter().sum(),
    };
    let cost = plans.iter().map(|plan| plan["Total Cost"].as_f64()).sum();
    // Beyond what a float counts exactly it is a guess anyway.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let rows = rows.clamp(0.0, 1e18) as u64;
    Estimate { rows: Some(rows), cost, why_not: String::new() }
}

fn number(plan: &Value) -> f64 {
    plan["Plan Rows"].as_f64().unwrap_or_default()
}

/// How many rows a plan changes, at any depth (the reader of JSON bounds it); `None` where it only reads.
fn changes(plan: &Value) -> Option<f64> {
    let below = || plan["Plans"].as_array().into_iter().flatten();
    let apart = |plan: &&Value| matches!(plan["Parent Relationship"].as_str(), Some("InitPlan" | "SubPlan"));
    // What changes rows gives none by itself: it changes those of what is below, but for subqueries.
    let own = (plan["Node Type"].as_str() == Some("ModifyTable"))
        .then(|| below().filter(|plan| !apart(plan)).map(number).sum());
    below().filter_map(changes).chain(own).reduce(|one, other| one + other)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        // A subquery of it is not changed; a change within a WITH is one.
        let subquery = r#"[{"Plan": {"Node Type": "ModifyTable", "Plan Rows": 0, "Plans": [
            {"Parent Relationship": "Outer", "Plan Rows": 4},
            {"Parent Relationship": "InitPlan", "Plan Rows": 1000}]}}]"#;
        assert_eq!(rows(subquery), Some(4));
        let with = r#"[{"Plan": {"Node Type": "Aggregate", "Plan Rows": 1, "Plans": [
            {"Node Type": "ModifyTable", "Parent Relationship": "InitPlan", "Plan Rows": 70,
             "Plans": [{"Parent Relationship": "Outer", "Plan Rows": 70}]},
            {"Node Type": "CTE Scan", "Plan Rows": 70}]}}]"#;
        assert_eq!(rows(with), Some(70));
        // A rewrite rule makes two of one.
        let rule = r#"[{"Plan": {"Node Type": "ModifyTable", "Plans": [{"Plan Rows": 3}]}},
            {"Plan": {"Node Type": "ModifyTable", "Plans": [{"Plan Rows": 5}]}}]"#;
        assert_eq!(rows(rule), Some(8));
        for broken in ["", "[]", "{}", "[{}]", "\u{0}", "[[[["] {
            assert_eq!(rows(broken), None, "{broken}");
        }
        assert_eq!(rows(r#"[{"Plan": {"Plan Rows": 1e300}}]"#), Some(1_000_000_000_000_000_000));
    }

    #[test]
    fn only_what_is_planned_and_runs_nothing() {
        let fits = |text: &str| fits(&sql::analyze(text), text).is_ok();
        for text in [
            "delete from t",
            "select count(*) from t",
            "update t set a = $1;",
            "insert into t values (1) -- x",
            "update t set a = 1 where b > now() - interval '1 day' and c like 'x%' and d between 1 and 2",
            "select '1'::pg_catalog.int4, d -> 'x', cast(e as numeric(3, 1)[]) from t where a operator(pg_catalog.=) 1",
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
            // Behind operators, domains and casts of somebody's own.
            "update t set a = 1 where a = (1 operator(mallory.===) 2)",
            "update t set a = 1 where a = (1 === 2)",
            "update t set a = 1 where a operator(mallory.=) any (select 1)",
            "update t set a = 1 where a === any (array[1])",
            "select a from t order by a using operator(mallory.<)",
            "delete from t where a = 'x'::mallory.dom",
            "delete from t where a = 1::mallory.t",
            "delete from t where a = cast(1 as dom)",
            "delete from t where a = dom 'x'",
            "select * from json_table('[]', '$' columns (a mallory.dom path '$'))",
            "select xmlserialize(content '<a/>' as dom)",
        ] {
            assert!(!fits(text), "{text}");
        }
    }
}
