//! The variables by which clients that bring roots of their own are pointed to others.
//!
//! Most of them *replace* what the client trusts, so they name a bundle of the system's roots and the
//! authority. One that is set already is never pointed elsewhere: it gets a copy of the file that it
//! names, with the authority added, and that only where the file does not hold it.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::bundle::{self, Bundle};
use super::files::{self, Attributes};
use super::unit::Unit;
use super::{Authority, Host, pem};
use crate::config::Config;

/// What a variable does to what a client trusts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// The file's certificates are trusted beside the client's own.
    Adds,
    /// The file's certificates are trusted and no others.
    Replaces,
}

/// Whether a variable is set where it is not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// It is.
    Always,
    /// It is not: the client follows the system's store, and the variable would only take away what is
    /// set for it elsewhere.
    Set,
}

/// Every variable that is known to name a file of roots.
const VARIABLES: [(&str, Effect, When); 16] = [
    // OpenSSL and what asks it for its defaults (Python's ssl, Ruby, PHP, `sslrootcert=system`), curl's
    // program, Go, rustls.
    ("SSL_CERT_FILE", Effect::Replaces, When::Always),
    ("REQUESTS_CA_BUNDLE", Effect::Replaces, When::Always),
    ("NODE_EXTRA_CA_CERTS", Effect::Adds, When::Always),
    ("AWS_CA_BUNDLE", Effect::Replaces, When::Always),
    // Beats `http.sslCAInfo` of a repository, which may name a private authority.
    ("GIT_SSL_CAINFO", Effect::Replaces, When::Set),
    ("CURL_CA_BUNDLE", Effect::Replaces, When::Set),
    ("PIP_CERT", Effect::Replaces, When::Set),
    ("CARGO_HTTP_CAINFO", Effect::Replaces, When::Set),
    ("HTTPLIB2_CA_CERTS", Effect::Replaces, When::Set),
    ("HTTPS_CA_FILE", Effect::Replaces, When::Set),
    ("PERL_LWP_SSL_CA_FILE", Effect::Replaces, When::Set),
    ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", Effect::Replaces, When::Set),
    ("CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", Effect::Replaces, When::Set),
    ("NIX_SSL_CERT_FILE", Effect::Replaces, When::Set),
    ("DENO_CERT", Effect::Adds, When::Set),
    // libpq verifies as soon as there is a root file, whatever `sslmode` says; set where there was none it
    // would have `prefer` fall back to plaintext before a server that another authority has signed.
    (PGSSLROOTCERT, Effect::Replaces, When::Set),
];

const PGSSLROOTCERT: &str = "PGSSLROOTCERT";
/// The file below a user's home where libpq, JDBC and asyncpg look for roots.
pub(super) const ROOT_CRT: &str = ".postgresql/root.crt";
/// The variable by which every JVM takes options.
const JAVA_TOOL_OPTIONS: &str = "JAVA_TOOL_OPTIONS";

/// The file of another bundle when a variable is set already; what it names may not be a file.
fn names_file(name: &str, value: &str) -> bool {
    let word = name == PGSSLROOTCERT && value == "system";
    !value.is_empty() && !word && Path::new(value).is_absolute()
}

/// What a unit's drop-in sets.
#[derive(Debug, Default)]
pub(super) struct ForUnit {
    pub(super) variables: Vec<(String, String)>,
    pub(super) bundles: Vec<Bundle>,
    /// What could not be done.
    pub(super) notes: Vec<String>,
}

/// Works out the variables for a unit (as it is without our drop-in).
pub(super) fn for_unit(host: &Host, authority: &Authority, unit: &Unit, java: bool) -> ForUnit {
    let mut result = ForUnit::default();
    let with_system = bundle::system_bundle(host).is_some();
    if !with_system {
        result.notes.push(
            "this system has no file of trusted roots: variables that replace a client's roots are not set"
                .to_owned(),
        );
    }
    let set = |result: &mut ForUnit, name: &str, bundle: Bundle| {
        result.variables.push((name.to_owned(), bundle.path(host).display().to_string()));
        result.bundles.push(bundle);
    };
    for (name, effect, when) in VARIABLES {
        match (unit.environment.get(name), effect, when) {
            (None, Effect::Adds, When::Always) => {
                let path = host.public_authority().display().to_string();
                result.variables.push((name.to_owned(), path));
            }
            (None, Effect::Replaces, When::Always) if with_system => {
                set(&mut result, name, Bundle::system());
            }
            (None, _, _) => {}
            (Some(value), _, _) if value.contains('%') => result.notes.push(format!(
                "{name}={value} holds what only systemd can expand: add the authority to that file by hand"
            )),
            (Some(value), _, _) if names_file(name, value) => {
                // A file that is not there trusts nothing, with or without us.
                if let Ok(roots) = pem::read(&host.at(Path::new(value)))
                    && !authority.is_in(&roots)
                {
                    set(&mut result, name, Bundle::roots(host, Path::new(value)));
                }
            }
            (Some(_), _, _) => {}
        }
    }
    if java && with_system {
        let path = Bundle::java().path(host);
        let ours =
            format!("-Djavax.net.ssl.trustStore={} -Djavax.net.ssl.trustStoreType=JKS", path.display());
        let own = unit.environment.get(JAVA_TOOL_OPTIONS);
        // What the unit itself says comes last and wins.
        let value = own.map_or(ours.clone(), |own| format!("{ours} {own}"));
        result.variables.push((JAVA_TOOL_OPTIONS.to_owned(), value));
        result.bundles.push(Bundle::java());
    }
    result
}

/// A variable that `interlock run` sets for its command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: PathBuf,
}

/// What `interlock run` sets for its command: `get` gives the environment that it was started with.
///
/// Nothing when the agent has published no authority. A variable that is set stays as it is when the
/// file it names holds the authority, or when there is no such file; else the command gets a copy of the
/// file with the authority added, kept in the user's cache directory. So does libpq's own root file,
/// by PGSSLROOTCERT. Trouble with one variable leaves that one as it was, and is told in the second part.
pub fn for_run(config: &Config, get: &dyn Fn(&str) -> Option<OsString>) -> (Vec<Change>, Vec<String>) {
    let host = Host::new(config, None);
    let public = host.public_authority();
    let Ok(authority) = Authority::read(&public) else { return (Vec::new(), Vec::new()) };
    let system = Bundle::system().path(&host);
    let with_system = pem::read(&system).is_ok_and(|roots| authority.is_in(&roots));
    let (mut changes, mut troubles) = (Vec::new(), Vec::new());
    for (name, effect, when) in VARIABLES {
        let mut own = get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if name == PGSSLROOTCERT && own.as_deref() == Some(Path::new("system")) {
            continue;
        }
        if own.is_none() && name == PGSSLROOTCERT {
            let home = get("HOME").map(PathBuf::from);
            own = home.map(|home| home.join(ROOT_CRT)).filter(|path| path.is_file());
        }
        let value = match (own, effect, when) {
            (None, Effect::Adds, When::Always) => public.clone(),
            (None, Effect::Replaces, When::Always) if with_system => system.clone(),
            (None, _, _) => continue,
            (Some(path), _, _) => match pem::read(&path) {
                Ok(roots) if !authority.is_in(&roots) => match merged(&authority, &path, &roots, get) {
                    Ok(path) => path,
                    Err(error) => {
                        troubles.push(format!(
                            "{name} stays {}, which does not hold the authority: {error}",
                            path.display()
                        ));
                        continue;
                    }
                },
                _ => continue,
            },
        };
        changes.push(Change { name, value });
    }
    (changes, troubles)
}

/// A copy of a file of roots with the authority added, in the user's cache directory. It is named by its
/// contents: a command that runs on goes on seeing what it was started with.
fn merged(
    authority: &Authority,
    path: &Path,
    roots: &[pem::Certificate],
    get: &dyn Fn(&str) -> Option<OsString>,
) -> std::io::Result<PathBuf> {
    let absolute = |name: &str| get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    let cache = cache.ok_or_else(|| std::io::Error::other("neither HOME nor XDG_CACHE_HOME is set"))?;
    let directory = cache.join("interlock");
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let comment = format!("The certificates of {}, and the Interlock host authority", path.display());
    let text = pem::bundle(&comment, roots.iter().chain(&authority.certificates));
    let digest: String = files::digest(text.as_bytes()).chars().take(16).collect();
    let file = directory.join(format!("roots-{digest}.pem"));
    if files::read(&file).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(file);
    }
    files::replace(&file, text.as_bytes(), Attributes::own(0o600))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    struct World {
        dir: tempfile::TempDir,
        config: Config,
        environment: BTreeMap<String, OsString>,
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let run = dir.path().join("run");
            fs::create_dir_all(run.join("trust")).unwrap();
            let home = dir.path().join("home");
            fs::create_dir(&home).unwrap();
            let config = Config { state: dir.path().join("state"), run, ..Config::default() };
            let environment = [("HOME".to_owned(), home.into_os_string())].into();
            Self { dir, config, environment }
        }

        fn certificate(&self, path: &str) -> String {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let made = rcgen::generate_simple_self_signed([path.display().to_string()]).unwrap();
            fs::write(path, made.cert.pem()).unwrap();
            made.cert.pem()
        }

        fn publish(&self) -> String {
            let authority = self.certificate("run/authority.pem");
            let roots = self.certificate("system.pem");
            fs::write(self.config.run.join("trust/bundle.pem"), format!("{roots}{authority}")).unwrap();
            authority
        }

        fn set(&mut self, name: &str, path: &str) -> PathBuf {
            let path = self.dir.path().join(path);
            self.environment.insert(name.to_owned(), path.clone().into_os_string());
            path
        }

        fn changes(&self) -> BTreeMap<&'static str, PathBuf> {
            let (changes, troubles) = for_run(&self.config, &|name| self.environment.get(name).cloned());
            assert_eq!(troubles, Vec::<String>::new());
            changes.into_iter().map(|change| (change.name, change.value)).collect()
        }
    }

    #[test]
    fn without_an_authority_nothing_is_set() {
        assert_eq!(World::new().changes(), BTreeMap::new());
    }

    #[test]
    fn what_replaces_roots_names_a_bundle_that_holds_the_systems() {
        let world = World::new();
        world.publish();
        let changes = world.changes();
        let names: Vec<_> = changes.keys().copied().collect();
        assert_eq!(names, ["AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"]);
        assert_eq!(changes["SSL_CERT_FILE"], world.config.run.join("trust/bundle.pem"));
        assert_eq!(changes["NODE_EXTRA_CA_CERTS"], world.config.run.join("authority.pem"));
        // Without the system's roots a variable that replaces would take them all away.
        fs::remove_file(world.config.run.join("trust/bundle.pem")).unwrap();
        assert_eq!(world.changes().into_keys().collect::<Vec<_>>(), ["NODE_EXTRA_CA_CERTS"]);
    }

    #[test]
    fn what_the_user_set_keeps_its_roots_and_gains_the_authority() {
        let mut world = World::new();
        let authority = world.publish();
        let own = world.certificate("own.pem");
        world.set("REQUESTS_CA_BUNDLE", "own.pem");
        world.set("GIT_SSL_CAINFO", "own.pem");
        world.set("CURL_CA_BUNDLE", "run/trust/bundle.pem");
        world.set("PIP_CERT", "missing.pem");
        let changes = world.changes();
        let merged = pem::read(&changes["REQUESTS_CA_BUNDLE"]).unwrap();
        assert_eq!(merged, pem::certificates(format!("{own}{authority}").as_bytes()));
        assert_eq!(changes["GIT_SSL_CAINFO"], changes["REQUESTS_CA_BUNDLE"]);
        assert!(!changes.contains_key("CURL_CA_BUNDLE"), "it held the authority already");
        assert!(!changes.contains_key("PIP_CERT"), "there is no such file");
        assert_eq!(changes, world.changes(), "the same again");
    }

    #[test]
    fn libpq_gets_a_root_file_only_where_it_has_one() {
        let mut world = World::new();
        let authority = world.publish();
        let own = world.certificate("home/.postgresql/root.crt");
        let changes = world.changes();
        let merged = pem::read(&changes["PGSSLROOTCERT"]).unwrap();
        assert_eq!(merged, pem::certificates(format!("{own}{authority}").as_bytes()));
        world.environment.insert("PGSSLROOTCERT".into(), "system".into());
        assert!(!world.changes().contains_key("PGSSLROOTCERT"));
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_told() {
        let mut world = World::new();
        world.publish();
        world.certificate("own.pem");
        world.set("PIP_CERT", "own.pem");
        world.set("XDG_CACHE_HOME", "own.pem");
        let (changes, troubles) = for_run(&world.config, &|name| world.environment.get(name).cloned());
        assert!(changes.iter().all(|change| change.name != "PIP_CERT"));
        assert!(troubles[0].contains("PIP_CERT"), "{troubles:?}");
    }
}
