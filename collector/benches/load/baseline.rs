//! The same events as JSON Lines in a file, flushed by the same rhythm: what keeping them costs without
//! proving, searching and showing them.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use interlock_recording::json;
use interlock_recording::proto::Event;
use prost::Message as _;

use crate::measure::thread_cpu;
use crate::recording::{Recording, Shape};

/// What writing them came to.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) events: u64,
    pub(crate) sessions: u64,
    /// Bytes of the records, as the collector takes them.
    pub(crate) records: u64,
    /// Bytes of the lines.
    pub(crate) bytes: u64,
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
}

/// Writes events of `hosts` hosts for `seconds`: of each in turn `batch`, which are flushed.
pub(crate) fn write(path: &Path, hosts: u64, shape: Shape, batch: u64, seconds: Duration) -> Result<Written> {
    let mut file = File::create(path)?;
    let mut written = Written::default();
    let mut recordings: Vec<_> = (0..hosts).map(|host| Recording::new(host, shape)).collect();
    'all: loop {
        for recording in &mut recordings {
            if written.wall >= seconds {
                break 'all;
            }
            let events: Vec<Vec<u8>> = (0..batch.min(shape.segment))
                .filter_map(|_| recording.event())
                .map(|event| event.encode_to_vec())
                .collect();
            // Only what is to be measured, not the making of events.
            let (cpu, began) = (thread_cpu(), Instant::now());
            let mut lines = Vec::new();
            for event in &events {
                serde_json::to_writer(&mut lines, &json::event(&Event::decode(event.as_slice())?))?;
                lines.push(b'\n');
            }
            file.write_all(&lines)?;
            file.sync_data()?;
            written.cpu += thread_cpu() - cpu;
            written.wall += began.elapsed();
            written.events += events.len() as u64;
            written.bytes += lines.len() as u64;
            recording.drop_open();
        }
    }
    written.sessions = recordings.iter().map(|recording| recording.sessions).sum();
    written.records = recordings.iter().map(|recording| recording.bytes).sum();
    Ok(written)
}
