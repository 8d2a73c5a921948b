//! A session for human eyes. All text in it was chosen by others, and is made safe before it is printed.

use std::io::{self, Write};
use std::time::Duration;

use interlock_recording::json::{self, texts};
use interlock_recording::proto::event::Body;
use interlock_recording::proto::{self, Event, Rows, Subject, VerifiedIdentity};
use interlock_recording::terminal::plain;
use interlock_recording::text::printable;

use super::table::columns;

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style(bool);

impl Style {
    pub(super) fn new(colours: bool) -> Self {
        Self(colours)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn verdict(self, verdict: &str) -> String {
        let code = match verdict {
            "allow" | "complete" => "32",
            "hold" => "33",
            _ => "31",
        };
        self.paint(code, &printable(verdict))
    }
}

/// Waits between events as long as it took then.
#[derive(Debug)]
pub(super) struct Pace {
    speed: f64,
    max_pause: Duration,
    last: Option<u64>,
}

impl Pace {
    pub(super) fn new(speed: f64, max_pause: Duration) -> Self {
        Self { speed, max_pause, last: None }
    }

    pub(super) fn wait(&mut self, monotonic_ns: u64) {
        std::thread::sleep(self.pause(monotonic_ns));
    }

    fn pause(&mut self, monotonic_ns: u64) -> Duration {
        let last = self.last.replace(monotonic_ns).unwrap_or(monotonic_ns);
        let nanoseconds = monotonic_ns.saturating_sub(last) as f64 / self.speed;
        Duration::try_from_secs_f64(nanoseconds / 1e9).unwrap_or(Duration::MAX).min(self.max_pause)
    }
}

/// A session's events in order.
#[derive(Debug)]
pub(super) struct Timeline {
    style: Style,
    started_ns: u64,
}

impl Timeline {
    pub(super) fn new(style: Style, started_ns: u64) -> Self {
        Self { style, started_ns }
    }

    pub(super) fn event(&mut self, output: &mut impl Write, event: &Event) -> io::Result<()> {
        let since = Duration::from_nanos(event.wall_ns.saturating_sub(self.started_ns));
        let at = self.style.dim(&format!("{:>10.3}s", since.as_secs_f64()));
        match &event.body {
            Some(Body::FlowStarted(body)) => self.flow(output, event, body),
            Some(Body::Login(body)) => {
                let (user, database) = (printable(&body.user), printable(&body.database));
                let method = printable(&body.auth_method);
                write!(output, "{at}  logged in as {user} to {database} ({method})")?;
                if !body.credential.is_empty() {
                    let (credential, shown) = (printable(&body.credential), printable(&body.client_auth));
                    let (user, database) = (printable(&body.login_user), printable(&body.login_database));
                    write!(output, ", by credential {credential} as {user} to {database}, client {shown}")?;
                }
                writeln!(output)?;
                for (leg, tls) in [("client", &body.client_tls), ("server", &body.server_tls)] {
                    if let Some(tls) = tls {
                        encrypted(output, leg, tls)?;
                    }
                }
                Ok(())
            }
            Some(Body::TlsPassed(body)) => {
                let (side, version) = (printable(&body.side), printable(&body.version));
                write!(output, "{at}  TLS passed on, not inspected: {side}, {version}")?;
                if !body.server_name.is_empty() {
                    write!(output, ", for {}", printable(&body.server_name))?;
                }
                if !body.alpn.is_empty() {
                    write!(output, ", {}", printable(&body.alpn.join(" or ")))?;
                }
                if let Some(certificate) = &body.certificate {
                    write!(output, ", certificate {}", printable(&certificate.subject))?;
                }
                if !body.note.is_empty() {
                    write!(output, " ({})", printable(&body.note))?;
                }
                writeln!(output)
            }
            Some(Body::Command(body)) => self.command(output, &at, body),
            Some(Body::ApprovalRequested(body)) => self.asked(output, &at, body),
            Some(Body::ApprovalVoted(body)) => {
                let (request, by) = (printable(&body.request), approver(body.by.as_ref()));
                writeln!(output, "{at}  approval {request}: approved by {by}{}", reason(&body.reason))
            }
            Some(Body::IdentityChanged(body)) => {
                writeln!(output, "{at}  identity changed")?;
                self.identities(output, body.person.as_ref(), body.workload.as_ref())?;
                for missing in &body.missing {
                    writeln!(output, "  missing      {}", printable(missing))?;
                }
                Ok(())
            }
            Some(Body::ApprovalDecided(body)) => {
                let waited = Duration::from_nanos(body.waited_ns);
                write!(output, "{at}  approval {}: {}", printable(&body.request), printable(&body.outcome))?;
                if body.by.is_some() {
                    write!(output, " by {}", approver(body.by.as_ref()))?;
                }
                if !matches!(body.scope.as_str(), "" | "once") {
                    write!(output, " for the {}", printable(&body.scope))?;
                }
                write!(output, "{}", reason(&body.reason))?;
                let review = if body.needs_review { ", needs review" } else { "" };
                writeln!(output, "{review} {}", self.style.dim(&format!("({waited:.1?})")))
            }
            Some(Body::Result(body)) => self.result(output, &at, body),
            Some(Body::CopyData(body)) => {
                let direction = if body.to_client { "to the client" } else { "from the client" };
                writeln!(output, "{at}  [{}] copied {} bytes {direction}", body.command, body.bytes)?;
                body.lines.as_ref().map_or(Ok(()), |lines| self.rows(output, lines))
            }
            Some(Body::TerminalSize(body)) => {
                writeln!(output, "{at}  [{}] terminal, {} by {}", body.command, body.columns, body.rows)
            }
            Some(Body::TerminalOutput(body)) => self.terminal(output, &at, '<', &body.data),
            Some(Body::TerminalInput(body)) => self.terminal(output, &at, '>', &body.data),
            Some(Body::Notice(body)) => {
                let (severity, message) = (printable(&body.severity), printable(&body.message));
                writeln!(output, "{at}  {severity} {} {message}", printable(&body.sqlstate))
            }
            Some(Body::CommandsWithdrawn(body)) => {
                let verdict = self.style.verdict("refused");
                let reason = printable(&body.reason);
                writeln!(output, "{at}  [{} to {}] {verdict}: {reason}", body.first, body.last)
            }
            Some(Body::SessionEnded(body)) => {
                let reason = printable(&body.reason);
                let detail = if body.detail.is_empty() {
                    String::new()
                } else {
                    format!(": {}", printable(&body.detail))
                };
                writeln!(
                    output,
                    "{at}  ended ({reason}{detail}): {} commands, {} refused; {} bytes sent, {} received",
                    body.commands, body.refused, body.client_bytes, body.server_bytes
                )
            }
            _ => writeln!(output, "{at}  {}", json::name(event)),
        }
    }

    /// What stood on a terminal, without what only draws. `interlock sessions export --format asciicast` has it
    /// as it looked.
    fn terminal(&self, output: &mut impl Write, at: &str, way: char, data: &[u8]) -> io::Result<()> {
        let text = plain(&String::from_utf8_lossy(data));
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            writeln!(output, "{at}  {way} {}", printable(line))?;
        }
        Ok(())
    }

    pub(super) fn unfinished(&self, output: &mut impl Write) -> io::Result<()> {
        writeln!(output, "{}", self.style.dim("no end: it goes on, or the agent was killed"))
    }

    fn flow(&self, output: &mut impl Write, event: &Event, body: &proto::FlowStarted) -> io::Result<()> {
        let style = self.style;
        writeln!(output, "{} {}", style.bold("session"), interlock_recording::hex(&event.session))?;
        writeln!(output, "  started      {}", json::time(event.wall_ns))?;
        writeln!(output, "  connection   {} → {}", printable(&body.client), printable(&body.destination))?;
        if !body.hosts.is_empty() {
            writeln!(output, "  hosts        {}", printable(&body.hosts.join(", ")))?;
        }
        writeln!(output, "  protocol     {}", printable(&body.protocol))?;
        writeln!(output, "  policies     {}", printable(&body.policy_hash))?;
        body.subject.as_ref().map_or(Ok(()), |subject| self.subject(output, subject))
    }

    fn subject(&self, output: &mut impl Write, subject: &Subject) -> io::Result<()> {
        writeln!(output, "  user         {} (uid {})", printable(&subject.user), subject.uid)?;
        if subject.login_uid.is_some() {
            writeln!(output, "  login        {}", printable(&subject.login_user))?;
        }
        if let Some(claimed) = &subject.login_claimed {
            let user = printable(&claimed.user);
            writeln!(
                output,
                "  login        claims {user} (uid {}): root was not seen to set it",
                claimed.uid
            )?;
        }
        let optional = [
            ("script", subject.script.as_deref().unwrap_or_default()),
            ("unit", &subject.unit),
            ("container", &subject.container),
            ("directory", &subject.cwd),
            ("sha256", &subject.exe_sha256),
        ];
        for (name, value) in optional {
            if !value.is_empty() {
                writeln!(output, "  {name:<12} {}", printable(value))?;
            }
        }
        self.identities(output, subject.person.as_ref(), subject.workload.as_ref())?;
        if let Some(ci) = &subject.ci {
            let job = [&ci.system, &ci.project, &ci.pipeline, &ci.job, &ci.branch, &ci.actor];
            let job: Vec<_> = job.iter().map(|part| part.as_str()).filter(|part| !part.is_empty()).collect();
            writeln!(output, "  ci           {}", printable(&job.join(" / ")))?;
        }
        writeln!(output, "  processes")?;
        let mut depth = 0;
        for parent in subject.ancestors.iter().rev() {
            process(output, depth, parent.pid, &parent.exe, &parent.argv)?;
            depth += 1;
        }
        process(output, depth, subject.pid, &subject.exe, &subject.argv)?;
        writeln!(output)
    }

    fn identities(
        &self,
        output: &mut impl Write,
        person: Option<&VerifiedIdentity>,
        workload: Option<&VerifiedIdentity>,
    ) -> io::Result<()> {
        for one in person.into_iter().chain(workload) {
            let VerifiedIdentity { kind, name, subject, issuer_name, .. } = one;
            let who = format!("{name} ({subject}) of {issuer_name}");
            writeln!(output, "  {:<12} {}", printable(kind), printable(&who))?;
            let mut more = Vec::new();
            if !one.groups.is_empty() {
                more.push(format!("groups {}", one.groups.join(", ")));
            }
            for (word, value) in
                [("branch", &one.branch), ("environment", &one.environment), ("by", &one.actor)]
            {
                if !value.is_empty() {
                    more.push(format!("{word} {value}"));
                }
            }
            if !more.is_empty() {
                writeln!(output, "  {:<12} {}", "", printable(&more.join("; ")))?;
            }
        }
        Ok(())
    }

    fn command(&self, output: &mut impl Write, at: &str, body: &proto::Command) -> io::Result<()> {
        let verdict = self.style.verdict(&body.verdict);
        let rule = match &body.rule {
            Some(rule) => format!(" by {}", printable(rule)),
            None => String::new(),
        };
        let of = if body.of == 0 { String::new() } else { format!(" of [{}]", body.of) };
        writeln!(
            output,
            "{at}  {} {}{of}  {verdict}{rule}",
            self.number(body.command),
            printable(&body.step)
        )?;
        indented(output, &body.text)?;
        for (number, param) in (1..).zip(&body.params) {
            let value = param.value.as_deref().map_or_else(|| "NULL".into(), printable);
            let more = if param.omitted_bytes == 0 { "" } else { "…" };
            writeln!(output, "              ${number} = {value}{more}")?;
        }
        if let Some(approval) = &body.approval {
            let (request, outcome) = (printable(&approval.request), printable(&approval.outcome));
            let by = if approval.by.is_empty() {
                String::new()
            } else {
                format!(" by {}", approval.by.join(", "))
            };
            let earlier = if approval.earlier { " before, for " } else { "" };
            let scope = if approval.earlier { printable(&approval.scope) } else { "".into() };
            writeln!(
                output,
                "              approval {request}: {outcome}{}{earlier}{scope}",
                printable(&by)
            )?;
        }
        for rule in &body.observed {
            let (rule, verdict) = (printable(&rule.rule), printable(&rule.verdict));
            writeln!(
                output,
                "              {}",
                self.style.dim(&format!("{rule} would {verdict} (observe mode)"))
            )?;
        }
        if let Some(message) = body.message.as_ref().filter(|_| body.verdict != "allow") {
            writeln!(output, "              {}", self.style.dim(&printable(message)))?;
        }
        Ok(())
    }

    fn asked(&self, output: &mut impl Write, at: &str, body: &proto::ApprovalRequested) -> io::Result<()> {
        let rules: Vec<_> = body.quorums.iter().map(|quorum| quorum.rule.as_str()).collect();
        writeln!(
            output,
            "{at}  approval {} asked for: {}  {} by {}",
            printable(&body.request),
            printable(&body.step),
            self.style.verdict("hold"),
            printable(&rules.join(", "))
        )?;
        indented(output, &body.text)?;
        for (number, param) in (1..).zip(&body.params) {
            let value = param.value.as_deref().map_or_else(|| "NULL".into(), printable);
            writeln!(output, "              ${number} = {value}")?;
        }
        if body.redacted {
            writeln!(output, "              approvers do not see its masked values")?;
        }
        for quorum in &body.quorums {
            let groups = printable(&quorum.groups.join(", ")).into_owned();
            writeln!(output, "              {} of {groups} may approve", quorum.needed)?;
        }
        Ok(())
    }

    fn result(&self, output: &mut impl Write, at: &str, body: &proto::CommandResult) -> io::Result<()> {
        let duration = Duration::from_nanos(body.duration_ns);
        let mut line = format!("{at}  {} {}", self.number(body.command), self.style.verdict(&body.status));
        for part in [&body.tag, &body.sqlstate, &body.message] {
            if !part.is_empty() {
                line.push(' ');
                line.push_str(&printable(part));
            }
        }
        if let Some(rows) = &body.rows {
            line.push_str(&format!(", {} rows", rows.count));
        }
        writeln!(output, "{line} {}", self.style.dim(&format!("({duration:.1?})")))?;
        body.rows.as_ref().map_or(Ok(()), |rows| self.rows(output, rows))
    }

    fn rows(&self, output: &mut impl Write, rows: &Rows) -> io::Result<()> {
        const INDENT: &str = "              ";
        let mut lines: Vec<Vec<String>> = Vec::new();
        if !rows.columns.is_empty() && !rows.rows.is_empty() {
            lines.push(rows.columns.iter().map(|column| column.name.clone()).collect());
        }
        let cell = |value: Option<String>| value.unwrap_or_else(|| "NULL".into());
        lines.extend(texts(rows).into_iter().map(|row| row.into_iter().map(cell).collect()));
        columns(output, &lines, INDENT, None)?;
        let recorded = rows.rows.len() as u64;
        if rows.count > recorded && recorded > 0 {
            writeln!(output, "{INDENT}… and {} more rows, not recorded", rows.count - recorded)?;
        }
        if !rows.masks.is_empty() {
            let masks: Vec<_> =
                rows.masks.iter().map(|mask| format!("{} {}", mask.mask, mask.count)).collect();
            writeln!(
                output,
                "{INDENT}{}",
                self.style.dim(&format!("masked: {}", printable(&masks.join(", "))))
            )?;
        }
        Ok(())
    }

    fn number(&self, command: u64) -> String {
        self.style.bold(&format!("[{command}]"))
    }
}

fn approver(by: Option<&proto::Approver>) -> String {
    let Some(by) = by else { return String::new() };
    if by.account.is_some() {
        return printable(&format!("{} (at the collector)", by.user)).into_owned();
    }
    let login = if by.login_user.is_empty() || by.login_user == by.user {
        String::new()
    } else {
        format!(", logged in as {}", by.login_user)
    };
    let claimed = if by.login_claimed.is_empty() {
        String::new()
    } else {
        format!(", by its own word logged in as {}", by.login_claimed)
    };
    let person = if by.person_subject.is_empty() {
        String::new()
    } else {
        format!(", {} at {}", by.person_name, by.person_issuer_name)
    };
    printable(&format!("{} (uid {}{login}{claimed}{person})", by.user, by.uid)).into_owned()
}

/// A reason behind what it is for, if there is one.
fn reason(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {}", printable(reason)) }
}

fn process(output: &mut impl Write, depth: usize, pid: u32, exe: &str, argv: &[String]) -> io::Result<()> {
    let line = if argv.is_empty() { exe.to_owned() } else { argv.join(" ") };
    writeln!(output, "    {:indent$}{pid} {} ({})", "", printable(&line), printable(exe), indent = depth * 2)
}

/// Prints a text on lines of its own; its line breaks stay, nothing else that is unprintable.
fn indented(output: &mut impl Write, text: &str) -> io::Result<()> {
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let line = line.replace('\t', "    ");
        writeln!(output, "              {}", printable(&line))?;
    }
    Ok(())
}

/// How one leg of a session was encrypted.
fn encrypted(output: &mut impl Write, leg: &str, tls: &proto::Tls) -> io::Result<()> {
    write!(output, "             {leg} leg: {} {}", printable(&tls.version), printable(&tls.cipher))?;
    if !tls.server_name.is_empty() {
        write!(output, ", for {}", printable(&tls.server_name))?;
    }
    if let Some(certificate) = &tls.certificate {
        write!(output, ", certificate {}", printable(&certificate.subject))?;
    }
    match tls.verified.as_str() {
        "" => {}
        "none" => write!(output, ", not verified")?,
        how => write!(output, ", verified ({})", printable(how))?,
    }
    writeln!(output)
}

#[cfg(test)]
mod tests {
    use interlock_recording::query::Summary;
    use interlock_recording::text::is_unprintable;

    use super::super::table;
    use super::*;

    #[test]
    fn nothing_in_a_session_reaches_the_terminal_as_a_command() {
        let evil = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}x\r";
        let text = || evil.to_owned();
        let subject = Subject {
            user: text(),
            exe: text(),
            argv: vec![text()],
            script: Some(text()),
            ancestors: vec![proto::Ancestor { argv: vec![text()], exe: text(), ..Default::default() }],
            ci: Some(proto::Ci { job: text(), ..Default::default() }),
            ..Default::default()
        };
        let rows = || Rows {
            count: 9,
            columns: vec![proto::Column { name: text(), ..Default::default() }],
            rows: vec![proto::Row { values: vec![proto::Value { data: Some(text().into_bytes()) }] }],
            masks: vec![proto::MaskCount { mask: text(), count: 1 }],
            ..Default::default()
        };
        let tls = || proto::Tls {
            version: text(),
            cipher: text(),
            server_name: text(),
            verified: text(),
            certificate: Some(proto::Certificate { subject: text(), ..Default::default() }),
            ..Default::default()
        };
        let bodies = [
            Body::FlowStarted(proto::FlowStarted {
                subject: Some(subject.clone()),
                client: text(),
                destination: text(),
                hosts: vec![text()],
                protocol: text(),
                policy_hash: text(),
                ..Default::default()
            }),
            Body::Login(proto::Login {
                user: text(),
                database: text(),
                auth_method: text(),
                client_tls: Some(tls()),
                server_tls: Some(tls()),
                credential: text(),
                client_auth: text(),
                login_user: text(),
                login_database: text(),
                ..Default::default()
            }),
            Body::TlsPassed(proto::TlsPassed {
                side: text(),
                version: text(),
                server_name: text(),
                alpn: vec![text()],
                certificate: tls().certificate,
                note: text(),
            }),
            Body::Command(proto::Command {
                step: text(),
                text: text(),
                params: vec![proto::BindParameter { value: Some(text()), omitted_bytes: 1 }],
                verdict: text(),
                observed: vec![proto::Observed { rule: text(), verdict: text() }],
                rule: Some(text()),
                message: Some(text()),
                of: 1,
                ..Default::default()
            }),
            Body::Result(proto::CommandResult {
                status: text(),
                tag: text(),
                sqlstate: text(),
                message: text(),
                rows: Some(rows()),
                ..Default::default()
            }),
            Body::CopyData(proto::CopyData { lines: Some(rows()), ..Default::default() }),
            Body::Notice(proto::Notice { severity: text(), sqlstate: text(), message: text() }),
            Body::CommandsWithdrawn(proto::CommandsWithdrawn { reason: text(), ..Default::default() }),
            Body::SessionEnded(proto::SessionEnded { reason: text(), detail: text(), ..Default::default() }),
        ];
        let mut output = Vec::new();
        let mut timeline = Timeline::new(Style::new(false), 0);
        for body in bodies {
            timeline.event(&mut output, &Event { body: Some(body), ..Default::default() }).expect("written");
        }
        let summary = Summary { user: text(), exe: text(), database: text(), ..Default::default() };
        table::sessions(&mut output, &[&summary], 12, Some(80)).expect("written");
        let egress = proto::EgressConnection {
            destination: text(),
            verdict: text(),
            subject: Some(subject),
            ..Default::default()
        };
        table::egresses(&mut output, vec![table::egress(0, &egress)], Some(80)).expect("written");
        let output = String::from_utf8(output).expect("text");
        let bad = output.chars().find(|character| *character != '\n' && is_unprintable(*character));
        assert_eq!(bad, None, "{output}");
        assert!(output.contains("owned"));
    }

    #[test]
    fn a_replay_keeps_time_within_bounds() {
        let mut pace = Pace::new(2.0, Duration::from_secs(3));
        assert_eq!(pace.pause(1_000_000_000), Duration::ZERO);
        assert_eq!(pace.pause(3_000_000_000), Duration::from_secs(1));
        assert_eq!(pace.pause(60_000_000_000), Duration::from_secs(3));
        assert_eq!(pace.pause(0), Duration::ZERO);
    }
}
