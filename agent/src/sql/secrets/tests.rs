//! What is taken out of texts, and what is not.

use super::*;

#[test]
fn secrets_are_replaced_and_the_rest_is_exact() {
    for (text, redacted) in [
        ("ALTER ROLE bob PASSWORD 'hunter2'", "ALTER ROLE bob PASSWORD '***'"),
        (
            "create user x with encrypted  password\n'a''b' login;",
            "create user x with encrypted  password\n'***' login;",
        ),
        ("ALTER USER x PASSWORD /* c */ E'a\\'b'", "ALTER USER x PASSWORD /* c */ E'***'"),
        ("ALTER USER x PASSWORD $a$se$cret$a$", "ALTER USER x PASSWORD $a$***$a$"),
        (
            "alter role x password U&'\\0061' valid until 'now'",
            "alter role x password U&'***' valid until 'now'",
        ),
        (
            "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password 'p')",
            "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password '***')",
        ),
        (
            "ALTER SERVER s OPTIONS (SET \"sslpassword\" 'p', ADD U&\"p\\0061ssword\" 'q')",
            "ALTER SERVER s OPTIONS (SET \"sslpassword\" '***', ADD U&\"p\\0061ssword\" '***')",
        ),
        (
            "CREATE SUBSCRIPTION s CONNECTION 'host=h password=p dbname=d' PUBLICATION p",
            "CREATE SUBSCRIPTION s CONNECTION 'host=h password=*** dbname=d' PUBLICATION p",
        ),
        (
            "SELECT * FROM dblink('host=h PASSWORD = ''a b'' user=u', 'select 1') AS t(a int)",
            "SELECT * FROM dblink('host=h PASSWORD = ''***'' user=u', 'select 1') AS t(a int)",
        ),
        ("select dblink_connect(E'host=h p\\141ssword=p')", "select dblink_connect(E'***')"),
        (
            "select dblink_connect('postgresql://u:p%20w@h:5432/d')",
            "select dblink_connect('postgresql://u:***@h:5432/d')",
        ),
        (
            "DO $$BEGIN EXECUTE 'ALTER ROLE x PASSWORD ''pw'''; ALTER ROLE y PASSWORD 'q'; END$$",
            "DO $$BEGIN EXECUTE 'ALTER ROLE x PASSWORD ''***'''; ALTER ROLE y PASSWORD '***'; END$$",
        ),
        (
            "update users set password = 'x' where name = 'y'",
            "update users set password = '***' where name = 'y'",
        ),
        (
            "ALTER SYSTEM SET ssl_passphrase_command TO 'echo x'",
            "ALTER SYSTEM SET ssl_passphrase_command TO '***'",
        ),
        (
            "select 'password', name from t -- password 'x'",
            "select 'password', name from t -- password '***'",
        ),
        ("select 1", "select 1"),
        // No SQL.
        ("ALTER ROLE x PASSWORD 'never closed", "ALTER ROLE x PASSWORD '***"),
        ("ALTER ROLE x PASSWORD 'a\\'b' \"", "ALTER ROLE x PASSWORD '***' \""),
        ("ALTER ROLE x PASSWORD 'a''b' \"", "ALTER ROLE x PASSWORD '***' \""),
    ] {
        assert_eq!(redact_secrets(text), redacted);
    }
}

#[test]
fn evasions() {
    for text in [
        // The word, in every way that the server reads it.
        "alter user x password 'hunter2'",
        "ALTER USER x PaSsWoRd\n\t 'hunter2'",
        "ALTER/**/USER x/* c */PASSWORD/* d */'hunter2'",
        "ALTER USER x PASSWORD -- c\n 'hunter2'",
        "ALTER USER x WITH LOGIN PASSWORD 'hunter2'; SELECT 1",
        "SELECT 1; ALTER GROUP x PASSWORD 'hunter2'",
        "ALTER USER x PASSWORD E'hun\\x74er2hunter2'",
        "ALTER USER x PASSWORD e'\\'hunter2'",
        "ALTER USER x PASSWORD U&'!0068unter2 hunter2' UESCAPE '!'",
        "ALTER USER x PASSWORD $$hunter2$$",
        "ALTER USER x PASSWORD $tag$a$$hunter2$tag$",
        "ALTER USER x PASSWORD 'it''s hunter2'",
        "ALTER USER x PASSWORD 'a'\n'hunter2'",
        "ALTER USER x PASSWORD ('hunter2')",
        // Without the quotes that belong there: the server will refuse, and quote it.
        "ALTER USER x PASSWORD hunter2",
        "ALTER USER x PASSWORD \"hunter2\" VALID UNTIL 'tomorrow'",
        "ALTER USER x PASSWORD hun!hunter2",
        "CREATE ROLE x PASSWORD = hunter2",
        // Texts that do not scan.
        "ALTER USER x PASSWORD 'hunter2",
        "ALTER USER x PASSWORD $q$hunter2",
        "ALTER USER x PASSWORD 'hunter2' /* never closed",
        "\\password 'hunter2' '",
        // Options and connections.
        "CREATE USER MAPPING FOR u SERVER s OPTIONS (user 'u', \"password\" 'hunter2')",
        "ALTER USER MAPPING FOR u SERVER s OPTIONS (SET password 'hunter2')",
        "ALTER USER MAPPING FOR u SERVER s OPTIONS (SET U&\"pass\\0077ord\" 'hunter2')",
        "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (host 'h', api_key 'hunter2')",
        "CREATE FOREIGN TABLE t (a int) SERVER s OPTIONS (access_token 'hunter2')",
        "CREATE SUBSCRIPTION s CONNECTION 'host=h password=hunter2' PUBLICATION p",
        "ALTER SUBSCRIPTION s CONNECTION 'host=h password=''two hunter2'' user=u'",
        "ALTER SUBSCRIPTION s CONNECTION E'host=h pass\\x77ord=hunter2'",
        "ALTER SUBSCRIPTION s CONNECTION 'host=h password=two\\ hunter2'",
        "ALTER SYSTEM SET primary_conninfo = 'host=h password=hunter2'",
        "SELECT dblink_connect('host=h password=hunter2')",
        "SELECT dblink_connect('c', 'host=h password=hunter2')",
        "SELECT public.dblink_connect_u('c', $$host=h password='hunter2'$$)",
        "SELECT * FROM dblink('host=h pass' || 'word=hunter2', 'SELECT 1') AS t(a int)",
        "SELECT * FROM \"dblink\"('postgres://u:hunter2@h/d', 'SELECT 1') AS t(a int)",
        "SELECT dblink_connect(concat('host=h pass', 'word=hunter2'))",
        // Settings.
        "SET app.password = 'hunter2'",
        "SET SESSION app.api_key TO hunter2",
        "SET LOCAL \"app.token\" = hunter2",
        "SET app.secret = 'a', 'hunter2'",
        "ALTER ROLE x SET app.token TO 'hunter2'",
        "ALTER DATABASE d SET app.passphrase = hunter2",
        "SELECT set_config('app.password', 'hunter2', false)",
        "SELECT pg_catalog.set_config('app.pass' || 'word', 'hunter2', true)",
        "SELECT set_config(E'app.pass\\x77ord', 'hunter2', true)",
        "SELECT set_config(name, 'hunter2', true) FROM t",
        // Programs.
        "COPY t FROM PROGRAM 'curl -H \"Authorization: Bearer hunter2\" https://h/x'",
        "COPY t TO PROGRAM $$curl -u bob:hunter2 https://h/x$$",
        "COPY (SELECT 1) TO PROGRAM 'PGPASSWORD=hunter2 psql -h h'",
        "COPY t FROM PROGRAM 'x --token hunter2'",
        // Functions that take keys.
        "SELECT crypt('hunter2', gen_salt('bf'))",
        "SELECT pgp_sym_encrypt(a, 'hunter2') FROM t",
        "SELECT aws_commons.create_aws_credentials('AK', 'hunter2', '')",
        // Text that becomes SQL.
        "DO $$BEGIN EXECUTE 'ALTER ROLE x PASSWORD ' || quote_literal('hunter2'); END$$",
        "DO $$BEGIN EXECUTE format('ALTER ROLE x PASSWORD %L', 'hunter2'); END$$",
        "DO $a$ BEGIN EXECUTE $b$ALTER ROLE x PASSWORD 'hunter2'$b$; END $a$",
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'ALTER ROLE x PASSWORD ''hunter2'''",
        "DO $$BEGIN EXECUTE format('CREATE SUBSCRIPTION s CONNECTION %L', 'host=h password=hunter2'); END$$",
        "PREPARE p AS UPDATE users SET password = 'hunter2'",
        "EXPLAIN ANALYZE UPDATE users SET (a, password_hash) = ('x', 'y'), token = 'hunter2'",
        // Where nobody looks.
        "SELECT 1 -- PGPASSWORD=hunter2",
        "SELECT 1 AS \"password=hunter2\"",
        "SELECT 1 AS U&\"password=hunter2\"",
        "/* ALTER USER x PASSWORD 'hunter2' */ SELECT 1",
        "INSERT INTO settings VALUES ('{\"db_password\": \"hunter2\"}')",
    ] {
        let shown = redact_secrets(text);
        assert!(!shown.contains("hunter2") && shown.contains("***"), "{text}\n{shown}");
    }
}

#[test]
fn what_is_no_secret_stays() {
    for text in [
        "SELECT password FROM users WHERE name = 'bob'",
        "ALTER TABLE users ADD COLUMN password text",
        "ALTER TABLE users RENAME COLUMN password TO pw",
        "CREATE TABLE tokens (token text, secret_id int)",
        "SELECT set_config('search_path', 'public', false)",
        "COPY t TO PROGRAM 'gzip > /backup/t.gz'",
        "ALTER ROLE x PASSWORD NULL",
        "ALTER ROLE x SET search_path = 'public'",
        "SELECT * FROM dblink('dbname=d', 'SELECT a FROM t WHERE b = ''x''') AS t(a int)",
        "SELECT 'programs' FROM t WHERE kind = 'program'",
        "UPDATE t SET a = 'x', connection = 'y'",
        "SELECT format('%s is %s', 'a', 'b')",
    ] {
        assert_eq!(redact_secrets(text), text);
    }
}

#[test]
fn parameters_and_messages() {
    let params = |text: &str| {
        let secrets = Secrets::of(text);
        (1..6).filter(|number| secrets.has_param(*number)).collect::<Vec<_>>()
    };
    assert_eq!(params("UPDATE users SET password = $2 WHERE name = $1"), [2]);
    assert_eq!(params("SELECT set_config('app.token', $1, false), set_config('a', $2, false)"), [1]);
    assert_eq!(params("SELECT set_config($1, $2, false)"), [2]);
    assert_eq!(params("SELECT crypt($3, salt) FROM t WHERE a = $1"), [3]);
    assert_eq!(params("SELECT $1, $2"), [0_usize; 0]);

    let repeated = |text: &str, message: &str| {
        let words: Vec<String> = Secrets::of(text).words(text).map(str::to_owned).collect();
        redact_repeated(&words, message).into_owned()
    };
    assert_eq!(
        repeated("ALTER USER x PASSWORD hunter2", "syntax error at or near \"hunter2\""),
        "syntax error at or near \"***\""
    );
    assert_eq!(repeated("SET app.token = ab", "a table \"ab\" is no ab"), "a table \"***\" is no ab");
    assert_eq!(repeated("SELECT hunter2", "column \"hunter2\""), "column \"hunter2\"");
    assert_eq!(redact_text("-c app.password=hunter2 -c a=b"), "-c app.password=*** -c a=b");
}

#[test]
fn a_text_without_secrets_is_not_copied() {
    assert!(matches!(redact_secrets("select 'x' from t"), Cow::Borrowed(_)));
}

proptest::proptest! {
    #[test]
    fn any_text_is_taken(text in "(?s).{0,60}(password|://)?.{0,3}['$=@:]{0,3}.{0,60}") {
        redact_secrets(&text);
    }

    #[test]
    fn no_secret_is_left(secret in "[a-z]{12}", tail in "(?s).{0,40}", verb in "(?i)(alter role x|create user y)") {
        let text = format!("{verb} PASSWORD '{secret}' {tail}");
        proptest::prop_assert!(!redact_secrets(&text).contains(&secret));
    }
}
