//! Installing and removing on made-up systems, with stand-ins for the distributions' tools.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::files::{Tree, fault};
use super::install::{Done, Report, Request, install};
use super::process::Tools;
use super::remove::remove;
use super::*;

/// Writes what update-ca-certificates and update-ca-trust write, one step at a time, so that it can be cut
/// short between any two.
struct StandIns;

impl Tools for StandIns {
    fn run(&self, root: &Path, program: &Path, _: &[&OsStr]) -> anyhow::Result<String> {
        match program.to_str().unwrap() {
            "/usr/sbin/update-ca-certificates" => debian(root)?,
            "/usr/bin/update-ca-trust" => rhel(root)?,
            other => anyhow::bail!("{other} is not to be run"),
        }
        Ok(String::new())
    }

    fn find(&self, _: &str) -> Option<PathBuf> {
        None
    }
}

fn sources(directories: &[PathBuf]) -> Vec<PathBuf> {
    let listings = directories.iter().flat_map(|directory| fs::read_dir(directory).into_iter().flatten());
    let mut files: Vec<_> = listings.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "crt"));
    files.sort();
    files
}

fn write(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    fault::step()?;
    let temporary = path.with_extension("new");
    fs::write(&temporary, contents)?;
    fault::step()?;
    fs::rename(temporary, path)
}

fn debian(root: &Path) -> anyhow::Result<()> {
    let output = root.join("etc/ssl/certs");
    let all =
        sources(&[root.join("usr/share/ca-certificates"), root.join("usr/local/share/ca-certificates")]);
    let mut bundle = Vec::new();
    for file in &all {
        bundle.extend(fs::read(file)?);
        let link = output.join(file.with_extension("pem").file_name().unwrap());
        if !link.is_symlink() {
            fault::step()?;
            symlink(Path::new("/").join(file.strip_prefix(root)?), &link)?;
            fault::step()?;
            let hash = format!("{:.8}.0", files::digest(&fs::read(file)?));
            symlink(link.file_name().unwrap(), output.join(hash))?;
        }
    }
    Ok(write(&output.join("ca-certificates.crt"), &bundle)?)
}

fn rhel(root: &Path) -> anyhow::Result<()> {
    let output = root.join("etc/pki/ca-trust/extracted");
    let anchors = root.join("etc/pki/ca-trust/source/anchors");
    let mut bundle = fs::read(root.join("usr/share/pki/roots.crt"))?;
    for file in sources(&[anchors]) {
        bundle.extend(fs::read(file)?);
    }
    write(&output.join("pem/tls-ca-bundle.pem"), &bundle)?;
    // As with the real one, something else each time.
    let stamp = format!("{:?}", std::time::Instant::now());
    Ok(write(&output.join("java/cacerts"), stamp.as_bytes())?)
}

/// A made-up system.
struct World {
    dir: tempfile::TempDir,
    host: Host,
    authority: Authority,
}

fn certificate(name: &str) -> String {
    rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem()
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Host {
            root: dir.path().to_owned(),
            state: "/var/lib/interlock".into(),
            run: "/run/interlock".into(),
        };
        let authority = Authority::parse(certificate("authority").as_bytes(), Path::new("x")).unwrap();
        let world = Self { dir, host, authority };
        fs::create_dir_all(world.path("/var/lib/interlock")).unwrap();
        world.file(
            "/usr/lib/systemd/system/report.service",
            "[Service]\nUser=report\nEnvironment=REQUESTS_CA_BUNDLE=/opt/corp.pem\n",
        );
        world.file("/etc/passwd", "root:x:0:0::/root:/bin/sh\nreport:x:1001:1001::/home/report:/bin/sh\n");
        world.file("/home/report/.postgresql/root.crt", &certificate("database"));
        world.file("/opt/corp.pem", &certificate("corp"));
        world
    }

    fn debian() -> Self {
        let world = Self::new();
        world.file("/usr/sbin/update-ca-certificates", "");
        world.file("/usr/share/ca-certificates/one.crt", &certificate("one"));
        world.file("/usr/share/ca-certificates/two.crt", &certificate("two"));
        world.file("/etc/ssl/certs/java/other", "kept");
        debian(world.dir.path()).unwrap();
        world
    }

    fn rhel() -> Self {
        let world = Self::new();
        world.file("/usr/bin/update-ca-trust", "");
        world.file("/usr/share/pki/roots.crt", &certificate("roots"));
        for directory in ["source/anchors", "extracted/pem", "extracted/java"] {
            fs::create_dir_all(world.path(&format!("/etc/pki/ca-trust/{directory}"))).unwrap();
        }
        rhel(world.dir.path()).unwrap();
        let bundle = world.path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem");
        fs::set_permissions(bundle, fs::Permissions::from_mode(0o444)).unwrap();
        world
    }

    fn path(&self, path: &str) -> PathBuf {
        self.host.at(Path::new(path))
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// All but the run directory, whose bundles are the agent's.
    fn everything(&self) -> Tree {
        let mut tree = files::tree(self.dir.path()).unwrap();
        tree.retain(|path, _| !path.starts_with("run"));
        tree
    }

    fn try_install(&self, request: &Request) -> anyhow::Result<Report> {
        install(&self.host, &StandIns, &self.authority, request)
    }

    fn install(&self) -> Report {
        let report = self.try_install(&units()).unwrap();
        assert_eq!(report.failures, Vec::<String>::new());
        report
    }

    fn remove(&self) -> Report {
        let report = remove(&self.host, &StandIns, false).unwrap();
        assert_eq!(report.failures, Vec::<String>::new());
        report
    }

    fn bundle_holds(&self, path: &str) -> bool {
        self.authority.is_in(&pem::read(&self.path(path)).unwrap())
    }
}

fn units() -> Request {
    Request { units: vec!["report.service".to_owned()], ..Request::default() }
}

const DROP_IN: &str = "/etc/systemd/system/report.service.d/50-interlock-trust.conf";
const DEBIAN_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const RHEL_BUNDLE: &str = "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem";

#[test]
fn debian_there_and_back() {
    let world = World::debian();
    let before = world.everything();
    world.install();
    assert!(world.bundle_holds(DEBIAN_BUNDLE));
    assert!(world.path("/etc/ssl/certs/interlock-authority.pem").is_symlink());
    world.remove();
    assert_eq!(world.everything(), before);
}

#[test]
fn rhel_there_and_back() {
    let world = World::rhel();
    let before = world.everything();
    world.install();
    assert!(world.bundle_holds(RHEL_BUNDLE));
    world.remove();
    assert_eq!(world.everything(), before);
}

#[test]
fn a_second_installation_changes_nothing() {
    for world in [World::debian(), World::rhel()] {
        let before = world.everything();
        world.install();
        let once = world.everything();
        let report = world.install();
        assert!(report.restart.is_empty());
        let done: Vec<_> = report.steps.iter().filter(|step| step.done == Done::Installed).collect();
        assert!(done.is_empty(), "{done:?}");
        let mut twice = world.everything();
        // The manifest is written anew each time.
        let manifest = PathBuf::from("var/lib/interlock/trust/manifest.json");
        assert!(twice[&manifest].same(&once[&manifest]));
        twice.insert(manifest.clone(), once[&manifest].clone());
        assert_eq!(twice, once);
        world.remove();
        assert_eq!(world.everything(), before);
    }
}

#[test]
fn telling_what_would_be_done_changes_nothing() {
    let world = World::debian();
    let before = files::tree(world.dir.path()).unwrap();
    let report = world.try_install(&Request { dry_run: true, ..units() }).unwrap();
    assert!(report.steps.iter().all(|step| step.done == Done::WouldInstall), "{report:?}");
    let drop_in = report.steps.iter().find(|step| step.path == Path::new(DROP_IN)).unwrap();
    assert!(drop_in.text.as_ref().unwrap().contains("SSL_CERT_FILE"));
    assert_eq!(files::tree(world.dir.path()).unwrap(), before);
    world.install();
    let installed = files::tree(world.dir.path()).unwrap();
    remove(&world.host, &StandIns, true).unwrap();
    assert_eq!(files::tree(world.dir.path()).unwrap(), installed);
}

/// Ends an installation at its first step, its second and so on, and removes what it left each time.
fn cut_short_at_each_step(world: &World) {
    let before = world.everything();
    for steps in 0.. {
        fault::after(Some(steps));
        let outcome = world.try_install(&units());
        fault::after(None);
        let finished = outcome.is_ok_and(|report| report.failures.is_empty());
        world.remove();
        let mut after = world.everything();
        // What was made anew with the same contents is as good as what was there.
        for (path, entry) in &mut after {
            if let Some(old) = before.get(path)
                && old.same(entry)
            {
                entry.clone_from(old);
            }
        }
        assert_eq!(after, before, "cut short after {steps} steps");
        if finished {
            assert!(steps > 20, "only {steps} steps");
            return;
        }
    }
}

#[test]
fn an_installation_cut_short_anywhere_is_removed_whole_on_debian() {
    cut_short_at_each_step(&World::debian());
}

#[test]
fn an_installation_cut_short_anywhere_is_removed_whole_on_rhel() {
    cut_short_at_each_step(&World::rhel());
}

#[test]
fn a_removal_cut_short_anywhere_goes_on() {
    for make in [World::debian, World::rhel] {
        for steps in 0.. {
            let world = make();
            let before = world.everything();
            world.install();
            fault::after(Some(steps));
            let outcome = remove(&world.host, &StandIns, false);
            fault::after(None);
            let finished = outcome.is_ok_and(|report| report.failures.is_empty());
            world.remove();
            let after = world.everything();
            assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
            for (path, entry) in &after {
                assert!(entry.same(&before[path]), "{} after {steps} steps", path.display());
            }
            if finished {
                break;
            }
        }
    }
}

#[test]
fn what_others_changed_since_stays() {
    for (world, bundle, anchor) in [
        (World::debian(), DEBIAN_BUNDLE, "/usr/local/share/ca-certificates/corp.crt"),
        (World::rhel(), RHEL_BUNDLE, "/etc/pki/ca-trust/source/anchors/corp.crt"),
    ] {
        world.install();
        let corp = certificate("another");
        world.file(anchor, &corp);
        let tool = if bundle == DEBIAN_BUNDLE { debian } else { rhel };
        tool(world.dir.path()).unwrap();
        world.file(DROP_IN, "[Service]\nEnvironment=MINE=1\n");
        let report = world.remove();
        assert!(!world.bundle_holds(bundle));
        let roots = pem::read(&world.path(bundle)).unwrap();
        assert!(roots.contains(&pem::certificates(corp.as_bytes())[0]), "the other's authority is gone");
        assert_eq!(world.text(DROP_IN), "[Service]\nEnvironment=MINE=1\n");
        assert!(report.notes.iter().any(|note| note.contains(DROP_IN)), "{report:?}");
        assert!(!world.path("/var/lib/interlock/trust").exists());
        let left = files::tree(world.dir.path()).unwrap();
        let ours: Vec<_> =
            left.keys().filter(|path| path.to_string_lossy().contains("interlock-authority")).collect();
        assert_eq!(ours, Vec::<&PathBuf>::new());
    }
}

#[test]
fn a_file_that_was_there_before_is_put_back_with_its_mode() {
    let world = World::debian();
    world.file(DROP_IN, "# somebody else's\n");
    fs::set_permissions(world.path(DROP_IN), fs::Permissions::from_mode(0o600)).unwrap();
    world.file("/usr/local/share/ca-certificates/interlock-authority.crt", &certificate("older"));
    debian(world.dir.path()).unwrap();
    let before = world.everything();
    world.install();
    assert!(world.text(DROP_IN).contains("SSL_CERT_FILE"));
    world.remove();
    assert_eq!(world.everything(), before);
}

#[test]
fn certificates_that_only_the_bundle_holds_stay_in_it() {
    let world = World::debian();
    let stray = certificate("stray");
    let bundle = format!("{}{stray}", world.text(DEBIAN_BUNDLE));
    world.file(DEBIAN_BUNDLE, &bundle);
    let report = world.install();
    assert!(report.notes.iter().any(|note| note.contains("1 certificates")), "{report:?}");
    let stray = &pem::certificates(stray.as_bytes())[0];
    assert!(pem::read(&world.path(DEBIAN_BUNDLE)).unwrap().contains(stray));
    world.remove();
    assert_eq!(world.text(DEBIAN_BUNDLE), bundle);
}

#[test]
fn another_authority_takes_the_place_of_the_first() {
    let mut world = World::debian();
    let before = world.everything();
    world.install();
    let first = world.authority.clone();
    world.authority = Authority::parse(certificate("second").as_bytes(), Path::new("x")).unwrap();
    world.install();
    assert!(world.bundle_holds(DEBIAN_BUNDLE));
    assert!(!first.is_in(&pem::read(&world.path(DEBIAN_BUNDLE)).unwrap()));
    world.remove();
    assert_eq!(world.everything(), before);
}

#[test]
fn a_unit_keeps_the_roots_that_it_was_given() {
    let world = World::debian();
    world.install();
    let drop_in = world.text(DROP_IN);
    let bundle = |variable: &str| {
        let line = drop_in.lines().find(|line| line.contains(variable)).unwrap();
        let path = line.split_once(&format!("{variable}=")).unwrap().1.trim_end_matches('"');
        pem::read(&world.path(path)).unwrap()
    };
    let corp = pem::certificates(world.text("/opt/corp.pem").as_bytes());
    let expected: Vec<_> = corp.iter().chain(&world.authority.certificates).cloned().collect();
    assert_eq!(bundle("REQUESTS_CA_BUNDLE"), expected);
    let system = bundle("SSL_CERT_FILE");
    assert!(world.authority.is_in(&system) && system.len() == 3);
    assert_eq!(bundle("NODE_EXTRA_CA_CERTS"), world.authority.certificates);
    assert!(!drop_in.contains("PGSSLROOTCERT") && !drop_in.contains("GIT_SSL"), "{drop_in}");
    // libpq's own file is overlaid, so that its roots are kept too.
    let overlay = drop_in.lines().find_map(|line| line.strip_prefix("BindReadOnlyPaths=-")).unwrap();
    let (from, to) = overlay.split_once(':').unwrap();
    assert_eq!(to, "/home/report/.postgresql/root.crt");
    assert_eq!(pem::read(&world.path(from)).unwrap().len(), 2);
}

#[test]
fn an_environment_file_of_the_unit_does_not_win() {
    let world = World::debian();
    world.file(
        "/usr/lib/systemd/system/report.service",
        "[Service]\nEnvironmentFile=/etc/report.env\nUser=report\n",
    );
    world.file("/etc/report.env", "AWS_CA_BUNDLE=/opt/corp.pem\n");
    let before = world.everything();
    world.install();
    let unit = unit::Unit::read(&world.host, "report.service", true);
    let bundle = pem::read(&world.host.at(Path::new(&unit.environment["AWS_CA_BUNDLE"]))).unwrap();
    assert!(world.authority.is_in(&bundle) && bundle.len() == 2);
    world.remove();
    assert_eq!(world.everything(), before);
}

#[test]
fn bundles_follow_what_they_are_made_of() {
    let world = World::debian();
    world.install();
    world.file("/usr/share/ca-certificates/three.crt", &certificate("three"));
    debian(world.dir.path()).unwrap();
    world.file("/home/report/.postgresql/root.crt", &certificate("rotated"));
    let overlay = Bundle::overlay(Path::new("/home/report/.postgresql/root.crt")).path(&world.host);
    let number = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let inode = number(&world.host.at(&overlay));
    let manifest = Manifest::read(&world.host.manifest()).unwrap().unwrap();
    bundle::refresh(&world.host, &world.authority, &manifest.bundles).unwrap();
    assert_eq!(pem::read(&world.path("/run/interlock/trust/bundle.pem")).unwrap().len(), 4);
    let roots = pem::read(&world.host.at(&overlay)).unwrap();
    let rotated = pem::read(&world.path("/home/report/.postgresql/root.crt")).unwrap();
    assert!(roots.contains(&rotated[0]) && world.authority.is_in(&roots));
    assert_eq!(number(&world.host.at(&overlay)), inode, "a mount would go on showing the old file");
}

#[test]
fn a_kubeconfig_copy_can_be_read_by_whom_the_file_can() {
    let world = World::debian();
    let data = pem::base64(certificate("cluster").as_bytes());
    let text =
        format!("clusters:\n- name: a\n  cluster:\n    certificate-authority-data: {data}\nusers: []\n");
    world.file("/home/report/.kube/config", &text);
    fs::set_permissions(world.path("/home/report/.kube/config"), fs::Permissions::from_mode(0o600)).unwrap();
    let path = PathBuf::from("/home/report/.kube/config");
    let request = Request { kubeconfigs: vec![path.clone()], ..units() };
    assert_eq!(world.try_install(&request).unwrap().failures, Vec::<String>::new());
    let copy = world.host.at(&Bundle::kubeconfig(&path).path(&world.host));
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert_ne!(fs::read_to_string(&copy).unwrap(), text);
    assert!(world.text(DROP_IN).contains(":/home/report/.kube/config\n"));
    world.remove();
    assert!(!copy.exists(), "it holds credentials");
    assert_eq!(world.text("/home/report/.kube/config"), text);
}

#[test]
fn a_system_without_a_store_is_told_and_the_rest_is_done() {
    let world = World::new();
    let report = world.try_install(&units()).unwrap();
    assert!(report.failures.iter().any(|failure| failure.contains("ca-certificates")), "{report:?}");
    let drop_in = world.text(DROP_IN);
    assert!(drop_in.contains("NODE_EXTRA_CA_CERTS"));
    assert!(!drop_in.contains("SSL_CERT_FILE"), "it would take all roots away: {drop_in}");
}

#[test]
fn names_that_are_paths_are_no_units() {
    for name in ["../../etc/x.service", "x", "x.slice", "a b.service", ".service/../x.service"] {
        assert!(install::check_name(name).is_err(), "{name}");
    }
    install::check_name("getty@tty1.service").unwrap();
}

#[test]
fn two_at_once_are_kept_apart() {
    let world = World::debian();
    let held = manifest::Journal::open(&world.host.manifest()).unwrap();
    assert!(world.try_install(&units()).unwrap_err().to_string().contains("another"));
    drop(held);
    world.install();
}

#[test]
fn a_damaged_manifest_is_not_taken_for_none() {
    let world = World::debian();
    world.install();
    world.file("/var/lib/interlock/trust/manifest.json", "{");
    assert!(remove(&world.host, &StandIns, false).unwrap_err().to_string().contains("damaged"));
}
