//! What a systemd unit's files say of its environment, read as systemd reads them.
//!
//! From the files and not from the running manager: it works in an image too, and before the unit was
//! ever started.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Host, files};

/// Where unit files stand, the first to be found wins.
const DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The drop-in's name: after most that administrators write, so that it sees what they set.
pub(super) const DROP_IN: &str = "50-interlock-trust.conf";
/// Variables for which `Environment=` is not enough.
pub(super) const DROP_IN_ENVIRONMENT: &str = "50-interlock-trust.env";

/// A unit, as far as trust is concerned.
#[derive(Debug, Clone, Default)]
pub(super) struct Unit {
    /// There is a unit file of this name (or its template).
    pub(super) exists: bool,
    /// `Environment=` and then `EnvironmentFile=`, which wins.
    pub(super) environment: BTreeMap<String, String>,
    /// The variables that came from an `EnvironmentFile=`.
    pub(super) from_files: Vec<String>,
    /// `User=`.
    pub(super) user: Option<String>,
    /// `BindReadOnlyPaths=` of ours: what is mounted, and where.
    pub(super) overlays: Vec<(PathBuf, PathBuf)>,
}

impl Unit {
    /// Reads the unit's files, without our drop-in when `own` is `false`.
    pub(super) fn read(host: &Host, name: &str, own: bool) -> Self {
        let mut unit = Self::default();
        let names = names(name);
        let main = names
            .iter()
            .filter(|name| name.contains('.'))
            .flat_map(|name| DIRECTORIES.map(|directory| Path::new(directory).join(name)))
            .find(|path| host.at(path).is_file());
        let mut settings = Settings::default();
        if let Some(path) = &main {
            unit.exists = true;
            settings.read(&host.at(path));
        }
        for path in drop_ins(host, &names) {
            if own || path.file_name().is_none_or(|name| name != DROP_IN) {
                settings.read(&host.at(&path));
            }
        }
        unit.user = settings.user;
        unit.overlays = settings.overlays;
        unit.environment.extend(settings.environment);
        for file in settings.files {
            // Ours is written beside the drop-in and can be read from here; any other may be missing.
            let Ok(text) = files::read(&host.at(Path::new(file.trim_start_matches('-')))) else { continue };
            for (key, value) in environment_file(&String::from_utf8_lossy(&text)) {
                unit.from_files.push(key.clone());
                unit.environment.insert(key, value);
            }
        }
        unit
    }

    /// The path of our drop-in.
    pub(super) fn drop_in(name: &str) -> PathBuf {
        Path::new("/etc/systemd/system").join(format!("{name}.d")).join(DROP_IN)
    }
}

/// The unit's own name, its template's, and the names that it begins with: all may have drop-ins.
fn names(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    let Some((stem, kind)) = name.rsplit_once('.') else { return names };
    let mut stem = stem.to_owned();
    if let Some((template, instance)) = stem.clone().split_once('@')
        && !instance.is_empty()
    {
        names.push(format!("{template}@.{kind}"));
        stem = template.to_owned();
    }
    while let Some((front, _)) = stem.trim_end_matches('-').rsplit_once('-') {
        names.push(format!("{front}-.{kind}"));
        stem = front.to_owned();
    }
    names.push(kind.to_owned());
    names
}

/// Drop-ins in the order in which systemd reads them: by file name; of one name the first found counts.
fn drop_ins(host: &Host, names: &[String]) -> Vec<PathBuf> {
    let mut found: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for name in names {
        for directory in DIRECTORIES {
            let directory = Path::new(directory).join(format!("{name}.d"));
            let listing = fs::read_dir(host.at(&directory)).into_iter().flatten().flatten();
            for entry in listing {
                let file = entry.file_name();
                if Path::new(&file).extension().is_some_and(|extension| extension == "conf") {
                    found.entry(file.clone()).or_insert_with(|| directory.join(file));
                }
            }
        }
    }
    found.into_values().collect()
}

#[derive(Debug, Default)]
struct Settings {
    environment: Vec<(String, String)>,
    files: Vec<String>,
    user: Option<String>,
    overlays: Vec<(PathBuf, PathBuf)>,
}

impl Settings {
    fn read(&mut self, path: &Path) {
        let Ok(text) = files::read(path) else { return };
        let text = String::from_utf8_lossy(&text);
        let mut service = false;
        for line in lines(&text) {
            if let Some(section) = line.strip_prefix('[') {
                service = section.trim_end_matches(']') == "Service";
            } else if let Some((key, value)) = line.split_once('=')
                && service
            {
                self.set(key.trim(), value.trim());
            }
        }
    }

    fn set(&mut self, key: &str, value: &str) {
        match key {
            "User" => self.user = Some(value.to_owned()).filter(|user| !user.is_empty()),
            // An empty assignment takes back all earlier ones.
            "Environment" if value.is_empty() => self.environment.clear(),
            "Environment" => {
                let pairs = words(value);
                let pairs = pairs.iter().filter_map(|word| word.split_once('='));
                self.environment.extend(pairs.map(|(key, value)| (key.to_owned(), value.replace("%%", "%"))));
            }
            "EnvironmentFile" if value.is_empty() => self.files.clear(),
            "EnvironmentFile" => self.files.push(value.to_owned()),
            "BindReadOnlyPaths" if value.is_empty() => self.overlays.clear(),
            "BindReadOnlyPaths" => {
                for word in words(value) {
                    let word = word.replace("%%", "%");
                    let mut parts = word.trim_start_matches('-').splitn(3, ':');
                    if let (Some(from), Some(to)) = (parts.next(), parts.next()) {
                        self.overlays.push((from.into(), to.into()));
                    }
                }
            }
            _ => {}
        }
    }
}

/// Lines without comments, those that end in a backslash joined with the next.
fn lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut held = String::new();
    for line in text.lines() {
        let plain = line.trim();
        if plain.starts_with(['#', ';']) || (plain.is_empty() && held.is_empty()) {
            continue;
        }
        match plain.strip_suffix('\\') {
            Some(begun) => {
                held.push_str(begun);
                held.push(' ');
            }
            None => {
                held.push_str(plain);
                lines.push(std::mem::take(&mut held));
            }
        }
    }
    if !held.is_empty() {
        lines.push(held);
    }
    lines
}

/// The words of a setting: set off by blanks, quoted as in a shell without expansions.
fn words(value: &str) -> Vec<String> {
    let (mut words, mut word, mut begun) = (Vec::new(), String::new(), false);
    let mut quote = None;
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        match (c, quote) {
            ('\\', _) => {
                begun = true;
                word.extend(rest.next());
            }
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                begun = true;
            }
            (c, None) if c.is_whitespace() => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            (c, _) => {
                begun = true;
                word.push(c);
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// One word as a setting that [`words`] reads back as it is.
pub(super) fn quoted(word: &str) -> String {
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' => quoted.push_str("%%"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn environment_file(text: &str) -> Vec<(String, String)> {
    let pair = |line: String| {
        let (key, value) = line.split_once('=')?;
        let value = value.trim();
        // Quoted values may hold escapes; anything else stands as it is written.
        let plain = if value.starts_with(['"', '\'']) { words(value).concat() } else { value.to_owned() };
        Some((key.trim().trim_start_matches("export ").to_owned(), plain))
    };
    lines(text).into_iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host { root: dir.path().to_owned(), state: "/state".into(), run: "/run/interlock".into() };
        (dir, host)
    }

    #[test]
    fn the_environment_is_read_as_systemd_does() {
        let (_dir, host) = host(&[
            (
                "usr/lib/systemd/system/job-runner@.service",
                "[Unit]\nEnvironment=NOT=this\n[Service]\nUser=ci\nEnvironment=A=1 \"B=two words\" 'C=\"'\n\
                 Environment=D=a\\\n  E=5\n# Environment=F=6\nEnvironmentFile=-/etc/job.env\nEnvironmentFile=-/none\n",
            ),
            ("etc/systemd/system/job-runner@.service.d/90-last.conf", "[Service]\nEnvironment=A=last\n"),
            ("etc/systemd/system/job-.service.d/10-first.conf", "[Service]\nEnvironment=A=first G=100%%\n"),
            (
                "etc/systemd/system/job-runner@1.service.d/50-interlock-trust.conf",
                "[Service]\nEnvironment=H=8\n",
            ),
            ("etc/job.env", "B=file\n; comment\nI=\"quoted value\"\n"),
        ]);
        let unit = Unit::read(&host, "job-runner@1.service", false);
        assert!(unit.exists);
        assert_eq!(unit.user.as_deref(), Some("ci"));
        let expected = [
            ("A", "last"),
            ("B", "file"),
            ("C", "\""),
            ("D", "a"),
            ("E", "5"),
            ("G", "100%"),
            ("I", "quoted value"),
        ];
        let read: Vec<_> = unit.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(read, expected);
        assert_eq!(unit.from_files, ["B", "I"]);
        assert_eq!(Unit::read(&host, "job-runner@1.service", true).environment["H"], "8");
    }

    #[test]
    fn an_empty_assignment_takes_back_the_earlier() {
        let (_dir, host) = host(&[(
            "etc/systemd/system/a.service",
            "[Service]\nEnvironment=A=1\nEnvironment=\nEnvironment=B=2\nUser=x\nUser=\n",
        )]);
        let unit = Unit::read(&host, "a.service", true);
        assert_eq!(unit.environment.into_iter().collect::<Vec<_>>(), [("B".to_owned(), "2".to_owned())]);
        assert_eq!(unit.user, None);
    }

    #[test]
    fn a_unit_without_files_is_none() {
        let (_dir, host) = host(&[("etc/systemd/system/service.d/x.conf", "[Service]\nEnvironment=A=1\n")]);
        let unit = Unit::read(&host, "none.service", true);
        assert!(!unit.exists);
        assert_eq!(unit.environment["A"], "1");
    }

    #[test]
    fn what_is_quoted_is_read_back() {
        for word in ["A=b", "A=b c", "A=\"'\\", "A="] {
            assert_eq!(words(&quoted(word)), [word]);
        }
        assert_eq!(quoted("A=%h"), "\"A=%%h\"");
    }
}
