//! An agent whose earlier recordings were shipped and removed.

use std::fs;
use std::path::{Path, PathBuf};

use interlock_recording::chain::Hash;
use interlock_recording::log::segment_name;
use interlock_recording::segment::SegmentReader;
use interlock_recording::shipped::{self, SHIPPED};
use interlock_recording::{HostKey, Report, verify};

use super::tests::{END, allow, begin, config, query};
use super::*;

fn key(config: &Config) -> HostKey {
    HostKey::load_or_create(&config.state.join(KEYS)).expect("a key")
}

fn sessions(config: &Config) -> PathBuf {
    config.state.join(SESSIONS)
}

fn run(config: &Config, text: &str) {
    let recorder = Recorder::open(config).expect("opens");
    let session = begin(&recorder).expect("begins");
    session.command(&query(text, &allow())).expect("recorded");
    session.end(&END);
}

fn ship(config: &Config, segment: u64) {
    let directory = sessions(config);
    let reader = SegmentReader::open(&directory.join(segment_name(segment, true))).expect("opens");
    let hash: Hash =
        reader.footer().expect("sealed").footer.final_hash.as_slice().try_into().expect("a hash");
    shipped::write(&directory, "c.test", segment, &hash, 5, &key(config)).expect("written");
}

fn check(config: &Config) -> Report {
    verify(&sessions(config), key(config).public()).expect("verifiable")
}

fn made(directory: &Path) -> Config {
    let config = config(directory);
    (0..3).for_each(|number| run(&config, &format!("SELECT {number}")));
    config
}

#[test]
fn the_log_goes_on_behind_what_was_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = made(directory.path());
    ship(&config, 1);
    // Killed before anything was removed: the next start does it.
    run(&config, "SELECT 'after'");
    let first = sessions(&config).join(segment_name(0, true));
    assert!(!first.exists());
    assert!(!sessions(&config).join(segment_name(1, true)).exists());
    let report = check(&config);
    assert!(report.ok, "{report:?}");
    assert!(report.shipped_events > 0);
    assert_eq!(report.sessions, 2);
}

#[test]
fn an_agent_does_not_go_on_after_more_than_was_shipped() {
    let attacks: [fn(&Path); 4] = [
        |sessions| fs::remove_file(sessions.join(segment_name(2, true))).expect("removed"),
        |sessions| fs::remove_file(sessions.join(SHIPPED)).expect("removed"),
        |sessions| {
            let mut bytes = fs::read(sessions.join(SHIPPED)).expect("read");
            bytes[14] ^= 1;
            fs::write(sessions.join(SHIPPED), bytes).expect("written");
        },
        |sessions| {
            fs::remove_file(sessions.join(segment_name(2, true))).expect("removed");
            fs::remove_file(sessions.join("HEAD")).expect("removed");
        },
    ];
    for (number, attack) in attacks.into_iter().enumerate() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = made(directory.path());
        ship(&config, 1);
        shipped::prune(&sessions(&config), key(&config).public()).expect("removed");
        attack(&sessions(&config));
        assert!(!check(&config).ok, "attack {number}");
        // Without SHIPPED alone the agent has the last segment to go on from; verification tells.
        let opened = Recorder::open(&config);
        assert_eq!(opened.is_err(), number != 1, "attack {number}");
    }
}
