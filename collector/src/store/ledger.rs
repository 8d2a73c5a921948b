//! The ledger: entries, the nodes of the tree over them, and signed checkpoints.

use interlock_recording::chain::Hash;
use interlock_recording::ledger::proto::entry::Body;
use interlock_recording::ledger::{self, LedgerError};
use interlock_recording::merkle::{Frontier, MerkleError, Node, Plan};
use interlock_recording::note::{Checkpoint, Note, NoteError, Signer};
use sqlx::Row as _;

use super::{Dialect, JournalKind, Store, StoreError, Write, hash, now_ns, number};

/// The ledger cannot be read or gone on with.
#[derive(Debug, thiserror::Error)]
pub enum LedgerStoreError {
    /// The database fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An entry cannot be made.
    #[error("the ledger: {0}")]
    Entry(#[from] LedgerError),
    /// Its tree is not whole.
    #[error("the ledger's tree is not whole: {0}")]
    Tree(#[from] MerkleError),
    /// A checkpoint cannot be made.
    #[error("the ledger's checkpoint: {0}")]
    Note(#[from] NoteError),
    /// The tree does not go on from the last checkpoint.
    #[error(
        "the ledger has {size} entries, its last checkpoint is over {signed}: entries were removed, or the \
         database was put back to an earlier one. Nothing is taken until it has been looked into: restore the \
         newest copy of the database"
    )]
    RolledBack {
        /// Entries in the ledger.
        size: u64,
        /// Entries under the last checkpoint.
        signed: u64,
    },
}

impl From<sqlx::Error> for LedgerStoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// An entry as it is stored.
#[derive(Debug, Clone)]
pub struct StoredEntry {
    /// Its number: the index of its leaf.
    pub number: u64,
    /// When it was added.
    pub at_ns: i64,
    /// What kind of entry it is, such as `segment_taken`.
    pub kind: String,
    /// The host that it is about, hexadecimal; empty when it is about none.
    pub host: String,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}

fn kind_of(body: &Body) -> (&'static str, &[u8]) {
    match body {
        Body::LedgerStarted(_) => ("ledger_started", &[]),
        Body::HostEnrolled(body) => ("host_enrolled", &body.host),
        Body::HostRevoked(body) => ("host_revoked", &body.host),
        Body::DisputeSettled(body) => ("dispute_settled", &body.host),
        Body::SegmentTaken(body) => ("segment_taken", &body.host),
        Body::HeadTaken(body) => ("head_taken", &body.host),
        Body::Finding(body) => ("finding", &body.host),
        Body::HoldSet(_) => ("hold_set", &[]),
        Body::HoldReleased(_) => ("hold_released", &[]),
        Body::Tombstone(body) => ("tombstone", &body.host),
        Body::BundleMade(_) => ("bundle_made", &[]),
        Body::PolicyVersionAdded(_) => ("policy_version_added", &[]),
        Body::PolicyAssigned(_) => ("policy_assigned", &[]),
        Body::PolicyOrdered(body) => ("policy_ordered", &body.host),
        Body::HostLabelled(body) => ("host_labelled", &body.host),
        Body::ApprovalGiven(body) => ("approval_given", &body.host),
        Body::GlassReviewed(body) => ("glass_reviewed", &body.host),
    }
}

const SIZE: &str = "SELECT COALESCE(MAX(number) + 1, 0) FROM ledger_entries";

impl Write<'_> {
    /// Adds entries to the ledger and gives the number of the first. Other writers to it wait.
    ///
    /// # Errors
    /// The database fails, or the tree in it is not whole.
    pub async fn append(&mut self, bodies: Vec<Body>) -> Result<u64, LedgerStoreError> {
        self.lock_ledger().await?;
        self.not_moved().await?;
        let size = number(sqlx::query(SIZE).fetch_one(self.on()).await?.try_get(0)?)?;
        let mut peaks = Vec::new();
        for node in Frontier::peaks_of(size) {
            peaks.push(self.node(node).await?.ok_or(MerkleError::NotStored(node))?);
        }
        let mut frontier = Frontier::resume(size, peaks)?;
        for body in bodies {
            let at_ns = now_ns();
            let (kind, host) = kind_of(&body);
            let host = interlock_recording::hex(host);
            let entry = ledger::encode(at_ns.unsigned_abs(), body)?;
            sqlx::query(
                "INSERT INTO ledger_entries (number, at_ns, kind, host, entry) VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(frontier.size() as i64)
            .bind(at_ns)
            .bind(kind)
            .bind(host)
            .bind(entry.bytes)
            .execute(self.on())
            .await?;
            if matches!(kind, "hold_set" | "hold_released") {
                self.journal_number(JournalKind::Hold, frontier.size() as i64).await?;
            }
            for (node, hash) in frontier.append(entry.leaf) {
                sqlx::query("INSERT INTO ledger_nodes (level, number, hash) VALUES ($1, $2, $3)")
                    .bind(i64::from(node.level))
                    .bind(node.index as i64)
                    .bind(hash.to_vec())
                    .execute(self.on())
                    .await?;
            }
        }
        Ok(size)
    }

    /// Puts those who append to the ledger, or sign it, into one order: the row's lock holds until the
    /// transaction ends.
    ///
    /// # Errors
    /// The database fails.
    pub async fn lock_ledger(&mut self) -> Result<(), StoreError> {
        let lock = match self.dialect {
            Dialect::Sqlite => "UPDATE facts SET value = value WHERE name = 'ledger'",
            Dialect::Postgres => "SELECT 1 FROM facts WHERE name = 'ledger' FOR UPDATE",
        };
        sqlx::query(lock).execute(self.on()).await?;
        Ok(())
    }

    /// Whether the ledger has no entries yet.
    ///
    /// # Errors
    /// The database fails.
    pub async fn ledger_is_empty(&mut self) -> Result<bool, StoreError> {
        Ok(number(sqlx::query(SIZE).fetch_one(self.on()).await?.try_get(0)?)? == 0)
    }

    async fn node(&mut self, node: Node) -> Result<Option<Hash>, StoreError> {
        let row = sqlx::query("SELECT hash FROM ledger_nodes WHERE level = $1 AND number = $2")
            .bind(i64::from(node.level))
            .bind(node.index as i64)
            .fetch_optional(self.on())
            .await?;
        row.map(|row| hash(row.try_get(0)?)).transpose()
    }

    /// Signs a checkpoint over the ledger as it stands, unless the last one is. Gives the newest.
    ///
    /// # Errors
    /// The database fails, or the ledger has fewer entries than the last checkpoint is over.
    pub async fn sign_checkpoint(&mut self, signer: &Signer) -> Result<String, LedgerStoreError> {
        self.lock_ledger().await?;
        let size = number(sqlx::query(SIZE).fetch_one(self.on()).await?.try_get(0)?)?;
        let last = sqlx::query("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1")
            .fetch_optional(self.on())
            .await?;
        if let Some(last) = last {
            let signed = number(last.try_get(0)?)?;
            if signed == size {
                return Ok(last.try_get(1)?);
            }
            if signed > size {
                return Err(LedgerStoreError::RolledBack { size, signed });
            }
        }
        self.not_moved().await?;
        let mut peaks = Vec::new();
        for node in Frontier::peaks_of(size) {
            peaks.push(self.node(node).await?.ok_or(MerkleError::NotStored(node))?);
        }
        let root = Frontier::resume(size, peaks)?.root();
        let mut note =
            Checkpoint { origin: signer.public().name().to_owned(), size, root, extensions: Vec::new() }
                .note()?;
        let at_ns = now_ns();
        note.sign(signer, (at_ns / 1_000_000_000).unsigned_abs());
        let note = note.to_string();
        sqlx::query("INSERT INTO checkpoints (size, at_ns, note) VALUES ($1, $2, $3)")
            .bind(size as i64)
            .bind(at_ns)
            .bind(&note)
            .execute(self.on())
            .await?;
        Ok(note)
    }
}

impl Store {
    /// The ledger's number of entries.
    ///
    /// # Errors
    /// The database fails.
    pub async fn ledger_size(&self) -> Result<u64, StoreError> {
        number(sqlx::query(SIZE).fetch_one(self.pool()).await?.try_get(0)?)
    }

    /// The ledger's number of entries, and the root over them.
    ///
    /// # Errors
    /// The database fails, or the tree in it is not whole.
    pub async fn ledger_root(&self) -> Result<(u64, Hash), LedgerStoreError> {
        let size = self.ledger_size().await?;
        let mut peaks = Vec::new();
        for node in Frontier::peaks_of(size) {
            peaks.push(self.ledger_node(node).await?.ok_or(MerkleError::NotStored(node))?);
        }
        Ok((size, Frontier::resume(size, peaks)?.root()))
    }

    /// Entries from `first` on, at most `limit`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn ledger_entries(&self, first: u64, limit: u32) -> Result<Vec<StoredEntry>, StoreError> {
        let rows = sqlx::query(
            "SELECT number, at_ns, kind, host, entry FROM ledger_entries WHERE number >= $1 ORDER BY number LIMIT $2",
        )
        .bind(first as i64)
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(StoredEntry {
                    number: number(row.try_get(0)?)?,
                    at_ns: row.try_get(1)?,
                    kind: row.try_get(2)?,
                    host: row.try_get(3)?,
                    bytes: row.try_get(4)?,
                })
            })
            .collect()
    }

    /// The numbers of a host's entries that are about more than a segment that was taken.
    ///
    /// # Errors
    /// The database fails.
    pub async fn host_entries(&self, host: &str) -> Result<Vec<u64>, StoreError> {
        let rows = sqlx::query(
            "SELECT number FROM ledger_entries WHERE host = $1 AND kind IN ('host_enrolled', 'host_revoked', \
             'finding', 'tombstone', 'dispute_settled') ORDER BY number",
        )
        .bind(host)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(|row| number(row.try_get(0)?)).collect()
    }

    /// The newest checkpoint, or the newest over at most `size` entries.
    ///
    /// # Errors
    /// The database fails.
    pub async fn checkpoint(&self, size: Option<u64>) -> Result<Option<Note>, LedgerStoreError> {
        let row = sqlx::query("SELECT note FROM checkpoints WHERE size <= $1 ORDER BY size DESC LIMIT 1")
            .bind(size.map_or(i64::MAX, |size| size as i64))
            .fetch_optional(self.pool())
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Note::parse(row.try_get::<String, _>(0)?.as_bytes())?))
    }

    /// The proof that `plan` stands for.
    ///
    /// # Errors
    /// The database fails, or the tree in it is not whole.
    pub async fn prove(&self, plan: &Plan) -> Result<Vec<Hash>, LedgerStoreError> {
        let mut hashes = std::collections::HashMap::new();
        for &node in plan.nodes() {
            if let Some(hash) = self.ledger_node(node).await? {
                hashes.insert(node, hash);
            }
        }
        Ok(plan.finish(|node| hashes.get(&node).copied())?)
    }
}

impl Store {
    /// Every checkpoint: its number of entries, and the note.
    ///
    /// # Errors
    /// The database fails.
    pub async fn checkpoints(&self) -> Result<Vec<(u64, String)>, StoreError> {
        let rows =
            sqlx::query("SELECT size, note FROM checkpoints ORDER BY size").fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok((number(row.try_get(0)?)?, row.try_get(1)?))).collect()
    }

    /// The hash of a node of the ledger's tree.
    ///
    /// # Errors
    /// The database fails.
    pub async fn ledger_node(&self, node: Node) -> Result<Option<Hash>, StoreError> {
        let row = sqlx::query("SELECT hash FROM ledger_nodes WHERE level = $1 AND number = $2")
            .bind(i64::from(node.level))
            .bind(node.index as i64)
            .fetch_optional(self.pool())
            .await?;
        row.map(|row| hash(row.try_get(0)?)).transpose()
    }
}
