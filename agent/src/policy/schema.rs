//! The JSON Schema of policy files, for editors.

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use serde_json::Value;

use super::file::File;

/// What the schema is called.
const ID: &str = "urn:interlock:policy:1";

/// The JSON Schema (draft 2020-12) of policy files, as `policies/schema.json` holds it.
pub fn schema() -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<File>();
    RecursiveTransform(optional).transform(&mut schema);
    schema.insert("$id".to_owned(), ID.into());
    schema.insert("title".to_owned(), "Interlock policy".into());
    schema.to_value()
}

/// A key may be left out, but not be empty: takes back the null that optional fields get, and the
/// requirement that lists get.
fn optional(schema: &mut schemars::Schema) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for property in properties.values_mut() {
        if let Some(types) = property.get_mut("type").and_then(Value::as_array_mut) {
            types.retain(|one| one != "null");
            if let [one] = types.as_slice() {
                let one = one.clone();
                property["type"] = one;
            }
        }
        let Some(any) = property.get_mut("anyOf").and_then(Value::as_array_mut) else { continue };
        any.retain(|one| *one != serde_json::json!({"type": "null"}));
        if let [one] = any.as_slice()
            && let (Some(one), Some(property)) = (one.as_object().cloned(), property.as_object_mut())
        {
            property.remove("anyOf");
            for (key, value) in one {
                property.entry(key).or_insert(value);
            }
        }
    }
    // A list that is left out is empty.
    let lists: Vec<String> =
        properties.iter().filter(|(_, one)| one["type"] == "array").map(|(key, _)| key.clone()).collect();
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|key| !lists.iter().any(|list| key == list));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/schema.json");
    const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy.md");

    #[test]
    fn the_published_schema_is_current() {
        let published = std::fs::read_to_string(PUBLISHED).unwrap();
        let current = format!("{:#}\n", schema());
        assert!(published == current, "write it anew: interlock policy schema > policies/schema.json");
    }

    /// Every key and every word of the schema, with what it belongs to.
    fn words(schema: &Value, keys: &mut Vec<String>, values: &mut Vec<String>) {
        match schema {
            Value::Object(map) => {
                if let Some(Value::Object(properties)) = map.get("properties") {
                    keys.extend(properties.keys().cloned());
                }
                for word in map
                    .get("const")
                    .into_iter()
                    .chain(map.get("enum").and_then(Value::as_array).into_iter().flatten())
                {
                    values.extend(word.as_str().map(str::to_owned));
                }
                map.values().for_each(|value| words(value, keys, values));
            }
            Value::Array(list) => list.iter().for_each(|value| words(value, keys, values)),
            _ => {}
        }
    }

    #[test]
    fn the_reference_names_every_key_and_word() {
        let reference = std::fs::read_to_string(REFERENCE).unwrap();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        words(&schema(), &mut keys, &mut values);
        assert!(keys.len() > 60 && values.len() > 100);
        for word in keys.iter().chain(&values) {
            assert!(reference.contains(&format!("`{word}`")), "docs/policy.md does not name `{word}`");
        }
        for (variable, fields) in super::super::facts::VARIABLES {
            assert!(reference.contains(&format!("`{variable}")), "{variable}");
            for field in *fields {
                assert!(
                    reference.contains(&format!("`{field}`")),
                    "docs/policy.md does not name {variable}.{field}"
                );
            }
        }
        for field in super::super::facts::IDENTITY_FIELDS {
            assert!(
                reference.contains(&format!("`{field}`")),
                "docs/policy.md does not name subject.person.{field}"
            );
        }
        for field in super::super::facts::CI_FIELDS {
            assert!(
                reference.contains(&format!("`{field}`")),
                "docs/policy.md does not name subject.ci.{field}"
            );
        }
    }

    #[test]
    fn nothing_may_be_null_but_a_mask() {
        let schema = schema();
        let text = schema.to_string();
        assert!(!text.contains("\"null\"]") && !text.contains("{\"type\":\"null\"}"), "{text}");
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["required"], serde_json::json!(["version"]));
    }
}
