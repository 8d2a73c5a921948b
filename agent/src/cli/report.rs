//! What `status` and `reload` answer, for a human.

use std::fmt::Write;

use interlock_recording::text::printable;
use serde_json::Value;

/// The few lines that an operator looks for, what is wrong first.
pub(super) fn status(status: &Value) -> String {
    let mut text = String::new();
    for trouble in troubles(status) {
        let _ = writeln!(text, "{trouble}");
    }
    if status["serving"] == true {
        serving(&mut text, status);
    } else {
        let _ = writeln!(text, "not serving: no agent answers at {}", plain(&status["socket"]));
    }
    attached(&mut text, status);
    text
}

fn serving(text: &mut String, status: &Value) {
    let [policies, flows, recording] =
        ["policies", "flows", "recording"].map(|part| status.get(part).unwrap_or(&Value::Null));
    let _ = writeln!(
        text,
        "serving since {} (version {}, process {})",
        plain(&status["since"]),
        plain(&status["version"]),
        status["pid"]
    );
    let _ = writeln!(text, "  policies   {} in {}", counts(policies), plain(&policies["directory"]));
    central(text, &policies["central"]);
    let _ = writeln!(
        text,
        "  flows      {} open, {} in all; {} commands, {} refused",
        flows["open"], flows["total"], flows["commands"], flows["refused"]
    );
    let _ = writeln!(
        text,
        "  recording  {} of {} in {}; {} events",
        bytes(&recording["used_bytes"]),
        bytes(&recording["max_bytes"]),
        plain(&recording["path"]),
        recording["events"]
    );
    let _ = writeln!(text, "  shipping   {}", shipping(&status["shipping"]));
    let people = &status["people"];
    if people["issuers"].as_array().is_some_and(|issuers| !issuers.is_empty()) {
        let _ = writeln!(text, "  people     {} signed in", people["signed_in"]);
    }
    credentials(text, status);
}

/// What of the policies is a collector's.
fn central(text: &mut String, central: &Value) {
    if central["accepts"].as_str().is_none_or(|accepts| accepts == "off") {
        return;
    }
    let named = |place: &str, word: &str| match central[place].as_str() {
        Some(set) => format!("; {word} {}", printable(set)),
        None => String::new(),
    };
    let _ = if central["issue"] == 0 {
        writeln!(text, "  central    accepted ({}), and nothing is in force", plain(&central["accepts"]))
    } else {
        writeln!(
            text,
            "  central    order {}{}{} ({} at most)",
            central["issue"],
            named("enforce", "enforced:"),
            named("observe", "staged:"),
            plain(&central["accepts"])
        )
    };
}

/// Where the recording goes to, and how far that is.
pub(crate) fn shipping(shipping: &Value) -> String {
    if shipping["enrolled"] != true {
        return "not enrolled: recordings stay on this host".to_owned();
    }
    let lag = &shipping["lag"];
    let behind = if lag["events"] == 0 {
        "all is there".to_owned()
    } else {
        format!("{} events behind ({}, {} s)", lag["events"], bytes(&lag["bytes"]), lag["seconds"])
    };
    let connected = if shipping["connected_since"].is_string() { "" } else { "; not connected" };
    format!("to {}; {behind}{connected}", plain(&shipping["url"]))
}

fn credentials(text: &mut String, status: &Value) {
    let all = status["credentials"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (index, one) in all.iter().enumerate() {
        let time = |key: &str, what: &str| one[key].as_str().map(|at| format!("{what} {at}"));
        let times = [
            time("refreshed", "since"),
            time("refresh", "asked for again at"),
            time("expires", "expires at"),
            time("failed", "failed last at"),
        ];
        let times: Vec<_> = times.into_iter().flatten().collect();
        let state = plain(&one["state"]).replace('_', " ");
        let rest = if times.is_empty() { String::new() } else { format!(", {}", times.join(", ")) };
        let head = if index == 0 { "credential" } else { "" };
        let _ =
            writeln!(text, "  {head:10} {}: {state}{rest} ({})", plain(&one["name"]), plain(&one["source"]));
    }
}

fn attached(text: &mut String, status: &Value) {
    let kernel = &status["interception"];
    if kernel.is_null() {
        let _ = writeln!(text, "  attached   nothing: no process is held");
        return;
    }
    let programs = kernel["programs"].as_array().map_or(0, Vec::len);
    let _ = writeln!(
        text,
        "  attached   {programs} programs to {} since {}",
        match plain(&kernel["cgroup"]) {
            gone if gone.is_empty() => "a cgroup that is gone".to_owned(),
            cgroup => cgroup,
        },
        plain(&kernel["since"])
    );
    let entries = kernel["entries"].as_array().map_or(0, Vec::len);
    let _ = writeln!(
        text,
        "  processes  {} designated for good, {} tracked, {entries} entries in force",
        kernel["designated"], kernel["processes"]
    );
    let counters = &kernel["counters"];
    let _ = writeln!(
        text,
        "  kernel     {} connects, {} redirected, {} denied by egress, {} refused without an agent",
        counters["connects"], counters["redirected"], counters["egress_denied"], counters["agent_dead"]
    );
}

/// What wants somebody's attention.
fn troubles(status: &Value) -> Vec<String> {
    let kernel = &status["interception"];
    let mut found = Vec::new();
    if let Some(reason) = status["policies"]["rejected"].as_str() {
        found.push(format!("REJECTED: the policy files are not in force, earlier ones are\n{reason}"));
    }
    if let Some(reason) = status["policies"]["central"]["refused"][1].as_str() {
        found.push(format!("REFUSED an order of the collector: {reason}"));
    }
    if let Some(reason) = status["recording"]["refusing"].as_str() {
        found.push(format!("REFUSING new commands: {reason}"));
    }
    if status["recording"]["lost"].as_u64().is_some_and(|lost| lost > 0) {
        found.push(format!("LOST {} events that could not be written", status["recording"]["lost"]));
    }
    if let Some(reason) = status["shipping"]["error"].as_str() {
        let since = plain(&status["shipping"]["error_since"]);
        found.push(format!("NOT SHIPPING since {since}: {reason}"));
    }
    if let Some(reason) = status["shipping"]["not_removed"].as_str() {
        found.push(format!("warning: {reason}"));
    }
    for one in status["credentials"].as_array().into_iter().flatten() {
        if let Some(error) = one["error"].as_str() {
            let held = if one["state"] == "held" { "CANNOT REFRESH" } else { "REFUSING connections of" };
            found.push(format!("{held} the credential {}: {error}", plain(&one["name"])));
        }
    }
    if status["serving"] == false && !kernel.is_null() {
        found.push(
            "REFUSING: designated processes cannot connect until an agent runs, or `interlock detach` \
             lets them go unheld"
                .to_owned(),
        );
    }
    if kernel["overflow"] == true {
        found.push(
            "OVERFLOW: more processes than can be tracked; every unknown one is taken in by entries with \
             `descendants` until the programs are detached"
                .to_owned(),
        );
    }
    for (counter, meaning) in [
        ("events_lost", "reports of the kernel side were lost (decisions are not affected)"),
        ("no_memory", "times the kernel side had no room, and refused"),
    ] {
        let count = kernel["counters"][counter].as_u64().unwrap_or(0);
        if count > 0 {
            found.push(format!("warning: {count} {meaning}"));
        }
    }
    if kernel["exec_stages"] == false {
        found
            .push("warning: this kernel does not show each file of an exec; see docs/interception.md".into());
    }
    found
}

/// What a reload came to.
pub(super) fn reload(answer: &Value) -> String {
    let unchanged = if answer["changed"] == false { " (unchanged)" } else { "" };
    format!("{} in force{unchanged}\n", counts(answer))
}

fn counts(policies: &Value) -> String {
    let count = |of: &Value, what: &str| {
        let number = of.as_array().map_or_else(|| of.as_u64().unwrap_or(0), |list| list.len() as u64);
        format!("{number} {what}{}", if number == 1 { "" } else { "s" })
    };
    format!(
        "{}, {}, {}",
        count(&policies["files"], "file"),
        count(&policies["rules"], "rule"),
        count(&policies["masks"], "mask")
    )
}

fn bytes(value: &Value) -> String {
    let mut size = value.as_f64().unwrap_or(0.0);
    for unit in ["bytes", "KiB", "MiB"] {
        if size < 1024.0 {
            return if unit == "bytes" { format!("{size} bytes") } else { format!("{size:.1} {unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1} GiB")
}

/// A JSON object as an indented list of names and values.
pub(super) fn tree(status: &Value) -> String {
    let mut text = String::new();
    branch(&mut text, status, 1);
    text
}

fn branch(text: &mut String, value: &Value, depth: usize) {
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        let name = name.replace('_', " ");
        let indent = "  ".repeat(depth);
        match value {
            Value::Null => {}
            Value::Object(_) => {
                let _ = writeln!(text, "{indent}{name}:");
                branch(text, value, depth + 1);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for item in items {
                    let _ = writeln!(text, "{indent}{name}:");
                    branch(text, item, depth + 1);
                }
            }
            Value::Array(items) => {
                let items: Vec<_> = items.iter().map(plain).collect();
                let _ = writeln!(text, "{indent}{name}: {}", items.join(", "));
            }
            _ => drop(writeln!(text, "{indent}{name}: {}", plain(value))),
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn trouble_comes_first_and_the_rest_is_short() {
        let mut answer = json!({
            "serving": true, "since": "2026-01-05T08:00:00Z", "version": "1", "pid": 7,
            "policies": {"directory": "/p", "files": ["a", "b"], "rules": 1, "masks": 0, "rejected": "a.yaml:1:2: no"},
            "flows": {"open": 1, "total": 2, "commands": 3, "refused": 0},
            "recording": {"path": "/s", "used_bytes": 1536, "max_bytes": 4_294_967_296_u64, "events": 9,
                "refusing": null, "lost": 0},
            "interception": {"cgroup": "/sys/fs/cgroup", "since": "2026-01-05T07:00:00Z", "programs": [{}, {}],
                "entries": ["00"], "designated": 1, "processes": 5, "overflow": false, "exec_stages": true,
                "counters": {"connects": 3, "redirected": 2, "egress_denied": 0, "agent_dead": 0}},
        });
        let text = status(&answer);
        assert!(text.starts_with("REJECTED") && text.contains("a.yaml:1:2: no"), "{text}");
        for part in
            ["2 files, 1 rule, 0 masks in /p", "1.5 KiB of 4.0 GiB", "/sys/fs/cgroup since 2026-01-05T07"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.lines().count() <= 10, "{text}");
        answer["policies"]["rejected"] = Value::Null;
        answer["recording"]["refusing"] = "the disk is full".into();
        answer["interception"]["overflow"] = true.into();
        let text = status(&answer);
        assert!(text.starts_with("REFUSING new commands: the disk is full\nOVERFLOW"), "{text}");
        // Everything is in the long form.
        assert!(tree(&answer).contains("max bytes: 4294967296"));
    }

    #[test]
    fn credentials_are_told_with_their_troubles() {
        let answer = json!({"serving": true, "credentials": [
            {"name": "a", "source": "file /a", "state": "not_asked_yet"},
            {"name": "b", "source": "Vault x", "state": "held", "refreshed": "T1", "refresh": "T2", "expires": "T3"},
            {"name": "c", "source": "program /c", "state": "cannot_be_had", "failed": "T4", "error": "it is gone"},
        ]});
        let text = status(&answer);
        assert!(text.starts_with("REFUSING connections of the credential c: it is gone\n"), "{text}");
        for part in [
            "credential a: not asked yet (file /a)",
            " b: held, since T1, asked for again at T2, expires at T3 (Vault x)",
            " c: cannot be had, failed last at T4 (program /c)",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn without_an_agent_it_is_told_whether_processes_are_held() {
        let nothing = json!({"serving": false, "socket": "/run/x", "interception": null});
        assert!(status(&nothing).contains("no process is held"));
        let left =
            json!({"serving": false, "socket": "/run/x", "interception": {"cgroup": "", "counters": {}}});
        assert!(status(&left).starts_with("REFUSING: designated processes cannot connect"));
    }

    #[test]
    fn a_reload_says_what_is_in_force() {
        let answer = json!({"files": 3, "rules": 34, "masks": 2, "changed": false});
        assert_eq!(reload(&answer), "3 files, 34 rules, 2 masks in force (unchanged)\n");
    }
}
