//! A command that is not sent yet: what it would do, and what people are shown of it.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use pg_query::protobuf::Token;

use super::request::{self, Parts, has_shape, show};
use super::session::{REDACTED, recorded_parameter};
use crate::approval::Shown;
use crate::approval::ahead::{Tree, Wanted};
use crate::identity::Subject;
use crate::mask::MaskSet;
use crate::operation::{Operation, Protocol};
use crate::record::Step;
use crate::sql::{self, Hidden, Kind, Recordable, Script, Secrets, Statement};

/// Bytes of all parameters.
const PARAMETERS: usize = 64 << 10;
/// Bytes of a time zone's name.
const ZONE: usize = 63;
/// As many parameters as the protocol has numbers for.
const MOST_PARAMETERS: usize = 65_535;

/// What somebody means to send.
#[derive(Debug, Clone)]
pub(crate) struct Intended {
    /// Where to.
    pub(crate) server: SocketAddr,
    /// The database.
    pub(crate) database: Arc<str>,
    /// The database user.
    pub(crate) db_user: Arc<str>,
    /// The time zone that its session is started with, as some drivers say it; the server's own when `None`.
    pub(crate) time_zone: Option<Arc<str>>,
    /// The whole text.
    pub(crate) text: Arc<str>,
    /// All parameters, in text form.
    pub(crate) params: Vec<Option<String>>,
    /// The program that sends it, by the asker's word; the asker's own when `None`.
    pub(crate) program: Option<Arc<Path>>,
}

/// Why approval of it cannot be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// It is more than can be shown.
    #[error(
        "it is more than can be shown to who would approve it: up to {} KiB of text, {} statements and {} KiB of \
         parameters",
        request::TEXT >> 10, request::STATEMENTS, PARAMETERS >> 10
    )]
    TooMuch,
    /// It holds a byte that no text has.
    #[error("the text or a parameter holds a zero byte")]
    Zero,
    /// Other parameters than it has are given.
    #[error(
        "the text has {has} parameters ($1 …) and {given} values are given: give each of them, as it will be bound, \
         or write the values into the text"
    )]
    Parameters {
        /// How many it has.
        has: usize,
        /// How many are given.
        given: usize,
    },
    /// No time zone is called so.
    #[error(
        "`time_zone` is what the driver sends, as it sends it, such as Europe/Berlin: up to {ZONE} letters, digits \
         and signs"
    )]
    Zone,
    /// A mask or secret hides more of it than constants.
    #[error(
        "what it runs cannot be shown to who would approve it, for a mask or a secret hides more of it than \
         constants: write values as constants in quotes, or give them as parameters"
    )]
    Hidden,
    /// It runs what a session has made before.
    #[error(
        "it runs what a session has prepared (EXECUTE, FETCH, a cursor), which nobody can see now: ask for the \
         statement itself, or send it and wait"
    )]
    OfSession,
}

impl Intended {
    /// What it does. Its text is looked at as any client's.
    pub(crate) fn operation(&self, scripts: &sql::Cache) -> Operation {
        Operation {
            protocol: Protocol::Postgres,
            user: Arc::clone(&self.db_user),
            database: Arc::clone(&self.database),
            text: Arc::clone(&self.text),
            script: scripts.analyze(&self.text),
            params: self.params.as_slice().into(),
        }
    }

    /// Its text as it may be recorded and shown.
    pub(crate) fn recordable(&self, masks: &MaskSet) -> String {
        Recordable::of(&self.text, &Secrets::of(&self.text), masks).text.into_owned()
    }

    /// It can be asked for.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self, script: &Script) -> Result<(), Unfit> {
        let bytes: usize = self.params.iter().flatten().map(String::len).sum();
        if self.text.len() > request::TEXT
            || script.statements.len() > request::STATEMENTS
            || bytes > PARAMETERS
            || self.params.len() > MOST_PARAMETERS
        {
            return Err(Unfit::TooMuch);
        }
        if self.text.contains('\0') || self.params.iter().flatten().any(|value| value.contains('\0')) {
            return Err(Unfit::Zero);
        }
        let in_zone = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-:.<>".contains(&byte);
        if self
            .time_zone
            .as_ref()
            .is_some_and(|zone| zone.is_empty() || zone.len() > ZONE || !zone.bytes().all(in_zone))
        {
            return Err(Unfit::Zone);
        }
        let has = parameters(&self.text);
        if has != self.params.len() {
            return Err(Unfit::Parameters { has, given: self.params.len() });
        }
        let of_session = |statement: &Statement| {
            !statement.executes.is_empty()
                || statement.kinds.contains(&Kind::Fetch)
                || (statement.cursor.is_some() && script.statements.len() == 1)
        };
        if script.statements.iter().any(of_session) { Err(Unfit::OfSession) } else { Ok(()) }
    }

    /// What approvers see of it.
    ///
    /// # Errors
    /// Why they cannot see all that runs.
    pub(crate) fn shown(&self, script: &Script, masks: &MaskSet) -> Result<Shown, Unfit> {
        let secrets = Secrets::of(&self.text);
        let text = Recordable::of(&self.text, &secrets, masks);
        if text.hidden == Hidden::Code {
            return Err(Unfit::Hidden);
        }
        let param = |(number, value): (usize, &Option<String>)| {
            let value = value.as_ref()?;
            Some(if secrets.has_param(number) {
                REDACTED.to_owned()
            } else {
                recorded_parameter(masks, value)
            })
        };
        let params: Vec<_> = (1..).zip(&self.params).map(param).collect();
        let redacted = text.hidden != Hidden::Nothing || params != self.params;
        let shown =
            show(Step::Query, text.text.into_owned(), Vec::new(), &params, script).ok_or(Unfit::TooMuch)?;
        Ok(Shown {
            db_user: Arc::clone(&self.db_user),
            database: Arc::clone(&self.database),
            transaction: "none",
            redacted,
            ..shown
        })
    }

    /// What a command has to be to go on by its approval.
    pub(crate) fn wanted(&self, script: &Script, scripts: &sql::Cache) -> Wanted {
        Wanted {
            server: self.server,
            database: Arc::clone(&self.database),
            db_user: Arc::clone(&self.db_user),
            time_zone: self.time_zone.clone(),
            text: Arc::clone(&self.text),
            params: self.params.clone(),
            shape: has_shape(script).then(|| scripts.template(&self.text)),
            program: self.program.clone(),
        }
    }

    /// The whole of it, with who asks.
    pub(crate) fn digest(&self, subject: &Subject, tree: Tree) -> [u8; 32] {
        let mut hash = Parts::new("interlock approval beforehand 3");
        hash.number(subject.uid.into());
        let claimed = subject.login_claimed.as_ref();
        let claimed = [claimed.map(|claimed| claimed.uid), claimed.and_then(|claimed| claimed.session)];
        for id in [subject.login_uid, subject.login_session].into_iter().chain(claimed) {
            hash.number(id.map_or(u64::MAX, u64::from));
        }
        for identity in [&subject.person, &subject.workload] {
            hash.number(u64::from(identity.is_some()));
            let parts = identity.as_ref().map(|one| (&*one.issuer_name, &*one.issuer, one.subject.as_str()));
            let (name, issuer, subject) = parts.unwrap_or_default();
            [name, issuer, subject].into_iter().for_each(|part| hash.text(part));
        }
        hash.text(&subject.cgroup);
        hash.text(&subject.unit);
        hash.text(&subject.container);
        hash.bytes(subject.exe.as_os_str().as_bytes());
        hash.text(&subject.exe_sha256);
        for path in [subject.script.as_deref(), self.program.as_deref()] {
            hash.number(u64::from(path.is_some()));
            hash.bytes(path.map(|path| path.as_os_str().as_bytes()).unwrap_or_default());
        }
        hash.number(tree.pid.into());
        hash.number(tree.start_time_ns);
        hash.text(&self.server.to_string());
        hash.text(&self.database);
        hash.text(&self.db_user);
        hash.number(u64::from(self.time_zone.is_some()));
        hash.text(self.time_zone.as_deref().unwrap_or_default());
        hash.text(&self.text);
        hash.number(self.params.len() as u64);
        for param in &self.params {
            hash.number(u64::from(param.is_some()));
            hash.text(param.as_deref().unwrap_or_default());
        }
        hash.finish()
    }

    /// The same for any subject, as a held command has it.
    pub(crate) fn likeness(&self, scripts: &sql::Cache) -> [u8; 32] {
        let mut hash = Parts::new("interlock likeness 1");
        hash.text(&self.server.to_string());
        hash.text(&self.database);
        hash.text(&scripts.template(&self.text));
        hash.finish()
    }
}

/// The highest number of a parameter in a text.
pub(crate) fn parameters(text: &str) -> usize {
    let Ok(scanned) = pg_query::scan(text) else { return 0 };
    let number = |token: &pg_query::protobuf::ScanToken| {
        if token.token != Token::Param as i32 {
            return None;
        }
        let (start, end) = (usize::try_from(token.start).ok()?, usize::try_from(token.end).ok()?);
        text.get(start..end)?.strip_prefix('$')?.parse::<usize>().ok()
    };
    scanned.tokens.iter().filter_map(number).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intended(text: &str, params: &[Option<&str>]) -> Intended {
        Intended {
            server: ([127, 0, 0, 1], 5432).into(),
            database: "d".into(),
            db_user: "u".into(),
            time_zone: None,
            text: text.into(),
            params: params.iter().map(|value| value.map(str::to_owned)).collect(),
            program: None,
        }
    }

    fn check(text: &str, params: &[Option<&str>]) -> Result<(), Unfit> {
        intended(text, params).check(&sql::analyze(text))
    }

    #[test]
    fn parameters_are_counted_as_the_server_does() {
        for (text, count) in [
            ("select 1", 0),
            ("select $1", 1),
            ("select $2 + $10", 10),
            ("select '$3', \"$4\", $$ $5 $$ -- $6\n/* $7 */", 0),
        ] {
            assert_eq!(parameters(text), count, "{text}");
        }
        assert_eq!(check("select $1", &[]), Err(Unfit::Parameters { has: 1, given: 0 }));
        assert_eq!(check("select $1", &[None]), Ok(()));
        assert_eq!(check("select 1", &[Some("x")]), Err(Unfit::Parameters { has: 0, given: 1 }));
    }

    #[test]
    fn what_cannot_be_shown_or_told_is_not_asked_for() {
        assert_eq!(check(&format!("select '{}'", "x".repeat(17 << 10)), &[]), Err(Unfit::TooMuch));
        assert_eq!(check(&"select 1;".repeat(26), &[]), Err(Unfit::TooMuch));
        assert_eq!(check("select $1", &[Some(&"x".repeat(65 << 10))]), Err(Unfit::TooMuch));
        assert_eq!(check("select 1\0; drop table x", &[]), Err(Unfit::Zero));
        for text in ["execute p", "fetch all from c"] {
            assert_eq!(check(text, &[]), Err(Unfit::OfSession), "{text}");
        }
        assert_eq!(check("delete from t; delete from u", &[]), Ok(()));
        for (zone, fits) in [
            ("Europe/Berlin", true),
            ("<+05>-5", true),
            ("GMT+03:00", true),
            ("", false),
            ("a b", false),
            ("x'; --", false),
            ("\u{202e}", false),
        ] {
            let asked = Intended { time_zone: Some(zone.into()), ..intended("delete from t", &[]) };
            assert_eq!(asked.check(&sql::analyze("delete from t")).is_ok(), fits, "{zone}");
        }
    }

    #[test]
    fn each_part_of_it_counts() {
        let base = intended("delete from t where a = $1", &[Some("x")]);
        let (subject, tree) = (Subject::default(), Tree { pid: 7, start_time_ns: 7 });
        let mut all = vec![base.digest(&subject, tree)];
        let mut other = |change: &dyn Fn(&mut Intended)| {
            let mut changed = base.clone();
            change(&mut changed);
            all.push(changed.digest(&subject, tree));
        };
        other(&|intended| intended.text = "delete from t where a = $1 ".into());
        other(&|intended| intended.params = vec![None]);
        other(&|intended| intended.params = vec![Some(String::new())]);
        other(&|intended| intended.database = "e".into());
        other(&|intended| intended.db_user = "e".into());
        other(&|intended| intended.time_zone = Some("UTC".into()));
        other(&|intended| intended.time_zone = Some("".into()));
        other(&|intended| intended.server.set_port(1));
        other(&|intended| intended.program = Some(Path::new("/usr/bin/psql").into()));
        all.push(base.digest(&subject, Tree { pid: 8, ..tree }));
        all.push(base.digest(&subject, Tree { start_time_ns: 8, ..tree }));
        all.push(base.digest(&Subject { uid: 1, ..Subject::default() }, tree));
        let exe = std::path::PathBuf::from("/usr/bin/psql");
        all.push(base.digest(&Subject { exe: exe.clone(), ..Subject::default() }, tree));
        all.push(base.digest(&Subject { script: Some(exe), ..Subject::default() }, tree));
        all.push(base.digest(&Subject { exe_sha256: "ab".into(), ..Subject::default() }, tree));
        all.push(base.digest(&Subject { unit: "a.service".into(), ..Subject::default() }, tree));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn nothing_secret_is_shown() {
        let text = "alter role app password 'hunter22'; select $1";
        let intended = intended(text, &[Some("x")]);
        let shown = intended.shown(&sql::analyze(text), &MaskSet::default()).unwrap();
        assert!(!shown.text.contains("hunter22"), "{}", shown.text);
        assert_eq!(shown.params, [Some("x".to_owned())]);
        assert!(shown.redacted);
    }

    #[test]
    fn all_that_runs_is_shown() {
        use crate::mask::{Detector, HashKey, Transform};
        let masks = MaskSet::builder().detector("keys".into(), Detector::PrivateKey, Transform::Redact);
        let masks = masks.build(&HashKey::new(&[1; 32]));
        let shown = |text: &str| intended(text, &[]).shown(&sql::analyze(text), &masks);
        let text = "update c set n = 1 where id = 17\n-----BEGIN PRIVATE KEY-----\nOR region = 'eu'";
        let seen = shown(text).unwrap();
        assert!(seen.text.ends_with("\nOR region = 'eu'") && seen.redacted, "{}", seen.text);
        assert!(intended(text, &[]).recordable(&masks).ends_with("\nOR region = 'eu'"));
        assert!(!shown("select 1").unwrap().redacted);
        assert_eq!(shown("alter role x password hunter2").unwrap_err(), Unfit::Hidden);
    }
}
