//! Messages as operations, the form that policies match.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::operation::{Operation, Protocol};
use crate::sql::{Class, Function, Kind, Relation, Script, Statement};

/// Object ids of built-in functions that a FunctionCall message is used for, or may be misused for: large
/// objects, files, settings, other sessions, functions that run SQL text. An id once given to a function
/// is not given to another in a later version (`pg_proc.dat`).
#[rustfmt::skip]
const FUNCTIONS: &[(u32, &str)] = &[
    (2077, "current_setting"),
    (3294, "current_setting"),
    (2925, "cursor_to_xml"),
    (2928, "cursor_to_xmlschema"),
    (2936, "database_to_xml"),
    (2938, "database_to_xml_and_xmlschema"),
    (2937, "database_to_xmlschema"),
    (953, "lo_close"),
    (957, "lo_creat"),
    (715, "lo_create"),
    (765, "lo_export"),
    (3457, "lo_from_bytea"),
    (3458, "lo_get"),
    (3459, "lo_get"),
    (764, "lo_import"),
    (767, "lo_import"),
    (956, "lo_lseek"),
    (3170, "lo_lseek64"),
    (952, "lo_open"),
    (3460, "lo_put"),
    (958, "lo_tell"),
    (3171, "lo_tell64"),
    (1004, "lo_truncate"),
    (3172, "lo_truncate64"),
    (964, "lo_unlink"),
    (954, "loread"),
    (955, "lowrite"),
    (1574, "nextval"),
    (2171, "pg_cancel_backend"),
    (4222, "pg_copy_logical_replication_slot"),
    (4223, "pg_copy_logical_replication_slot"),
    (4224, "pg_copy_logical_replication_slot"),
    (4220, "pg_copy_physical_replication_slot"),
    (4221, "pg_copy_physical_replication_slot"),
    (3786, "pg_create_logical_replication_slot"),
    (3779, "pg_create_physical_replication_slot"),
    (3780, "pg_drop_replication_slot"),
    (3783, "pg_logical_slot_get_binary_changes"),
    (3782, "pg_logical_slot_get_changes"),
    (3785, "pg_logical_slot_peek_binary_changes"),
    (3784, "pg_logical_slot_peek_changes"),
    (5031, "pg_ls_archive_statusdir"),
    (2625, "pg_ls_dir"),
    (3297, "pg_ls_dir"),
    (3353, "pg_ls_logdir"),
    (6271, "pg_ls_logicalmapdir"),
    (6270, "pg_ls_logicalsnapdir"),
    (6272, "pg_ls_replslotdir"),
    (5029, "pg_ls_tmpdir"),
    (5030, "pg_ls_tmpdir"),
    (3354, "pg_ls_waldir"),
    (3036, "pg_notify"),
    (3436, "pg_promote"),
    (3295, "pg_read_binary_file"),
    (3827, "pg_read_binary_file"),
    (3828, "pg_read_binary_file"),
    (2624, "pg_read_file"),
    (3293, "pg_read_file"),
    (3826, "pg_read_file"),
    (2621, "pg_reload_conf"),
    (2622, "pg_rotate_logfile"),
    (2626, "pg_sleep"),
    (2623, "pg_stat_file"),
    (3307, "pg_stat_file"),
    (2848, "pg_switch_wal"),
    (2096, "pg_terminate_backend"),
    (2924, "query_to_xml"),
    (2930, "query_to_xml_and_xmlschema"),
    (2927, "query_to_xmlschema"),
    (2933, "schema_to_xml"),
    (2935, "schema_to_xml_and_xmlschema"),
    (2934, "schema_to_xmlschema"),
    (2078, "set_config"),
    (1576, "setval"),
    (1765, "setval"),
    (2923, "table_to_xml"),
    (2929, "table_to_xml_and_xmlschema"),
    (2926, "table_to_xmlschema"),
    (3684, "ts_rewrite"),
    (3685, "ts_rewrite"),
    (3689, "ts_stat"),
    (3690, "ts_stat"),
    (4100, "pg_read_file_old"),
];

/// Functions among them whose arguments say what they read: SQL, or names of relations.
const READS_BY_ARGUMENT: &[&str] = &["query_to_xml", "table_to_xml", "schema_to_xml", "cursor_to_xml", "ts_"];

/// The name of a function whose arguments say what it reads.
pub(super) fn reads_by_argument(function: u32) -> Option<&'static str> {
    let (_, name) = FUNCTIONS.iter().find(|&&(oid, _)| oid == function)?;
    READS_BY_ARGUMENT.iter().any(|family| name.starts_with(family)).then_some(*name)
}

/// A large object's function: it reads no table.
pub(super) fn reads_no_table(function: u32) -> bool {
    let name = FUNCTIONS.iter().find(|&&(oid, _)| oid == function).map_or("", |&(_, name)| name);
    name.starts_with("lo_") || name == "loread" || name == "lowrite"
}

/// A statement of one kind that has no SQL text.
fn statement(kind: Kind, classes: &[Class], text: String) -> Statement {
    Statement {
        text,
        kind,
        kinds: BTreeSet::from([kind]),
        classes: classes.iter().copied().collect(),
        ..Statement::default()
    }
}

fn operation(user: &Arc<str>, database: &Arc<str>, statement: Statement) -> Operation {
    Operation {
        protocol: Protocol::Postgres,
        user: Arc::clone(user),
        database: Arc::clone(database),
        text: statement.text.as_str().into(),
        script: Arc::new(Script { statements: vec![statement] }),
        params: Arc::default(),
    }
}

/// A cancel request. Its connection has no user or database.
pub(super) fn cancel(process: i32) -> Operation {
    let none: Arc<str> = Arc::default();
    operation(&none, &none, statement(Kind::Cancel, &[Class::Session], format!("cancel {process}")))
}

/// A connection in replication mode: it can read everything.
pub(super) fn replication(user: &Arc<str>, database: &Arc<str>) -> Operation {
    let statement =
        statement(Kind::Replication, &[Class::Admin, Class::Read], "connect in replication mode".to_owned());
    operation(user, database, statement)
}

/// What a text on a replication connection does: a replication command, or SQL where the grammar of
/// replication commands does not take it. It is both.
pub(super) fn replication_command(mut script: Script, text: &str) -> Script {
    if script.statements.iter().all(|statement| statement.kind == Kind::Unparsed) {
        script.statements.clear();
    }
    script.statements.push(statement(Kind::Replication, &[Class::Admin, Class::Read], text.to_owned()));
    script
}

/// A FunctionCall message. What it calls is known by its object id alone; `called` is what the same call
/// in SQL would do, where its arguments say that.
pub(super) fn function_call(
    user: &Arc<str>,
    database: &Arc<str>,
    function: u32,
    called: Option<Script>,
) -> Operation {
    let name = FUNCTIONS.iter().find(|&&(oid, _)| oid == function).map(|&(_, name)| name);
    let name = name.map_or_else(|| format!("oid:{function}"), str::to_owned);
    // Which other functions it may be cannot be told from the id.
    let mut statement = statement(
        Kind::FunctionCall,
        &[Class::Read, Class::Write],
        format!("function call {name} ({function})"),
    );
    if name.starts_with("lo_import")
        || name.starts_with("lo_export")
        || name.starts_with("pg_read")
        || name.starts_with("pg_ls")
        || name.starts_with("pg_stat_file")
    {
        statement.classes.insert(Class::External);
    }
    statement.dynamic = name.contains("_to_xml") || name.starts_with("ts_");
    if name.starts_with("database_to_xml") {
        statement.reads.insert(Relation { schema: None, name: "*".to_owned() });
    }
    statement.functions.insert(Function { schema: Some("pg_catalog".to_owned()), name });
    let mut operation = operation(user, database, statement);
    if let Some(called) = called {
        let mut script = Script::clone(&operation.script);
        script.statements.extend(called.statements);
        operation.script = Arc::new(script);
    }
    operation
}
