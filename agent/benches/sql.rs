//! What it costs to know what a statement does: a text that was read before, and one that was not; and to make what
//! is recorded of it, with nothing in it to mask and with a constant that is.
//!
//! `cargo bench -p interlock-agent --bench sql`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use interlock_agent::mask::{Detector, HashKey, MaskSet, Transform};
use interlock_agent::sql::{Cache, Recordable, Secrets, analyze, redact_secrets};

const POINT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1";

const REPORT: &str = "WITH recent AS (SELECT o.*, c.name, c.card_number FROM orders o \
    JOIN public.customers c ON c.id = o.customer_id WHERE o.created > now() - interval '7 days') \
    SELECT name, right(card_number, 4) AS card, sum(total) AS total, count(*) FILTER (WHERE refunded) \
    FROM recent LEFT JOIN regions r USING (region_id) \
    WHERE total > 10 AND (status = 'paid' OR status = 'sent') AND r.code IN ('a', 'b', 'c') \
    GROUP BY 1, 2 HAVING sum(total) > 100 ORDER BY total DESC LIMIT 50";

const BLOCK: &str = "DO $$ DECLARE r record; BEGIN FOR r IN SELECT id FROM customers LOOP \
    UPDATE orders SET seen = true WHERE customer_id = r.id; END LOOP; END $$";

fn bench(criterion: &mut Criterion) {
    let insert = format!("INSERT INTO t VALUES {}", vec!["(1, 'two', 3.0, null)"; 1000].join(", "));
    let texts = [("point", POINT), ("report", REPORT), ("do_block", BLOCK), ("insert_1000_rows", &insert)];

    let masks = Detector::ALL.iter().fold(MaskSet::builder(), |masks, (detector, _)| {
        masks.detector("all".into(), *detector, Transform::Redact)
    });
    let masks = masks.build(&HashKey::new(&[1; 32]));
    let mut group = criterion.benchmark_group("sql");
    for (name, text) in texts {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_with_input(BenchmarkId::new("miss", name), text, |bencher, text| {
            bencher.iter(|| analyze(black_box(text)));
        });
        let cache = Cache::new(10_000, 16 << 20);
        cache.analyze(text);
        group.bench_with_input(BenchmarkId::new("hit", name), text, |bencher, text| {
            bencher.iter(|| cache.analyze(black_box(text)));
        });
        group.bench_with_input(BenchmarkId::new("redact", name), text, |bencher, text| {
            bencher.iter(|| redact_secrets(black_box(text)).len());
        });
        let masked = format!("{text} -- for bob@example.com");
        for (name, text) in
            [(format!("recordable/{name}"), text), (format!("recordable_masked/{name}"), &masked)]
        {
            group.bench_function(name, |bencher| {
                bencher.iter(|| Recordable::of(black_box(text), &Secrets::of(text), &masks).text.len());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
