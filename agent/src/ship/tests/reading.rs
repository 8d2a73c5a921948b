//! What is read from the recording's files.

use std::fs;

use interlock_recording::checkpoint;
use interlock_shipping::v1::to_collector::Message;
use interlock_shipping::{MAX_LIVE, MAX_PART};

use super::super::enrolment::Mark;
use super::super::source::Source;
use super::*;

struct Recording {
    _directory: TempDir,
    config: Config,
    recorder: Arc<Recorder>,
}

fn recording() -> Recording {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.record.segment_bytes = 8 << 20;
    Recording { recorder: Recorder::open(&config).unwrap(), _directory: directory, config }
}

impl Recording {
    fn record(&self, events: usize, bytes: usize) {
        for _ in 0..events {
            self.recorder.policy_loaded(&"x".repeat(bytes), &[]).unwrap();
        }
    }

    fn covered(&self) -> u64 {
        checkpoint::read(self.recorder.directory(), self.recorder.public_key()).unwrap().events
    }

    /// Waits until HEAD covers all.
    fn settle(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.covered() < self.recorder.status().events {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn start(&self, segment: u64, event: u64) -> Result<Source, super::super::Fault> {
        Source::start(self.recorder.directory(), self.recorder.public_key(), Mark { segment, event })
    }
}

/// Reads all live records that there are: index of the first, how many bytes, headers.
fn live(source: &mut Source) -> Vec<interlock_shipping::v1::Live> {
    let mut all = Vec::new();
    while let Some(message) = source.next_message(true).unwrap() {
        match message {
            Message::Live(live) => all.push(live),
            other => panic!("{other:?}"),
        }
    }
    all
}

fn count(live: &interlock_shipping::v1::Live) -> u64 {
    let (mut at, mut count) = (0, 0);
    while let Some(length) = live.records.get(at..at + 4) {
        at += u32::from_le_bytes(length.try_into().unwrap()) as usize + 36;
        count += 1;
    }
    assert_eq!(at, live.records.len(), "whole records");
    count
}

#[test]
fn no_live_record_is_sent_beyond_head() {
    let recording = recording();
    recording.record(5, 100);
    recording.settle();
    let directory = recording.recorder.directory();
    let head = fs::read(directory.join("HEAD")).unwrap();
    let covered = recording.covered();
    recording.record(7, 100);
    recording.settle();
    // A copy of a moment before HEAD was written anew: the records are in the file already.
    let copy = tempfile::tempdir().unwrap();
    let open = "000000000000.open";
    fs::copy(directory.join(open), copy.path().join(open)).unwrap();
    fs::write(copy.path().join("HEAD"), head).unwrap();
    let mark = Mark { segment: 0, event: 0 };
    let mut source = Source::start(copy.path(), recording.recorder.public_key(), mark).unwrap();
    assert_eq!(live(&mut source).iter().map(count).sum::<u64>(), covered);
    assert!(covered < recording.covered());
    // When HEAD has come so far, the rest follows, and the header does not come again.
    fs::copy(directory.join("HEAD"), copy.path().join("HEAD")).unwrap();
    let rest = live(&mut source);
    assert_eq!(rest[0].first_index, covered);
    assert!(rest.iter().all(|live| live.header.is_empty()));
    assert_eq!(rest.iter().map(count).sum::<u64>(), recording.covered() - covered);
    // One that covers more than there is is no HEAD of this recording.
    fs::copy(directory.join(open), copy.path().join(open)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(copy.path().join(open)).unwrap();
    let bytes = file.metadata().unwrap().len();
    file.set_len(bytes - 1).unwrap();
    let mut source = Source::start(copy.path(), recording.recorder.public_key(), mark).unwrap();
    let failed = loop {
        match source.next_message(true) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a record that is cut off was passed over"),
            Err(fault) => break fault.to_string(),
        }
    };
    assert!(failed.contains("sessions verify"), "{failed}");
}

#[test]
fn what_is_sealed_under_the_reader_comes_whole() {
    let recording = recording();
    recording.record(50, 10_000);
    recording.settle();
    let mut source = recording.start(0, 0).unwrap();
    let first = match source.next_message(true).unwrap() {
        Some(Message::Live(live)) => live,
        other => panic!("{other:?}"),
    };
    assert!(!first.header.is_empty() && first.records.len() <= MAX_LIVE);
    recording.record(50, 10_000);
    recording.recorder.close().unwrap();
    let mut file = Vec::new();
    loop {
        match source.next_message(true).unwrap() {
            Some(Message::Sealed(part)) => {
                assert_eq!((part.segment, part.offset), (0, file.len() as u64));
                assert!(part.data.len() <= MAX_PART);
                file.extend_from_slice(&part.data);
                if part.last {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(file, fs::read(recording.recorder.directory().join("000000000000.seg")).unwrap());
    assert_eq!((source.next(), source.next_message(true).unwrap().is_none()), (1, true));
}

#[test]
fn with_enough_on_the_way_no_further_segment_is_begun() {
    let recording = recording();
    recording.record(3, 100_000);
    recording.recorder.close().unwrap();
    let mut source = recording.start(0, 0).unwrap();
    assert!(source.next_message(false).unwrap().is_none());
    // One that is begun goes on.
    assert!(source.next_message(true).unwrap().is_some());
}

#[test]
fn a_record_that_no_message_takes_ends_what_is_sent_live() {
    let recording = recording();
    recording.record(3, 100);
    recording.record(1, MAX_LIVE);
    recording.record(3, 100);
    recording.settle();
    let mut source = recording.start(0, 0).unwrap();
    let sent: u64 = live(&mut source).iter().map(count).sum();
    assert_eq!(sent, recording.recorder.status().events - 4);
    recording.record(3, 100);
    recording.settle();
    assert!(live(&mut source).is_empty());
    recording.recorder.close().unwrap();
    assert!(matches!(source.next_message(true).unwrap(), Some(Message::Sealed(_))));
}

#[test]
fn live_records_go_on_where_the_collector_is() {
    let recording = recording();
    recording.record(20, 50_000);
    recording.settle();
    let events = recording.covered();
    let mut source = recording.start(0, 7).unwrap();
    let sent = live(&mut source);
    assert_eq!(sent[0].first_index, 7);
    assert!(!sent[0].header.is_empty(), "the header comes with the first records of a call");
    assert_eq!(sent.iter().map(count).sum::<u64>(), events - 7);
    assert!(live(&mut recording.start(0, events).unwrap()).is_empty());
}

#[test]
fn what_the_collector_cannot_have_is_refused() {
    let mut recording = recording();
    recording.record(20, 100);
    recording.settle();
    let events = recording.covered();
    for (segment, event, words) in [
        (1, 0, "goes only to segment 0"),
        (u64::MAX, u64::MAX, "goes only to segment 0"),
        (0, events + 1, "put back"),
    ] {
        let said = recording.start(segment, event).unwrap_err().to_string();
        assert!(said.contains(words) && said.ends_with("Nothing is removed here"), "{said}");
    }
    // Another segment.
    recording.recorder.close().unwrap();
    let ended = recording.recorder.status().events;
    let elsewhere = tempfile::tempdir().unwrap();
    recording.recorder = Recorder::open(&super::config(elsewhere.path())).unwrap();
    recording.recorder = Recorder::open(&recording.config).unwrap();
    let said = recording.start(1, events).unwrap_err().to_string();
    assert!(
        said.contains("of the events before"),
        "it has segment 0, and of its events not the last: {said}"
    );
    recording.start(1, ended).unwrap();
    assert!(recording.start(2, ended).is_err());
    // What is not here any more cannot be sent.
    fs::remove_file(recording.recorder.directory().join("000000000000.seg")).unwrap();
    let said = recording.start(0, 0).unwrap_err().to_string();
    assert!(said.contains("oldest one here is 1"), "{said}");
}

#[test]
fn a_gap_is_told_and_not_passed_over() {
    let recording = recording();
    recording.record(3, 100);
    recording.settle();
    let directory = recording.recorder.directory();
    let [open, away] = ["000000000000.open", "away"].map(|name| directory.join(name));
    // Somebody takes the open segment away: HEAD says that it must be there.
    fs::rename(&open, &away).unwrap();
    let mut source = Source::start(directory, recording.recorder.public_key(), Mark::default()).unwrap();
    let said = source.next_message(true).unwrap_err().to_string();
    assert!(said.contains("the segment is missing"), "{said}");
    fs::rename(&away, &open).unwrap();
    assert!(!live(&mut source).is_empty());
}
