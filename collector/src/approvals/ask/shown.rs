//! What a message about a request shows, whatever the way it goes: what will happen, not only the text.
//!
//! Every value was chosen by whoever asks. Here nothing is left in them that controls, turns or hides text, and
//! nothing is long; how a chat or mail keeps them from being more than text is the matter of each.

use interlock_recording::json::time;
use interlock_recording::proto::Subject;
use interlock_recording::text::printable;
use interlock_shipping::v1::{ApprovalBy, ApprovalEstimate};
use prost::Message as _;
use serde_json::{Value, json};

use super::cover::{Cover, offered};
use crate::store::WholeApproval;

/// Characters of a value.
const VALUE: usize = 300;
/// Characters of why there is no estimate.
const WHY: usize = 200;
/// Characters of the text.
const TEXT: usize = 1500;

/// A request, to be shown.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    /// Its id here.
    pub(super) id: String,
    /// Its name on the host.
    pub(super) request: String,
    pub(super) state: String,
    /// Its page.
    pub(super) url: String,
    /// One line.
    pub(super) title: String,
    /// What there is to know, each with what it is.
    pub(super) facts: Vec<(&'static str, String)>,
    /// The text, or its beginning.
    pub(super) text: String,
    /// Not all is shown of what would be approved: text, facts, parameters, or the texts that it runs by name.
    pub(super) cut: bool,
    /// The rule's own words.
    pub(super) message: String,
    /// How it stands, when there is more to say than that it waits.
    pub(super) outcome: String,
    /// It waits, and the collector may approve it.
    pub(super) open: bool,
    /// It can be approved once, and here is all that there is to read before.
    pub(super) once: bool,
    /// What more than the one command can be approved, likewise.
    pub(super) covers: Vec<Cover>,
    deadline_ns: i64,
    missing: u32,
}

/// Whether [`tame`] leaves nothing out.
fn fits(text: &str, most: usize) -> bool {
    printable(text).chars().count() <= most
}

/// Whether a message shows all that somebody would approve by it.
pub(crate) fn is_whole(one: &WholeApproval) -> bool {
    !Shown::new(one, "").cut
}

/// A value that is safe to read, and short.
pub(crate) fn tame(text: &str, most: usize) -> String {
    let shown = printable(text);
    if shown.chars().count() <= most {
        return shown.into_owned();
    }
    let mut short: String = shown.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

fn joined<'t>(texts: impl Iterator<Item = &'t String>) -> String {
    let mut all: Vec<&str> = texts.map(String::as_str).collect();
    all.dedup();
    all.join(", ")
}

/// What the server's planner expects, in words. The reason is the host's, and short.
pub(crate) fn estimate(told: &ApprovalEstimate) -> String {
    match told.rows {
        Some(1) => "about 1, as the server expects".to_owned(),
        Some(rows) => format!("about {}, as the server expects", grouped(rows)),
        None if told.why_not.is_empty() => "no estimate".to_owned(),
        None => format!("no estimate, because {}", tame(&told.why_not, WHY)),
    }
}

/// `4 182 000`: digits by threes, so that nobody takes thousands for millions.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// In the asker's own words, of which none can end the quotation.
fn quoted(text: &str) -> String {
    match text {
        "" => String::new(),
        text => format!("“{}”", text.replace(['“', '”'], "\"")),
    }
}

fn by(by: Option<&ApprovalBy>) -> String {
    by.map_or_else(|| "somebody".to_owned(), |by| tame(&by.name, VALUE))
}

impl Shown {
    /// `base` is the address that people use.
    pub(crate) fn new(one: &WholeApproval, base: &str) -> Self {
        let WholeApproval { item, told, standing, .. } = one;
        // Who asks and by what must be readable, or the message is not all of it.
        let subject = Subject::decode(&*told.subject);
        let unknown = subject.is_err();
        let subject = subject.unwrap_or_default();
        let kinds = joined(told.statements.iter().flat_map(|statement| &statement.kinds));
        let mut facts: Vec<(&'static str, String)> = Vec::new();
        let mut cut = unknown;
        let mut put = |name: &'static str, value: String| {
            if !value.is_empty() {
                cut |= !fits(&value, VALUE);
                facts.push((name, tame(&value, VALUE)));
            }
        };
        put("Does", kinds.clone());
        put("Changes", joined(told.statements.iter().flat_map(|statement| &statement.writes)));
        put("Reads", joined(told.statements.iter().flat_map(|statement| &statement.reads)));
        let mut warnings = Vec::new();
        for statement in &told.statements {
            match statement.r#where.as_str() {
                "missing" => warnings.push("it has no WHERE: every row".to_owned()),
                "always_true" => warnings.push("its WHERE is always true: every row".to_owned()),
                _ => {}
            }
            if statement.dynamic {
                warnings.push("it runs text that is not known".to_owned());
            }
            if !statement.unparsed.is_empty() {
                warnings.push(format!("it could not be read: {}", statement.unparsed));
            }
        }
        warnings.dedup();
        if told.redacted {
            warnings.push("some of its values are masked: what they are is shown to nobody".to_owned());
        }
        put("Beware", warnings.join("; "));
        put("Rows", told.estimate.as_ref().map(estimate).unwrap_or_default());
        let who = match subject.login_user.as_str() {
            "" => subject.user.clone(),
            login if login == subject.user => subject.user.clone(),
            login => format!("{} (signed in as {login})", subject.user),
        };
        let who = match &subject.login_claimed {
            Some(claimed) if !claimed.user.is_empty() => {
                format!("{who} (claims a login as {})", claimed.user)
            }
            _ => who,
        };
        if let Some(told) = &told.beforehand {
            let zone = match told.time_zone.as_str() {
                "" => String::new(),
                zone => format!(", in a session with the time zone {zone}"),
            };
            put(
                "Not sent yet",
                format!(
                    "asked for what process {} {} and what it starts may send within {} s of the approval{zone}",
                    told.tree_pid, told.tree_exe, told.usable_seconds
                ),
            );
            put("They say", quoted(&told.reason));
            if !told.program.is_empty() {
                put(
                    "They say it is sent by",
                    format!("{}; what another program sends is held", told.program),
                );
            }
        }
        put("Who", who);
        put("Started", told.started_by.clone());
        put("Program", subject.script.clone().unwrap_or_else(|| subject.exe.clone()));
        let ci = subject.ci.unwrap_or_default();
        let job = [&ci.project, &ci.job, &ci.run].into_iter().filter(|part| !part.is_empty());
        let job: Vec<&str> = job.map(String::as_str).collect();
        let job = if job.is_empty() { subject.unit } else { format!("{}: {}", ci.system, job.join(" / ")) };
        put("Job", job);
        put("Host", item.host_name.clone());
        // From what the host told: lists keep values shorter.
        let server = match told.hosts.as_slice() {
            [] => told.server.clone(),
            hosts => format!("{} ({})", hosts.join(", "), told.server),
        };
        put("Server", server);
        let database = match (told.database.as_str(), told.db_user.as_str()) {
            ("", user) => user.to_owned(),
            (database, "") => database.to_owned(),
            (database, user) => format!("{database} as {user}"),
        };
        put("Database", database);
        put("Transaction", if told.transaction == "none" { String::new() } else { told.transaction.clone() });
        put("Rule", item.rules.clone());
        put("Needs", item.needs.clone());
        let pending = item.state == "pending";
        if pending {
            put("Until", time(item.deadline_ns.unsigned_abs()));
        }
        let text = tame(&told.text, TEXT);
        // Without a text there is nothing to judge by, and what is run by name is not in the text.
        let cut = cut
            || told.text.is_empty()
            || !fits(&told.text, TEXT)
            || !fits(&told.message, VALUE)
            || !told.params.is_empty()
            || told.omitted_params > 0
            // What nobody can read here nobody approves with one click.
            || told.redacted
            || !told.runs.is_empty();
        Self {
            id: item.id.clone(),
            request: tame(&item.request, 32),
            state: item.state.clone(),
            url: format!("{base}/approvals/{}", item.id),
            title: tame(
                &format!(
                    "{} on {} asks for approval{}",
                    item.user,
                    item.host_name,
                    if kinds.is_empty() { String::new() } else { format!(": {kinds}") }
                ),
                140,
            ),
            facts,
            text,
            cut,
            message: tame(&told.message, VALUE),
            outcome: outcome(one),
            open: pending && told.collector == "decide",
            covers: if cut { Vec::new() } else { offered(one) },
            once: !cut && told.scopes.iter().any(|scope| scope == "once"),
            deadline_ns: item.deadline_ns,
            missing: standing.missing,
        }
    }

    /// That whoever makes this request makes too many for each to be told of.
    pub(super) fn more(one: &WholeApproval, base: &str) -> Self {
        let outcome = "More of them are not told here for some minutes. All stand in the inbox. If nobody expects them, \
                       look into what this user or host does.";
        Self {
            state: "more".to_owned(),
            url: format!("{base}/approvals"),
            title: tame(&format!("{} on {} asks again and again", one.item.user, one.item.host_name), 140),
            facts: Vec::new(),
            text: String::new(),
            cut: false,
            message: String::new(),
            outcome: outcome.to_owned(),
            open: false,
            once: false,
            covers: Vec::new(),
            ..Self::new(one, base)
        }
    }

    /// It waits for somebody.
    pub(super) fn pending(&self) -> bool {
        self.state == "pending"
    }

    /// As JSON, for programs.
    pub(super) fn json(&self) -> Value {
        let facts: serde_json::Map<String, Value> = self
            .facts
            .iter()
            .map(|(name, value)| (name.to_lowercase(), Value::from(value.as_str())))
            .collect();
        json!({
            "id": self.id,
            "request": self.request,
            "state": self.state,
            "url": self.url,
            "facts": facts,
            "text": self.text,
            "text_clipped": self.cut,
            "message": self.message,
            "outcome": self.outcome,
            "deadline": time(self.deadline_ns.unsigned_abs()),
            "missing": self.missing,
        })
    }
}

fn outcome(one: &WholeApproval) -> String {
    let standing = &one.standing;
    let because = if standing.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", tame(&standing.reason, VALUE))
    };
    let approved: Vec<String> = standing.votes.iter().map(|vote| by(vote.by.as_ref())).collect();
    let approved = approved.join(", ");
    match one.item.state.as_str() {
        "pending" if approved.is_empty() => String::new(),
        "pending" => format!("Approved by {approved}; {} more needed.", standing.missing),
        "approved" => format!("Approved by {approved}{because}"),
        "denied" => format!("Refused by {}{because}", by(standing.by.as_ref())),
        "broken_glass" => {
            let reviewed = one.item.reviewed_by.as_deref();
            let reviewed = reviewed.map_or_else(
                || "It needs a review.".to_owned(),
                |who| format!("{} has looked into it.", tame(who, VALUE)),
            );
            format!("Went through UNAPPROVED by {}{because}. {reviewed}", by(standing.by.as_ref()))
        }
        "expired" => "Nobody decided in time: it was refused.".to_owned(),
        state => format!("{}{because}", tame(state, VALUE)),
    }
}
