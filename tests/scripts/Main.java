// What the JDBC driver gives must be the same with and without an agent between.
import java.sql.*;
import java.util.*;

public class Main {
    static Connection conn;

    static void print(ResultSet rows) throws SQLException {
        ResultSetMetaData meta = rows.getMetaData();
        StringBuilder head = new StringBuilder();
        for (int i = 1; i <= meta.getColumnCount(); i++)
            head.append(meta.getColumnName(i)).append(':').append(meta.getColumnTypeName(i)).append(' ');
        System.out.println(head);
        while (rows.next()) {
            StringBuilder line = new StringBuilder();
            for (int i = 1; i <= meta.getColumnCount(); i++) line.append(rows.getString(i)).append('|');
            System.out.println(line);
        }
    }

    static void attempt(String sql, Object... params) throws SQLException {
        try (PreparedStatement s = conn.prepareStatement(sql)) {
            for (int i = 0; i < params.length; i++) s.setObject(i + 1, params[i]);
            boolean rows = s.execute();
            while (true) {
                if (rows) print(s.getResultSet());
                else if (s.getUpdateCount() == -1) break;
                else System.out.println("updated " + s.getUpdateCount());
                rows = s.getMoreResults();
            }
            for (SQLWarning w = s.getWarnings(); w != null; w = w.getNextWarning()) System.out.println("warning " + w.getMessage());
        } catch (SQLException e) {
            System.out.println(e.getSQLState() + " " + e.getMessage());
        }
    }

    public static void main(String[] args) throws Exception {
        Properties p = new Properties();
        p.setProperty("user", System.getenv("PGUSER"));
        p.setProperty("password", System.getenv("PGPASSWORD"));
        String url = "jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");
        conn = DriverManager.getConnection(url, p);
        System.out.println(conn.getMetaData().getDatabaseProductVersion());
        attempt("CREATE TEMP TABLE t (id int PRIMARY KEY, name text, n numeric, at timestamp)");
        for (int i = 0; i < 8; i++) // past the fifth it is a named statement with binary results
            attempt("INSERT INTO t VALUES (?, ?, ?, ?) RETURNING id, at", i, "name " + i, new java.math.BigDecimal("1.10"), Timestamp.valueOf("2026-01-01 10:00:00"));
        for (int i = 0; i < 8; i++) attempt("SELECT id, name, n, at FROM t WHERE id = ?", i);
        attempt("INSERT INTO t (id) VALUES (1)");
        attempt("SELECT 1; SELECT 2; SELECT 3");
        attempt("SELECT ?::int / ?::int", 1, 0);
        attempt("DO $$ BEGIN RAISE WARNING 'hello'; END $$");
        conn.setAutoCommit(false);
        attempt("SELECT 1/0");
        attempt("SELECT 1");
        conn.rollback();
        try (PreparedStatement s = conn.prepareStatement("INSERT INTO t (id, name) VALUES (?, ?)")) {
            for (int i = 100; i < 400; i++) { s.setInt(1, i); s.setString(2, "b" + i); s.addBatch(); }
            System.out.println(s.executeBatch().length);
        }
        try (Statement s = conn.createStatement()) {
            s.setFetchSize(25);
            ResultSet rows = s.executeQuery("SELECT id FROM t ORDER BY id");
            long total = 0;
            while (rows.next()) total += rows.getInt(1);
            System.out.println(total);
        }
        conn.commit();
        conn.setAutoCommit(true);
        try (Statement s = conn.createStatement()) {
            s.setQueryTimeout(1);
            s.execute("SELECT pg_sleep(30)");
        } catch (SQLException e) { System.out.println(e.getSQLState() + " " + e.getMessage()); }
        print(conn.getMetaData().getColumns(null, "pg_catalog", "pg_database", "dat%"));
        org.postgresql.copy.CopyManager copy = conn.unwrap(org.postgresql.PGConnection.class).getCopyAPI();
        System.out.println(copy.copyIn("COPY t (id, name) FROM STDIN", new java.io.StringReader("5001\tx\n5002\ty\n")));
        java.io.StringWriter out = new java.io.StringWriter();
        System.out.println(copy.copyOut("COPY (SELECT id, name FROM t ORDER BY id) TO STDOUT", out));
        System.out.println(out);
        conn.close();
    }
}
