//! Policies that are kept centrally: versions of sets, labels of hosts, what is assigned to whom, what was
//! ordered, and what hosts say of it.

use std::collections::{BTreeMap, HashMap};

use interlock_recording::hex;
use interlock_shipping::v1::PolicyFiles;
use prost::Message as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::page::rfc3339;
use super::{Store, StoreError, Write, now_ns, number, plain};

/// Changes with everything that may change what a host is ordered.
const EPOCH: &str = "policy_epoch";

/// The tables.
pub(super) const TABLES: &str = "
-- Versions of policy sets. None is ever changed or removed.
CREATE TABLE policy_versions (
    set_name TEXT NOT NULL,
    version BIGINT NOT NULL,
    -- What the files hash to, hexadecimal.
    content_sha256 TEXT NOT NULL,
    -- The files (protobuf PolicyFiles).
    files {blob} NOT NULL,
    file_count BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    author TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_ns BIGINT NOT NULL,
    PRIMARY KEY (set_name, version)
);

-- What hosts of these labels go by. No set and version 0: nothing.
CREATE TABLE policy_assignments (
    -- Labels as key=value, in order, joined by commas; empty for every host.
    selector TEXT PRIMARY KEY,
    priority BIGINT NOT NULL,
    enforce_set TEXT NOT NULL,
    enforce_version BIGINT NOT NULL,
    -- What was enforced before that; version -1 when it is not known.
    former_set TEXT NOT NULL,
    former_version BIGINT NOT NULL,
    observe_set TEXT NOT NULL,
    observe_version BIGINT NOT NULL,
    changed_ns BIGINT NOT NULL,
    changed_by TEXT NOT NULL,
    reason TEXT NOT NULL
);

CREATE TABLE host_labels (
    host TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (host, name)
);

-- Labels that a host gets which is enrolled with a token for the first time.
CREATE TABLE enrolment_token_labels (
    secret_sha256 TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (secret_sha256, name)
);

-- Each order that was signed for a host.
CREATE TABLE policy_orders (
    host TEXT NOT NULL,
    issue BIGINT NOT NULL,
    signed_order TEXT NOT NULL,
    -- SET@VERSION, or empty.
    enforce TEXT NOT NULL,
    observe TEXT NOT NULL,
    issued_ns BIGINT NOT NULL,
    PRIMARY KEY (host, issue)
);

-- How hosts say that they stand with their orders.
CREATE TABLE policy_states (
    host TEXT PRIMARY KEY,
    accepts TEXT NOT NULL,
    issue BIGINT NOT NULL,
    seen BIGINT NOT NULL,
    refused BIGINT NOT NULL,
    refusal TEXT NOT NULL,
    said_ns BIGINT NOT NULL
);
";

/// Labels of a host, by name.
pub type Labels = BTreeMap<String, String>;

/// A version of a policy set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyVersion {
    /// The set.
    pub set: String,
    /// Its number, from 1 on.
    pub version: u64,
    /// What its files hash to, hexadecimal.
    pub content_sha256: String,
    /// How many files it has.
    pub files: u64,
    /// And bytes.
    pub bytes: u64,
    /// Who made it.
    pub author: String,
    /// Why.
    pub reason: String,
    /// When.
    #[serde(rename = "created", serialize_with = "rfc3339")]
    pub created_ns: i64,
}

/// A version of a set, named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionName {
    /// The set.
    pub set: String,
    /// The version.
    pub version: u64,
}

impl std::fmt::Display for VersionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.set, self.version)
    }
}

/// `SET@VERSION`, or nothing.
pub fn named(name: Option<&VersionName>) -> String {
    name.map(ToString::to_string).unwrap_or_default()
}

/// What was enforced before something else was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Former {
    /// It is not known (any more).
    Unknown,
    /// Nothing was.
    Nothing,
    /// This was.
    Version(VersionName),
}

/// What hosts of some labels go by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Assignment {
    /// Which hosts: labels as `key=value`, in order, joined by commas; empty for every host.
    pub selector: String,
    /// Of several that fit a host the greatest counts.
    pub priority: i64,
    /// What is enforced.
    pub enforce: Option<VersionName>,
    /// What was enforced before.
    pub former: Former,
    /// What is staged.
    pub observe: Option<VersionName>,
    /// When it was changed last.
    #[serde(rename = "changed", serialize_with = "rfc3339")]
    pub changed_ns: i64,
    /// By whom.
    pub changed_by: String,
    /// Why.
    pub reason: String,
}

/// An order that was signed for a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IssuedOrder {
    /// Its number among the host's.
    pub issue: u64,
    /// The signed order.
    #[serde(rename = "order")]
    pub note: String,
    /// What it has enforced, as SET@VERSION; empty when nothing.
    pub enforce: String,
    /// What it has staged, likewise.
    pub observe: String,
    /// When it was issued.
    #[serde(rename = "issued", serialize_with = "rfc3339")]
    pub issued_ns: i64,
}

/// How a host says that it stands with its orders.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PolicyStanding {
    /// What its configuration lets central policies do: off, observe or enforce; empty for an agent that
    /// knows of none.
    pub accepts: String,
    /// The order in force; 0 when there is none.
    pub issue: u64,
    /// The greatest number of an order that it has seen.
    pub seen: u64,
    /// The order that it refused after that.
    pub refused: u64,
    /// And why.
    pub refusal: String,
}

const ASSIGNMENT: &str = "selector, priority, enforce_set, enforce_version, former_set, former_version, observe_set, \
     observe_version, changed_ns, changed_by, reason";
const ORDER: &str = "issue, signed_order, enforce, observe, issued_ns";
const VERSION: &str = "set_name, version, content_sha256, file_count, bytes, author, reason, created_ns";

fn token_hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

fn version_name(set: String, version: i64) -> Result<Option<VersionName>, StoreError> {
    Ok(if version > 0 { Some(VersionName { set, version: number(version)? }) } else { None })
}

fn read_assignment(row: &AnyRow) -> Result<Assignment, StoreError> {
    let former = match row.try_get::<i64, _>(5)? {
        0 => Former::Nothing,
        version => version_name(row.try_get(4)?, version)?.map_or(Former::Unknown, Former::Version),
    };
    Ok(Assignment {
        selector: row.try_get(0)?,
        priority: row.try_get(1)?,
        enforce: version_name(row.try_get(2)?, row.try_get(3)?)?,
        former,
        observe: version_name(row.try_get(6)?, row.try_get(7)?)?,
        changed_ns: row.try_get(8)?,
        changed_by: row.try_get(9)?,
        reason: row.try_get(10)?,
    })
}

fn read_order(row: &AnyRow) -> Result<IssuedOrder, StoreError> {
    Ok(IssuedOrder {
        issue: number(row.try_get(0)?)?,
        note: row.try_get(1)?,
        enforce: row.try_get(2)?,
        observe: row.try_get(3)?,
        issued_ns: row.try_get(4)?,
    })
}

fn read_version(row: &AnyRow) -> Result<PolicyVersion, StoreError> {
    Ok(PolicyVersion {
        set: row.try_get(0)?,
        version: number(row.try_get(1)?)?,
        content_sha256: row.try_get(2)?,
        files: number(row.try_get(3)?)?,
        bytes: number(row.try_get(4)?)?,
        author: row.try_get(5)?,
        reason: row.try_get(6)?,
        created_ns: row.try_get(7)?,
    })
}

fn read_labels(rows: &[AnyRow]) -> Result<Labels, StoreError> {
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn all(columns: &str, rest: &str) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("SELECT {columns} FROM {rest}"))
}

/// Numbers of the database are signed; one that an agent made up is cut.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Write<'_> {
    /// Says that what hosts are ordered may have changed. Those who change it come one after the other.
    ///
    /// # Errors
    /// The database fails.
    pub async fn policies_change(&mut self) -> Result<(), StoreError> {
        // In the order in which all take locks: some have entered something in the ledger before, some do after.
        self.lock_ledger().await?;
        self.set_fact(EPOCH, &now_ns().to_string()).await
    }

    /// Adds a version to a set, or gives the newest if that has the same content already.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_policy_version(
        &mut self,
        set: &str,
        content_sha256: &str,
        files: &PolicyFiles,
        author: &str,
        reason: &str,
    ) -> Result<(PolicyVersion, bool), StoreError> {
        let newest =
            sqlx::query(all(VERSION, "policy_versions WHERE set_name = $1 ORDER BY version DESC LIMIT 1"))
                .bind(set)
                .fetch_optional(self.on())
                .await?;
        let newest = newest.as_ref().map(read_version).transpose()?;
        let version = newest.as_ref().map_or(1, |newest| newest.version + 1);
        if let Some(newest) = newest.filter(|newest| newest.content_sha256 == content_sha256) {
            return Ok((newest, false));
        }
        let bytes: usize = files.files.iter().map(|file| file.name.len() + file.text.len()).sum();
        let made = PolicyVersion {
            set: set.to_owned(),
            version,
            content_sha256: content_sha256.to_owned(),
            files: files.files.len() as u64,
            bytes: bytes as u64,
            author: author.to_owned(),
            reason: reason.to_owned(),
            created_ns: now_ns(),
        };
        sqlx::query(
            "INSERT INTO policy_versions (set_name, version, content_sha256, files, file_count, bytes, author, reason, \
             created_ns) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(set)
        .bind(signed(version))
        .bind(content_sha256)
        .bind(files.encode_to_vec())
        .bind(signed(made.files))
        .bind(signed(made.bytes))
        .bind(author)
        .bind(plain(reason).as_ref())
        .bind(made.created_ns)
        .execute(self.on())
        .await?;
        Ok((made, true))
    }

    /// What is assigned to hosts of exactly these labels.
    ///
    /// # Errors
    /// The database fails.
    pub async fn assignment(&mut self, selector: &str) -> Result<Option<Assignment>, StoreError> {
        let row = sqlx::query(all(ASSIGNMENT, "policy_assignments WHERE selector = $1"))
            .bind(selector)
            .fetch_optional(self.on())
            .await?;
        row.as_ref().map(read_assignment).transpose()
    }

    /// Writes an assignment in the place of what there is for its labels.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_assignment(&mut self, assignment: &Assignment) -> Result<(), StoreError> {
        let pair = |name: &Option<VersionName>| match name {
            Some(name) => (name.set.clone(), signed(name.version)),
            None => (String::new(), 0),
        };
        let (enforce, observe) = (pair(&assignment.enforce), pair(&assignment.observe));
        let former = match &assignment.former {
            Former::Unknown => (String::new(), -1),
            Former::Nothing => (String::new(), 0),
            Former::Version(name) => (name.set.clone(), signed(name.version)),
        };
        self.remove_assignment(&assignment.selector).await?;
        sqlx::query(
            "INSERT INTO policy_assignments (selector, priority, enforce_set, enforce_version, former_set, \
             former_version, observe_set, observe_version, changed_ns, changed_by, reason) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(&assignment.selector)
        .bind(assignment.priority)
        .bind(enforce.0)
        .bind(enforce.1)
        .bind(former.0)
        .bind(former.1)
        .bind(observe.0)
        .bind(observe.1)
        .bind(assignment.changed_ns)
        .bind(&assignment.changed_by)
        .bind(plain(&assignment.reason).as_ref())
        .execute(self.on())
        .await?;
        Ok(())
    }

    /// Removes what is assigned to hosts of exactly these labels; gives whether there was something.
    ///
    /// # Errors
    /// The database fails.
    pub async fn remove_assignment(&mut self, selector: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM policy_assignments WHERE selector = $1")
            .bind(selector)
            .execute(self.on())
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Gives a host these labels and no others.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_labels(&mut self, host: &str, labels: &Labels) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM host_labels WHERE host = $1").bind(host).execute(self.on()).await?;
        for (name, value) in labels {
            sqlx::query("INSERT INTO host_labels (host, name, value) VALUES ($1, $2, $3)")
                .bind(host)
                .bind(name)
                .bind(value)
                .execute(self.on())
                .await?;
        }
        Ok(())
    }

    /// Has a token give these labels to hosts that are enrolled with it for the first time.
    ///
    /// # Errors
    /// The database fails.
    pub async fn set_token_labels(&mut self, secret: &str, labels: &Labels) -> Result<(), StoreError> {
        for (name, value) in labels {
            sqlx::query(
                "INSERT INTO enrolment_token_labels (secret_sha256, name, value) VALUES ($1, $2, $3)",
            )
            .bind(token_hash(secret))
            .bind(name)
            .bind(value)
            .execute(self.on())
            .await?;
        }
        Ok(())
    }

    /// The labels that the token of this hash gives.
    ///
    /// # Errors
    /// The database fails.
    pub async fn token_labels(&mut self, token_sha256: &str) -> Result<Labels, StoreError> {
        let rows = sqlx::query("SELECT name, value FROM enrolment_token_labels WHERE secret_sha256 = $1")
            .bind(token_sha256)
            .fetch_all(self.on())
            .await?;
        read_labels(&rows)
    }

    /// The newest order of a host. No other is issued to it before the transaction ends.
    ///
    /// # Errors
    /// The database fails.
    pub async fn newest_order(&mut self, host: &str) -> Result<Option<IssuedOrder>, StoreError> {
        sqlx::query("UPDATE agents SET host = host WHERE host = $1").bind(host).execute(self.on()).await?;
        let row = sqlx::query(all(ORDER, "policy_orders WHERE host = $1 ORDER BY issue DESC LIMIT 1"))
            .bind(host)
            .fetch_optional(self.on())
            .await?;
        row.as_ref().map(read_order).transpose()
    }

    /// Adds an order.
    ///
    /// # Errors
    /// The database fails, or it has one of this number.
    pub async fn add_order(&mut self, host: &str, order: &IssuedOrder) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO policy_orders (host, issue, signed_order, enforce, observe, issued_ns) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(host)
        .bind(signed(order.issue))
        .bind(&order.note)
        .bind(&order.enforce)
        .bind(&order.observe)
        .bind(order.issued_ns)
        .execute(self.on())
        .await?;
        Ok(())
    }

    /// Notes how a host says that it stands with its orders.
    ///
    /// # Errors
    /// The database fails.
    pub async fn policy_standing(&mut self, host: &str, said: &PolicyStanding) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO policy_states (host, accepts, issue, seen, refused, refusal, said_ns) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (host) DO UPDATE SET accepts = $2, issue = $3, seen = $4, \
             refused = $5, refusal = $6, said_ns = $7",
        )
        .bind(host)
        .bind(plain(&said.accepts).as_ref())
        .bind(signed(said.issue))
        .bind(signed(said.seen))
        .bind(signed(said.refused))
        .bind(plain(&said.refusal).as_ref())
        .bind(now_ns())
        .execute(self.on())
        .await?;
        Ok(())
    }
}

impl Store {
    /// Changes with everything that may change what a host is ordered.
    ///
    /// # Errors
    /// The database fails.
    pub async fn policy_epoch(&self) -> Result<String, StoreError> {
        Ok(self.fact(EPOCH).await?.unwrap_or_default())
    }

    /// All versions of all sets, by set, the newest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn policy_versions(&self) -> Result<Vec<PolicyVersion>, StoreError> {
        let rows = sqlx::query(all(VERSION, "policy_versions ORDER BY set_name, version DESC"))
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(read_version).collect()
    }

    /// A version of a set, with its files.
    ///
    /// # Errors
    /// The database fails, or holds no files where they must be.
    pub async fn policy_version(
        &self,
        set: &str,
        version: u64,
    ) -> Result<Option<(PolicyVersion, PolicyFiles)>, StoreError> {
        let row = sqlx::query(all(
            &format!("{VERSION}, files"),
            "policy_versions WHERE set_name = $1 AND version = $2",
        ))
        .bind(plain(set).as_ref())
        .bind(signed(version))
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let files: Vec<u8> = row.try_get(8)?;
        let files = PolicyFiles::decode(files.as_slice())
            .map_err(|_| StoreError::Damaged("policy files that are none"))?;
        Ok(Some((read_version(&row)?, files)))
    }

    /// All assignments.
    ///
    /// # Errors
    /// The database fails.
    pub async fn assignments(&self) -> Result<Vec<Assignment>, StoreError> {
        let rows = sqlx::query(all(ASSIGNMENT, "policy_assignments ORDER BY priority DESC, selector"))
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(read_assignment).collect()
    }

    /// The labels of a host.
    ///
    /// # Errors
    /// The database fails.
    pub async fn labels(&self, host: &str) -> Result<Labels, StoreError> {
        let rows = sqlx::query("SELECT name, value FROM host_labels WHERE host = $1")
            .bind(host)
            .fetch_all(self.pool())
            .await?;
        read_labels(&rows)
    }

    /// The newest order of a host.
    ///
    /// # Errors
    /// The database fails.
    pub async fn policy_order(&self, host: &str) -> Result<Option<IssuedOrder>, StoreError> {
        let row = sqlx::query(all(ORDER, "policy_orders WHERE host = $1 ORDER BY issue DESC LIMIT 1"))
            .bind(host)
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(read_order).transpose()
    }

    /// The newest order of each host that has one.
    ///
    /// # Errors
    /// The database fails.
    pub async fn policy_orders(&self) -> Result<HashMap<String, IssuedOrder>, StoreError> {
        let rows = sqlx::query(all(
            &format!("{ORDER}, host"),
            "policy_orders o WHERE issue = (SELECT MAX(issue) FROM policy_orders n WHERE n.host = o.host)",
        ))
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(|row| Ok((row.try_get(5)?, read_order(row)?))).collect()
    }

    /// How hosts say that they stand with their orders.
    ///
    /// # Errors
    /// The database fails.
    pub async fn policy_standings(&self) -> Result<HashMap<String, PolicyStanding>, StoreError> {
        let rows = sqlx::query("SELECT host, accepts, issue, seen, refused, refusal FROM policy_states")
            .fetch_all(self.pool())
            .await?;
        rows.iter()
            .map(|row| {
                let standing = PolicyStanding {
                    accepts: row.try_get(1)?,
                    issue: number(row.try_get(2)?)?,
                    seen: number(row.try_get(3)?)?,
                    refused: number(row.try_get(4)?)?,
                    refusal: row.try_get(5)?,
                };
                Ok((row.try_get(0)?, standing))
            })
            .collect()
    }

    /// The labels of all hosts.
    ///
    /// # Errors
    /// The database fails.
    pub async fn all_labels(&self) -> Result<HashMap<String, Labels>, StoreError> {
        let rows = sqlx::query("SELECT host, name, value FROM host_labels").fetch_all(self.pool()).await?;
        let mut labels: HashMap<String, Labels> = HashMap::new();
        for row in &rows {
            labels.entry(row.try_get(0)?).or_default().insert(row.try_get(1)?, row.try_get(2)?);
        }
        Ok(labels)
    }
}
