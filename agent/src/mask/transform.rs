//! What is done to a masked value.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

/// What is done to a masked value. In policies: `redact`, `hash`, `null` (the word or YAML's null),
/// or `{partial: {keep_first: 2, keep_last: 4}}`.
///
/// Ordered by strictness: where several masks take in the same value, the greatest applies
/// ([`Transform::Null`] before [`Transform::Redact`] before [`Transform::Hash`] before
/// [`Transform::Partial`]; of two partials the one that keeps fewer characters).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transform {
    /// Some characters at the ends stay, each other becomes `*`. A value that would stay whole is
    /// masked whole.
    Partial {
        /// Characters kept at the start.
        keep_first: u16,
        /// Characters kept at the end.
        keep_last: u16,
    },
    /// A keyed hash: equal values stay equal, so joins and counts still work.
    Hash,
    /// `[redacted]`, or the type's neutral value.
    Redact,
    /// NULL. For a match within a longer text, whose rest stays, the same as redact.
    Null,
}

impl Transform {
    fn strictness(self) -> (u8, u32) {
        match self {
            Self::Partial { keep_first, keep_last } => {
                (0, u32::MAX - u32::from(keep_first) - u32::from(keep_last))
            }
            Self::Hash => (1, 0),
            Self::Redact => (2, 0),
            Self::Null => (3, 0),
        }
    }

    /// The stricter of the two; `self` when they are equally strict.
    #[must_use]
    pub fn strictest(self, other: Self) -> Self {
        if other > self { other } else { self }
    }
}

impl Ord for Transform {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let ends = |t: &Self| match t {
            Self::Partial { keep_first, .. } => *keep_first,
            _ => 0,
        };
        self.strictness().cmp(&other.strictness()).then_with(|| ends(self).cmp(&ends(other)))
    }
}

impl PartialOrd for Transform {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// Characters kept at the start.
    #[serde(default)]
    keep_first: u16,
    /// Characters kept at the end.
    #[serde(default)]
    keep_last: u16,
}

const EXPECTED: &str = "redact, hash, null or {partial: {keep_first: N, keep_last: N}}";

impl<'de> Deserialize<'de> for Transform {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Face;

        impl<'de> Visitor<'de> for Face {
            type Value = Transform;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Transform, E> {
                match word {
                    "redact" => Ok(Transform::Redact),
                    "hash" => Ok(Transform::Hash),
                    "null" => Ok(Transform::Null),
                    "partial" => Err(E::custom("partial needs what to keep: {partial: {keep_last: 4}}")),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(word), &self)),
                }
            }

            fn visit_unit<E>(self) -> Result<Transform, E> {
                Ok(Transform::Null)
            }

            fn visit_none<E>(self) -> Result<Transform, E> {
                Ok(Transform::Null)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Transform, D::Error> {
                deserializer.deserialize_any(self)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Transform, A::Error> {
                use serde::de::Error;
                let Some(key) = map.next_key::<Cow<'de, str>>()? else {
                    return Err(A::Error::custom(format_args!("expected {EXPECTED}")));
                };
                if key != "partial" {
                    return Err(A::Error::unknown_field(&key, &["partial"]));
                }
                let Kept { keep_first, keep_last } = map.next_value()?;
                if let Some(extra) = map.next_key::<Cow<'de, str>>()? {
                    return Err(A::Error::unknown_field(&extra, &["partial"]));
                }
                Ok(Transform::Partial { keep_first, keep_last })
            }
        }

        deserializer.deserialize_any(Face)
    }
}

impl Serialize for Transform {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Redact => serializer.serialize_str("redact"),
            Self::Hash => serializer.serialize_str("hash"),
            Self::Null => serializer.serialize_str("null"),
            Self::Partial { keep_first, keep_last } => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("partial", &Kept { keep_first: *keep_first, keep_last: *keep_last })?;
                map.end()
            }
        }
    }
}

impl schemars::JsonSchema for Transform {
    fn schema_name() -> Cow<'static, str> {
        "Transform".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let kept = generator.subschema_for::<Kept>();
        schemars::json_schema!({
            "description": "What is done to a masked value. Where several masks take in the same value the strictest applies: null, then redact, then hash, then partial.",
            "oneOf": [
                { "const": "redact", "description": "[redacted], or the type's neutral value" },
                { "const": "hash", "description": "A keyed hash: equal values stay equal" },
                { "enum": ["null", null], "description": "NULL" },
                {
                    "type": "object",
                    "description": "Some characters at the ends stay, each other becomes *",
                    "properties": { "partial": kept },
                    "required": ["partial"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Mask {
        with: Transform,
    }

    fn yaml(text: &str) -> Result<Transform, String> {
        serde_saphyr::from_str::<Mask>(text).map(|mask| mask.with).map_err(|e| e.to_string())
    }

    #[test]
    fn every_yaml_face_is_read() {
        assert_eq!(yaml("with: redact"), Ok(Transform::Redact));
        assert_eq!(yaml("with: hash"), Ok(Transform::Hash));
        assert_eq!(yaml("with: \"null\""), Ok(Transform::Null));
        assert_eq!(yaml("with: null"), Ok(Transform::Null));
        assert_eq!(yaml("with: ~"), Ok(Transform::Null));
        assert_eq!(
            yaml("with: {partial: {keep_last: 4}}"),
            Ok(Transform::Partial { keep_first: 0, keep_last: 4 })
        );
        assert!(yaml("with: partial").unwrap_err().contains("keep_last"));
        assert!(yaml("with: scramble").unwrap_err().contains("redact"));
        assert!(yaml("with: {partial: {keep: 4}}").is_err());
        assert!(yaml("with: {redact: 4}").is_err());
    }

    #[test]
    fn json_round_trips() {
        let all = [
            Transform::Partial { keep_first: 1, keep_last: 2 },
            Transform::Hash,
            Transform::Redact,
            Transform::Null,
        ];
        for transform in all {
            let json = serde_json::to_string(&transform).unwrap();
            assert_eq!(serde_json::from_str::<Transform>(&json).unwrap(), transform);
        }
        assert!(all.is_sorted());
    }
}
