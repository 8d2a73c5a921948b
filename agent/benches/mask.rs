//! Masking: all detectors over rows in which they find nothing, which is what nearly all rows are;
//! over short values, where the cost of a call counts; and over values that are masked.
//!
//! `cargo bench -p interlock-agent --bench mask`

use std::fmt::Write;
use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};

use interlock_agent::mask::{Detector, Fired, Format, HashKey, MaskSet, Transform};

/// Time on the processor: what matters is the cost, and a busy machine does not change it much.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }

    fn end(&self, start: Duration) -> Duration {
        self.start() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn all_detectors() -> MaskSet {
    Detector::ALL
        .iter()
        .fold(MaskSet::builder(), |masks, (detector, _)| {
            masks.detector("all".into(), *detector, Transform::Redact)
        })
        .build(&HashKey::new(&[1; 32]))
}

/// What the example policy asks for.
fn common_detectors() -> MaskSet {
    [Detector::PaymentCard, Detector::Email, Detector::PrivateKey, Detector::AwsAccessKey]
        .into_iter()
        .fold(MaskSet::builder(), |masks, detector| {
            masks.detector("leaks".into(), detector, Transform::Redact)
        })
        .build(&HashKey::new(&[1; 32]))
}

/// A small generator, so that every run sees the same rows.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.next(words.len() as u64) as usize]
    }
}

const NAMES: &[&str] =
    &["Maria", "João", "Wei", "Fatima", "Ingrid", "Oluwaseun", "Katherine", "Dmitri", "Jane", "Iris"];
const STREETS: &[&str] =
    &["Baker Street", "Rue de la Paix", "Hauptstraße", "Via Roma", "Elm Avenue", "Calle Mayor"];
const WORDS: &[&str] = &[
    "the",
    "order",
    "was",
    "delivered",
    "to",
    "customer",
    "on",
    "Monday",
    "and",
    "invoice",
    "paid",
    "late",
    "because",
    "of",
    "a",
    "missing",
    "signature",
    "It",
    "is",
    "waiting",
];

fn uuid(random: &mut Random) -> String {
    let mut hex = String::new();
    for _ in 0..4 {
        let _ = write!(hex, "{:08x}", random.next(1 << 31));
    }
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

fn timestamp(random: &mut Random) -> String {
    format!(
        "20{:02}-{:02}-{:02} {:02}:{:02}:{:02}.{:06}+00",
        random.next(25),
        random.next(12) + 1,
        random.next(28) + 1,
        random.next(24),
        random.next(60),
        random.next(60),
        random.next(1_000_000)
    )
}

fn text(random: &mut Random) -> String {
    (0..12).map(|_| random.pick(WORDS)).collect::<Vec<_>>().join(" ")
}

fn json(random: &mut Random) -> String {
    format!(
        "{{\"order_id\": {}, \"status\": \"{}\", \"total\": {}.{:02}, \"created_at\": \"{}\", \"items\": [{{\"sku\": \"AB-{}\", \"qty\": {}}}], \"note\": \"{}\"}}",
        random.next(1_000_000),
        random.pick(&["paid", "open", "shipped"]),
        random.next(1000),
        random.next(100),
        timestamp(random).replace(' ', "T"),
        random.next(10_000),
        random.next(9),
        text(random)
    )
}

type Make = fn(&mut Random) -> String;

const KINDS: &[(&str, Make)] = &[
    ("names", |r| format!("{} {}", r.pick(NAMES), r.pick(NAMES))),
    ("addresses", |r| {
        format!("{} {}, {:05} {}", r.next(200), r.pick(STREETS), r.next(100_000), r.pick(NAMES))
    }),
    ("numbers", |r| r.next(10_000_000).to_string()),
    ("amounts", |r| format!("{}.{:02}", r.next(100_000), r.next(100))),
    ("uuids", uuid),
    ("timestamps", timestamp),
    ("text", text),
    ("json", json),
];

/// Values of this kind in which nothing is found.
fn values(masks: &MaskSet, make: Make) -> Vec<Vec<u8>> {
    let mut random = Random(7);
    let quiet = |value: &Vec<u8>| !masks.detect(value, &mut Vec::new(), &mut Fired::default());
    std::iter::repeat_with(|| make(&mut random).into_bytes()).filter(quiet).take(1000).collect()
}

fn detect_all(masks: &MaskSet, values: &[Vec<u8>], out: &mut Vec<u8>) -> usize {
    let mut fired = Fired::default();
    values.iter().filter(|value| masks.detect(black_box(value), out, &mut fired)).count()
}

fn quiet(c: &mut Criterion<CpuTime>) {
    for (name, masks) in [("all detectors", all_detectors()), ("four detectors", common_detectors())] {
        let mut group = c.benchmark_group(format!("nothing found, {name}"));
        let mut out = Vec::new();
        for (kind, make) in KINDS {
            let values = values(&masks, *make);
            group.throughput(Throughput::Bytes(values.iter().map(|v| v.len() as u64).sum()));
            group.bench_function(BenchmarkId::new("values", kind), |b| {
                b.iter(|| detect_all(&masks, &values, &mut out));
            });
        }
        // A row as a DataRow has it, value by value; and the same as one COPY line.
        let mut random = Random(11);
        let rows: Vec<Vec<Vec<u8>>> = std::iter::repeat_with(|| {
            KINDS.iter().map(|(_, make)| make(&mut random).into_bytes()).collect::<Vec<_>>()
        })
        .filter(|row| row.iter().all(|v| !masks.detect(v, &mut Vec::new(), &mut Fired::default())))
        .take(500)
        .collect();
        let flat: Vec<Vec<u8>> = rows.concat();
        group.throughput(Throughput::Bytes(flat.iter().map(|v| v.len() as u64).sum()));
        group
            .bench_function("mixed rows, value by value", |b| b.iter(|| detect_all(&masks, &flat, &mut out)));
        let lines: Vec<Vec<u8>> = rows.iter().map(|row| row.join(&b'\t')).collect();
        group.throughput(Throughput::Bytes(lines.iter().map(|v| v.len() as u64).sum()));
        group.bench_function("mixed rows, line by line", |b| b.iter(|| detect_all(&masks, &lines, &mut out)));
        // Typed: dates, numbers and UUIDs are passed over by their type.
        let oids = [25, 25, 23, 1700, 2950, 1184, 25, 3802];
        group.throughput(Throughput::Bytes(flat.iter().map(|v| v.len() as u64).sum()));
        group.bench_function("mixed rows, by type", |b| {
            let mut fired = Fired::default();
            b.iter(|| {
                rows.iter()
                    .flat_map(|row| row.iter().zip(oids))
                    .filter(|(value, oid)| {
                        masks
                            .detect_typed(*oid, Format::Text, black_box(value), &mut out, &mut fired)
                            .is_some()
                    })
                    .count()
            });
        });
        group.finish();
    }
}

fn short(c: &mut Criterion<CpuTime>) {
    let masks = all_detectors();
    let mut group = c.benchmark_group("one value of about 20 bytes");
    for (name, value) in [
        ("text", "Katherine Fitzgerald"),
        ("number", "10000000000000000001"),
        ("timestamp", "2024-03-05 12:34:56"),
    ] {
        let (mut out, mut fired) = (Vec::new(), Fired::default());
        group.bench_function(name, |b| {
            b.iter(|| masks.detect(black_box(value.as_bytes()), &mut out, &mut fired));
        });
    }
    group.finish();
}

fn found(c: &mut Criterion<CpuTime>) {
    let masks = all_detectors();
    let mut group = c.benchmark_group("one value with something found");
    for (name, value) in [
        ("card", "paid with 4111 1111 1111 1111, thanks"),
        ("email", "please write to ann.smith@example.com today"),
        ("iban", "transfer to DE89 3704 0044 0532 0130 00"),
    ] {
        let (mut out, mut fired) = (Vec::new(), Fired::default());
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                masks.detect(black_box(value.as_bytes()), &mut out, &mut fired)
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = quiet, short, found
}
criterion_main!(benches);
