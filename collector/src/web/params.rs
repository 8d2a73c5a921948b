//! What stands in a query or a form: few names, each known, each once.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::store::{ApprovalFilter, CommandFilter, NewHold, SessionFilter, Store};

/// Items on a page of a list when nothing is said.
const ITEMS: usize = 50;
/// And at most.
const MOST_ITEMS: usize = 500;

/// The longest value of a filter, in bytes.
const MOST_VALUE: usize = 1000;

/// Names and values.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(pub(crate) Vec<(String, String)>);

impl Params {
    fn parse(bytes: &[u8]) -> Self {
        Self(
            form_urlencoded::parse(bytes)
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
        )
    }

    /// Refuses names that are not known: a filter that is misspelt must not list everything.
    pub(crate) fn only(&self, known: &[&[&str]]) -> Result<(), Problem> {
        for (at, (name, value)) in self.0.iter().enumerate() {
            if value.len() > MOST_VALUE {
                return Err(Problem::new(
                    StatusCode::BAD_REQUEST,
                    format!("The parameter {name:?} is longer than {MOST_VALUE} bytes."),
                ));
            }
            if !known.iter().any(|names| names.contains(&name.as_str())) {
                let known: Vec<&str> = known.iter().flat_map(|names| names.iter().copied()).collect();
                return Err(Problem::new(
                    StatusCode::BAD_REQUEST,
                    format!("There is no parameter {name:?} here. There are: {}.", known.join(", ")),
                ));
            }
            if self.0.iter().take(at).any(|(before, _)| before == name) {
                return Err(Problem::new(
                    StatusCode::BAD_REQUEST,
                    format!("The parameter {name:?} stands twice."),
                ));
            }
        }
        Ok(())
    }

    /// The value of `name`; empty ones count as absent, as forms send them.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.trim());
        value.filter(|value| !value.is_empty())
    }

    /// The value as it was typed.
    pub(super) fn exact(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Problem> {
        self.get(name)
            .map(|value| {
                value.parse().map_err(|_| {
                    Problem::new(StatusCode::BAD_REQUEST, format!("{name} is a whole number, not {value:?}."))
                })
            })
            .transpose()
    }

    pub(crate) fn limit(&self) -> Result<usize, Problem> {
        let limit = self.number("limit")?.map_or(ITEMS, |limit| usize::try_from(limit).unwrap_or_default());
        if (1..=MOST_ITEMS).contains(&limit) {
            Ok(limit)
        } else {
            Err(Problem::new(StatusCode::BAD_REQUEST, format!("limit is between 1 and {MOST_ITEMS}.")))
        }
    }

    pub(crate) fn time(&self, name: &str) -> Result<Option<i64>, Problem> {
        self.get(name)
            .map(|value| {
                time(value, Timestamp::now()).ok_or_else(|| {
                    Problem::new(
                        StatusCode::BAD_REQUEST,
                        format!("{name} is a time such as 2026-11-21T14:00:00Z, or how long ago: 15m, 1h, 7d. It was {value:?}."),
                    )
                })
            })
            .transpose()
    }

    /// A legal hold between the times `from` and `until`; without them it is open on that side.
    pub(super) fn hold<'h>(
        &self,
        label: &'h str,
        host: &'h str,
        by: &'h str,
    ) -> Result<NewHold<'h>, Problem> {
        let (from, until) = (self.time("from")?, self.time("until")?);
        Ok(NewHold { label, host, from_ns: from.unwrap_or(0), until_ns: until.unwrap_or(i64::MAX), by })
    }

    /// The query again, with another value for `name`.
    pub(super) fn with(&self, name: &str, value: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (key, old) in self.0.iter().filter(|(key, old)| key != name && !old.is_empty()) {
            query.append_pair(key, old);
        }
        if !value.is_empty() {
            query.append_pair(name, value);
        }
        query.finish()
    }

    fn verdict(&self, name: &str) -> Result<Option<String>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some(verdict @ ("allow" | "deny" | "hold")) => Ok(Some(verdict.into())),
            Some(other) => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!("{name} is allow, deny or hold, not {other:?}."),
            )),
        }
    }

    /// The hosts that are meant: by name, or by the beginning of their id.
    async fn hosts(&self, store: &Store) -> Result<Option<Vec<String>>, Problem> {
        match self.get("host") {
            None => Ok(None),
            Some(host) => Ok(Some(store.hosts_called(host).await?)),
        }
    }

    pub(crate) async fn sessions(&self, store: &Store) -> Result<SessionFilter, Problem> {
        Ok(SessionFilter {
            since_ns: self.time("since")?,
            until_ns: self.time("until")?,
            hosts: self.hosts(store).await?,
            user: self.owned("user"),
            db_user: self.owned("db_user"),
            database: self.owned("database"),
            exe: self.owned("exe"),
            destination: self.owned("destination"),
            verdict: self.verdict("verdict")?,
            observed: self.verdict("observed")?,
            rule: self.owned("rule"),
            text: self.owned("text"),
            open: match self.get("open") {
                None => false,
                Some("true") => true,
                Some(other) => {
                    return Err(Problem::new(
                        StatusCode::BAD_REQUEST,
                        format!("open is true or absent, not {other:?}."),
                    ));
                }
            },
        })
    }

    /// Requests for approval, of those that members of `groups` may decide on.
    pub(crate) async fn approvals(
        &self,
        store: &Store,
        groups: Option<Vec<String>>,
    ) -> Result<ApprovalFilter, Problem> {
        let state = self.owned("state");
        if state.as_ref().is_some_and(|state| !APPROVAL_STATES.contains(&state.as_str())) {
            let detail = format!("state is one of {}.", APPROVAL_STATES.join(", "));
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        }
        Ok(ApprovalFilter {
            groups,
            state,
            text: self.owned("text"),
            hosts: self.hosts(store).await?,
            user: self.owned("user"),
            rule: self.owned("rule"),
            since_ns: self.time("since")?,
            until_ns: self.time("until")?,
        })
    }

    pub(crate) async fn commands(&self, store: &Store) -> Result<CommandFilter, Problem> {
        Ok(CommandFilter {
            since_ns: self.time("since")?,
            until_ns: self.time("until")?,
            hosts: self.hosts(store).await?,
            verdict: self.verdict("verdict")?,
            observed: self.verdict("observed")?,
            rule: self.owned("rule"),
            kind: self.owned("kind"),
            text: self.owned("text"),
        })
    }
}

/// The filters of requests for approval.
pub(crate) const APPROVALS: &[&str] = &["state", "text", "host", "user", "rule", "since", "until"];
/// What `state` can be.
pub(crate) const APPROVAL_STATES: [&str; 8] =
    ["pending", "decided", "unreviewed", "approved", "broken_glass", "denied", "expired", "withdrawn"];
/// The filters of sessions.
pub(crate) const SESSIONS: &[&str] = &[
    "text",
    "since",
    "until",
    "host",
    "user",
    "db_user",
    "database",
    "exe",
    "destination",
    "verdict",
    "observed",
    "rule",
    "open",
];
/// The filters of commands.
pub(crate) const COMMANDS: &[&str] =
    &["text", "since", "until", "host", "verdict", "observed", "rule", "kind"];
/// What pages a list.
pub(crate) const PAGING: &[&str] = &["cursor", "limit"];

/// A time, or how long ago.
fn time(text: &str, now: Timestamp) -> Option<i64> {
    let ago = |text: &str| {
        let unit = text.chars().next_back()?;
        let count: i64 = text.strip_suffix(unit)?.parse().ok()?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        now.checked_sub(SignedDuration::from_secs(count.checked_mul(seconds)?)).ok()
    };
    let date = |text: &str| {
        let date: DateTime = text.parse().ok()?;
        TimeZone::UTC.to_timestamp(date).ok()
    };
    let time = ago(text).or_else(|| text.parse().ok()).or_else(|| date(text))?;
    i64::try_from(time.as_nanosecond()).ok().filter(|ns| *ns >= 0)
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default().as_bytes()))
    }
}

/// A form's fields.
#[derive(Debug, Default)]
pub(super) struct Fields(pub(super) Params);

impl<S: Sync> FromRequest<S> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        Ok(Self(Params::parse(&body(request, MOST_BYTES).await?)))
    }
}

/// A JSON body.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = body(request, MOST_BYTES).await?;
        // An empty body is an empty object: requests without parameters need none.
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(bytes).map(Self).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, format!("The body is not the JSON it must be: {error}."))
        })
    }
}

/// A JSON body that may be large: a set of policies, with what JSON needs for its line breaks.
#[derive(Debug)]
pub(super) struct Bulky<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Bulky<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bytes = body(request, 2 * interlock_recording::order::MAX_SET).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, format!("The body is not the JSON it must be: {error}."))
        })
    }
}

/// The most that is sent to the collector by browsers and programs, but for sets of policies.
pub(super) const MOST_BYTES: usize = 64 << 10;

pub(super) async fn body(request: Request, most: usize) -> Result<axum::body::Bytes, Problem> {
    axum::body::to_bytes(request.into_body(), most).await.map_err(|_| {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("What was sent is longer than {} KiB, or was cut off.", most >> 10),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_or_how_long_ago() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let at = |text: &str| i64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap();
        assert_eq!(time("15m", now), Some(at("2026-11-21T11:45:00Z")));
        assert_eq!(time("7d", now), Some(at("2026-11-14T12:00:00Z")));
        assert_eq!(time("2026-11-20T10:00:00+02:00", now), Some(at("2026-11-20T08:00:00Z")));
        assert_eq!(time("2026-11-20T10:00", now), Some(at("2026-11-20T10:00:00Z")));
        assert_eq!(time("2026-11-20", now), Some(at("2026-11-20T00:00:00Z")));
        for bad in ["", "m", "1x", "99999999999999999d", "-1h1", "yesterday", "1é", "0001-01-01"] {
            assert_eq!(time(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn misspelt_and_repeated_parameters_are_refused() {
        let params = Params::parse(b"user=a&usr=b");
        assert!(params.only(&[SESSIONS]).unwrap_err().detail.contains("\"usr\""));
        assert!(Params::parse(b"user=a&user=b").only(&[SESSIONS]).is_err());
        let long = format!("text={}", "x".repeat(2000));
        assert!(Params::parse(long.as_bytes()).only(&[SESSIONS]).is_err());
        assert!(Params::parse(b"user=a&text=").only(&[SESSIONS, PAGING]).is_ok());
        assert_eq!(Params::parse(b"a=1&cursor=x&b=").with("cursor", "y&z"), "a=1&cursor=y%26z");
    }
}
