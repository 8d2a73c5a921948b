//! Kafka's protocol, as much as a producer needs: requests and responses in versions that every broker since
//! Kafka 0.11 and up to 4.x knows and that have no tagged fields. <https://kafka.apache.org/protocol>
//!
//! What a broker says is read with bounds: a length is believed only as far as there are bytes.

use std::collections::BTreeMap;

use crc::{CRC_32_ISCSI, Crc};

/// The keys of the requests that are made.
pub(super) mod key {
    pub(in super::super) const PRODUCE: i16 = 0;
    pub(in super::super) const METADATA: i16 = 3;
    pub(in super::super) const SASL_HANDSHAKE: i16 = 17;
    pub(in super::super) const API_VERSIONS: i16 = 18;
    pub(in super::super) const SASL_AUTHENTICATE: i16 = 36;
}

/// The version in which Metadata is asked for.
pub(super) const METADATA_VERSION: i16 = 4;
/// The versions of Produce that are the same but for what the answer tells in addition.
pub(super) const PRODUCE_VERSIONS: std::ops::RangeInclusive<i16> = 3..=8;

const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// An answer that is none of Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its answer is none of Kafka's protocol")]
pub(super) struct Garbled;

/// Writes a request's fields.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn i8(&mut self, value: i8) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn i16(&mut self, value: i16) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.0.extend(value.to_be_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.0.extend(value.to_be_bytes());
    }

    /// The number of elements of an array, or of bytes.
    pub(super) fn count(&mut self, count: usize) {
        self.i32(i32::try_from(count).unwrap_or(i32::MAX));
    }

    /// At most 32,767 bytes: names, which the configuration bounds.
    pub(super) fn text(&mut self, text: &str) {
        let length = i16::try_from(text.len()).unwrap_or(i16::MAX);
        self.i16(length);
        self.0.extend(text.bytes().take(usize::from(length.unsigned_abs())));
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend(bytes);
    }

    /// A number in zigzag and base 128, as records have them.
    fn varint(&mut self, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
        while rest >= 0x80 {
            self.0.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
    }

    fn var_bytes(&mut self, bytes: &[u8]) {
        self.varint(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
        self.0.extend(bytes);
    }
}

/// Reads an answer's fields.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Garbled> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Garbled)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Garbled> {
        self.take(N)?.try_into().map_err(|_| Garbled)
    }

    pub(super) fn i8(&mut self) -> Result<i8, Garbled> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    pub(super) fn i16(&mut self) -> Result<i16, Garbled> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, Garbled> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, Garbled> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// The number of an array's elements; null counts as none. Nothing is set aside for them beforehand.
    pub(super) fn count(&mut self) -> Result<usize, Garbled> {
        let count = self.i32()?;
        if count == -1 { Ok(0) } else { usize::try_from(count).map_err(|_| Garbled) }
    }

    /// A text; null counts as empty.
    pub(super) fn text(&mut self) -> Result<&'a str, Garbled> {
        let length = self.i16()?;
        if length == -1 {
            return Ok("");
        }
        let bytes = self.take(usize::try_from(length).map_err(|_| Garbled)?)?;
        std::str::from_utf8(bytes).map_err(|_| Garbled)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Garbled> {
        let length = self.count()?;
        self.take(length)
    }

    /// Reads an array's elements one by one.
    pub(super) fn each(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<(), Garbled>,
    ) -> Result<(), Garbled> {
        for _ in 0..self.count()? {
            // An element has a byte at least, so that no count leads on for ever.
            let before = self.0.len();
            read(self)?;
            if self.0.len() == before {
                return Err(Garbled);
            }
        }
        Ok(())
    }
}

/// A request with its header (version 1). The length before it is the connection's matter.
pub(super) fn request(api: i16, version: i16, correlation: i32, client: &str, body: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.i16(api);
    writer.i16(version);
    writer.i32(correlation);
    writer.text(client);
    writer.0.extend(body);
    writer.0
}

/// What versions a broker knows of each request, by its key.
pub(super) fn api_versions(answer: &[u8]) -> Result<BTreeMap<i16, (i16, i16)>, Garbled> {
    let mut reader = Reader(answer);
    if reader.i16()? != 0 {
        return Err(Garbled);
    }
    let mut versions = BTreeMap::new();
    reader.each(|reader| {
        versions.insert(reader.i16()?, (reader.i16()?, reader.i16()?));
        Ok(())
    })?;
    Ok(versions)
}

/// Where a topic's partitions are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// Host and port of each broker, by its id.
    pub(super) brokers: BTreeMap<i32, (String, u16)>,
    /// What is wrong with the topic; 0 for nothing.
    pub(super) error: i16,
    /// The leader of each partition, by the partition's number; -1 for none.
    pub(super) leaders: BTreeMap<i32, i32>,
}

/// Asks for one topic, which is not to be made.
pub(super) fn ask_metadata(topic: &str) -> Vec<u8> {
    let mut body = Writer::default();
    body.count(1);
    body.text(topic);
    body.i8(0);
    body.0
}

/// The answer to [`ask_metadata`].
pub(super) fn metadata(answer: &[u8], topic: &str) -> Result<Layout, Garbled> {
    let mut reader = Reader(answer);
    let mut layout = Layout { error: error::UNKNOWN_TOPIC, ..Layout::default() };
    reader.i32()?; // throttle_time_ms
    reader.each(|reader| {
        let id = reader.i32()?;
        let host = reader.text()?.to_owned();
        let port = u16::try_from(reader.i32()?).map_err(|_| Garbled)?;
        reader.text()?; // rack
        layout.brokers.insert(id, (host, port));
        Ok(())
    })?;
    reader.text()?; // cluster_id
    reader.i32()?; // controller_id
    reader.each(|reader| {
        let error = reader.i16()?;
        let ours = reader.text()? == topic;
        reader.i8()?; // is_internal
        if ours {
            layout.error = error;
        }
        reader.each(|reader| {
            reader.i16()?; // The leader is -1 then.
            let (partition, leader) = (reader.i32()?, reader.i32()?);
            for _ in ["replicas", "isr"] {
                reader.each(|reader| reader.i32().map(drop))?;
            }
            if ours {
                layout.leaders.insert(partition, leader);
            }
            Ok(())
        })
    })?;
    Ok(layout)
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Record {
    /// Bytes that it takes at most.
    pub(super) fn len(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 10).sum();
        self.key.len() + self.value.len() + headers + 32
    }
}

/// Records as a batch (magic 2), without compression, with the time at which they are sent.
fn batch(records: &[Record], now_ms: i64) -> Vec<u8> {
    let mut body = Writer::default();
    let last = i32::try_from(records.len()).unwrap_or(i32::MAX) - 1;
    body.i16(0); // attributes: no compression, time of creation
    body.i32(last);
    body.i64(now_ms); // of the first
    body.i64(now_ms); // of the newest
    body.i64(-1); // producer_id
    body.i16(-1); // producer_epoch
    body.i32(-1); // base_sequence
    body.count(records.len());
    for (at, record) in (0..).zip(records) {
        let mut one = Writer::default();
        one.i8(0);
        one.varint(0); // time after the first
        one.varint(at);
        one.var_bytes(&record.key);
        one.var_bytes(&record.value);
        one.varint(i64::try_from(record.headers.len()).unwrap_or(0));
        for (name, value) in &record.headers {
            one.var_bytes(name.as_bytes());
            one.var_bytes(value.as_bytes());
        }
        body.var_bytes(&one.0);
    }
    let mut writer = Writer::default();
    writer.i64(0); // base_offset
    writer.count(body.0.len() + 9);
    writer.i32(-1); // partition_leader_epoch
    writer.i8(2);
    writer.i32(CRC32C.checksum(&body.0).cast_signed());
    writer.0.extend(body.0);
    writer.0
}

/// Produces records of several partitions of one topic; acknowledged only when all replicas in sync have them.
pub(super) fn ask_produce(
    topic: &str,
    partitions: &[(i32, &[Record])],
    timeout_ms: i32,
    now_ms: i64,
) -> Vec<u8> {
    let mut body = Writer::default();
    body.i16(-1); // transactional_id: null
    body.i16(-1); // acks: all
    body.i32(timeout_ms);
    body.count(1);
    body.text(topic);
    body.count(partitions.len());
    for (partition, records) in partitions {
        body.i32(*partition);
        body.bytes(&batch(records, now_ms));
    }
    body.0
}

/// The answer to [`ask_produce`]: each partition's error, and for how long nothing more should be sent (ms).
pub(super) fn produced(
    answer: &[u8],
    version: i16,
    topic: &str,
) -> Result<(BTreeMap<i32, i16>, u32), Garbled> {
    let mut reader = Reader(answer);
    let mut errors = BTreeMap::new();
    reader.each(|reader| {
        let ours = reader.text()? == topic;
        reader.each(|reader| {
            let (partition, error) = (reader.i32()?, reader.i16()?);
            reader.i64()?; // base_offset
            reader.i64()?; // log_append_time_ms
            if version >= 5 {
                reader.i64()?; // log_start_offset
            }
            if version >= 8 {
                reader.each(|reader| {
                    reader.i32()?;
                    reader.text().map(drop)
                })?;
                reader.text()?;
            }
            if ours {
                errors.insert(partition, error);
            }
            Ok(())
        })
    })?;
    let throttle = reader.i32()?;
    Ok((errors, u32::try_from(throttle).unwrap_or(0)))
}

/// The partition of a key among `count`: as Java's clients and what is built on them choose it (murmur2), so that
/// what they join by key meets.
pub(super) fn partition(key: &[u8], count: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % count.max(1)
}

fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ u32::try_from(key.len()).unwrap_or(u32::MAX);
    let (fours, rest) = key.as_chunks::<4>();
    for four in fours {
        let mut word = u32::from_le_bytes(*four).wrapping_mul(M);
        word = (word ^ (word >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ word;
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// Error codes that something is done about.
pub(super) mod error {
    pub(in super::super) const NONE: i16 = 0;
    pub(in super::super) const UNKNOWN_TOPIC: i16 = 3;

    /// Whether it says that the leader is another, or not yet known: worth asking again at once.
    pub(in super::super) fn has_moved(code: i16) -> bool {
        // UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER, FENCED_LEADER_EPOCH,
        // UNKNOWN_LEADER_EPOCH, KAFKA_STORAGE_ERROR
        matches!(code, 3 | 5 | 6 | 56 | 74 | 75)
    }

    /// Whether it says that the broker never takes these records.
    pub(in super::super) fn is_refusal(code: i16) -> bool {
        // MESSAGE_TOO_LARGE, RECORD_LIST_TOO_LARGE, INVALID_TIMESTAMP, UNSUPPORTED_FOR_MESSAGE_FORMAT,
        // INVALID_RECORD
        matches!(code, 10 | 18 | 32 | 43 | 87)
    }

    /// What it means for whoever runs the collector.
    pub(in super::super) fn meaning(code: i16) -> String {
        let meaning = match code {
            2 => "the batch arrived damaged (CORRUPT_MESSAGE)",
            3 => "there is no such topic or partition (UNKNOWN_TOPIC_OR_PARTITION): create the topic",
            5 => "a partition has no leader at the moment (LEADER_NOT_AVAILABLE)",
            6 => "the partition's leader has moved (NOT_LEADER_OR_FOLLOWER)",
            7 => "not all replicas have it in time (REQUEST_TIMED_OUT)",
            10 => {
                "the message is too large for the topic (MESSAGE_TOO_LARGE): raise its max.message.bytes, or lower \
                   kafka.max_bytes when there are several"
            }
            17 => "the topic's name is none (INVALID_TOPIC_EXCEPTION)",
            18 => "the batch is larger than the broker's segments (RECORD_LIST_TOO_LARGE)",
            19 => "fewer replicas are in sync than min.insync.replicas asks for (NOT_ENOUGH_REPLICAS)",
            20 => {
                "it was written, and fewer replicas are in sync than min.insync.replicas asks for \
                   (NOT_ENOUGH_REPLICAS_AFTER_APPEND)"
            }
            29 => {
                "this user may not write to the topic (TOPIC_AUTHORIZATION_FAILED): allow it Describe and Write"
            }
            31 => "this user may not use the cluster (CLUSTER_AUTHORIZATION_FAILED)",
            32 => "the time of sending is out of the range that the topic takes (INVALID_TIMESTAMP)",
            33 => "the broker does not know this SASL mechanism (UNSUPPORTED_SASL_MECHANISM)",
            34 => "the broker wants no SASL here, or wants it otherwise (ILLEGAL_SASL_STATE)",
            35 => "the broker does not know this version of the protocol (UNSUPPORTED_VERSION)",
            56 => "the broker's disk fails (KAFKA_STORAGE_ERROR)",
            58 => "the broker refuses the user's name or password (SASL_AUTHENTICATION_FAILED)",
            87 => "the broker refuses the message (INVALID_RECORD), such as by a schema that it enforces",
            89 => "the broker is overloaded (THROTTLING_QUOTA_EXCEEDED)",
            _ => return format!("the broker answers with error {code}"),
        };
        meaning.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_lead_to_the_partitions_of_java_clients() {
        // From the tests of Kafka's own Utils.murmur2.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
        assert_eq!(partition(b"x", 0), 0);
    }

    #[test]
    fn numbers_are_in_zigzag() {
        for (value, bytes) in [
            (0, vec![0]),
            (-1, vec![1]),
            (1, vec![2]),
            (63, vec![0x7e]),
            (64, vec![0x80, 1]),
            (300, vec![0xd8, 4]),
        ] {
            let mut writer = Writer::default();
            writer.varint(value);
            assert_eq!(writer.0, bytes, "{value}");
        }
    }

    #[test]
    fn a_topic_that_is_not_told_of_is_not_there() {
        let mut answer = Writer::default();
        answer.i32(0);
        answer.count(1);
        answer.i32(7);
        answer.text("b7.example");
        answer.i32(9092);
        answer.i16(-1);
        answer.text("cluster");
        answer.i32(7);
        answer.count(1);
        answer.i16(0);
        answer.text("other");
        answer.i8(0);
        answer.count(0);
        let layout = metadata(&answer.0, "interlock").unwrap();
        assert_eq!((layout.error, layout.leaders.len()), (3, 0));
        assert_eq!(layout.brokers[&7], ("b7.example".to_owned(), 9092));
        assert_eq!(metadata(&answer.0, "other").unwrap().error, 0);
    }

    #[test]
    fn no_count_is_believed() {
        let mut huge = Writer::default();
        huge.i32(0);
        huge.i32(i32::MAX);
        assert_eq!(metadata(&huge.0, "t"), Err(Garbled));
        let mut negative = Writer::default();
        negative.i32(-2);
        assert_eq!(produced(&negative.0, 8, "t"), Err(Garbled));
    }

    proptest! {
        #[test]
        fn whatever_a_broker_answers_is_read_without_harm(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            version in 3_i16..=8,
        ) {
            let _ = metadata(&bytes, "t");
            let _ = produced(&bytes, version, "t");
            let _ = api_versions(&bytes);
        }
    }
}
