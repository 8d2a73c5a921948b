//! `interlock trust` on this host as it is, every change of it in a layer that goes away with the test:
//! real stores, the distribution's own tools, real clients.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics when something is not as it must be")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use interlock_tests::process::{Daemon, Finished, LIMIT, finish};
use interlock_tests::{Agent, Cgroup, agent, temporary_directory, wait_for};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// How long an installation may take: Java's keystore is made by a JVM.
const LONG: Duration = Duration::from_secs(180);

/// Where the layer keeps what is the agent's.
const BASE: &str = "/interlock-test";
const UNIT: &str = "interlock-test-report.service";

/// A certificate of an authority and its key.
fn authority(name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// This host's files under a layer of memory, in a mount namespace of its own.
struct Layer {
    // Dropped first: with it the namespace and the layer go.
    holder: Daemon,
    directory: TempDir,
}

impl Layer {
    fn new() -> Self {
        let directory = temporary_directory("layer").unwrap();
        let script = r#"set -e
            cd "$1"
            mount -t tmpfs tmpfs .
            cd "$1"
            mkdir upper work root
            mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
            for part in proc sys dev; do mount --rbind "/$part" "root/$part"; done
            mount -t tmpfs tmpfs root/tmp
            mount -t tmpfs tmpfs root/run
            mkdir -p "root$2"
            touch "root$2/interlock"
            mount --bind "$3" "root$2/interlock"
            touch ready
            exec sleep infinity"#;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "--", "/bin/sh", "-c", script, "sh"])
            .arg(directory.path())
            .arg(BASE)
            .arg(agent::binary().unwrap());
        let mut holder = Daemon::start(&mut command, Signal::TERM).unwrap();
        let ready = format!("/proc/{}/root{}/ready", holder.pid(), directory.path().display());
        wait_for("the layer", LIMIT, || {
            assert!(holder.ended().is_none(), "the layer could not be made");
            Path::new(&ready).exists()
        })
        .unwrap();
        let layer = Self { holder, directory };
        let (certificate, key) = authority("Interlock host authority test");
        layer.file("/interlock-test/state/tls/authority.crt", &certificate);
        layer.file("/interlock-test/state/tls/authority.key", &key);
        layer.file(
            "/interlock-test/agent.yaml",
            "state: /interlock-test/state\nrun: /interlock-test/run\npolicies: /interlock-test/policies.d\n",
        );
        layer.file(
            "/interlock-test/policies.d/10-report.yaml",
            &format!("version: 1\nprocesses: [{{unit: {UNIT}}}]\nrules: []\nmasks: []\n"),
        );
        layer
            .sh("chmod 700 /interlock-test/state; chmod 600 /interlock-test/state/tls/authority.key")
            .expect_success();
        layer.file(
            &format!("/etc/systemd/system/{UNIT}"),
            &format!("[Service]\nExecStart=/bin/true\nEnvironment=\"PATH={}\" HOME=/root\n", path()),
        );
        layer
    }

    /// Where a path of the layer is found from outside.
    fn at(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{}/root{path}", self.holder.pid(), self.directory.path().display()).into()
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// `program` in the layer, with nothing in its environment that changes what clients trust.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.holder.pid()))
            .arg("chroot")
            .arg(self.directory.path().join("root"))
            .arg(program)
            .env_clear()
            .env("PATH", path())
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8");
        command
    }

    fn sh(&self, script: &str) -> Finished {
        finish(self.command("/bin/sh").args(["-c", script]), "", LONG).unwrap()
    }

    fn trust_command(&self) -> Command {
        let mut command = self.command("/interlock-test/interlock");
        command.args(["--config", "/interlock-test/agent.yaml", "trust"]);
        command
    }

    fn trust(&self, arguments: &[&str]) -> Finished {
        finish(self.trust_command().args(arguments), "", LONG).unwrap()
    }

    /// Which clients accept, and whether the command says that all do.
    fn status(&self, arguments: &[&str]) -> (BTreeMap<String, bool>, bool) {
        let finished = self.trust(&[&["status", "--json"], arguments].concat());
        let status: Value = serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", finished.both()));
        let clients = status["clients"].as_array().unwrap();
        for client in clients.iter().filter(|client| client["accepts"] == false) {
            // Each refusal has its reason.
            assert!(!client["why"].as_str().unwrap().is_empty(), "{client}");
            assert!(!client["why"].as_str().unwrap().contains("could not be asked"), "{client}");
        }
        let accepts = clients
            .iter()
            .map(|client| (client["client"].as_str().unwrap().into(), client["accepts"] == true));
        (accepts.collect(), finished.success())
    }

    /// All that stands where `trust` may change something, with contents, owners, modes and links.
    fn snapshot(&self) -> String {
        self.sh("cd /; find etc usr/local/share usr/lib/jvm root/.postgresql interlock-test/state \
             -printf '%p %y %m %U %G %l\\n' 2>/dev/null | sort; \
             find etc usr/local/share usr/lib/jvm interlock-test/state -type f -print0 2>/dev/null | sort -z \
             | xargs -0 sha256sum")
            .expect_success()
    }

    #[track_caller]
    fn assert_as(&self, before: &str, when: &str) {
        let after = self.snapshot();
        let gone: Vec<_> = before.lines().filter(|line| !after.lines().any(|other| other == *line)).collect();
        let new: Vec<_> = after.lines().filter(|line| !before.lines().any(|other| other == *line)).collect();
        assert!(after == before, "{when}:\ngone {gone:#?}\nnew {new:#?}");
    }
}

fn path() -> String {
    std::env::var("PATH").unwrap()
}

/// Those that follow the system's store.
const SYSTEM: [&str; 4] = ["openssl", "curl", "python ssl", "java"];

#[test]
fn clients_accept_when_it_is_installed_and_the_host_is_as_before_when_it_is_removed() {
    let layer = Layer::new();
    // libpq has a root file of its own here.
    layer.file("/root/.postgresql/root.crt", &authority("database").0);
    let before = layer.snapshot();
    let (accepts, all) = layer.status(&[]);
    assert!(!all && accepts.values().all(|accepts| !accepts), "{accepts:?}");
    for client in SYSTEM.into_iter().chain(["node", "psql", "psql verify-full"]) {
        assert!(accepts.contains_key(client), "{client} was not asked: {accepts:?}");
    }

    layer.trust(&["install"]).expect_success();
    let (accepts, all) = layer.status(&[]);
    for client in SYSTEM {
        assert!(accepts[client], "{client}: {accepts:?}");
    }
    // They have roots of their own, and nothing tells them of others here.
    assert!(!all && !accepts["node"] && !accepts["psql"] && !accepts["psql verify-full"], "{accepts:?}");
    for place in [&["--unit", UNIT][..], &["--run"]] {
        let (accepts, all) = layer.status(place);
        assert!(all && accepts.len() >= 7, "{place:?}: {accepts:?}");
    }
    // Again: nothing is left to do.
    let again: Value = serde_json::from_str(&layer.trust(&["install", "--json"]).expect_success()).unwrap();
    assert!(again["steps"].as_array().unwrap().iter().all(|step| step["done"] == "already"), "{again}");

    layer.trust(&["remove"]).expect_success();
    layer.assert_as(&before, "after the removal");
    let (accepts, all) = layer.status(&[]);
    assert!(!all && accepts.values().all(|accepts| !accepts), "{accepts:?}");
}

/// A stand-in for the distribution's tool, which kills the installation that started it.
const TOOL: &str = "/usr/sbin/update-ca-certificates";

#[test]
fn an_installation_that_is_killed_is_removed_whole() {
    let layer = Layer::new();
    let before = layer.snapshot();
    layer.sh(&format!("mv {TOOL} {TOOL}.real")).expect_success();
    for (when, script) in [
        ("before its tool did anything", "kill -9 $PPID"),
        (
            "when its tool had taken old links away",
            "cd /etc/ssl/certs; ln -s /usr/local/share/ca-certificates/interlock-authority.crt interlock-authority.pem; \
             rm -f *.0; echo half > ca-certificates.crt.new; kill -9 $PPID",
        ),
        ("when its tool had ended", "$0.real && kill -9 $PPID"),
        // The tool outlives it: the removal has to wait for it.
        ("while its tool goes on", "kill -9 $PPID; sleep 1; exec $0.real"),
    ] {
        layer
            .sh(&format!("printf '#!/bin/sh\\n%s\\n' '{script}' > {TOOL}; chmod 755 {TOOL}"))
            .expect_success();
        let killed = layer.trust(&["install"]);
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&killed.status),
            Some(9),
            "{}",
            killed.both()
        );
        assert!(layer.at("/interlock-test/state/trust/manifest.json").exists());
        layer.sh(&format!("cp {TOOL}.real {TOOL}.new && mv {TOOL}.new {TOOL}")).expect_success();
        layer.trust(&["remove"]).expect_success();
        layer.assert_as(&before, &format!("killed {when}"));
    }
    // And at whatever point these moments fall.
    for milliseconds in [3, 30, 300] {
        let mut command = layer.trust_command();
        let mut installing = Daemon::start(command.arg("install"), Signal::KILL).unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        installing.kill();
        layer.trust(&["remove"]).expect_success();
        layer.assert_as(&before, &format!("killed after {milliseconds} ms"));
    }
}

#[test]
fn an_nss_database_is_served_and_put_back() {
    let layer = Layer::new();
    layer.sh("mkdir -p /etc/nss-test && certutil -N -d sql:/etc/nss-test --empty-password && chown nobody /etc/nss-test/*").expect_success();
    let before = layer.snapshot();
    let verifies = || {
        layer
            .sh("certutil -V -u L -n interlock-authority -d sql:/etc/nss-test 2>&1; \
                 certutil -L -n interlock-authority -d sql:/etc/nss-test")
            .success()
    };
    layer.trust(&["install", "--nss", "/etc/nss-test"]).expect_success();
    assert!(verifies());
    let again = layer.trust(&["install", "--nss", "/etc/nss-test"]).expect_success();
    assert!(!again.contains("installed "), "{again}");
    layer.trust(&["remove"]).expect_success();
    layer.assert_as(&before, "after the removal");

    layer.trust(&["install", "--nss", "/etc/nss-test"]).expect_success();
    layer.file("/interlock-test/corp.pem", &authority("Corp authority").0);
    layer.sh("certutil -A -n corp -t C,, -i /interlock-test/corp.pem -d sql:/etc/nss-test").expect_success();
    layer.trust(&["remove"]).expect_success();
    assert!(!verifies());
    layer.sh("certutil -L -n corp -d sql:/etc/nss-test").expect_success();
}

#[test]
fn what_others_install_in_between_stays() {
    let layer = Layer::new();
    layer.trust(&["install"]).expect_success();
    let (corp, _) = authority("Corp authority");
    layer.file("/usr/local/share/ca-certificates/corp.crt", &corp);
    layer.sh("update-ca-certificates").expect_success();
    let drop_in = format!("/etc/systemd/system/{UNIT}.d/50-interlock-trust.conf");
    layer.file(&drop_in, "[Service]\nEnvironment=MINE=1\n");
    let removed = layer.trust(&["remove"]).expect_success();
    assert!(removed.contains("changed by others"), "{removed}");
    assert_eq!(fs::read_to_string(layer.at(&drop_in)).unwrap(), "[Service]\nEnvironment=MINE=1\n");
    let listed = |file: &str| {
        layer
            .sh(&format!(
                "keytool -list -storepass changeit -keystore {file} 2>/dev/null | grep -c -i {}",
                "corp"
            ))
            .stdout
    };
    assert_eq!(listed("/etc/ssl/certs/java/cacerts").trim(), "1");
    let ours = layer.sh(
        "keytool -list -storepass changeit -keystore /etc/ssl/certs/java/cacerts 2>/dev/null | grep -i interlock; \
         ls /etc/ssl/certs | grep -i interlock; find /etc/ssl/certs -xtype l",
    );
    assert_eq!(ours.stdout, "", "{}", ours.both());
    let verified = |file: &str| layer.sh(&format!("openssl verify {file}")).success();
    assert!(verified("/usr/local/share/ca-certificates/corp.crt"), "the other's authority is gone");
    assert!(!verified("/interlock-test/state/tls/authority.crt"));
    let (accepts, _) = layer.status(&["--client", "java", "--client", "curl"]);
    assert_eq!(accepts.into_iter().collect::<Vec<_>>(), [("curl".into(), false), ("java".into(), false)]);
}

#[test]
fn a_jvm_with_a_keystore_of_its_own_is_served_and_put_back() {
    let layer = Layer::new();
    layer
        .sh("mkdir -p /usr/lib/jvm/vendored/lib/security && cp /etc/ssl/certs/java/cacerts /usr/lib/jvm/vendored/lib/security/ \
             && chmod 640 /usr/lib/jvm/vendored/lib/security/cacerts")
        .expect_success();
    let before = layer.snapshot();
    let store = "/usr/lib/jvm/vendored/lib/security/cacerts";
    let holds = |name: &str| {
        layer.sh(&format!("keytool -list -storepass changeit -keystore {store} -alias {name}")).success()
    };
    layer.trust(&["install"]).expect_success();
    assert!(holds("interlock-authority"));
    layer.trust(&["remove"]).expect_success();
    layer.assert_as(&before, "after the removal");

    // Somebody else's certificate comes in between.
    layer.trust(&["install"]).expect_success();
    layer.file("/interlock-test/corp.pem", &authority("Corp authority").0);
    layer
        .sh(&format!(
            "keytool -importcert -noprompt -storepass changeit -keystore {store} -alias corp -file /interlock-test/corp.pem"
        ))
        .expect_success();
    layer.trust(&["remove"]).expect_success();
    assert!(holds("corp") && !holds("interlock-authority"));
}

#[test]
fn a_unit_that_is_given_a_keystore_accepts_without_the_systems() {
    let layer = Layer::new();
    layer.trust(&["install", "--unit", UNIT, "--java-tool-options"]).expect_success();
    // As in a JVM that does not look at the system's keystore.
    layer.sh("mv /etc/ssl/certs/java/cacerts /etc/ssl/certs/java/cacerts.away").expect_success();
    let (accepts, all) = layer.status(&["--unit", UNIT, "--client", "java"]);
    assert!(all && accepts["java"], "{accepts:?}");
    let (accepts, _) = layer.status(&["--client", "java"]);
    assert!(!accepts["java"], "the system's store was still read");
    let listed = layer.sh("keytool -list -storepass changeit -keystore /interlock-test/run/trust/bundle.jks");
    assert!(listed.success() && listed.stdout.contains("trustedCertEntry"), "{}", listed.both());
}

#[test]
fn a_dry_run_changes_nothing() {
    let layer = Layer::new();
    let before = layer.snapshot();
    let told = layer.trust(&["install", "--dry-run"]).expect_success();
    assert!(told.contains("would install") && told.contains("Environment=\"SSL_CERT_FILE="), "{told}");
    layer.assert_as(&before, "after the dry run");
    let without = layer.trust(&["remove"]).expect_success();
    assert!(without.contains("nothing is installed"), "{without}");
}

#[test]
fn an_image_below_another_directory() {
    let layer = Layer::new();
    layer
        .sh("mkdir -p /image/etc/ssl /image/var/lib/dpkg && cp -a /etc/ssl/certs /image/etc/ssl/ && mkdir -p \
             /image/usr/local/share /image/usr/share /image/tmp /image/interlock-test && cp -a /usr/share/ca-certificates \
             /image/usr/share/ && cp -a /etc/ca-certificates.conf /image/etc/ && cp -a /usr/local/share/ca-certificates \
             /image/usr/local/share/ && mount --bind /usr/bin /mnt && mkdir -p /image/usr/bin /image/usr/sbin /image/usr/lib \
             /image/dev && touch /image/dev/null && cp /usr/sbin/update-ca-certificates /image/usr/sbin/ && mount --bind \
             /usr/bin /image/usr/bin && mount --bind /usr/lib /image/usr/lib && cd /image && ln -s usr/bin bin && ln -s \
             usr/lib lib && mkdir -p usr/lib64 && cp -a /lib64/. usr/lib64/ && ln -s usr/lib64 lib64")
        .expect_success();
    let host = layer.snapshot();
    let image =
        || layer.sh("cd /image && find etc usr/local -type f -print0 | sort -z | xargs -0 sha256sum").stdout;
    let before = image();
    let arguments = ["--root", "/image", "--authority", "/interlock-test/state/tls/authority.crt"];
    layer.trust(&[&["install", "--unit", UNIT], &arguments[..]].concat()).expect_success();
    layer.assert_as(&host, "the host, after installing into the image");
    let unit = layer.at(&format!("/image/etc/systemd/system/{UNIT}.d/50-interlock-trust.conf"));
    assert!(fs::read_to_string(unit).unwrap().contains("=/interlock-test/run/trust/bundle.pem"));
    let verified = "openssl verify -no-CApath -CAfile /image/etc/ssl/certs/ca-certificates.crt \
                    /interlock-test/state/tls/authority.crt";
    assert!(layer.sh(verified).success());
    layer.trust(&["remove", "--root", "/image"]).expect_success();
    assert_eq!(image(), before);
}

#[test]
fn a_command_under_interlock_run_finds_the_authority() {
    let (certificate, key) = authority("Interlock host authority test");
    let policy = "version: 1\nprocesses: [{run: \"*\"}]\nrules: []\nmasks: []\n";
    let mut agent =
        Agent::prepare(agent::binary().unwrap(), &[("10-run.yaml", policy)], "", Cgroup::new().unwrap())
            .unwrap();
    let tls = agent.state().join("tls");
    fs::create_dir_all(&tls).unwrap();
    for directory in [agent.state(), tls.clone()] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    }
    fs::write(tls.join("authority.crt"), &certificate).unwrap();
    fs::write(tls.join("authority.key"), &key).unwrap();
    fs::set_permissions(tls.join("authority.key"), fs::Permissions::from_mode(0o600)).unwrap();
    agent.launch().unwrap();

    let home = temporary_directory("home").unwrap();
    let own = home.path().join("own.pem");
    fs::write(&own, authority("Own").0).unwrap();
    let run = |options: &[&str]| {
        let mut command = agent.command();
        command
            .arg("run")
            .args(options)
            .args(["--", "env"])
            .env_clear()
            .env("PATH", path())
            .env("HOME", home.path());
        command.env("PIP_CERT", &own).env("CURL_CA_BUNDLE", "/no/such/file");
        let printed = finish(&mut command, "", LIMIT).unwrap().expect_success();
        let pairs = printed.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<BTreeMap<_, _>>()
    };
    let environment = run(&[]);
    let bundle = agent.run().join("trust/bundle.pem");
    for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"] {
        assert_eq!(Path::new(&environment[name]), bundle, "{name}");
    }
    assert_eq!(environment["CURL_CA_BUNDLE"], "/no/such/file");
    assert!(!environment.contains_key("PGSSLROOTCERT"), "there is no root file to keep");
    let verifies = |roots: &str, file: &Path| {
        let mut command = Command::new("openssl");
        command.args(["verify", "-no-CApath", "-CAfile", roots]).arg(file);
        finish(&mut command, "", LIMIT).unwrap().success()
    };
    let crt = tls.join("authority.crt");
    assert!(verifies(&environment["SSL_CERT_FILE"], &crt));
    // A file of roots that the user set keeps them.
    assert!(verifies(&environment["PIP_CERT"], &crt) && verifies(&environment["PIP_CERT"], &own));
    assert!(!verifies(own.to_str().unwrap(), &crt), "the user's own file was changed");

    let kept = run(&["--keep-environment"]);
    assert!(!kept.contains_key("SSL_CERT_FILE"));
    assert_eq!(Path::new(&kept["PIP_CERT"]), own);
}
