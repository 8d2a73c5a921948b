//! The server's own functions, and those of well-known extensions, that do more than compute.

use super::Class::{self, Admin, External, Session, Write};

/// What a function does with the text in its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    /// Nothing.
    Nothing,
    /// One of its arguments is SQL that it runs, here or on another server.
    Sql,
    /// Its first argument names a relation that it reads whole.
    Reads,
    /// Its first argument names a sequence that it asks for its state.
    Asks,
    /// Its first argument names a relation that it changes.
    Writes,
    /// Its argument at this index names a relation that it reads, and others become part of its SQL.
    BuildsSql(usize),
    /// Its first argument names a schema of which it reads every relation.
    Schema,
    /// It reads every relation of the database.
    Database,
    /// It reads from an open cursor.
    Cursor,
    /// It sets a setting: the first argument is its name, the second its value.
    Setting,
}

/// What becomes of the `args` arguments of the function `name`. A function of that name in any schema is
/// taken for the known one.
pub(super) fn runs(name: &str, args: usize) -> Runs {
    match name {
        "ts_rewrite" if args == 2 => Runs::Sql,
        // pgRouting reads its graph by a query.
        _ if name.starts_with("pgr_") => Runs::Sql,
        "query_to_xml"
        | "query_to_xmlschema"
        | "query_to_xml_and_xmlschema"
        | "ts_stat"
        | "crosstab"
        | "crosstab2"
        | "crosstab3"
        | "crosstab4"
        | "crosstab_hash"
        | "dblink"
        | "dblink_exec"
        | "dblink_open"
        | "dblink_send_query"
        | "pg_background_launch"
        | "query_export_to_s3"
        | "hypopg_create_index" => Runs::Sql,
        "schedule" | "schedule_in_database" if args > 1 => Runs::Sql,
        // Citus has them run on other servers.
        _ if name.starts_with("run_command_on_") => Runs::Sql,
        "table_to_xml"
        | "table_to_xmlschema"
        | "table_to_xml_and_xmlschema"
        | "get_raw_page"
        | "pgstattuple"
        | "pgrowlocks"
        | "pg_prewarm" => Runs::Reads,
        "currval" | "pg_sequence_last_value" | "pg_get_sequence_data" => Runs::Asks,
        "nextval" | "setval" | "table_import_from_s3" => Runs::Writes,
        "xpath_table" => Runs::BuildsSql(2),
        "connectby" => Runs::BuildsSql(0),
        "schema_to_xml" | "schema_to_xmlschema" | "schema_to_xml_and_xmlschema" => Runs::Schema,
        "database_to_xml" | "database_to_xmlschema" | "database_to_xml_and_xmlschema" => Runs::Database,
        "cursor_to_xml" | "cursor_to_xmlschema" => Runs::Cursor,
        "set_config" => Runs::Setting,
        _ => Runs::Nothing,
    }
}

/// What calling the function `name` amounts to beyond reading.
pub(super) fn classes(name: &str) -> &'static [Class] {
    match name {
        // Files and programs of the server's host.
        "pg_read_file"
        | "pg_read_file_old"
        | "pg_read_file_v2"
        | "pg_read_binary_file"
        | "pg_stat_file"
        | "pg_current_logfile"
        | "pg_hba_file_rules"
        | "pg_ident_file_mappings"
        | "pg_show_all_file_settings"
        | "pg_sync_file"
        | "pg_logdir_ls"
        | "xslt_process" => &[External],
        "lo_import" | "be_lo_import" | "lo_import_with_oid" | "be_lo_import_with_oid" => &[External, Write],
        "lo_export" | "be_lo_export" => &[External],
        // Other servers.
        "query_export_to_s3" => &[External],
        "table_import_from_s3" => &[External, Write],
        "http" | "invoke" => &[External],
        "pg_background_launch" | "schedule" | "schedule_in_database" | "alter_job" | "unschedule" => &[Admin],
        // Rows and sequences.
        "nextval" | "setval" | "lo_create" | "lo_creat" | "lo_unlink" | "lo_put" | "lowrite"
        | "lo_truncate" | "lo_truncate64" | "lo_from_bytea" | "lo_manage" => &[Write],
        // This session and its transaction.
        "set_config" | "setseed" | "pg_notify" | "pg_export_snapshot" | "pg_sleep" | "pg_sleep_for"
        | "pg_sleep_until" => &[Session],
        // Other sessions, the server as a whole, storage below the tables.
        "pg_terminate_backend"
        | "pg_cancel_backend"
        | "pg_reload_conf"
        | "pg_rotate_logfile"
        | "pg_rotate_logfile_old"
        | "pg_rotate_logfile_v2"
        | "pg_switch_wal"
        | "pg_switch_xlog"
        | "pg_create_restore_point"
        | "pg_backup_start"
        | "pg_backup_stop"
        | "pg_start_backup"
        | "pg_stop_backup"
        | "pg_promote"
        | "pg_create_physical_replication_slot"
        | "pg_create_logical_replication_slot"
        | "pg_copy_physical_replication_slot"
        | "pg_copy_logical_replication_slot"
        | "pg_drop_replication_slot"
        | "pg_replication_slot_advance"
        | "pg_sync_replication_slots"
        | "pg_log_backend_memory_contexts"
        | "pg_log_standby_snapshot"
        | "pg_import_system_collations"
        | "pg_extension_config_dump"
        | "pg_truncate_visibility_map"
        | "pg_prewarm"
        | "get_raw_page"
        | "gin_clean_pending_list"
        | "brin_summarize_new_values"
        | "brin_summarize_range"
        | "brin_desummarize_range"
        | "heap_force_kill"
        | "heap_force_freeze"
        | "lo_compat_privileges"
        | "hypopg_create_index" => &[Admin],
        _ => by_family(name),
    }
}

fn by_family(name: &str) -> &'static [Class] {
    const FAMILIES: &[(&str, &[Class])] = &[
        ("pg_ls_", &[External]),
        ("pg_file_", &[External]),
        ("dblink", &[External]),
        ("run_command_on_", &[External]),
        ("postgres_fdw_", &[External]),
        ("http_", &[External]),
        ("sys_exec", &[External]),
        ("sys_eval", &[External]),
        ("sys_file", &[External]),
        ("pg_advisory_", &[Session]),
        ("pg_try_advisory_", &[Session]),
        ("pg_logical_", &[Admin]),
        ("pg_buffercache_evict", &[Admin]),
        ("pg_buffercache_mark_dirty", &[Admin]),
        ("pg_get_wal_", &[Admin]),
        ("bt_page_", &[Admin]),
        ("bt_multi_page_", &[Admin]),
        ("heap_page_", &[Admin]),
        ("heap_tuple_", &[Admin]),
        ("brin_page_", &[Admin]),
        ("gin_page_", &[Admin]),
        ("gin_leafpage_", &[Admin]),
        ("gist_page_", &[Admin]),
        ("hash_page_", &[Admin]),
        ("fsm_page_", &[Admin]),
        ("pg_replication_origin_", &[Admin]),
        ("pg_wal_replay_", &[Admin]),
        ("pg_xlog_replay_", &[Admin]),
        ("pg_stat_reset", &[Admin]),
        ("pg_stat_statements_reset", &[Admin]),
        ("pg_restore_", &[Admin]),
        ("pg_clear_", &[Admin]),
        ("binary_upgrade_", &[Admin]),
    ];
    FAMILIES.iter().find(|(prefix, _)| name.starts_with(prefix)).map_or(&[], |(_, classes)| *classes)
}

/// It leaves its arguments where a later statement, another session or another server finds them:
/// settings, notifications, locks, sequences, large objects.
pub(super) fn hands_on(name: &str) -> bool {
    const FAMILIES: &[&str] = &[
        "dblink",
        "http_",
        "lo_",
        "pg_advisory_",
        "pg_copy_",
        "pg_create_",
        "pg_file_",
        "pg_logical_",
        "pg_replication_origin_",
        "pg_restore_",
        "pg_set_",
        "pg_try_advisory_",
        "postgres_fdw_",
        "run_command_on_",
    ];
    matches!(
        name,
        "set_config"
            | "setseed"
            | "setval"
            | "pg_notify"
            | "lowrite"
            | "http"
            | "pg_backup_start"
            | "pg_start_backup"
            | "pg_background_launch"
            | "schedule"
            | "schedule_in_database"
            | "query_export_to_s3"
            | "xslt_process"
    ) || FAMILIES.iter().any(|family| name.starts_with(family))
}

/// A function that takes a whole row and can be called as if it were a column: `t.row_to_json`.
pub(super) fn takes_row(name: &str) -> bool {
    matches!(
        name,
        "row_to_json"
            | "to_json"
            | "to_jsonb"
            | "hstore"
            | "record_out"
            | "record_send"
            | "json_agg"
            | "json_agg_strict"
            | "jsonb_agg_strict"
            | "jsonb_agg"
            | "array_agg"
            | "quote_literal"
            | "quote_nullable"
            | "concat"
            | "json_build_array"
            | "jsonb_build_array"
            | "any_value"
            | "max"
            | "min"
            | "hash_record"
            | "format"
            | "xmlagg"
            | "string_agg"
    )
}
