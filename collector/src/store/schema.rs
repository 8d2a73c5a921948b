//! The tables, for SQLite and PostgreSQL alike.
//!
//! Times are nanoseconds since the Unix epoch. `host` is a host's id: SHA-256 of its public key,
//! hexadecimal. `event` is an event's index in its host's log. A statement below is run as it stands but
//! for `{blob}` and `{serial}`, which the two databases call by different names.

/// One step of the schema. A step that has been released is never altered; a new one is added.
pub(super) const STEPS: &[&str] = &[
    FIRST,
    SHARED,
    super::journal::TABLES,
    super::policies::TABLES,
    SIGN_IN,
    ORDER,
    APPROVALS,
    super::asks::TABLES,
    IDENTITY,
    super::bound::TABLES,
    super::held::TABLES,
    super::addresses::TABLES,
    super::identities::TABLES,
];

/// Full-text search, which the two databases do in different ways.
pub(super) const SQLITE_SEARCH: &str = "
CREATE VIRTUAL TABLE IF NOT EXISTS command_search USING fts5(
    text, content='commands', content_rowid='id', tokenize=\"unicode61 remove_diacritics 2 tokenchars '_'\");
CREATE TRIGGER IF NOT EXISTS command_search_added AFTER INSERT ON commands BEGIN
    INSERT INTO command_search(rowid, text) VALUES (new.id, new.search);
END;
CREATE TRIGGER IF NOT EXISTS command_search_removed AFTER DELETE ON commands BEGIN
    INSERT INTO command_search(command_search, rowid, text) VALUES ('delete', old.id, old.search);
END;
INSERT INTO command_search(command_search, rank) VALUES ('secure-delete', 1);
";

/// Requests for approval, what was decided on them here, and the groups of accounts.
const APPROVALS: &str = "
-- Commands that wait for approval, or have. Texts are masked.
CREATE TABLE approvals (
    number {serial},
    id TEXT NOT NULL UNIQUE,
    host TEXT NOT NULL,
    -- Its name on the host.
    request TEXT NOT NULL,
    digest {blob} NOT NULL,
    likeness TEXT NOT NULL,
    session TEXT NOT NULL,
    -- By the host's clock; the others are by this one.
    asked_ns BIGINT NOT NULL,
    received_ns BIGINT NOT NULL,
    deadline_ns BIGINT NOT NULL,
    -- pending, approved, broken_glass, denied, expired or withdrawn
    state TEXT NOT NULL,
    ended_ns BIGINT,
    user_name TEXT NOT NULL,
    login_user TEXT NOT NULL,
    exe TEXT NOT NULL,
    destination TEXT NOT NULL,
    database_name TEXT NOT NULL,
    db_user TEXT NOT NULL,
    rules TEXT NOT NULL,
    needs TEXT NOT NULL,
    -- Its beginning.
    text TEXT NOT NULL,
    -- What the host lets a collector do: show or decide.
    collector TEXT NOT NULL,
    -- All that the host told (interlock.shipping.v1.ApprovalRequest, ApprovalStanding).
    told {blob} NOT NULL,
    standing {blob} NOT NULL,
    -- When anything of it last changed.
    changed_ns BIGINT NOT NULL,
    -- Of one that went through unapproved: who has looked into it.
    reviewed_by TEXT,
    reviewed_ns BIGINT,
    review TEXT
);
CREATE INDEX approvals_of_host ON approvals (host);
CREATE INDEX approvals_open ON approvals (host) WHERE state = 'pending';
CREATE INDEX approvals_pending ON approvals (deadline_ns) WHERE state = 'pending';
CREATE INDEX approvals_unreviewed ON approvals (number) WHERE state = 'broken_glass' AND reviewed_ns IS NULL;
CREATE INDEX approvals_alike ON approvals (likeness, number);
CREATE INDEX approvals_by_name ON approvals (request);
CREATE INDEX approvals_by_state ON approvals (state, number);
CREATE INDEX approvals_by_change ON approvals (changed_ns);
CREATE INDEX approvals_by_age ON approvals (received_ns);

-- The groups that may decide on each.
CREATE TABLE approval_groups (
    group_name TEXT NOT NULL,
    approval TEXT NOT NULL,
    PRIMARY KEY (group_name, approval)
);
CREATE INDEX approval_groups_of ON approval_groups (approval);

-- What was decided here.
CREATE TABLE approval_votes (
    vote TEXT PRIMARY KEY,
    approval TEXT NOT NULL,
    host TEXT NOT NULL,
    account TEXT NOT NULL,
    -- 1: approved, 0: refused.
    approve BIGINT NOT NULL,
    scope TEXT NOT NULL,
    seconds BIGINT NOT NULL,
    reason TEXT NOT NULL,
    -- By which way it came here, such as web, api.
    via TEXT NOT NULL,
    given_ns BIGINT NOT NULL,
    -- interlock.shipping.v1.ApprovalVote.
    told {blob} NOT NULL,
    -- given: the host has not answered; counted, refused.
    state TEXT NOT NULL,
    why TEXT NOT NULL,
    missing BIGINT NOT NULL,
    answered_ns BIGINT
);
CREATE INDEX approval_votes_of ON approval_votes (approval, given_ns);
CREATE INDEX approval_votes_waiting ON approval_votes (host, given_ns) WHERE state = 'given';
-- Nobody says the same twice.
CREATE UNIQUE INDEX approval_votes_once ON approval_votes (approval, account, approve) WHERE state <> 'refused';

-- The groups of accounts: of the collector's own as administrators set them, of providers' as their sign-ins said.
CREATE TABLE account_groups (
    user_name TEXT NOT NULL,
    group_name TEXT NOT NULL,
    PRIMARY KEY (user_name, group_name)
);
CREATE INDEX account_groups_of ON account_groups (group_name);

-- Who the owner of an account is elsewhere: by this nobody decides on their own requests.
CREATE TABLE account_people (
    user_name TEXT PRIMARY KEY,
    email TEXT NOT NULL,
    -- Login names on hosts, with blanks between.
    logins TEXT NOT NULL
);

-- When whoever signed in has shown who they are; 0: not known.
ALTER TABLE sign_ins ADD COLUMN authenticated_ns BIGINT NOT NULL DEFAULT 0;
";

/// What is needed to judge the order of events, and to index large segments in parts.
const ORDER: &str = "
-- The number of the event that is due; negative when it is not known, or none is.
ALTER TABLE sessions ADD COLUMN next_sequence BIGINT NOT NULL DEFAULT -1;
-- The host's clocks at its last event (see store/clock.rs).
ALTER TABLE agents ADD COLUMN clock_monotonic_ns BIGINT;
ALTER TABLE agents ADD COLUMN clock_ahead_of_boot_ns BIGINT;
ALTER TABLE agents ADD COLUMN clock_before_ns BIGINT;
ALTER TABLE agents ADD COLUMN clock_set_event BIGINT;
-- How far the segment that is due is indexed beyond the live records, and the chain's hash there.
ALTER TABLE agents ADD COLUMN indexed_index BIGINT NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN indexed_hash {blob};
CREATE INDEX agents_inactive ON agents (host) WHERE state <> 'active';
";

/// Who is proven to stand behind sessions.
const IDENTITY: &str = "
-- The verified person and workload when the session began: name, subject and issuer; empty when there are none.
ALTER TABLE sessions ADD COLUMN identity TEXT NOT NULL DEFAULT '';
";

/// Accounts from identity providers, and tokens that may do a part of what their role may.
const SIGN_IN: &str = "
-- The provider that an account comes from; empty for one of the collector's own.
ALTER TABLE users ADD COLUMN provider TEXT NOT NULL DEFAULT '';
-- Until when its password counts although passwords are turned off.
ALTER TABLE users ADD COLUMN recovery_until_ns BIGINT NOT NULL DEFAULT 0;
-- What a token is for, with blanks between; * for all that its role may.
ALTER TABLE api_tokens ADD COLUMN scopes TEXT NOT NULL DEFAULT '*';

-- Who is who among those whom providers know.
CREATE TABLE identities (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_name TEXT NOT NULL UNIQUE,
    PRIMARY KEY (issuer, subject)
);

-- What counts once, such as an assertion, until it would not count anyway.
CREATE TABLE used_once (
    key TEXT PRIMARY KEY,
    expires_ns BIGINT NOT NULL
);
CREATE INDEX used_once_by_expiry ON used_once (expires_ns);

-- What a provider has proven, until the browser that began comes to fetch it.
CREATE TABLE proven (
    handle_sha256 TEXT PRIMARY KEY,
    proven TEXT NOT NULL,
    expires_ns BIGINT NOT NULL
);
CREATE INDEX proven_by_expiry ON proven (expires_ns);
";

const FIRST: &str = "
-- Things of which there is one each: the ledger's key and the like stand in files, not here.
CREATE TABLE facts (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE enrolment_tokens (
    -- SHA-256 of the secret, hexadecimal.
    secret_sha256 TEXT PRIMARY KEY,
    label TEXT NOT NULL,
    created_ns BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    expires_ns BIGINT NOT NULL,
    uses_left BIGINT NOT NULL
);

CREATE TABLE agents (
    host TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    public_key {blob} NOT NULL,
    -- active, revoked, closed (its recording has ended for ever)
    state TEXT NOT NULL,
    enrolled_ns BIGINT NOT NULL,
    -- When it was last revoked: tokens from before do not bring it back.
    revoked_ns BIGINT,
    -- How many events the last of the ledger's entries about its HEAD covers.
    head_entry_events BIGINT NOT NULL DEFAULT 0,
    -- The token (its hash) that it was last enrolled with.
    token_sha256 TEXT NOT NULL,
    -- Serial numbers of the certificates that count: the newest, and the one before until the newest has
    -- been used.
    serial TEXT NOT NULL,
    former_serial TEXT,
    certificate_expires_ns BIGINT NOT NULL,
    -- Where the chain of sealed segments stands.
    next_segment BIGINT NOT NULL,
    next_index BIGINT NOT NULL,
    chain_hash {blob} NOT NULL,
    header_sha256 {blob} NOT NULL,
    -- Where the live records stand: equal to or beyond the sealed ones.
    live_index BIGINT NOT NULL,
    live_hash {blob} NOT NULL,
    -- The newest HEAD of the host.
    head {blob},
    -- Why nothing more is taken from it: its recording contradicts what was taken before.
    dispute TEXT,
    -- As it last said.
    last_seen_ns BIGINT NOT NULL,
    version TEXT NOT NULL,
    kernel TEXT NOT NULL,
    policy_hash TEXT NOT NULL,
    clock_ahead_ns BIGINT NOT NULL,
    spool_bytes BIGINT NOT NULL,
    spool_limit BIGINT NOT NULL,
    flows BIGINT NOT NULL,
    spool_full BIGINT NOT NULL
);

CREATE TABLE segments (
    host TEXT NOT NULL,
    number BIGINT NOT NULL,
    first_index BIGINT NOT NULL,
    events BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    file_sha256 {blob} NOT NULL,
    final_hash {blob} NOT NULL,
    first_ns BIGINT NOT NULL,
    last_ns BIGINT NOT NULL,
    received_ns BIGINT NOT NULL,
    -- Its entry in the ledger.
    entry BIGINT NOT NULL,
    -- kept, or deleted (a tombstone stands in the ledger).
    state TEXT NOT NULL,
    PRIMARY KEY (host, number)
);

-- Live records of a segment that is not sealed yet; removed when it has been taken sealed.
CREATE TABLE live_records (
    host TEXT NOT NULL,
    first_index BIGINT NOT NULL,
    segment BIGINT NOT NULL,
    events BIGINT NOT NULL,
    -- The segment's header, with its first records: header, records and the newest HEAD make the
    -- open segment that the agent would have had, should the host be lost.
    header {blob},
    records {blob} NOT NULL,
    -- The chain's hash after them: the sealed segment must pass through it.
    end_hash {blob} NOT NULL,
    received_ns BIGINT NOT NULL,
    PRIMARY KEY (host, first_index)
);

CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    started_ns BIGINT NOT NULL,
    ended_ns BIGINT,
    end_reason TEXT,
    first_segment BIGINT NOT NULL,
    last_segment BIGINT NOT NULL,
    first_event BIGINT NOT NULL,
    last_event BIGINT NOT NULL,
    pid BIGINT NOT NULL,
    user_name TEXT NOT NULL,
    login_user TEXT NOT NULL,
    exe TEXT NOT NULL,
    command_line TEXT NOT NULL,
    unit TEXT NOT NULL,
    destination TEXT NOT NULL,
    host_names TEXT NOT NULL,
    protocol TEXT NOT NULL,
    db_user TEXT NOT NULL,
    database_name TEXT NOT NULL,
    policy_hash TEXT NOT NULL,
    commands BIGINT NOT NULL,
    denied BIGINT NOT NULL,
    held BIGINT NOT NULL DEFAULT 0,
    -- Commands that a rule in observe mode would have had refused or held.
    observed BIGINT NOT NULL,
    masked_values BIGINT NOT NULL,
    rows_returned BIGINT NOT NULL
);
-- A session's id begins with the time it began (UUID version 7), so lists are ordered, cut by time and
-- paged by the id alone, and each filter's index ends with it.
CREATE INDEX sessions_by_host ON sessions (host, id);
CREATE INDEX sessions_by_user ON sessions (user_name, id);
CREATE INDEX sessions_by_db_user ON sessions (db_user, id);
CREATE INDEX sessions_by_database ON sessions (database_name, id);
CREATE INDEX sessions_by_exe ON sessions (exe, id);
CREATE INDEX sessions_by_destination ON sessions (destination, id);
CREATE INDEX sessions_by_names ON sessions (host_names, id);
CREATE INDEX sessions_with_denials ON sessions (id) WHERE denied > 0;
CREATE INDEX sessions_with_holds ON sessions (id) WHERE held > 0;
CREATE INDEX sessions_open ON sessions (id) WHERE ended_ns IS NULL;
CREATE INDEX sessions_open_by_host ON sessions (host) WHERE ended_ns IS NULL;

CREATE TABLE commands (
    id {serial},
    host TEXT NOT NULL,
    event BIGINT NOT NULL,
    segment BIGINT NOT NULL,
    session TEXT NOT NULL,
    -- Its number within the session, and the one that it goes on with (0: none).
    number BIGINT NOT NULL,
    goes_on BIGINT NOT NULL,
    -- query, prepare, bind, execute …
    step TEXT NOT NULL,
    at_ns BIGINT NOT NULL,
    kind TEXT NOT NULL,
    verdict TEXT NOT NULL,
    -- The verdict that a rule in observe mode would have given; empty when none matched.
    observed TEXT NOT NULL,
    -- The rule that decided; when none did, the first one in observe mode that matched.
    rule TEXT NOT NULL,
    text TEXT NOT NULL,
    -- What full-text search reads: the text, objects and rules.
    search TEXT NOT NULL,
    -- How it ended; empty while it has not.
    status TEXT NOT NULL,
    duration_ns BIGINT NOT NULL,
    rows_returned BIGINT NOT NULL,
    sqlstate TEXT NOT NULL
);
CREATE UNIQUE INDEX commands_by_event ON commands (host, event);
CREATE INDEX commands_by_session ON commands (session, number);
CREATE INDEX commands_by_time ON commands (at_ns);
CREATE INDEX commands_by_rule ON commands (rule, at_ns) WHERE rule <> '';
CREATE INDEX commands_refused ON commands (verdict, at_ns) WHERE verdict <> 'allow';
CREATE INDEX commands_observed ON commands (observed, at_ns) WHERE observed <> '';
-- Which sessions a rule or a verdict stands in, without visiting the commands.
CREATE INDEX sessions_of_rules ON commands (rule, session) WHERE rule <> '';
CREATE INDEX sessions_of_rules_by_verdict ON commands (rule, verdict, session) WHERE rule <> '';
CREATE INDEX sessions_refused ON commands (verdict, session) WHERE verdict <> 'allow';
CREATE INDEX sessions_observed ON commands (observed, session) WHERE observed <> '';

-- How often each rule decided.
CREATE TABLE rule_counts (
    host TEXT NOT NULL,
    rule TEXT NOT NULL,
    verdict TEXT NOT NULL,
    observed BIGINT NOT NULL,
    count BIGINT NOT NULL,
    last_ns BIGINT NOT NULL,
    PRIMARY KEY (host, rule, verdict, observed)
);

-- Events of hosts, and connections that no session is about.
CREATE TABLE host_events (
    host TEXT NOT NULL,
    event BIGINT NOT NULL,
    at_ns BIGINT NOT NULL,
    -- The event's name in the recording format, such as policy_loaded or egress.
    kind TEXT NOT NULL,
    -- The event as JSON.
    detail TEXT NOT NULL,
    PRIMARY KEY (host, event)
);
CREATE INDEX host_events_by_time ON host_events (at_ns);

-- The ledger: entries, the nodes of its Merkle tree, signed checkpoints.
CREATE TABLE ledger_entries (
    number BIGINT PRIMARY KEY,
    at_ns BIGINT NOT NULL,
    kind TEXT NOT NULL,
    host TEXT NOT NULL,
    entry {blob} NOT NULL
);
CREATE INDEX ledger_entries_by_host ON ledger_entries (host, number);
CREATE TABLE ledger_nodes (
    level BIGINT NOT NULL,
    number BIGINT NOT NULL,
    hash {blob} NOT NULL,
    PRIMARY KEY (level, number)
);
CREATE TABLE checkpoints (
    size BIGINT PRIMARY KEY,
    at_ns BIGINT NOT NULL,
    note TEXT NOT NULL
);

-- What was found wrong with a recording or with the collector itself.
CREATE TABLE findings (
    id {serial},
    at_ns BIGINT NOT NULL,
    host TEXT NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL,
    entry BIGINT,
    acknowledged_by TEXT,
    acknowledged_ns BIGINT
);

CREATE TABLE users (
    name TEXT PRIMARY KEY,
    password_hash TEXT NOT NULL,
    -- admin, reviewer, auditor or viewer
    role TEXT NOT NULL,
    -- active, disabled
    state TEXT NOT NULL,
    totp_secret TEXT,
    -- One that was shown but not confirmed by a code yet.
    totp_pending TEXT,
    -- The last time step whose code was used, so that none is used twice.
    totp_step BIGINT NOT NULL,
    created_ns BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    last_sign_in_ns BIGINT
);

-- Signed-in browsers. The token itself is known to the browser only.
CREATE TABLE sign_ins (
    token_sha256 TEXT PRIMARY KEY,
    user_name TEXT NOT NULL,
    created_ns BIGINT NOT NULL,
    expires_ns BIGINT NOT NULL,
    last_used_ns BIGINT NOT NULL,
    address TEXT NOT NULL,
    user_agent TEXT NOT NULL
);
CREATE INDEX sign_ins_by_user ON sign_ins (user_name);

-- Failed sign-ins in a row, by account and by address (as hashes), so that guessing is slow.
CREATE TABLE attempts (
    key TEXT PRIMARY KEY,
    count BIGINT NOT NULL,
    since_ns BIGINT NOT NULL
);

CREATE TABLE api_tokens (
    token_sha256 TEXT PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    label TEXT NOT NULL,
    owner TEXT NOT NULL,
    role TEXT NOT NULL,
    created_ns BIGINT NOT NULL,
    expires_ns BIGINT NOT NULL,
    last_used_ns BIGINT
);

-- Everything that is done in the collector.
CREATE TABLE audit (
    id {serial},
    at_ns BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL,
    address TEXT NOT NULL
);
CREATE INDEX audit_by_time ON audit (at_ns);
CREATE INDEX audit_by_actor ON audit (actor, id);
CREATE INDEX audit_by_action ON audit (action, id);

CREATE TABLE legal_holds (
    id {serial},
    label TEXT NOT NULL,
    -- Empty for every host.
    host TEXT NOT NULL,
    from_ns BIGINT NOT NULL,
    until_ns BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    created_ns BIGINT NOT NULL,
    released_by TEXT,
    released_ns BIGINT
);
";

/// What collectors that share a database tell one another.
const SHARED: &str = "
-- Who does what only one of them is to do, and until when by the database's clock.
CREATE TABLE leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until_ns BIGINT NOT NULL
);

-- What is to be told an agent by the collector that it is connected to.
CREATE TABLE orders (
    id {serial},
    host TEXT NOT NULL,
    session {blob} NOT NULL,
    reason TEXT NOT NULL,
    created_ns BIGINT NOT NULL,
    told_ns BIGINT
);
";
