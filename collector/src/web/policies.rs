//! Policies that are kept centrally: pages and API.

use askama::Template;
use axum::extract::{Path, State as Use};
use axum::http::StatusCode;
use axum::response::Response;
use interlock_shipping::v1::{PolicyFile, PolicyFiles};
use serde::Deserialize;
use serde_json::{Value, json};

use super::State;
use super::api::{Answer, answer, done as nothing, list as whole, ok};
use super::filters;
use super::guard::Actor;
use super::page::{Layout, Notice, done, show};
use super::params::{Bulky, Fields, Json, Params};
use super::problem::Problem;
use super::role::ADMIN;
use crate::administer::By;
use crate::policies::{self, Line, Mode, PolicyError, diff};
use crate::store::{Assignment, IssuedOrder, Labels, PolicyStanding, PolicyVersion, VersionName};

impl From<PolicyError> for Problem {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::NotFound(what) => Self::not_found(what),
            PolicyError::Wrong(what) => Self::invalid(format!("{what}.")),
            PolicyError::Label(error) => Self::invalid(format!("{error}.")),
            error => Self::internal(error),
        }
    }
}

/// How a host stands with what it is ordered, in one word.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) labels: Labels,
    pub(super) order: Option<IssuedOrder>,
    pub(super) said: PolicyStanding,
}

impl Standing {
    /// What its labels are.
    pub(super) fn labelled(&self) -> String {
        policies::written(&self.labels)
    }

    /// The host goes by its newest order.
    fn is_obeyed(&self) -> bool {
        self.order.as_ref().is_none_or(|order| order.issue == self.said.issue)
    }

    pub(super) fn word(&self) -> &'static str {
        match (&self.order, self.said.accepts.as_str()) {
            (None, _) => "its own",
            (Some(_), "off" | "") => "not accepted",
            _ if self.is_obeyed() && self.said.accepts == "observe" => "observed",
            _ if self.is_obeyed() => "in force",
            // Something else may have been refused meanwhile, such as an order that was played back.
            (Some(order), _) if order.issue == self.said.refused => "refused",
            _ => "not in force",
        }
    }

    pub(super) fn tone(&self) -> &'static str {
        match self.word() {
            "in force" => "good",
            "its own" => "plain",
            "refused" => "bad",
            _ => "wait",
        }
    }

    /// What was ordered.
    pub(super) fn ordered(&self) -> String {
        let Some(order) = &self.order else { return "nothing".to_owned() };
        let part = |name: &str, word: &str| (!name.is_empty()).then(|| format!("{name} {word}"));
        let parts = [part(&order.enforce, "enforced"), part(&order.observe, "staged")];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
    }

    /// One host's.
    pub(super) async fn of(state: &State, host: &str) -> Result<Self, Problem> {
        Ok(Self {
            labels: state.store.labels(host).await?,
            order: state.store.policy_order(host).await?,
            said: state.store.policy_standings().await?.remove(host).unwrap_or_default(),
        })
    }

    /// Those of these hosts, in their order.
    pub(super) async fn all<'h>(
        state: &State,
        hosts: impl Iterator<Item = &'h str>,
    ) -> Result<Vec<Self>, Problem> {
        let mut labels = state.store.all_labels().await?;
        let mut orders = state.store.policy_orders().await?;
        let mut said = state.store.policy_standings().await?;
        let standing = |host: &str| Self {
            labels: labels.remove(host).unwrap_or_default(),
            order: orders.remove(host),
            said: said.remove(host).unwrap_or_default(),
        };
        Ok(hosts.map(standing).collect())
    }
}

/// Reads `SET@VERSION`.
fn version_name(text: &str) -> Result<VersionName, Problem> {
    let parts = text.split_once('@').and_then(|(set, version)| Some((set, version.parse().ok()?)));
    let (set, version) =
        parts.ok_or_else(|| Problem::invalid("Name a version as SET@VERSION, such as customers@3."))?;
    Ok(VersionName { set: set.to_owned(), version })
}

/// A change of what is assigned.
#[derive(Debug, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Change {
    /// Hosts of these labels go by a version.
    Assign { selector: String, version: String, mode: Mode, priority: Option<i64>, reason: String },
    /// What is staged is enforced.
    Promote {
        selector: String,
        #[serde(default)]
        in_spite: bool,
        reason: String,
    },
    /// What was enforced before is enforced again.
    RollBack { selector: String, to: Option<u64>, reason: String },
    /// It is removed.
    Remove { selector: String, mode: Option<Mode>, reason: String },
}

async fn change(state: &State, actor: &Actor, change: Change) -> Result<Assignment, Problem> {
    let (who, intake) = (actor.trail(), &state.intake);
    let by = By { who: &who, address: &actor.address };
    Ok(match change {
        Change::Assign { selector, version, mode, priority, reason } => {
            let priority = match priority {
                Some(priority) if !(-1000..=1000).contains(&priority) => {
                    return Err(Problem::invalid("A priority is between -1000 and 1000."));
                }
                priority => priority,
            };
            let name = version_name(&version)?;
            policies::assign(intake, by, &selector, name, mode, priority, &reason).await?
        }
        Change::Promote { selector, in_spite, reason } => {
            policies::promote(intake, by, &selector, in_spite, &reason).await?
        }
        Change::RollBack { selector, to, reason } => {
            policies::roll_back(intake, by, &selector, to, &reason).await?
        }
        Change::Remove { selector, mode, reason } => {
            policies::remove(intake, by, &selector, mode, &reason).await?
        }
    })
}

// === The API ===

/// `GET /api/v1/policy-sets`
pub(super) async fn sets(Use(state): Use<State>) -> Answer {
    whole(&state.store.policy_versions().await?)
}

async fn version_of(
    state: &State,
    set: &str,
    version: &str,
) -> Result<(PolicyVersion, PolicyFiles), Problem> {
    let missing = || Problem::not_found("version of a policy set");
    let version: u64 = version.parse().map_err(|_| missing())?;
    state.store.policy_version(set, version).await?.ok_or_else(missing)
}

fn files_json(files: &PolicyFiles) -> Value {
    files.files.iter().map(|file| json!({"name": file.name, "text": file.text})).collect()
}

/// `GET /api/v1/policy-sets/{name}/versions/{id}`
pub(super) async fn version(Use(state): Use<State>, Path((set, version)): Path<(String, String)>) -> Answer {
    let (version, files) = version_of(&state, &set, &version).await?;
    ok(&json!({"version": version, "files": files_json(&files)}))
}

/// A version to be added.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewVersion {
    reason: String,
    files: Vec<NewFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewFile {
    name: String,
    text: String,
}

/// `POST /api/v1/policy-sets/{name}/versions`
pub(super) async fn add_version(
    Use(state): Use<State>,
    actor: Actor,
    Path(set): Path<String>,
    Bulky(new): Bulky<NewVersion>,
) -> Answer {
    let files = new.files.into_iter().map(|file| PolicyFile { name: file.name, text: file.text });
    let files = PolicyFiles { files: files.collect() };
    let (version, is_new) = push(&state, &actor, &set, files, &new.reason).await?;
    answer(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &version)
}

async fn push(
    state: &State,
    actor: &Actor,
    set: &str,
    files: PolicyFiles,
    reason: &str,
) -> Result<(PolicyVersion, bool), Problem> {
    let who = actor.trail();
    Ok(policies::push(&state.intake, By { who: &who, address: &actor.address }, set, files, reason).await?)
}

/// `GET /api/v1/policy-assignments`
pub(super) async fn assignments(Use(state): Use<State>) -> Answer {
    whole(&state.store.assignments().await?)
}

/// `POST /api/v1/policy-assignments`
pub(super) async fn change_assignment(
    Use(state): Use<State>,
    actor: Actor,
    Json(wanted): Json<Change>,
) -> Answer {
    ok(&change(&state, &actor, wanted).await?)
}

/// `GET /api/v1/agents/{host}/policies`
pub(super) async fn of_agent(Use(state): Use<State>, Path(host): Path<String>) -> Answer {
    state.store.agent(&host).await?.ok_or_else(|| Problem::not_found("host"))?;
    let standing = Standing::of(&state, &host).await?;
    ok(
        &json!({"labels": standing.labels, "order": standing.order, "stands": standing.said, "is": standing.word()}),
    )
}

/// Labels in the place of those that a host has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewLabels {
    labels: String,
    reason: String,
}

/// `POST /api/v1/agents/{host}/labels`
pub(super) async fn set_labels(
    Use(state): Use<State>,
    actor: Actor,
    Path(host): Path<String>,
    Json(new): Json<NewLabels>,
) -> Answer {
    label(&state, &actor, &host, &new.labels, &new.reason).await?;
    nothing()
}

async fn label(state: &State, actor: &Actor, host: &str, labels: &str, reason: &str) -> Result<(), Problem> {
    let labels = policies::parse_given(labels).map_err(PolicyError::from)?;
    let who = actor.trail();
    let by = By { who: &who, address: &actor.address };
    Ok(policies::set_labels(&state.intake, by, host, &labels, reason).await?)
}

/// An order is to be issued anew.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reissue {
    after: Option<u64>,
    reason: String,
}

/// `POST /api/v1/agents/{host}/policies/reissue`
pub(super) async fn reissue(
    Use(state): Use<State>,
    actor: Actor,
    Path(host): Path<String>,
    Json(wanted): Json<Reissue>,
) -> Answer {
    state.store.agent(&host).await?.ok_or_else(|| Problem::not_found("host"))?;
    let who = actor.trail();
    let by = By { who: &who, address: &actor.address };
    ok(&policies::reissue(&state.intake, by, &host, wanted.after, &wanted.reason).await?)
}

// === Pages ===

#[derive(Template)]
#[template(path = "policies.html")]
struct PoliciesPage {
    page: Layout,
    versions: Vec<PolicyVersion>,
    assignments: Vec<Assignment>,
    /// Id, name, and how it stands.
    hosts: Vec<(String, String, Standing)>,
    administers: bool,
}

async fn overview(state: &State, actor: Actor, notice: Option<Notice>) -> Result<Response, Problem> {
    let agents = state.store.agents().await?;
    let standings = Standing::all(state, agents.iter().map(|agent| agent.host.as_str())).await?;
    let hosts = agents.into_iter().zip(standings).map(|(agent, stands)| (agent.host, agent.name, stands));
    let administers = actor.may(ADMIN);
    let (versions, assignments) = (state.store.policy_versions().await?, state.store.assignments().await?);
    let page = Layout::new(state, actor, "policies", "Policies", notice).await?;
    let hosts = hosts.collect();
    show(page.status(), &PoliciesPage { page, versions, assignments, hosts, administers })
}

/// `GET /policies`
pub(super) async fn page(Use(state): Use<State>, actor: Actor, params: Params) -> Result<Response, Problem> {
    params.only(&[&["done"]])?;
    overview(&state, actor, Notice::done(params.get("done"))).await
}

/// `POST /policies`: a version that differs from the newest in one file.
pub(super) async fn add(
    Use(state): Use<State>,
    actor: Actor,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let set = fields.get("set").unwrap_or_default().to_owned();
    let added = async {
        let newest = state.store.policy_versions().await?.into_iter().find(|version| version.set == set);
        let mut files = match &newest {
            Some(newest) => version_of(&state, &set, &newest.version.to_string()).await?.1,
            None => PolicyFiles::default(),
        };
        let name = fields.get("file").unwrap_or_default().to_owned();
        // Browsers end lines in two characters.
        let text = fields.exact("text").replace("\r\n", "\n");
        files.files.retain(|file| file.name != name);
        if !text.trim().is_empty() {
            files.files.push(PolicyFile { name, text });
        }
        push(&state, &actor, &set, files, fields.exact("reason")).await
    };
    match added.await {
        Ok((version, _)) => {
            Ok(done(&format!("/policies/{}/{}", version.set, version.version), "policy-added"))
        }
        Err(problem) if problem.is_theirs() => {
            overview(&state, actor.clone(), Some(Notice::bad(&problem))).await
        }
        Err(problem) => Err(problem),
    }
}

/// `POST /policies/assignments`
pub(super) async fn assign(
    Use(state): Use<State>,
    actor: Actor,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    let wanted = async {
        let (selector, reason) = (fields.exact("selector").to_owned(), fields.exact("reason").to_owned());
        let mode = match fields.get("mode") {
            None => None,
            Some("observe") => Some(Mode::Observe),
            Some("enforce") => Some(Mode::Enforce),
            Some(_) => return Err(Problem::invalid("A mode is observe or enforce.")),
        };
        let wanted = match fields.get("change") {
            Some("assign") => Change::Assign {
                selector,
                version: fields.get("version").unwrap_or_default().to_owned(),
                mode: mode.unwrap_or(Mode::Observe),
                priority: fields.number("priority")?,
                reason,
            },
            Some("promote") => Change::Promote { selector, in_spite: false, reason },
            Some("roll_back") => Change::RollBack { selector, to: None, reason },
            Some("remove") => Change::Remove { selector, mode, reason },
            _ => return Err(Problem::invalid("Say what is to be changed.")),
        };
        change(&state, &actor, wanted).await
    };
    match wanted.await {
        Ok(_) => Ok(done("/policies", "policy-assigned")),
        Err(problem) if problem.is_theirs() => {
            overview(&state, actor.clone(), Some(Notice::bad(&problem))).await
        }
        Err(problem) => Err(problem),
    }
}

/// `POST /hosts/{host}/labels`
pub(super) async fn label_host(
    Use(state): Use<State>,
    actor: Actor,
    Path(host): Path<String>,
    Fields(fields): Fields,
) -> Result<Response, Problem> {
    match label(&state, &actor, &host, fields.exact("labels"), fields.exact("reason")).await {
        Ok(()) => Ok(done("/policies", "host-labelled")),
        Err(problem) if problem.is_theirs() && problem.status != StatusCode::NOT_FOUND => {
            overview(&state, actor, Some(Notice::bad(&problem))).await
        }
        Err(problem) => Err(problem),
    }
}

/// A file, and what it differs in from the version before.
struct ShownFile {
    name: String,
    text: String,
    /// Mark, class and text of each line; empty when nothing differs.
    lines: Vec<(char, &'static str, String)>,
}

#[derive(Template)]
#[template(path = "policy_version.html")]
struct VersionPage {
    page: Layout,
    version: PolicyVersion,
    files: Vec<ShownFile>,
    before: Option<u64>,
}

/// `GET /policies/{name}/{id}`
pub(super) async fn version_page(
    Use(state): Use<State>,
    actor: Actor,
    Path((set, number)): Path<(String, String)>,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&[&["done"]])?;
    let (version, files) = version_of(&state, &set, &number).await?;
    let before = version.version.checked_sub(1).filter(|before| *before > 0);
    let old = match before {
        Some(before) => state.store.policy_version(&set, before).await?.map(|(_, files)| files),
        None => None,
    };
    let compared = old.is_some();
    let old = old.unwrap_or_default();
    let text = |files: &PolicyFiles, name: &str| {
        files.files.iter().find(|file| file.name == name).map(|file| file.text.clone()).unwrap_or_default()
    };
    let mut names: Vec<&str> = old.files.iter().chain(&files.files).map(|file| file.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let shown = names.into_iter().map(|name| {
        let (old, new) = (text(&old, name), text(&files, name));
        let lines = if compared && old != new { diff(&old, &new) } else { Vec::new() };
        let lines = lines.into_iter().map(|line| match line {
            Line::Same(text) => (' ', "same", text.to_owned()),
            Line::Removed(text) => ('-', "removed", text.to_owned()),
            Line::Added(text) => ('+', "added", text.to_owned()),
        });
        ShownFile { name: name.to_owned(), lines: lines.collect(), text: new }
    });
    let files = shown.collect();
    let notice = Notice::done(params.get("done"));
    let title = format!("{}@{}", version.set, version.version);
    let page = Layout::new(&state, actor, "policies", title, notice).await?;
    show(StatusCode::OK, &VersionPage { page, version, files, before })
}
