//! The agents: who they are, which certificates count, where their recordings stand, how they are.

use std::collections::{HashMap, HashSet};

use interlock_recording::verify::{Boundary, Position};
use interlock_recording::{PublicKey, chain, hex};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::index::portions;
use super::{Clock, Dialect, Standing, Store, StoreError, Write, hash, now_ns, number, plain};

/// An agent.
#[derive(Debug, Clone)]
pub struct Agent {
    /// The host's id: SHA-256 of its public key, hexadecimal.
    pub host: String,
    /// The host's name, as it says.
    pub name: String,
    /// The host's public key, 32 bytes.
    pub public_key: Vec<u8>,
    /// It may ship.
    pub active: bool,
    /// Its recording has ended for ever: a dispute about it was settled so.
    pub closed: bool,
    /// When it was enrolled.
    pub enrolled_ns: i64,
    /// When its certificate expires.
    pub certificate_expires_ns: i64,
    /// Where the next sealed segment must begin.
    pub sealed: Boundary,
    /// Where the next live records must begin.
    pub live: Position,
    /// Why nothing more is taken from it.
    pub dispute: Option<String>,
    /// When it was last heard of.
    pub last_seen_ns: i64,
    /// Its version.
    pub version: String,
    /// Its kernel.
    pub kernel: String,
    /// The policies in force on it.
    pub policy_hash: String,
    /// How far its clock is ahead of the collector's.
    pub clock_ahead_ns: i64,
    /// Bytes of its spool.
    pub spool_bytes: i64,
    /// And how many there may be.
    pub spool_limit: i64,
    /// Flows that are open on it.
    pub flows: i64,
    /// It refuses commands for want of room.
    pub spool_full: bool,
    /// Where its events leave its clocks.
    pub clock: Clock,
    /// How far it is indexed, where that is beyond its live records: a large segment was being taken in parts.
    pub indexed: Option<Position>,
}

const COLUMNS: &str = "host, name, public_key, state, enrolled_ns, certificate_expires_ns, next_segment, \
     next_index, chain_hash, header_sha256, live_index, live_hash, dispute, last_seen_ns, version, kernel, \
     policy_hash, clock_ahead_ns, spool_bytes, spool_limit, flows, spool_full, clock_monotonic_ns, clock_ahead_of_boot_ns, clock_before_ns, \
     clock_set_event, indexed_index, indexed_hash";

impl Agent {
    /// Where its recording stands.
    pub fn standing(&self) -> Standing {
        Standing { sealed: self.sealed, live: self.live, indexed: self.indexed }
    }

    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        Ok(Self {
            host: row.try_get(0)?,
            name: row.try_get(1)?,
            public_key: row.try_get(2)?,
            active: row.try_get::<String, _>(3)? == "active",
            closed: row.try_get::<String, _>(3)? == "closed",
            enrolled_ns: row.try_get(4)?,
            certificate_expires_ns: row.try_get(5)?,
            sealed: Boundary {
                segment: number(row.try_get(6)?)?,
                position: Position { index: number(row.try_get(7)?)?, hash: hash(row.try_get(8)?)? },
                header_sha256: match row.try_get::<Vec<u8>, _>(9)? {
                    none if none.is_empty() => None,
                    bytes => Some(hash(bytes)?),
                },
            },
            live: Position { index: number(row.try_get(10)?)?, hash: hash(row.try_get(11)?)? },
            dispute: row.try_get(12)?,
            last_seen_ns: row.try_get(13)?,
            version: row.try_get(14)?,
            kernel: row.try_get(15)?,
            policy_hash: row.try_get(16)?,
            clock_ahead_ns: row.try_get(17)?,
            spool_bytes: row.try_get(18)?,
            spool_limit: row.try_get(19)?,
            flows: row.try_get(20)?,
            spool_full: row.try_get::<i64, _>(21)? != 0,
            clock: Clock::load([row.try_get(22)?, row.try_get(23)?, row.try_get(24)?, row.try_get(25)?]),
            indexed: match row.try_get::<Option<Vec<u8>>, _>(27)? {
                Some(bytes) => Some(Position { index: number(row.try_get(26)?)?, hash: hash(bytes)? }),
                None => None,
            },
        })
    }
}

/// An agent that is enrolled, or enrolled anew.
#[derive(Debug)]
pub struct Enrolment<'e> {
    /// The host's key.
    pub key: &'e PublicKey,
    /// The host's name.
    pub name: &'e str,
    /// The agent's version.
    pub version: &'e str,
    /// The hash of the token that was used.
    pub token_sha256: &'e str,
    /// The serial number of the certificate that was issued, hexadecimal.
    pub serial: &'e str,
    /// When that expires.
    pub expires_ns: i64,
}

/// How an agent says it is.
#[derive(Debug, Clone, Default)]
pub struct HealthReport {
    /// The policies in force.
    pub policy_hash: String,
    /// How far its clock is ahead.
    pub clock_ahead_ns: i64,
    /// Bytes of its spool.
    pub spool_bytes: i64,
    /// And how many there may be.
    pub spool_limit: i64,
    /// Open flows.
    pub flows: i64,
    /// Commands are refused for want of room.
    pub spool_full: bool,
}

impl Write<'_> {
    /// Adds an agent, or gives a known one new certificates; gives whether it is new. A known one goes on
    /// where its recording stands, under the name that it was first enrolled by: rules of retention go by
    /// names, and a host is not to choose its rule.
    ///
    /// # Errors
    /// The database fails.
    pub async fn enrol(&mut self, enrolment: &Enrolment<'_>) -> Result<bool, StoreError> {
        let host = hex(&enrolment.key.fingerprint());
        let known = sqlx::query(
            "UPDATE agents SET state = 'active', version = $2, token_sha256 = $3, serial = $4, \
             former_serial = NULL, certificate_expires_ns = $5 WHERE host = $1",
        )
        .bind(&host)
        .bind(plain(enrolment.version).as_ref())
        .bind(enrolment.token_sha256)
        .bind(enrolment.serial)
        .bind(enrolment.expires_ns)
        .execute(self.on())
        .await?;
        if known.rows_affected() == 1 {
            return Ok(false);
        }
        let genesis = chain::genesis(enrolment.key).to_vec();
        sqlx::query(
            "INSERT INTO agents (host, name, public_key, state, enrolled_ns, token_sha256, serial, \
             certificate_expires_ns, next_segment, next_index, chain_hash, header_sha256, live_index, live_hash, \
             last_seen_ns, version, kernel, policy_hash, clock_ahead_ns, spool_bytes, spool_limit, flows, \
             spool_full) VALUES ($1, $2, $3, 'active', $4, $5, $6, $7, 0, 0, $8, $9, 0, $10, 0, $11, '', '', 0, 0, \
             0, 0, 0)",
        )
        .bind(&host)
        .bind(enrolment.name)
        .bind(enrolment.key.as_bytes().to_vec())
        .bind(now_ns())
        .bind(enrolment.token_sha256)
        .bind(enrolment.serial)
        .bind(enrolment.expires_ns)
        .bind(genesis.clone())
        .bind(Vec::new())
        .bind(genesis)
        .bind(plain(enrolment.version).as_ref())
        .execute(self.on())
        .await?;
        Ok(true)
    }

    /// Notes a renewed certificate. The one that was shown for it counts until this one has been used, however
    /// many were issued in between: their answers may have been lost.
    ///
    /// # Errors
    /// The database fails.
    pub async fn renewed(
        &mut self,
        host: &str,
        presented: &str,
        serial: &str,
        expires_ns: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE agents SET former_serial = $4, serial = $2, certificate_expires_ns = $3 WHERE host = $1",
        )
        .bind(host)
        .bind(serial)
        .bind(expires_ns)
        .bind(presented)
        .execute(self.on())
        .await?;
        Ok(())
    }

    /// Lets an agent ship no more; gives whether there was one that could.
    ///
    /// # Errors
    /// The database fails.
    pub async fn revoke_agent(&mut self, host: &str) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE agents SET state = 'revoked', revoked_ns = $2 WHERE host = $1 AND state = 'active'",
        )
        .bind(host)
        .bind(now_ns())
        .execute(self.on())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Notes that what an agent ships contradicts what was taken before.
    ///
    /// # Errors
    /// The database fails.
    pub async fn dispute(&mut self, host: &str, reason: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE agents SET dispute = $2 WHERE host = $1 AND dispute IS NULL")
            .bind(host)
            .bind(plain(reason).as_ref())
            .execute(self.on())
            .await?;
        Ok(())
    }

    /// Ends the dispute about a host; gives whether there was one. Its recording goes on, or ends for ever.
    ///
    /// # Errors
    /// The database fails.
    pub async fn settle_dispute(&mut self, host: &str, resume: bool) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE agents SET dispute = NULL, state = CASE WHEN $2 = 1 THEN state ELSE 'closed' END \
             WHERE host = $1 AND dispute IS NOT NULL",
        )
        .bind(host)
        .bind(i64::from(resume))
        .execute(self.on())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Notes that an agent said hello. Its name stays the one that it was enrolled by.
    ///
    /// # Errors
    /// The database fails.
    pub async fn seen(&mut self, host: &str, version: &str, kernel: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE agents SET last_seen_ns = $2, version = $3, kernel = $4 WHERE host = $1")
            .bind(host)
            .bind(now_ns())
            .bind(plain(version).as_ref())
            .bind(plain(kernel).as_ref())
            .execute(self.on())
            .await?;
        Ok(())
    }

    /// Notes how an agent is.
    ///
    /// # Errors
    /// The database fails.
    pub async fn health(&mut self, host: &str, health: &HealthReport) -> Result<(), StoreError> {
        self.health_of_all(&[(host, health)]).await
    }

    /// Notes how several agents are.
    ///
    /// # Errors
    /// The database fails.
    pub(super) async fn health_of_all(&mut self, all: &[(&str, &HealthReport)]) -> Result<(), StoreError> {
        let now = now_ns();
        self.rows(
            "UPDATE agents SET last_seen_ns = v.column2, policy_hash = v.column3, clock_ahead_ns = v.column4, \
             spool_bytes = v.column5, spool_limit = v.column6, flows = v.column7, spool_full = v.column8 \
             FROM (VALUES {rows}) AS v WHERE agents.host = v.column1",
            8,
            all,
            |query, (host, health)| {
                query
                    .bind((*host).to_owned())
                    .bind(now)
                    .bind(plain(&health.policy_hash).into_owned())
                    .bind(health.clock_ahead_ns)
                    .bind(health.spool_bytes)
                    .bind(health.spool_limit)
                    .bind(health.flows)
                    .bind(i64::from(health.spool_full))
            },
        )
        .await
    }

    /// Notes where a host's events leave its clocks.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_clock(&mut self, host: &str, clock: &Clock) -> Result<(), StoreError> {
        let [monotonic, ahead, before, event] = clock.stored();
        sqlx::query(
            "UPDATE agents SET clock_monotonic_ns = $2, clock_ahead_of_boot_ns = $3, clock_before_ns = $4, \
             clock_set_event = $5 WHERE host = $1",
        )
        .bind(host)
        .bind(monotonic)
        .bind(ahead)
        .bind(before)
        .bind(event)
        .execute(self.on())
        .await?;
        Ok(())
    }

    /// Notes how far the segment that is due was indexed before it is taken.
    ///
    /// # Errors
    /// The database fails.
    pub async fn indexed(&mut self, host: &str, end: &Position) -> Result<(), StoreError> {
        sqlx::query("UPDATE agents SET indexed_index = $2, indexed_hash = $3 WHERE host = $1")
            .bind(host)
            .bind(end.index as i64)
            .bind(end.hash.to_vec())
            .execute(self.on())
            .await?;
        Ok(())
    }

    /// Agents, locked until the transaction ends. `hosts` stand in order, so that two who lock the same ones do not wait
    /// for one another.
    ///
    /// # Errors
    /// The database fails.
    pub async fn agents(&mut self, hosts: &[&str]) -> Result<HashMap<String, Agent>, StoreError> {
        // SQLite has one writer at a time.
        let lock = if self.dialect == Dialect::Postgres { " FOR UPDATE" } else { "" };
        let mut agents = HashMap::new();
        for portion in portions(hosts) {
            let marks: Vec<String> = (1..=portion.len()).map(|number| format!("${number}")).collect();
            let marks = marks.join(", ");
            let text = format!("SELECT {COLUMNS} FROM agents WHERE host IN ({marks}) ORDER BY host{lock}");
            let query = sqlx::query(sqlx::AssertSqlSafe(text));
            let query = portion.iter().fold(query, |query, host| query.bind((*host).to_owned()));
            for row in query.fetch_all(self.on()).await? {
                let agent = Agent::read(&row)?;
                agents.insert(agent.host.clone(), agent);
            }
        }
        Ok(agents)
    }

    /// An agent, locked until the transaction ends.
    ///
    /// # Errors
    /// The database fails.
    pub async fn agent(&mut self, host: &str) -> Result<Option<Agent>, StoreError> {
        // SQLite has one writer at a time.
        let lock = if self.dialect == Dialect::Postgres { " FOR UPDATE" } else { "" };
        let text = format!("SELECT {COLUMNS} FROM agents WHERE host = $1{lock}");
        let row = sqlx::query(sqlx::AssertSqlSafe(text)).bind(host).fetch_optional(self.on()).await?;
        row.as_ref().map(Agent::read).transpose()
    }
}

impl Store {
    /// All agents, by name.
    ///
    /// # Errors
    /// The database fails.
    pub async fn agents(&self) -> Result<Vec<Agent>, StoreError> {
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM agents ORDER BY name, host")))
                .fetch_all(self.pool())
                .await?;
        rows.iter().map(Agent::read).collect()
    }

    /// The ids of the hosts of this name, or whose id begins so; at most 100.
    ///
    /// # Errors
    /// The database fails.
    pub async fn hosts_called(&self, name: &str) -> Result<Vec<String>, StoreError> {
        let rows = sqlx::query(
            "SELECT host FROM agents WHERE name = $1 OR ($2 >= 8 AND substr(host, 1, CAST($2 AS INTEGER)) = $1) LIMIT 100",
        )
        .bind(name)
        .bind(name.len() as i64)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// One agent.
    ///
    /// # Errors
    /// The database fails.
    pub async fn agent(&self, host: &str) -> Result<Option<Agent>, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM agents WHERE host = $1")))
            .bind(host)
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(Agent::read).transpose()
    }

    /// The agent whose certificate has this serial number, if the certificate counts: the agent is active
    /// and it is its newest, or the one before while the newest has not been used. The first use of the
    /// newest ends the one before.
    ///
    /// # Errors
    /// The database fails.
    pub async fn admit(&self, host: &str, serial: &str) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT serial, former_serial FROM agents WHERE host = $1 AND state = 'active' \
             AND (serial = $2 OR former_serial = $2)",
        )
        .bind(host)
        .bind(serial)
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(false) };
        let newest = row.try_get::<String, _>(0)? == serial;
        if newest && row.try_get::<Option<String>, _>(1)?.is_some() {
            let mut write = self.write().await?;
            sqlx::query("UPDATE agents SET former_serial = NULL WHERE host = $1 AND serial = $2")
                .bind(host)
                .bind(serial)
                .execute(write.on())
                .await?;
            write.commit().await?;
        }
        Ok(true)
    }

    /// The hosts that may not ship: they were revoked, or their recordings have ended.
    ///
    /// # Errors
    /// The database fails.
    pub async fn inactive_hosts(&self) -> Result<HashSet<String>, StoreError> {
        let rows =
            sqlx::query("SELECT host FROM agents WHERE state <> 'active'").fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::SampleHost;

    #[tokio::test]
    async fn what_an_agent_says_of_itself_fits_both_databases() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open_file(&directory.path().join("db")).await.unwrap();
        let host = SampleHost::enrol(&store, "db-1", 1).await.unwrap();
        let mut write = store.write().await.unwrap();
        write.seen(&host.id, "0.1\0", "6.12\0-cloud").await.unwrap();
        write.commit().await.unwrap();
        let agent = store.agent(&host.id).await.unwrap().unwrap();
        assert_eq!((agent.version.as_str(), agent.kernel.as_str()), ("0.1\u{fffd}", "6.12\u{fffd}-cloud"));
    }
}
